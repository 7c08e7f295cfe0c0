"""Sentence embeddings in two precisions, for precision_tasks.py."""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from canao.artifact.directory import Artifact
from canao.errors import InputError
from canao.inference.compiled_model import CompiledModel
from canao.train.data import TextData

NAME = "embeddings"
_BATCH = 64
_LEAST = 4  # words of a sentence
_END = re.compile(r"[.!?](?=\s|$)")


def sentences(path: Path, count: int) -> list[str]:
    """The first sentences of paragraphs that are evenly spread over a file of text, a paragraph a
    line; InputError if there are too few. A sentence ends at a full stop, question or exclamation
    mark with a blank after it, and has four words at least."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; --data has no text for embeddings")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        found = [text for line in file if len((text := _first(line)).split()) >= _LEAST]
    if len(found) < count:
        raise InputError(f"{path}: {len(found)} sentences, {count} are wanted")
    return [found[i * len(found) // count] for i in range(count)]


def _first(paragraph: str) -> str:
    """Up to the first mark that ends a sentence of enough words: 'b. 1924' ends none."""
    text = paragraph.strip()
    for end in _END.finditer(text):
        if len(text[: end.end()].split()) >= _LEAST:
            return text[: end.end()]
    return text


@dataclass(frozen=True)
class Embedded:
    """Embeddings of sentences, and of the first and second texts of pairs, [n, width] each."""

    sentences: np.ndarray
    first: np.ndarray
    second: np.ndarray

    def compared(self, reference: Embedded, pairs: TextData) -> dict[str, float]:
        """Cosines to the reference, and Spearman's correlation of the cosines of pairs with what
        people said of them."""
        near = cosines(self.sentences, reference.sentences)
        truth = [example.label for example in pairs.dev]
        return {
            "cosine_mean": float(near.mean()),
            "cosine_least": float(near.min()),
            "spearmanr": float(stats.spearmanr(cosines(self.first, self.second), truth)[0]),
        }


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of each row of one array with that of the other."""
    a, b = (x.astype(np.float64) for x in (a, b))
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def embedded(artifact: Artifact, texts: list[str], pairs: TextData) -> Embedded:
    """What a library makes of sentences and pairs."""
    with CompiledModel(artifact) as model:

        def of(given: list[str]) -> np.ndarray:
            parts = (given[i : i + _BATCH] for i in range(0, len(given), _BATCH))
            return np.stack([row for part in parts for row in model.predict(part, truncate=True)])

        return Embedded(
            of(texts), of([e.text for e in pairs.dev]), of([e.pair or "" for e in pairs.dev])
        )
