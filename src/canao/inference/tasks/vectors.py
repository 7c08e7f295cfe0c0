"""Pooling the vectors of a text's tokens into one vector, as in Sentence-Transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np


def _weighted(hidden: np.ndarray) -> np.ndarray:
    weights = np.arange(1, len(hidden) + 1, dtype=np.float32)
    return weights @ hidden / weights.sum()


# Every token counts, also those that the tokenizer adds; there is no padding to leave out.
POOLINGS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "cls": lambda hidden: hidden[0],
    "max": lambda hidden: hidden.max(0),
    "mean": lambda hidden: hidden.mean(0),
    "mean_sqrt_len_tokens": lambda hidden: hidden.sum(0) / np.sqrt(len(hidden)),
    "weightedmean": _weighted,
    "lasttoken": lambda hidden: hidden[-1],
}


def pool(hidden: np.ndarray, modes: Sequence[str], *, normalize: bool) -> np.ndarray:
    """The vector of a text, float32, pooled from hidden states [s, width]."""
    vector = np.concatenate([POOLINGS[mode](hidden) for mode in modes]).astype(np.float32)
    return vector / max(float(np.linalg.norm(vector)), 1e-12) if normalize else vector
