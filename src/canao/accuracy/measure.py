"""What a compiled library says of labelled text, and how often it is right."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from canao.artifact.directory import Artifact
from canao.errors import InputError
from canao.inference.compiled_model import CompiledModel
from canao.train.data import TextData, is_local, load_data
from canao.train.metrics import Score, score

CLASSES, VALUES = "text-classification", "text-regression"
_BATCH = 64  # texts


@dataclass(frozen=True, slots=True)
class Predictions:
    """Of each example: its class, or its value. `score` is how right they are."""

    values: np.ndarray
    score: Score

    def agreement(self, other: Predictions) -> float:
        """The share of equal classes; of values the correlation."""
        if self.values.dtype.kind == "f":
            pair = np.corrcoef(self.values, other.values)[0, 1]
            return float(pair) if np.isfinite(pair) else 0.0
        return float(np.mean(self.values == other.values))


def labelled_text(path: str | Path, **options: Any) -> TextData:
    """The examples to check with, as `dev`: those of the development file where there is one, else
    all of the file. Options as for `load_data`."""
    data = load_data(path, **options)
    alone = is_local(path) and not os.path.isdir(path)
    return replace(data, dev=(*data.train, *data.dev)) if alone else data


def predictions(artifact: Artifact, data: TextData) -> Predictions:
    """What the library says of `data.dev`; texts that are too long for it are truncated.

    InputError if it is a model for another task, or for other labels.
    """
    order = _classes(artifact, data)
    texts = [e.text for e in data.dev]
    pairs = [e.pair for e in data.dev]
    found: list[float] = []
    with CompiledModel(artifact) as model:
        for start in range(0, len(texts), _BATCH):
            part = slice(start, start + _BATCH)
            second = None if pairs[0] is None else [p or "" for p in pairs[part]]
            for prediction in model.predict(texts[part], second, truncate=True):
                found.append(prediction.score if order is None else order[prediction.label])
    values = np.array(found, np.float64 if order is None else np.int64)
    return Predictions(values, score(values, data))


def _classes(artifact: Artifact, data: TextData) -> dict[str, int] | None:
    """The number in the data of each of the model's labels; None where values are predicted."""
    task, labels = artifact.manifest["task"], list(artifact.manifest["labels"])
    wanted = VALUES if data.regression else CLASSES
    if task != wanted:
        raise InputError(
            f"{data.source or data.name}: is data for {wanted}, and the model is for {task}; give "
            "data for the model's task"
        )
    if data.regression:
        return None
    if set(data.labels) <= set(labels):
        numbers = {name: i for i, name in enumerate(data.labels)}
        return {name: numbers.get(name, -1) for name in labels}
    if _unnamed(labels) and _numbers(data.labels, len(labels)):
        return {name: data.labels.index(str(i)) if str(i) in data.labels else -1
                for i, name in enumerate(labels)}  # fmt: skip
    raise InputError(
        f"{data.source or data.name}: has the labels {', '.join(data.labels)}, and the model "
        f"{', '.join(labels)}; give data with the model's labels"
    )


def _unnamed(labels: Sequence[str]) -> bool:
    """Whether these are what Transformers calls labels that nobody named."""
    return labels == [f"LABEL_{i}" for i in range(len(labels))]


def _numbers(labels: Sequence[str], count: int) -> bool:
    return all(name.isdecimal() and int(name) < count for name in labels)
