"""How right a library's own predictions are, with how sure that is, as a certificate holds it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from canao.accuracy.entities import entity_score
from canao.accuracy.measure import Labelled, Opened, Predictions, as_its_own, predictions
from canao.accuracy.tagged import TaggedText
from canao.artifact.budgets import Scored
from canao.artifact.directory import Artifact
from canao.errors import InputError, NotFiniteError
from canao.inference.compiled_model import CompiledModel
from canao.train.data import TextData
from canao.train.metrics import Score, score

_RESAMPLES, _SEED = 500, 0
_CONFIDENCE = 0.95


def scored(
    artifact: Artifact, data: Labelled, metric: str | None = None,
    said: Predictions | None = None, opened: Opened = CompiledModel,
) -> tuple[Score, Scored]:  # fmt: skip
    """All metrics of what the library says of `data.dev`, and one of them with the interval in
    which it lies with a confidence of 95 %: of `metric`, or of the task's usual one. `said` are its
    predictions where they were made before; `opened` says where it runs.

    The interval is that of the bootstrap: the metric of examples drawn from these with replacement,
    many times (Efron 1979). NotFiniteError if the library says numbers that are none; InputError if
    it is for another task, or there is no such metric.
    """
    own = as_its_own(artifact, data)
    said = predictions(artifact, own, opened) if said is None else said
    if not said.finite:
        raise NotFiniteError(f"{artifact.path}: the library says numbers of some examples of "
                             f"{_name(data)} that are infinite or none; compile it in float32")
    found = said.score if metric is None else replace(said.score, primary=metric)
    if metric is not None and metric not in found.metrics:
        raise InputError(f"metric '{metric}' is not one of {', '.join(found.metrics)}")
    again = _metric_of(artifact, own, said.values, found.primary)
    many, draw = len(own.dev), np.random.default_rng(_SEED)
    values = [again(draw.integers(many, size=many)) for _ in range(_RESAMPLES)]
    tail = 50 * (1 - _CONFIDENCE)
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    value = found.value
    return found, Scored(
        found.primary, value, min(value, float(low)), max(value, float(high)), many, _name(data),
        _digest(data),
    )  # fmt: skip


def _metric_of(
    artifact: Artifact, data: Labelled, values: np.ndarray, metric: str
) -> Callable[[np.ndarray], float]:
    """The metric of those examples whose places are given."""
    rows = _rows(data)

    def of_words(places: np.ndarray) -> float:
        labels = tuple(artifact.manifest["labels"])
        truth = [data.dev[i].tags for i in places]
        found = [[labels[tag] for tag in values[rows[i]]] for i in places]
        return entity_score(truth, found, labels).metrics[metric]

    def of_texts(places: np.ndarray) -> float:
        assert isinstance(data, TextData)
        chosen = replace(data, dev=tuple(data.dev[i] for i in places))
        with np.errstate(all="ignore"):
            return score(np.concatenate([values[rows[i]] for i in places]), chosen).metrics[metric]

    return of_words if isinstance(data, TaggedText) else of_texts


def _rows(data: Labelled) -> list[slice]:
    """Which of all predictions are those of each example: of a pair of which vectors are compared,
    of the words of a sentence, there are several."""
    if isinstance(data, TaggedText):
        counts = [len(sentence.words) for sentence in data.dev]
    else:
        counts = [len(data.task.inputs((example,))) for example in data.dev]
    ends = np.cumsum(counts)
    return [slice(end - n, end) for n, end in zip(counts, ends, strict=True)]


def _name(data: Labelled) -> str:
    """Where the examples are from, in one line."""
    return " ".join((data.source or data.name).split())[:300]


def _digest(data: Labelled) -> str:
    """Of the examples themselves, so that a certificate tells which they were."""
    total = hashlib.sha256()
    for part in _parts(data.dev):
        total.update(repr(part).encode("utf-8", "surrogatepass") + b"\n")
    return total.hexdigest()


def _parts(examples: Sequence[object]) -> Iterator[object]:
    """What an example says: its text or words, its pair, its label."""
    for example in examples:
        yield tuple(getattr(example, name, None) for name in ("text", "pair", "label", "tags"))
