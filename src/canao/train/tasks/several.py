"""Any number of labels of each text: each says yes or no by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torch.nn import functional

from canao.model.heads import LABELS_OF_TEXT
from canao.train.reading import label_sets
from canao.train.reading.examples import Asked, Example, Read, classes_in
from canao.train.reading.tables import RawTable
from canao.train.task_names import SEVERAL
from canao.train.tasks.task import TEMPERATURE, Task, finite


class Several(Task):
    """Targets are 1 for the labels that a text has and 0 for others; NaN throughout where nobody
    says which it has."""

    name, head = SEVERAL, LABELS_OF_TEXT

    def claims(self, table: RawTable, asked: Asked) -> bool:
        return asked.separator is not None or label_sets.claims(table, asked)

    def read(self, train: RawTable, dev: RawTable | None, asked: Asked) -> Read:
        return label_sets.read_sets(train, dev, asked)

    def targets(self, examples: Sequence[Example], labels: Sequence[str]) -> np.ndarray:
        found = np.zeros((len(examples), len(labels)), np.float32)
        for row, example in zip(found, examples, strict=True):
            own = classes_in(example.label)
            if own is None:
                row[:] = np.nan
            else:
                row[list(own)] = 1.0
        return found

    def metric_names(
        self, labels: Sequence[str], examples: Sequence[Example] = ()
    ) -> tuple[str, ...]:
        return ("micro_f1", "macro_f1", "exact_match")

    def metrics(
        self, predictions: np.ndarray, examples: Sequence[Example], labels: Sequence[str]
    ) -> dict[str, float]:
        """Micro F1 counts all labels of all texts together, macro F1 is the mean over labels. A
        label that no text has and nobody predicts counts 0 there, as in scikit-learn. Exact match
        is the share of texts of which every label is right."""
        truth = self.targets(examples, labels) == 1.0
        both = (truth & predictions).sum(axis=0)
        either = truth.sum(axis=0) + predictions.sum(axis=0)
        return {
            "micro_f1": float(2 * both.sum() / max(1, either.sum())),
            "macro_f1": float((2 * both / np.maximum(1, either)).mean()),
            "exact_match": float((truth == predictions).all(axis=1).mean()),
        }

    def described(self, labels: Sequence[str]) -> str:
        return f"{len(labels)} labels, any number of each text"

    def known(self, labels: Tensor) -> Tensor:
        return finite(labels).all(dim=1)

    def label_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if not len(labels):
            return logits.sum() * 0.0
        return functional.binary_cross_entropy_with_logits(logits.float(), labels)

    def teacher_loss(self, logits: Tensor, wanted: Tensor) -> Tensor:
        """KL divergence of yes and no at a temperature, times its square, mean over labels: what
        `divergence` is for classes, of each label by itself."""
        mine, theirs = logits / TEMPERATURE, wanted / TEMPERATURE
        yes, no = functional.logsigmoid(theirs), functional.logsigmoid(-theirs)
        apart = yes.exp() * (yes - functional.logsigmoid(mine))
        apart = apart + no.exp() * (no - functional.logsigmoid(-mine))
        return apart.mean() * TEMPERATURE**2

    def predicted(self, logits: np.ndarray) -> np.ndarray:
        """Whether a text has each label: from a probability of a half on, as in a library."""
        found: np.ndarray = logits >= 0
        return found


TASK = Several()
