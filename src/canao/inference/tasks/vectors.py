"""Pooling the vectors of a text's tokens into one vector, as in Sentence-Transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from canao.errors import InputError


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
