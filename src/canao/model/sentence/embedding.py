"""A sentence embedding as part of the model: the modules of Sentence-Transformers after it,
computed by the compiled library."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from canao.errors import InputError, UnsupportedError
from canao.model.sentence.modules import (
    SENTENCE,
    TOKENS,
    Convolutions,
    Dense,
    LayerNorm,
    LayerPooling,
    Module,
    Normalize,
    Pooling,
    WordWeights,
)
from canao.model.sentence.sentence import Sentence
from canao.model.sentence.setfit import Head

# What modules hand on to each other beside the vectors.
_IDS, _LAYERS, _WEIGHT, _MASK = "input_ids", "layers", "weight", "mask"


class SentenceModel(nn.Module):
    """A model with the modules of Sentence-Transformers after it, for one unpadded sequence.

    Returns all outputs of the model, last_hidden_state [1, s, hidden] first, and then
    sentence_embedding [1, width]; with a classifier of the vector, logits [1, labels] and the
    vector only. InputError if a module does not fit its input.
    """

    def __init__(self, model: nn.Module, sentence: Sentence, hidden: int) -> None:
        super().__init__()
        self.model, self.size, self.typed = model, sentence.truncate_dim, sentence.typed
        self.layers = any(isinstance(m, LayerPooling) for m in sentence.modules)
        made = _Made(sentence.transformer, {TOKENS: hidden}, {TOKENS})
        self.steps = nn.ModuleList(_step(module, made) for module in sentence.modules)
        if SENTENCE not in made.widths or SENTENCE in made.by_token:
            raise UnsupportedError(
                f"{sentence.transformer}: its modules make no {SENTENCE} of one vector; correct "
                "their module_output_name"
            )
        width = min(made.widths[SENTENCE], self.size or made.widths[SENTENCE])
        self.head = None if sentence.head is None else _head(sentence.head, width, made)

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        return self._embedded(None, input_ids=input_ids)

    def _embedded(self, prompt_mask: Tensor | None, **ids: Any) -> dict[str, Tensor]:
        asked = {"output_hidden_states": True} if self.layers else {}
        if self.typed and ids.get("token_type_ids", 0) is None:
            # Not the same as none for a model that adds a vector for type 0, as GPT-2 does.
            ids["token_type_ids"] = torch.zeros_like(ids["input_ids"])
        with masks_by_broadcasting():
            result = dict(self.model(**ids, **asked, **_whole_cache(self.model)).items())
        features: dict[str, Any] = {TOKENS: result["last_hidden_state"], _IDS: ids["input_ids"],
                                    _LAYERS: result.pop("hidden_states", ()),
                                    _MASK: prompt_mask}  # fmt: skip
        for step in self.steps:
            step(features)
        vector = features[SENTENCE]
        vector = vector if self.size is None else vector[:, : self.size]
        if self.head is not None:
            return {"logits": self.head(vector), SENTENCE: vector}
        return {**result, SENTENCE: vector}


class TypedSentenceModel(SentenceModel):
    """The same for a model that also takes token type ids."""

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> dict[str, Tensor]:
        return self._embedded(None, input_ids=input_ids, token_type_ids=token_type_ids)


class PromptedSentenceModel(SentenceModel):
    """The same with a mask of the tokens of a prompt, which are not pooled; without it, all are."""

    def forward(self, input_ids: Tensor, prompt_mask: Tensor | None = None) -> dict[str, Tensor]:
        mask = torch.zeros_like(input_ids) if prompt_mask is None else prompt_mask
        return self._embedded(mask, input_ids=input_ids)


class TypedPromptedSentenceModel(SentenceModel):
    """The same with token type ids and the mask."""

    def forward(
        self, input_ids: Tensor, token_type_ids: Tensor | None = None,
        prompt_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        mask = torch.zeros_like(input_ids) if prompt_mask is None else prompt_mask
        return self._embedded(mask, input_ids=input_ids, token_type_ids=token_type_ids)


def with_embedding(model: nn.Module, sentence: Sentence, hidden: int) -> SentenceModel:
    """The model with the sentence embedding as one more output, in eval mode.

    `hidden` is the width of the model's token vectors.
    """
    typed = "token_type_ids" in inspect.signature(model.forward).parameters
    kinds = {
        (False, False): SentenceModel,
        (True, False): TypedSentenceModel,
        (False, True): PromptedSentenceModel,
        (True, True): TypedPromptedSentenceModel,
    }
    return kinds[typed, sentence.leaves_out_prompts](model, sentence, hidden).eval()


def _whole_cache(model: nn.Module) -> dict[str, Any]:
    """A cache of all keys and values for a decoder that would keep only those in its window: what
    it keeps is never read here, and the window is in its mask as well."""
    import transformers

    config = getattr(model, "config", None)
    kinds = getattr(config, "layer_types", None) or ()
    windowed = getattr(config, "sliding_window", None) or "sliding_attention" in kinds
    taken = inspect.signature(model.forward).parameters
    name = next((n for n in ("past_key_values", "cache") if n in taken), None)
    return {name: transformers.DynamicCache()} if windowed and name else {}


@contextmanager
def masks_by_broadcasting() -> Iterator[None]:
    """Within it Transformers computes masks of attention that a model adds to (as Gemma 3's, of
    both directions) by broadcasting, as it does all others, and not by vmap, which cannot be
    captured. Masks are functions of indices: both give the same."""
    from transformers import masking_utils

    own = getattr(masking_utils, "_vmap_expansion_sdpa", None)
    spread = getattr(masking_utils, "_non_vmap_expansion_sdpa", None)
    if own is None or spread is None:
        yield
        return

    def expanded(mask: Any) -> Any:
        def all_pairs(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            shape = (len(batch), -1, query.shape[0], key.shape[0])
            result: Tensor = mask(*spread(batch, head, query, key)).expand(shape)
            return result

        return all_pairs

    masking_utils._vmap_expansion_sdpa = expanded
    try:
        yield
    finally:
        masking_utils._vmap_expansion_sdpa = own


class Normalized(nn.Module):
    """Scales vectors to length 1; a vector of zeros stays as it is."""

    def forward(self, vector: Tensor) -> Tensor:
        return vector / (vector * vector).sum(-1, keepdim=True).clamp(min=1e-24).sqrt()


class _Pooled(nn.Module):
    """Token vectors [1, s, width] become a sentence's vector, modes side by side."""

    def __init__(self, pooling: Pooling) -> None:
        super().__init__()
        self.modes, self.include_prompt = pooling.modes, pooling.include_prompt
        # Of a token after the prompt and of one in it: how often it counts, and what is added to it
        # so that it is never the largest.
        self.register_buffer("counts", torch.tensor([[1.0], [0.0]]), persistent=False)
        self.register_buffer("lowest", torch.tensor([[0.0], [-torch.inf]]), persistent=False)

    def forward(self, features: dict[str, Any]) -> None:
        hidden, weight, mask = features[TOKENS], features.get(_WEIGHT), features[_MASK]
        if self.include_prompt or mask is None:
            parts = [pooled(mode, hidden, weight) for mode in self.modes]
        else:
            parts = [self._without_prompt(mode, hidden, mask, weight) for mode in self.modes]
        features[SENTENCE] = torch.cat(parts, -1)

    def _without_prompt(
        self, mode: str, hidden: Tensor, mask: Tensor, weight: Tensor | None
    ) -> Tensor:
        """Of the tokens after the prompt; mask [1, s] is 1 in it."""
        if mode == "lasttoken":
            return hidden[:, -1]
        if mode == "max":
            return (hidden + nn.functional.embedding(mask, self.lowest)).amax(1)
        kept = nn.functional.embedding(mask, self.counts)
        if mode == "cls":
            # The first that is kept: the one before it is not.
            before = torch.cat([torch.zeros(1, 1, 1), kept], 1)[:, : kept.shape[1]]
            return (hidden * (kept * (1 - before))).sum(1)
        places = _places(hidden) * kept if mode == "weightedmean" else kept
        return _mean(mode, hidden * places, places, weight)


