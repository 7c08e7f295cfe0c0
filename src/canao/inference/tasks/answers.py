"""Answers to a question: the spans of the context with the highest start and end.

The score of a span is the probability that it starts at its first token, times the probability that
it ends at its last, both over the tokens of the context only. A context that is longer than the
model takes is read in overlapping windows. One softmax runs over the tokens of all windows, so that
scores of different windows can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from canao.inference.tasks.entities import trimmed
from canao.inference.tasks.results import Answer


def find_answers(
    context: str, windows: Sequence[Any], starts: Sequence[np.ndarray],
    ends: Sequence[np.ndarray], top: int, longest: int,
) -> list[Answer]:  # fmt: skip
    """The `top` best spans of at most `longest` tokens, extended to whole words, best first."""
    places = [np.flatnonzero([s == 1 for s in w.sequence_ids]) for w in windows]
    first, last = _probabilities(starts, places), _probabilities(ends, places)
    found: dict[tuple[int, int], float] = {}
    for window, at, p, q in zip(windows, places, first, last, strict=True):
        # Several spans may extend to the same words, so more are looked at than asked for.
        for score, i, j in _best(p, q, 4 * top + 8, longest):
            span = _span(context, window, at[i], at[j])
            if span[0] < span[1]:
                found[span] = max(score, found.get(span, 0.0))
    best = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:top]
    return [Answer(score, s, e, context[s:e]) for (s, e), score in best]


def _probabilities(
    logits: Sequence[np.ndarray], places: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """One softmax over the logits at `places` of all windows."""
    kept = [x.ravel()[at].astype(np.float64) for x, at in zip(logits, places, strict=True)]
    most = max((x.max() for x in kept if len(x)), default=0.0)
    powers = [np.exp(x - most) for x in kept]
    total = sum(x.sum() for x in powers)
    return [x / total for x in powers]


def _best(
    p: np.ndarray, q: np.ndarray, count: int, longest: int
) -> list[tuple[float, int, int]]:
    """(score, first, last) of the `count` best spans of at most `longest` tokens."""
    scores = np.tril(np.triu(np.outer(p, q)), longest - 1).ravel()
    count = min(count, len(scores))
    if not count:
        return []
    order = np.argpartition(-scores, count - 1)[:count]
    return [(float(scores[k]), *divmod(int(k), len(q))) for k in order if scores[k] > 0]


def _span(context: str, window: Any, first: int, last: int) -> tuple[int, int]:
    """The characters from the first token's word to the last token's word."""
    left, right = window.token_to_word(int(first)), window.token_to_word(int(last))
    start, end = window.offsets[first][0], window.offsets[last][1]
    if left is not None and right is not None:
        one, other = window.word_to_chars(left, 1), window.word_to_chars(right, 1)
        start, end = (one or (start, end))[0], (other or (start, end))[1]
    return trimmed(context, start, end)
