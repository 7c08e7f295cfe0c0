"""Scores of a whole text: one of several labels, several labels at once, or plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from canao.errors import InputError
from canao.inference.tasks.results import Prediction


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, in float64."""
    x = logits.astype(np.float64)
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def label_names(manifest: Mapping[str, Any], count: int) -> Sequence[str]:
    """The model's labels; InputError unless there are as many as outputs."""
    labels = manifest.get("labels") or []
    if len(labels) != count:
        raise InputError(
            f"the manifest names {len(labels)} labels and the model has {count} outputs; "
            "set id2label in config.json and compile again"
        )
    return labels


def classify(logits: np.ndarray, manifest: Mapping[str, Any], top: int | None) -> Prediction:
    """At most `top` labels with their probabilities, best first."""
    values = logits.ravel()
    labels = label_names(manifest, len(values))
    if manifest.get("problem_type") == "multi_label_classification":
        scores = 1 / (1 + np.exp(-values.astype(np.float64)))
    else:
        scores = probabilities(values)
    order = np.argsort(-scores, kind="stable")[:top]
    return Prediction(tuple((labels[i], float(scores[i])) for i in order))


def regress(logits: np.ndarray, manifest: Mapping[str, Any]) -> Prediction:
    """The outputs themselves, in their order."""
    values = logits.ravel()
    names = ["score"] if len(values) == 1 else label_names(manifest, len(values))
    return Prediction(tuple((name, float(v)) for name, v in zip(names, values, strict=True)))
