"""Metrics of predictions, with the names and definitions of GLUE."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

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
    """The metrics of a task; the first is the primary one unless another is chosen.

    As in GLUE (Wang et al. 2019, section 3): accuracy and F1 (MRPC), Matthews correlation
    (CoLA), Pearson and Spearman correlation and their mean (STS-B).
    """
    if data.regression:
        return ("pearson_spearman", "pearson", "spearmanr")
    if len(data.labels) == 2:
        return ("accuracy", "f1", "matthews_correlation")
    return ("accuracy", "macro_f1")


def check_metric(metric: str | None, data: TextData) -> str:
    """The name of the primary metric; InputError where `metric` does not suit the task."""
    names = metric_names(data)
    if metric is None:
        return names[0]
    if metric not in names:
        kind = "regression" if data.regression else f"{len(data.labels)} classes"
        raise InputError(f"metric '{metric}' is not one of {', '.join(names)} ({kind})")
    return metric


def score(predictions: np.ndarray, data: TextData, metric: str | None = None) -> Score:
    """How well `predictions` fit `data.dev`, in its order.

    predictions   shape [examples]: class indices, or values where the task is regression
    metric        the primary metric; None: the task's usual one

    With two classes, F1 is that of class 1, as in GLUE. A correlation that is undefined, because
    all predictions are equal or one is not finite, counts as 0.
    """
    primary = check_metric(metric, data)
    truth = np.asarray([example.label for example in data.dev])
    predictions = np.asarray(predictions)
    if predictions.shape != truth.shape:
        raise InputError(f"predictions: shape {predictions.shape}, dev set has {truth.shape}")
    if data.regression:
        pearson = _correlation(stats.pearsonr, predictions, truth)
        spearman = _correlation(stats.spearmanr, predictions, truth)
        metrics = {
            "pearson": pearson,
            "spearmanr": spearman,
            "pearson_spearman": (pearson + spearman) / 2,
        }
    else:
        metrics = {"accuracy": float(accuracy_score(truth, predictions))}
        if len(data.labels) == 2:
            metrics["f1"] = float(f1_score(truth, predictions, zero_division=0))
            metrics["matthews_correlation"] = _matthews(truth, predictions)
        else:
            metrics["macro_f1"] = float(
                f1_score(truth, predictions, average="macro", zero_division=0)
            )
    return Score(metrics, primary)


def _matthews(truth: np.ndarray, predictions: np.ndarray) -> float:
    """0 where only one class is there, of which scikit-learn would warn."""
    if len(np.union1d(truth, predictions)) < 2:
        return 0.0
    return float(matthews_corrcoef(truth, predictions))


def _correlation(measure: Callable[..., Any], predictions: np.ndarray, truth: np.ndarray) -> float:
    defined = np.isfinite(predictions).all() and len(truth) > 1
    if not defined or np.ptp(predictions) == 0 or np.ptp(truth) == 0:
        return 0.0
    value = float(measure(predictions, truth)[0])
    return value if np.isfinite(value) else 0.0
