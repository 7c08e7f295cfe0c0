"""What all tasks have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from canao.model.heads import Head
from canao.model.inventory.inventory import Inventory
from canao.train.reading.examples import NO_CLASS, Asked, Example, Label, Read, read_texts
from canao.train.reading.tables import RawTable

TEMPERATURE = 2.0


class Task(ABC):
    """A task. What a model says something of is a *unit*: a text, or a word of it.

    name       as `--task` has it
    head       what its models end in
    of_words   whether units are words; else they are whole examples
    labelled   whether labels are trained on; else the teacher is as it comes
    """

    name: ClassVar[str]
    head: ClassVar[Head]
    of_words: ClassVar[bool] = False
    labelled: ClassVar[bool] = True

    def claims(self, table: RawTable, asked: Asked) -> bool:
        """Whether a training table can be for nothing but this task."""
        return False

    def head_for(self, teacher: Path, inventory: Inventory) -> Head:
        """What the models of a teacher in a directory end in."""
        return self.head

    def inputs(self, examples: Sequence[Example]) -> Sequence[Example]:
        """What a model reads of examples: themselves, unless they are parted."""
        return examples

    def asks_teacher(self, examples: Sequence[Example]) -> bool:
        """Whether what is predicted of examples is compared with what the teacher says of them."""
        return False

    @abstractmethod
    def read(self, train: RawTable, dev: RawTable | None, asked: Asked) -> Read:
        """The examples of the tables. InputError names the line and the remedy."""

    def strata(self, labels: Sequence[Label]) -> list[int | float]:
        """Of each example's label, the class whose proportions are to stay when examples are held
        out; values are real numbers."""
        return rarest(labels)

    @abstractmethod
    def targets(self, examples: Sequence[Example], labels: Sequence[str]) -> np.ndarray:
        """The labels of examples as losses and metrics take them, [examples] or
        [examples, labels]; of words one after the other, [words of all examples]. `labels` are the
        names of the classes."""

    @abstractmethod
    def metric_names(
        self, labels: Sequence[str], examples: Sequence[Example] = ()
    ) -> tuple[str, ...]:
        """The metrics of predictions of these examples; the first ranks models unless another is
        chosen."""

    @abstractmethod
    def metrics(
        self, predictions: np.ndarray, examples: Sequence[Example], labels: Sequence[str]
    ) -> dict[str, float]:
        """How well predictions, of the shape of `targets`, fit the examples' labels: fractions, or
        correlations in -1..1."""

    @abstractmethod
    def described(self, labels: Sequence[str]) -> str:
        """What there is to predict, in a word or two."""

    @abstractmethod
    def known(self, labels: Tensor) -> Tensor:
        """Which units have a label, [units]."""

    @abstractmethod
    def label_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss over units that all have a label. logits  [units, outputs]"""

    @abstractmethod
    def teacher_loss(self, logits: Tensor, wanted: Tensor) -> Tensor:
        """The mean loss over units where the teacher's logits are `wanted`, [units, outputs]."""

    @abstractmethod
    def predicted(self, logits: np.ndarray) -> np.ndarray:
        """What logits [units, outputs] predict, as `targets` has it."""


class OfOneLabel(Task):
    """What tasks have in common whose texts, or pairs of them, have one label each."""

    def read(self, train: RawTable, dev: RawTable | None, asked: Asked) -> Read:
        return read_texts(train, dev, asked)

    def strata(self, labels: Sequence[Label]) -> list[int | float]:
        return cast("list[int | float]", list(labels))


class OfOneClass(Task):
    """What tasks have in common whose units, texts or words, have one class each."""

    def known(self, labels: Tensor) -> Tensor:
        return labels != NO_CLASS

    def label_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy; 0 where there is no unit."""
        return functional.cross_entropy(logits, labels) if len(labels) else logits.sum() * 0.0

    def teacher_loss(self, logits: Tensor, wanted: Tensor) -> Tensor:
        """KL divergence from the teacher's class probabilities at a temperature, times its square
        (Hinton et al. 2015, section 2)."""
        if not len(logits):
            return logits.sum() * 0.0
        mine = functional.log_softmax(logits / TEMPERATURE, dim=-1)
        theirs = functional.log_softmax(wanted / TEMPERATURE, dim=-1)
        lost = functional.kl_div(mine, theirs, log_target=True, reduction="batchmean")
        return lost * TEMPERATURE**2

    def predicted(self, logits: np.ndarray) -> np.ndarray:
        found: np.ndarray = logits.argmax(axis=1)
        return found


def rarest(labels: Sequence[Label]) -> list[int | float]:
    """For each set of classes, the class of it that fewest examples have; -1 for the empty set."""
    sets = [set(label) if isinstance(label, tuple) else set() for label in labels]
    counts = Counter(one for found in sets for one in found)
    return [min(found, key=lambda one: (counts[one], one), default=-1) for found in sets]


def indices(labels: Sequence[Label]) -> np.ndarray:
    """Class indices, int64 [units]."""
    return np.asarray(labels).astype(np.int64)


def finite(labels: Tensor) -> Tensor:
    """Which values are numbers."""
    return ~torch.isnan(labels)
