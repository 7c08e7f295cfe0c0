"""A sentence embedding as part of the model: pooling and what follows, as a further output."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn

from canao.errors import InputError
from canao.model.sentence import Dense, Sentence


class SentenceModel(nn.Module):
    """A model and the modules of Sentence-Transformers after it, for one text without padding.

    It returns what the model returns, first of all last_hidden_state [1, s, hidden], and
    sentence_embedding [1, width]. InputError if a Dense module does not fit what it is given.
    """

    def __init__(self, model: nn.Module, sentence: Sentence, hidden: int) -> None:
        super().__init__()
        self.model, self.pooling = model, sentence.pooling
        width, layers = hidden * len(sentence.pooling), []
        for layer in sentence.layers:
            if layer is None:
                layers.append(Scaled())
                continue
            if layer.weight.shape[1] != width:
                raise InputError(
                    f"{sentence.transformer}: a Dense module takes {layer.weight.shape[1]} numbers "
                    f"and is given {width}; one of the two belongs to another model"
                )
            layers.append(_linear(layer))
            width = len(layer.weight)
        self.layers = nn.Sequential(*layers)

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        return self._embedded(input_ids=input_ids)

    def _embedded(self, **ids: Tensor) -> dict[str, Tensor]:
        result = dict(self.model(**ids).items())
        hidden = result["last_hidden_state"]
        vector = torch.cat([pooled(mode, hidden) for mode in self.pooling], -1)
        return {**result, "sentence_embedding": self.layers(vector)}


class TypedSentenceModel(SentenceModel):
    """The same for a model that takes the types of tokens."""

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> dict[str, Tensor]:
        return self._embedded(input_ids=input_ids, token_type_ids=token_type_ids)


def with_embedding(model: nn.Module, sentence: Sentence, hidden: int) -> SentenceModel:
    """The model with the further output, in eval mode; `hidden` is the width of its vectors."""
    typed = "token_type_ids" in inspect.signature(model.forward).parameters
    return (TypedSentenceModel if typed else SentenceModel)(model, sentence, hidden).eval()


class Scaled(nn.Module):
    """A vector at length 1; one of length 0 stays."""

    def forward(self, vector: Tensor) -> Tensor:
        return vector / (vector * vector).sum(-1, keepdim=True).clamp(min=1e-24).sqrt()


def pooled(mode: str, hidden: Tensor) -> Tensor:
    """[1, s, hidden] -> [1, hidden]. Every token counts, those that a tokenizer adds as well."""
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
