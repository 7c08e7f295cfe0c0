"""A class of each word, as entities have. A word's first token stands for it in training, as it
does in a library (inference/tasks/entities.py); other tokens have no part in any loss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from canao.inference.tasks.scheme import outside_of
from canao.model.heads import CLASS_OF_TOKEN
from canao.train.reading import word_labels
from canao.train.reading.examples import (
    NO_CLASS,
    Asked,
    Example,
    Read,
    classes_in,
    word_spans,
)
from canao.train.reading.tables import RawTable
from canao.train.task_names import WORDS
from canao.train.tasks.entities import entity_metrics, metric_names
from canao.train.tasks.task import OfOneClass, indices

NO_TOKEN = -1  # what is predicted of a word of which the model sees no token


class Words(OfOneClass):
    """Labels are class indices, one of each word; words of a text without have NO_CLASS."""

    name, head, of_words = WORDS, CLASS_OF_TOKEN, True

    def claims(self, table: RawTable, asked: Asked) -> bool:
        return word_labels.claims(table, asked)

    def read(self, train: RawTable, dev: RawTable | None, asked: Asked) -> Read:
        return word_labels.read_words(train, dev, asked)

    def targets(self, examples: Sequence[Example], labels: Sequence[str]) -> np.ndarray:
        return indices([one for e in examples for one in _labels(e)])

    def metric_names(
        self, labels: Sequence[str], examples: Sequence[Example] = ()
    ) -> tuple[str, ...]:
        return metric_names(labels)

    def metrics(
        self, predictions: np.ndarray, examples: Sequence[Example], labels: Sequence[str]
    ) -> dict[str, float]:
        """A word without a token is outside of all entities, as a library has it."""
        outside, places = outside_of(labels), iter(predictions.tolist())
        truth, found = list[list[str]](), list[list[str]]()
        for own in (classes_in(e.label) for e in examples):
            assert own is not None, "sentences to compare with have labels"
            truth.append([labels[i] for i in own])
            found.append([labels[at] if (at := next(places)) != NO_TOKEN else outside for _ in own])
        return entity_metrics(truth, found, labels)

    def described(self, labels: Sequence[str]) -> str:
        return f"{len(labels)} labels of words"


def _labels(example: Example) -> Sequence[int]:
    found = classes_in(example.label)
    return [NO_CLASS] * len(word_spans(example)) if found is None else found


TASK = Words()