def pooled(mode: str, hidden: Tensor, weight: Tensor | None = None) -> Tensor:
    """Pool [1, s, hidden] to [1, hidden]; tokens that the tokenizer adds count, too.

    `weight` [1, 1] is the sum of the tokens' weights, by which they were multiplied already.
    """
    if mode in ("cls", "lasttoken"):
        return hidden[:, 0 if mode == "cls" else -1]
    if mode == "max":
        return hidden.amax(1)
    if mode == "mean" and weight is None:
        return hidden.mean(1)
    if mode == "weightedmean":
        places = _places(hidden)
        return _mean(mode, hidden * places, places, weight)
    return _mean(mode, hidden, torch.ones_like(hidden[:, :, :1]), weight)


def _places(hidden: Tensor) -> Tensor:
    """1, 2, 3, ... for the tokens, [1, s, 1]."""
    return (torch.arange(hidden.shape[1]) + 1).float()[None, :, None]


def _mean(mode: str, hidden: Tensor, counts: Tensor, weight: Tensor | None) -> Tensor:
    total = counts.sum(1) if weight is None else weight
    total = total.clamp(min=1e-9)
    return hidden.sum(1) / (total.sqrt() if mode == "mean_sqrt_len_tokens" else total)


class _Mapped(nn.Module):
    """Replaces one of the features by what a layer makes of it."""

    def __init__(self, layer: nn.Module, source: str, target: str) -> None:
        super().__init__()
        self.layer, self.source, self.target = layer, source, target

    def forward(self, features: dict[str, Any]) -> None:
        features[self.target] = self.layer(features[self.source])


