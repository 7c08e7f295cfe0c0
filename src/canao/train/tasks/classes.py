"""One class of each text, with the metrics of GLUE."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from canao.model.heads import CLASS_OF_TEXT
from canao.train.reading.examples import Example
from canao.train.task_names import CLASSIFICATION
from canao.train.tasks.task import OfOneClass, OfOneLabel, indices


class Classes(OfOneLabel, OfOneClass):
    """Labels are class indices; a text without one has NO_CLASS."""

    name, head = CLASSIFICATION, CLASS_OF_TEXT

    def targets(self, examples: Sequence[Example], labels: Sequence[str]) -> np.ndarray:
        return indices([e.label for e in examples])

    def metric_names(
        self, labels: Sequence[str], examples: Sequence[Example] = ()
    ) -> tuple[str, ...]:
        """As in GLUE (Wang et al. 2019, section 3): accuracy and F1 (MRPC), Matthews correlation
        (CoLA)."""
        if len(labels) == 2:
            return ("accuracy", "f1", "matthews_correlation")
        return ("accuracy", "macro_f1")

    def metrics(
        self, predictions: np.ndarray, examples: Sequence[Example], labels: Sequence[str]
    ) -> dict[str, float]:
        """With two classes, F1 is that of class 1, as in GLUE."""
        truth = self.targets(examples, labels)
        found = {"accuracy": float(accuracy_score(truth, predictions))}
        if len(labels) == 2:
            found["f1"] = float(f1_score(truth, predictions, zero_division=0))
            found["matthews_correlation"] = _matthews(truth, predictions)
        else:
            found["macro_f1"] = float(
                f1_score(truth, predictions, average="macro", zero_division=0)
            )
        return found

    def described(self, labels: Sequence[str]) -> str:
        return f"{len(labels)} classes"


def _matthews(truth: np.ndarray, predictions: np.ndarray) -> float:
    """0 where only one class is there, of which scikit-learn would warn."""
    if len(np.union1d(truth, predictions)) < 2:
        return 0.0
    return float(matthews_corrcoef(truth, predictions))


TASK = Classes()
