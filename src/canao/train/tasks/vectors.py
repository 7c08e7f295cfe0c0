"""A vector of each text: the teacher's own, which its students learn. Scores of pairs, where there
are some, only tell how good vectors are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional

from canao.model.embedder import Vectors, head_of_directory
from canao.model.heads import Head
from canao.model.inventory.inventory import Inventory
from canao.train.reading.examples import Asked, Example, Label, Read
from canao.train.reading.sentence_texts import read_sentences, single_texts
from canao.train.reading.tables import RawTable
from canao.train.task_names import VECTORS
from canao.train.tasks.task import Task
from canao.train.tasks.values import correlation


class SentenceVectors(Task):
    """The label of a pair is its score; that of a text is the teacher's vector of it, a tuple,
    where vectors are compared with it. Nothing is trained on labels."""

    name, head = VECTORS, Vectors("SentenceEmbedding", None)
    labelled = False

    def head_for(self, teacher: Path, inventory: Inventory) -> Head:
        return head_of_directory(teacher, inventory)

    def read(self, train: RawTable, dev: RawTable | None, asked: Asked) -> Read:
        return read_sentences(train, dev, asked)

    def inputs(self, examples: Sequence[Example]) -> Sequence[Example]:
        return single_texts(examples)

    def strata(self, labels: Sequence[Label]) -> list[int | float]:
        """By their scores where there are some. Each text may be held out but the first."""
        return [label if isinstance(label, float) else 0 for label in labels]

    def targets(self, examples: Sequence[Example], labels: Sequence[str]) -> np.ndarray:
        """Nothing: NaN for each text, [texts]."""
        return np.full(len(self.inputs(examples)), np.nan, np.float32)

    def asks_teacher(self, examples: Sequence[Example]) -> bool:
        return not _scored(examples)

    def metric_names(
        self, labels: Sequence[str], examples: Sequence[Example] = ()
    ) -> tuple[str, ...]:
        return ("spearmanr", "pearson") if _scored(examples) else ("cosine",)

    def metrics(
        self, predictions: np.ndarray, examples: Sequence[Example], labels: Sequence[str]
    ) -> dict[str, float]:
        """Of pairs, how the cosines of both vectors correlate with the scores; else the mean cosine
        with the teacher's vectors. predictions  [texts, width]"""
        if not _scored(examples):
            wanted = np.asarray([e.label for e in examples], np.float64).reshape(len(examples), -1)
            return {"cosine": float(cosines(predictions, wanted).mean())}
        truth = np.asarray([e.label for e in examples])
        found = cosines(predictions[::2], predictions[1::2])
        return {
            "spearmanr": correlation(stats.spearmanr, found, truth),
            "pearson": correlation(stats.pearsonr, found, truth),
        }

    def described(self, labels: Sequence[str]) -> str:
        return "vectors"

    def known(self, labels: Tensor) -> Tensor:
        return torch.zeros(len(labels), dtype=torch.bool, device=labels.device)

    def label_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return logits.sum() * 0.0

    def teacher_loss(self, logits: Tensor, wanted: Tensor) -> Tensor:
        """The squared distance of both at length 1, which is twice what the cosine lacks of 1."""
        mine, theirs = (functional.normalize(x, dim=1) for x in (logits, wanted))
        return (mine - theirs).square().sum(1).mean()

    def predicted(self, logits: np.ndarray) -> np.ndarray:
        return logits


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of the rows of both, [rows]; 0 where a vector has no length."""
    a, b = (x.astype(np.float64) for x in (one, other))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    found: np.ndarray = (a * b).sum(axis=1) / np.maximum(lengths, 1e-12)
    return found


def _scored(examples: Sequence[Example]) -> bool:
    return bool(examples) and isinstance(examples[0].label, float) and (
        examples[0].pair is not None
    )


TASK = SentenceVectors()
