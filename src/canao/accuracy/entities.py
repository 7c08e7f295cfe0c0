"""What a compiled library says of each word of a sentence, and how many entities it finds."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

import numpy as np

from canao.accuracy.tagged import Sentence, TaggedText
from canao.artifact.directory import Artifact
from canao.errors import InputError
from canao.inference.compiled_model import CompiledModel
from canao.inference.tasks.results import Entity
from canao.inference.tasks.scheme import outside_of
from canao.inference.text_model import TextModel
from canao.train.metrics import Score
from canao.train.task_names import WORDS
from canao.train.tasks.entities import entity_metrics, metric_names

TOKENS = WORDS
_BATCH = 64  # sentences


def tag_words(
    artifact: Artifact, data: TaggedText, opened: Callable[[Artifact], TextModel] = CompiledModel
) -> tuple[np.ndarray, Score, bool]:
    """The place of each word's label among the model's labels, int64 [words of all sentences], how
    right they are, and whether all their scores are numbers. A word has the label of its first
    token; one that the tokenizer leaves out is outside of all entities. Long sentences are read in
    windows.

    InputError if it is a model for another task, or without some of the labels.
    """
    labels = _require_labels(artifact, data)
    order = {name: i for i, name in enumerate(labels)}
    outside = outside_of(labels)
    found, finite = list[list[str]](), True
    with opened(artifact) as model:
        for start in range(0, len(data.dev), _BATCH):
            part = data.dev[start : start + _BATCH]
            pieces = model.predict([s.text for s in part], aggregate="none", ignore_labels=[])
            found += [_of_words(s, p, outside) for s, p in zip(part, pieces, strict=True)]
            finite &= all(np.isfinite(piece.score) for own in pieces for piece in own)
    values = np.array([order[tag] for tags in found for tag in tags], np.int64)
    return values, entity_score([s.tags for s in data.dev], found, labels), finite


def _of_words(sentence: Sentence, pieces: Sequence[Entity], outside: str) -> list[str]:
    """The label of each word's first token."""
    begins = [piece.start for piece in pieces]
    tags = []
    for start, word in zip(sentence.starts(), sentence.words, strict=True):
        at = bisect_left(begins, start)
        inside = at < len(begins) and begins[at] < start + len(word)
        tags.append(pieces[at].label if inside else outside)
    return tags


def _require_labels(artifact: Artifact, data: TaggedText) -> tuple[str, ...]:
    """The model's labels; InputError unless it labels tokens, with all that the data have."""
    task, labels = artifact.manifest["task"], tuple(artifact.manifest["labels"])
    if task != TOKENS:
        raise InputError(
            f"{data.source}: is data for {TOKENS}, and the model is for {task}; give data for the "
            "model's task"
        )
    if not set(data.tags) <= set(labels):
        raise InputError(
            f"{data.source}: has the labels {', '.join(data.tags)}, and the model "
            f"{', '.join(labels)}; give both the same names, in the data or in id2label of "
            "config.json"
        )
    return labels


def entity_score(
    truth: Sequence[Sequence[str]], found: Sequence[Sequence[str]], labels: Sequence[str]
) -> Score:
    """How well the labels of words, a list for each sentence, fit the true ones. Primary is the F1
    of entities, or the share of right words where `labels` have no entities, as parts of speech."""
    metrics = entity_metrics(truth, found, labels)
    return Score(metrics, metric_names(labels)[0])
