"""What makes scores of a model's logits, by the names that manifests have for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from canao.errors import InputError
from canao.inference.logits import softmax


def sigmoid(x: np.ndarray) -> np.ndarray:
    # Neither exponential overflows.
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(x, 0)


ACTIVATIONS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "identity": lambda x: x,
    "softmax": softmax,
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "exp": np.exp,
    "relu": lambda x: np.maximum(x, 0),
    "softplus": softplus,
    "log_sigmoid": lambda x: -softplus(-x),
}


def activated(logits: np.ndarray, name: str) -> np.ndarray:
    """The scores of logits, in float64; InputError for a name that no manifest should have."""
    if name not in ACTIVATIONS:
        raise InputError(
            f"the manifest's activation '{name}' is none of {', '.join(ACTIVATIONS)}; "
            "compile the model again"
        )
    with np.errstate(all="ignore"):  # of logits that are no numbers there are no scores
        return ACTIVATIONS[name](logits.astype(np.float64))
