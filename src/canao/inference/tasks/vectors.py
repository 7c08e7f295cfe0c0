"""The vectors of a text's tokens, and pooling them into one vector, as in Sentence-Transformers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from canao.errors import InputError
from canao.inference.tasks.prepared import Prepared
from canao.inference.tasks.task import (
    OF_TEXT,
    OF_TOKENS,
    Manifest,
    Option,
    Outputs,
    Task,
    first_of,
)

EMBEDDING = "sentence_embedding"  # the output of a library that pools by itself


def _weighted(hidden: np.ndarray, skip: int) -> np.ndarray:
    # Tokens keep their places where the first are left out.
    weights = np.arange(1, len(hidden) + 1, dtype=np.float32)[skip:]
    return weights @ hidden[skip:] / weights.sum()


# Every token after the first `skip` counts, also those that the tokenizer adds; there is no padding
# to leave out.
POOLINGS: Mapping[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "cls": lambda hidden, skip: hidden[skip],
    "max": lambda hidden, skip: hidden[skip:].max(0),
    "mean": lambda hidden, skip: hidden[skip:].mean(0),
    "mean_sqrt_len_tokens": lambda hidden, skip: hidden[skip:].sum(0) / np.sqrt(len(hidden) - skip),
    "weightedmean": _weighted,
    "lasttoken": lambda hidden, skip: hidden[-1],
}


def pool(hidden: np.ndarray, modes: Sequence[str], *, normalize: bool, skip: int = 0) -> np.ndarray:
    """The vector of a text, float32, of hidden states [s, width] but for the first `skip`;
    InputError if they are none, or a mode is unknown."""
    if hidden.ndim != 2:
        raise InputError(
            f"the model's first output has the shape {list(hidden.shape)}, not a vector for each "
            "token; leave pooling out"
        )
    if not modes or not set(modes) <= set(POOLINGS):
        raise InputError(f"pooling {list(modes)} is not known; {', '.join(POOLINGS)} are")
    vector = np.concatenate([POOLINGS[mode](hidden, skip) for mode in modes]).astype(np.float32)
    return vector / max(float(np.linalg.norm(vector)), 1e-12) if normalize else vector


class TokenVectors(Task):
    """An array: a vector for each token [s, width], or pooled into one [width]."""

    name = "feature-extraction"
    options: ClassVar[Mapping[str, Option]] = {
        "pooling": Option(choices=(None, *POOLINGS)), "normalize": Option(False),
    }  # fmt: skip

    def interpret(
        self, prepared: Prepared, outputs: Sequence[Outputs], manifest: Manifest, tokenizer: Any
    ) -> np.ndarray:
        hidden, asked = first_of(outputs[0]), prepared.options
        pooling = manifest.get("pooling")
        if pooling or EMBEDDING in outputs[0]:
            return _embedding(hidden, outputs[0], pooling or {}, prepared.skip)
        if asked["pooling"]:
            return pool(hidden, [asked["pooling"]], normalize=asked["normalize"])
        if asked["normalize"]:
            return hidden / np.linalg.norm(hidden, axis=-1, keepdims=True)
        return hidden

    def form(self, prepared: Prepared, result: Any) -> dict[str, Any]:
        if result.ndim == 1:
            return {"vector": _numbers(result)}
        return {"tokens": prepared.windows[0].tokens, "vectors": _numbers(result)}

    def lines(self, result: Any, options: Mapping[str, Any]) -> Iterator[str]:
        yield json.dumps(_numbers(result))


class SentenceVector(TokenVectors):
    """One vector of a text, pooled as the model says."""

    name = "sentence-embedding"
    options: ClassVar[Mapping[str, Option]] = {"prompt_name": Option()}

    def read(self, manifest: Manifest) -> tuple[str, Sequence[str]]:
        """The library's own output, or of a graph without one the vectors that are pooled here."""
        named = any(o["name"] == EMBEDDING for o in manifest.get("outputs", ()))
        return (OF_TEXT, (EMBEDDING,)) if named else (OF_TOKENS, ())


def _embedding(
    hidden: np.ndarray, outputs: Outputs, pooling: Mapping[str, Any], skip: int
) -> np.ndarray:
    """The sentence embedding that the library gives, or, of a graph without one, made here."""
    if EMBEDDING in outputs:
        vector = outputs[EMBEDDING].ravel()
    else:
        vector = pool(hidden, pooling["modes"], normalize=pooling["normalize"], skip=skip)
    return vector[: pooling.get("truncate_dim")]


def _numbers(array: np.ndarray) -> Any:
    """Nested lists of numbers with the fewest digits that read back as the same float32."""
    if array.ndim > 1:
        return [_numbers(row) for row in array]
    return [float(str(x)) for x in array]
