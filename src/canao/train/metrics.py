"""Metrics of predictions: what of them there are, each task says (tasks/)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from canao.errors import InputError
from canao.train.data import TextData


@dataclass(frozen=True)
class Score:
    """Metrics as fractions (correlations lie in -1..1); `primary` is the one that ranks models."""

    metrics: Mapping[str, float]
    primary: str

    @property
    def value(self) -> float:
        return self.metrics[self.primary]


def metric_names(data: TextData) -> tuple[str, ...]:
    """The metrics of a task; the first is the primary one unless another is chosen."""
    return data.task.metric_names(data.labels, data.dev)


def check_metric(metric: str | None, data: TextData) -> str:
    """The name of the primary metric; InputError where `metric` does not suit the task."""
    names = metric_names(data)
    if metric is None:
        return names[0]
    if metric not in names:
        kind = data.task.described(data.labels)
        raise InputError(f"metric '{metric}' is not one of {', '.join(names)} ({kind})")
    return metric


def score(predictions: np.ndarray, data: TextData, metric: str | None = None) -> Score:
    """How well `predictions` fit `data.dev`, in its order.

    predictions   of the shape of the task's targets: class indices, or values where the task is
                  regression, [examples]; class indices of all words, [words], -1 where the model
                  saw none of a word; which labels there are, bool [examples, labels]; vectors,
                  [texts, width]
    metric        the primary metric; None: the task's usual one
    """
    primary, predictions = check_metric(metric, data), np.asarray(predictions)
    shape = data.task.targets(data.dev, data.labels).shape
    if predictions.shape[: len(shape)] != shape or (data.task.labelled and (
        predictions.ndim > len(shape)
    )):  # fmt: skip
        raise InputError(f"predictions: shape {predictions.shape}, dev set has {shape}")
    return Score(data.task.metrics(predictions, data.dev, data.labels), primary)