class _Residual(nn.Module):
    """A layer whose input is added to its result, as it is or times a weight."""

    def __init__(self, layer: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.layer, self.shortcut = layer, shortcut

    def forward(self, vector: Tensor) -> Tensor:
        return self.layer(vector) + self.shortcut(vector)


class _LayersPooled(nn.Module):
    def __init__(self, module: LayerPooling) -> None:
        super().__init__()
        self.start = module.start
        self.shares = [float(w) for w in module.weights / module.weights.sum()]

    def forward(self, features: dict[str, Any]) -> None:
        layers = features[_LAYERS][self.start :]
        if len(layers) != len(self.shares):
            raise InputError(
                f"the WeightedLayerPooling weighs {len(self.shares)} layers and the model gives "
                f"{len(layers)}; one of the two belongs to another model"
            )
        total = layers[0] * self.shares[0]
        for layer, share in zip(layers[1:], self.shares[1:], strict=True):
            total = total + layer * share
        features[TOKENS] = total


class _Weighted(nn.Module):
    def __init__(self, module: WordWeights) -> None:
        super().__init__()
        self.register_buffer("weights", module.weights[:, None], persistent=False)

    def forward(self, features: dict[str, Any]) -> None:
        weights = nn.functional.embedding(features[_IDS], self.weights)
        features[TOKENS] = features[TOKENS] * weights
        features[_WEIGHT] = weights.sum(1)


class _Convolved(nn.Module):
    def __init__(self, module: Convolutions) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for weight, bias in module.layers:
            out, width, taps = weight.shape
            layer = nn.Conv1d(width, out, taps, padding=(taps - 1) // 2)
            self.layers.append(_filled(layer, weight, bias))

    def forward(self, features: dict[str, Any]) -> None:
        hidden = features[TOKENS].transpose(1, 2)
        features[TOKENS] = torch.cat([layer(hidden).transpose(1, 2) for layer in self.layers], 2)


@dataclass(frozen=True)
class _Made:
    """The vectors that modules hand on so far: their widths by name, and of which there is one for
    each token."""

    place: Path
    widths: dict[str, int]
    by_token: set[str]

    def take(self, kind: str, name: str, wanted: int | None = None) -> int:
        """The width of a module's input; an error unless there is one, of the width it takes."""
        if name not in self.widths:
            raise UnsupportedError(
                f"{self.place}: a {kind} module takes '{name}', which no module before it gives; "
                "correct its module_input_name"
            )
        if wanted not in (None, self.widths[name]):
            raise InputError(
                f"{self.place}: a {kind} module takes {wanted} numbers and is given "
                f"{self.widths[name]}; one of the two belongs to another model"
            )
        return self.widths[name]

    def give(self, source: str, target: str, width: int) -> None:
        self.widths[target] = width
        (self.by_token.add if source in self.by_token else self.by_token.discard)(target)


def _step(module: Module, made: _Made) -> nn.Module:
    """A module as PyTorch computes it; `made` is brought up to date.

    InputError if it takes another width, UnsupportedError if nothing gives its input.
    """
    match module:
        case Pooling():
            made.widths[SENTENCE] = made.take("Pooling", TOKENS) * len(module.modes)
            made.by_token.discard(SENTENCE)
            return _Pooled(module)
        case Dense():
            made.take("Dense", module.source, module.weight.shape[1])
            made.give(module.source, module.target, len(module.weight))
            return _Mapped(_dense(module), module.source, module.target)
        case Normalize():
            made.give(module.source, module.target, made.take("Normalize", module.source))
            return _Mapped(Normalized(), module.source, module.target)
        case LayerNorm():
            width = made.take("LayerNorm", SENTENCE, len(module.weight))
            layer = _filled(nn.LayerNorm(width), module.weight, module.bias)
            return _Mapped(layer, SENTENCE, SENTENCE)
        case LayerPooling():
            return _LayersPooled(module)
        case WordWeights():
            return _Weighted(module)
        case Convolutions():
            for weight, _ in module.layers:
                made.take("CNN", TOKENS, weight.shape[1])
            made.widths[TOKENS] = sum(len(weight) for weight, _ in module.layers)
            return _Convolved(module)


def _dense(dense: Dense) -> nn.Module:
    layer = nn.Sequential(_linear(dense.weight, dense.bias), getattr(nn, dense.activation)())
    if dense.residual is None:
        return layer
    same = dense.residual is True
    return _Residual(layer, nn.Identity() if same else _linear(dense.residual, None))


def _head(head: Head, width: int, made: _Made) -> nn.Module:
    made.widths["the vector"] = width
    made.take("SetFit head", "the vector", head.weight.shape[1])
    layers: list[nn.Module] = [Normalized()] if head.normalize else []
    layers.append(_linear(head.weight, head.bias))
    if head.scores == "one-vs-rest":
        layers.append(_LogSigmoid())
    return nn.Sequential(*layers)


class _LogSigmoid(nn.Module):
    """Its softmax are sigmoids divided by their sum."""

    def forward(self, x: Tensor) -> Tensor:
        return -nn.functional.softplus(-x)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Module:
    out, width = weight.shape
    return _filled(nn.Linear(width, out, bias=bias is not None), weight, bias)


def _filled(layer: Any, weight: Tensor, bias: Tensor | None) -> nn.Module:
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    module: nn.Module = layer
    return module
