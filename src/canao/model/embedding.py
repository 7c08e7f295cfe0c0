"""A sentence embedding as part of the model: pooling and what follows become one more output."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn

from canao.errors import InputError
from canao.model.sentence import Dense, Sentence


class SentenceModel(nn.Module):
    """A model with the modules of Sentence-Transformers after it, for one unpadded sequence.

    Returns all outputs of the model, last_hidden_state [1, s, hidden] first, and then
    sentence_embedding [1, width]. InputError if a Dense module does not fit its input.
    """

    def __init__(self, model: nn.Module, sentence: Sentence, hidden: int) -> None:
        super().__init__()
        self.model, self.pooling = model, sentence.pooling
        width, modules = hidden * len(sentence.pooling), []
        for dense in sentence.modules:
            if dense is None:
                modules.append(Normalized())
                continue
            if dense.weight.shape[1] != width:
                raise InputError(
                    f"{sentence.transformer}: a Dense module takes {dense.weight.shape[1]} numbers "
                    f"and is given {width}; one of the two belongs to another model"
                )
            modules.append(_linear(dense))
            width = len(dense.weight)
        self.after_pooling = nn.Sequential(*modules)

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        return self._embedded(input_ids=input_ids)

    def _embedded(self, **ids: Tensor) -> dict[str, Tensor]:
        result = dict(self.model(**ids).items())
        hidden = result["last_hidden_state"]
        vector = torch.cat([pooled(mode, hidden) for mode in self.pooling], -1)
        return {**result, "sentence_embedding": self.after_pooling(vector)}


class TypedSentenceModel(SentenceModel):
    """The same for a model that also takes token type ids."""

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> dict[str, Tensor]:
        return self._embedded(input_ids=input_ids, token_type_ids=token_type_ids)


def with_embedding(model: nn.Module, sentence: Sentence, hidden: int) -> SentenceModel:
    """The model with the sentence embedding as one more output, in eval mode.

    `hidden` is the width of the model's token vectors.
    """
    typed = "token_type_ids" in inspect.signature(model.forward).parameters
    return (TypedSentenceModel if typed else SentenceModel)(model, sentence, hidden).eval()


class Normalized(nn.Module):
    """Scales a vector to length 1; a vector of zeros stays as it is."""

    def forward(self, vector: Tensor) -> Tensor:
        return vector / (vector * vector).sum(-1, keepdim=True).clamp(min=1e-24).sqrt()


def pooled(mode: str, hidden: Tensor) -> Tensor:
    """Pool [1, s, hidden] to [1, hidden]; tokens that the tokenizer adds count, too."""
    if mode in ("cls", "lasttoken"):
        return hidden[:, 0 if mode == "cls" else -1]
    if mode in ("max", "mean"):
        return hidden.amax(1) if mode == "max" else hidden.mean(1)
    ones = torch.ones_like(hidden[:, :, :1])
    if mode == "mean_sqrt_len_tokens":
        return hidden.sum(1) / ones.sum(1).sqrt()
    weights = (torch.arange(hidden.shape[1]) + 1).float()[None, :, None]
    return (hidden * weights).sum(1) / weights.sum(1)


def _linear(dense: Dense) -> nn.Module:
    out, width = dense.weight.shape
    linear = nn.Linear(width, out, bias=dense.bias is not None)
    with torch.no_grad():
        linear.weight.copy_(dense.weight)
        if dense.bias is not None:
            linear.bias.copy_(dense.bias)
    return nn.Sequential(linear, getattr(nn, dense.activation)())
