"""How many entities are found, from the labels of words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from canao.inference.tasks.scheme import Scheme, scheme_of

Span = tuple[int, int, int, str]  # sentence, first word, the word after the last, type
WORD_ACCURACY = "word_accuracy"


def metric_names(labels: Sequence[str]) -> tuple[str, ...]:
    """What `entity_metrics` gives for these labels, what counts first."""
    if not _has_entities(scheme_of(labels)):
        return (WORD_ACCURACY,)
    return ("entity_f1", "entity_precision", "entity_recall", WORD_ACCURACY)


def entity_metrics(
    truth: Sequence[Sequence[str]], found: Sequence[Sequence[str]], labels: Sequence[str]
) -> dict[str, float]:
    """How well the labels of words, a list for each sentence, fit the true ones: fractions.

    Precision, recall and F1 of entities as in conlleval and seqeval: an entity counts if its type
    and both of its ends are right; over all types together. Without entities, as for parts of
    speech, only the share of right words.
    """
    scheme = scheme_of(labels)
    right = [a == b for want, got in zip(truth, found, strict=True)
             for a, b in zip(want, got, strict=True)]  # fmt: skip
    metrics = {WORD_ACCURACY: float(np.mean(right))}
    if not _has_entities(scheme):
        return metrics
    wanted, given = spans(truth, scheme), spans(found, scheme)
    both = len(wanted & given)
    metrics["entity_precision"] = both / len(given) if given else 0.0
    metrics["entity_recall"] = both / len(wanted) if wanted else 0.0
    # Twice the hits over all of both sides: the harmonic mean of the two.
    metrics["entity_f1"] = 2 * both / max(len(wanted) + len(given), 1)
    return metrics


def spans(sentences: Sequence[Sequence[str]], scheme: Scheme) -> set[Span]:
    """The entities in sentences of labels."""
    found: set[Span] = set()
    for i, tags in enumerate(sentences):
        first = 0
        for at, tag in enumerate(tags):
            if at + 1 < len(tags) and scheme.continues(tag, tags[at + 1]):
                continue
            if tag not in scheme.outside:
                found.add((i, first, at + 1, scheme.type_of(tag)))
            first = at + 1
    return found


def _has_entities(scheme: Scheme) -> bool:
    return bool(scheme.roles or scheme.outside)
