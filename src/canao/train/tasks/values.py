"""A value of each text, with the correlations of GLUE's STS-B."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats
from torch import Tensor
from torch.nn import functional

from canao.model.heads import VALUE_OF_TEXT
from canao.train.reading.examples import Example
from canao.train.task_names import REGRESSION
from canao.train.tasks.task import OfOneLabel, finite


class Values(OfOneLabel):
    """Labels are numbers; a text without one has NaN. Models have one output."""

    name, head = REGRESSION, VALUE_OF_TEXT

    def targets(self, examples: Sequence[Example], labels: Sequence[str]) -> np.ndarray:
        return np.asarray([e.label for e in examples]).astype(np.float32)

    def metric_names(
        self, labels: Sequence[str], examples: Sequence[Example] = ()
    ) -> tuple[str, ...]:
        """As in GLUE (Wang et al. 2019, section 3): Pearson and Spearman correlation and their
        mean."""
        return ("pearson_spearman", "pearson", "spearmanr")

    def metrics(
        self, predictions: np.ndarray, examples: Sequence[Example], labels: Sequence[str]
    ) -> dict[str, float]:
        """A correlation that is undefined, because all predictions are equal or one is not finite,
        counts as 0."""
        truth = np.asarray([e.label for e in examples])
        pearson = correlation(stats.pearsonr, predictions, truth)
        spearman = correlation(stats.spearmanr, predictions, truth)
        return {
            "pearson": pearson, "spearmanr": spearman, "pearson_spearman": (pearson + spearman) / 2,
        }  # fmt: skip

    def described(self, labels: Sequence[str]) -> str:
        return "regression"

    def known(self, labels: Tensor) -> Tensor:
        return finite(labels)

    def label_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return functional.mse_loss(logits[:, 0], labels)

    def teacher_loss(self, logits: Tensor, wanted: Tensor) -> Tensor:
        return functional.mse_loss(logits, wanted)

    def predicted(self, logits: np.ndarray) -> np.ndarray:
        return logits[:, 0]


def correlation(measure: Callable[..., Any], predictions: np.ndarray, truth: np.ndarray) -> float:
    """A correlation of SciPy; 0 where it is undefined."""
    defined = np.isfinite(predictions).all() and len(truth) > 1
    if not defined or np.ptp(predictions) == 0 or np.ptp(truth) == 0:
        return 0.0
    value = float(measure(predictions, truth)[0])
    return value if np.isfinite(value) else 0.0


TASK = Values()
