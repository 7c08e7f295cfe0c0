"""What a compiled library says of labelled text, and how often it is right."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from canao.accuracy.entities import tag_words
from canao.accuracy.tagged import TaggedText, is_tagged, read_tagged, tagged
from canao.artifact.directory import Artifact
from canao.errors import InputError
from canao.inference.compiled_model import CompiledModel
from canao.inference.tasks.classify import activation_of
from canao.inference.tasks.results import Prediction
from canao.inference.text_model import TextModel
from canao.train.data import Label, TextData, is_local, load_data
from canao.train.metrics import Score, score
from canao.train.reading.examples import classes_in
from canao.train.reading.labels import as_number, class_name
from canao.train.task_names import CLASSIFICATION, REGRESSION, SEVERAL, VECTORS, WORDS
from canao.train.tasks.vectors import cosines

Labelled = TextData | TaggedText
# An artifact whose library can be asked, wherever it runs.
Opened = Callable[[Artifact], TextModel]
NO_HEAD: Mapping[str, Any] = MappingProxyType({})  # of a model that nothing is known of
_BATCH = 64  # texts


@dataclass(frozen=True, slots=True)
class Predictions:
    """Of each example its class, its value, or which labels it has [examples, labels]; or of each
    word its label. `score` is how right they are, and `finite` whether all numbers that they were
    made of are numbers."""

    values: np.ndarray
    score: Score
    finite: bool = True

    def agreement(self, other: Predictions) -> float:
        """The share of equal classes, or of equal yes and no; of values the correlation, and of
        vectors the mean cosine."""
        if self.values.dtype.kind == "f" and self.values.ndim == 2:
            return float(cosines(self.values, other.values).mean())
        if self.values.dtype.kind == "f":
            pair = np.corrcoef(self.values, other.values)[0, 1]
            return float(pair) if np.isfinite(pair) else 0.0
        return float(np.mean(self.values == other.values))


def labelled_text(
    path: str | Path, head: Mapping[str, Any] = NO_HEAD, **options: Any
) -> Labelled:
    """The examples to check with, as `dev`: those of the development file where there is one, else
    all of the file. Options as for `load_data`; .conll files, of words with labels, have none.

    `head` is what the manifest says of the model's head. It decides where labels alone do not, as
    of whole numbers, which may be classes and values.
    """
    if is_tagged(path):
        given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value]
        if given:
            raise InputError(
                f"{path}: a line is a word and its label, there are no columns to choose; leave "
                f"out {' and '.join(given)}"
            )
        return read_tagged(path)
    return load_data(path, split=False, **{"doubtful": task_of(head)} | options)


def task_of(head: Mapping[str, Any]) -> str | None:
    """The task that texts with a label each are for, as a model's head has it; None where the
    labels say what they are."""
    task = head.get("task")
    if task in (REGRESSION, VECTORS):
        return str(task)
    names = [as_number(_own(name)) for name in head.get("labels", ())]
    real = any(n is not None and not n.is_integer() for n in names)
    return CLASSIFICATION if task == CLASSIFICATION and real and None not in names else None


def require_there(path: str | Path) -> None:
    """InputError if data are to be in a file or directory that does not exist: that is said before
    a model is loaded. Names of the Hub are looked up when they are read."""
    if is_local(path) and not os.path.exists(path):
        raise InputError(f"{path}: no such file or directory; give labelled text")


def predictions(
    artifact: Artifact, data: Labelled, opened: Opened = CompiledModel
) -> Predictions:
    """What the library says of `data.dev`; texts that are too long for it are truncated, and
    sentences of words with labels read in windows. `opened` says where it runs: here, by default.

    InputError if it is a model for another task, or for other labels.
    """
    with np.errstate(all="ignore"):  # `finite` says what there is to say of such numbers
        return _predictions(artifact, as_its_own(artifact, data), opened)


def as_its_own(artifact: Artifact, data: Labelled) -> Labelled:
    """The data as what the library is for has them, in its labels; words with labels as sentences.

    InputError if it is a model for another task, or has other labels.
    """
    data = for_task_of(artifact, data)
    if isinstance(data, TextData) and data.kind == WORDS:
        return tagged(data)
    return data if isinstance(data, TaggedText) else in_labels_of(artifact, data)


def _predictions(artifact: Artifact, data: Labelled, opened: Opened) -> Predictions:
    if isinstance(data, TaggedText):
        return Predictions(*tag_words(artifact, data, opened))
    found = _said(artifact, data, opened)
    if data.kind == VECTORS:
        values = np.stack(found)
        return Predictions(values, score(values, data), bool(np.isfinite(values).all()))
    values = _several(found, data.labels) if data.kind == SEVERAL else _single(found, data.labels)
    finite = all(np.isfinite(value) for p in found for _, value in p.scores)
    return Predictions(values, score(values, data), finite)


def for_task_of(artifact: Artifact, data: Labelled) -> Labelled:
    """The data as what a library is for has them: pairs of texts with values tell how good vectors
    are."""
    if not isinstance(data, TextData) or artifact.manifest["task"] != VECTORS:
        return data
    pairs = data.regression and data.dev[0].pair is not None
    return replace(data, kind=VECTORS) if pairs else data


def _said(artifact: Artifact, data: TextData, opened: Opened) -> list[Any]:
    """What the library says of each text: a Prediction, or a vector."""
    examples = data.task.inputs(data.dev)
    texts, pairs = [e.text for e in examples], [e.pair for e in examples]
    found: list[Any] = []
    with opened(artifact) as model:
        for start in range(0, len(texts), _BATCH):
            part = slice(start, start + _BATCH)
            second = None if pairs[0] is None else [p or "" for p in pairs[part]]
            found += model.predict(texts[part], second, truncate=True)
    return found


def _single(found: Sequence[Prediction], labels: Sequence[str]) -> np.ndarray:
    """The class of each text among `labels`, or its value where there are none."""
    order = {name: i for i, name in enumerate(labels)}
    values = [order[_own(p.label)] if order else p.score for p in found]
    return np.array(values, np.int64 if order else np.float64)


def _several(found: Sequence[Prediction], labels: Sequence[str]) -> np.ndarray:
    """Which of `labels` each text has, bool [examples, labels]."""
    chosen = [{_own(name) for name in p.chosen or ()} for p in found]
    return np.array([[name in own for name in labels] for own in chosen], bool)


def truncated(artifact: Artifact, data: Labelled, opened: Opened = CompiledModel) -> int:
    """How many of the texts have more tokens than the library takes, and are truncated."""
    if isinstance(data, TaggedText) or data.kind == WORDS:
        return 0
    with opened(artifact) as model:
        return sum(model.tokens_of(e.text, e.pair) > artifact.max_length
                   for e in data.task.inputs(data.dev))  # fmt: skip


def in_labels_of(artifact: Artifact, data: TextData) -> TextData:
    """The data with the labels of the model, in the data's order where they are the same ones.

    InputError if the model is for another task, or has other labels.
    """
    manifest, source = artifact.manifest, data.source or data.name
    names = tuple(map(class_name, data.labels))
    data = replace(data, labels=names) if len(set(names)) == len(names) else data
    task, labels = manifest["task"], tuple(_own(name) for name in manifest["labels"])
    if VECTORS in (task, data.kind) and task != data.kind:
        raise InputError(
            f"{source}: is data for {data.task.name}, and the model is for {task}; give data for "
            "the model's task"
        )
    if data.kind == VECTORS:
        if data.task.asks_teacher(data.dev) and data.dev[0].label is None:
            raise InputError(
                f"{source}: has nothing to compare vectors with; give pairs of texts with a number "
                "that says how alike they are"
            )
        return data
    wanted = REGRESSION if data.regression else CLASSIFICATION
    if task != wanted:
        more = "give data for the model's task"
        if data.regression and task == CLASSIFICATION and len(labels) == 1:
            more = 'set "problem_type": "regression" in config.json if it predicts a value'
        raise InputError(
            f"{source}: is data for {wanted}, and the model is for {task}; {more}"
        )
    if data.regression:
        return data
    apart = activation_of(manifest, len(labels)) == "sigmoid"
    if apart and data.kind != SEVERAL:
        raise InputError(
            f"{source}: has one label for each text, and the model says yes or no to each of its "
            f"{len(labels)} labels; give data with lists of labels"
        )
    if not apart and data.kind == SEVERAL:
        raise InputError(
            f"{source}: has any number of labels for each text, and the model chooses one of its "
            f"{len(labels)}; give data with one label for each text"
        )
    if set(data.labels) == set(labels):
        return data
    if not set(data.labels) <= set(labels):
        raise InputError(
            f"{source}: has the labels {', '.join(data.labels)}, and the model "
            f"{', '.join(manifest['labels'])}; give both the same names, in the data or in "
            "id2label of config.json"
        )
    dev = tuple(replace(e, label=_renumbered(e.label, data.labels, labels)) for e in data.dev)
    return replace(data, dev=dev, labels=labels)


def _renumbered(label: Label, before: Sequence[str], now: Sequence[str]) -> Label:
    """A class, or several, by their places among other names."""
    several = classes_in(label)
    if several is not None:
        return tuple(sorted(now.index(before[i]) for i in several))
    assert isinstance(label, int), "what is compared with has labels"
    return now.index(before[label])


def _own(name: str) -> str:
    """A label's name as data have it: of those that Transformers makes up, LABEL_3, the number, and
    numbers alike however they are written."""
    number = name.removeprefix("LABEL_")
    return class_name(number if number.isdecimal() else name)
