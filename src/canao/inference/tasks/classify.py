"""Scores of a whole text: one of several labels, several labels at once, or plain values.

`activation` in the manifest says what makes scores of the library's first output: a function of
activations.py. It is "identity" or "exp" for a model that ends in softmax, sigmoid or the logarithm
of one by itself, which must not happen twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from canao.errors import InputError
from canao.inference.tasks.activations import activated
from canao.inference.tasks.results import Prediction

# The score from which on a label counts, where each has a probability of its own.
THRESHOLD = 0.5
_MULTI_LABEL = "multi_label_classification"


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, in float64."""
    return activated(logits, "softmax")


def scores_of(values: np.ndarray, activation: str | None) -> np.ndarray:
    """The scores that the library's output stands for; without an activation by softmax."""
    return activated(values, activation or "softmax")


def as_logits(values: np.ndarray, activation: str | None) -> np.ndarray:
    """Values of which softmax makes the scores, for models whose scores are softmax's."""
    if activation != "identity":
        return values
    with np.errstate(divide="ignore"):
        return np.log(values)


def activation_of(manifest: Mapping[str, Any], count: int) -> str:
    """What makes scores of a head's `count` outputs: as the manifest says, else as the pipelines
    of Transformers decide."""
    named = manifest.get("activation")
    if named is not None:
        return str(named)
    problem = manifest.get("problem_type")
    if problem == "regression" or manifest.get("task") == "text-regression":
        return "identity"
    return "sigmoid" if problem == _MULTI_LABEL or count == 1 else "softmax"


def label_names(manifest: Mapping[str, Any], count: int) -> Sequence[str]:
    """The model's labels; InputError unless there are as many as outputs."""
    labels = manifest.get("labels") or []
    if len(labels) != count:
        raise InputError(
            f"the manifest names {len(labels)} labels and the model has {count} outputs; "
            "set id2label in config.json and compile again"
        )
    return labels


def classify(
    logits: np.ndarray, manifest: Mapping[str, Any], top: int | None, threshold: float | None = None
) -> Prediction:
    """At most `top` labels with their scores, best first; those that count have `threshold`.

    Without a threshold, labels count from THRESHOLD on where several can be right at once, and
    otherwise none does more than another.
    """
    values = logits.ravel()
    labels = label_names(manifest, len(values))
    activation = activation_of(manifest, len(values))
    scores = scores_of(values, activation)
    if threshold is None and (manifest.get("problem_type") == _MULTI_LABEL
                              or activation == "sigmoid"):  # fmt: skip
        threshold = THRESHOLD
    order = np.argsort(-scores, kind="stable")
    chosen = None
    if threshold is not None:
        chosen = tuple(labels[i] for i in order if scores[i] >= threshold)
    return Prediction(tuple((labels[i], float(scores[i])) for i in order[:top]), chosen)


def regress(logits: np.ndarray, manifest: Mapping[str, Any]) -> Prediction:
    """The outputs themselves, or what the manifest's activation makes of them, in their order."""
    values = logits.ravel()
    names = ["score"] if len(values) == 1 else label_names(manifest, len(values))
    values = scores_of(values, activation_of(manifest, len(values)))
    return Prediction(tuple((name, float(v)) for name, v in zip(names, values, strict=True)))
