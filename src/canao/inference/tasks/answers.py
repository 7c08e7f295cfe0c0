"""Answers to a question: the spans of the context with the highest start and end, or none.

The score of a span is the probability that it starts at its first token, times the probability that
it ends at its last, over the tokens of the context and one more, by which a model says that the
context holds no answer: the token that begins the sequence. Where both point there, that is the
null score. So do the protocol of SQuAD 2 and the question-answering pipeline of Transformers.

A context that is longer than the model takes is read in overlapping windows. One softmax runs over
the tokens of all windows, so that scores of different windows can be compared. There is no answer
only if no window holds one: the lowest null score of all counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from canao.errors import InputError
from canao.inference.tasks.classify import as_logits
from canao.inference.tasks.entities import trimmed
from canao.inference.tasks.prepared import Prepared
from canao.inference.tasks.results import Answer
from canao.inference.tasks.task import (
    CONTEXT,
    NOTHING,
    OF_TOKENS,
    Manifest,
    Option,
    Outputs,
    Task,
    count,
)

_Logits = Sequence[np.ndarray]


def find_answers(
    context: str, windows: Sequence[Any], starts: _Logits, ends: _Logits, top: int, longest: int,
    null_threshold: float | None = None,
) -> list[Answer]:  # fmt: skip
    """The `top` best spans of at most `longest` tokens, extended to whole words, best first.

    With `null_threshold`, an answer without text says that there is none. It is the first one if
    the logits of its start and end, added, exceed those of the best span by more than that; else it
    has the place of its score, after the best span.
    """
    first, last = ([x.ravel().astype(np.float64) for x in xs] for xs in (starts, ends))
    places = [np.flatnonzero([s == 1 for s in w.sequence_ids]) for w in windows]
    null = _null(windows, first, last)
    p, q = _probabilities(first, places, null[:1]), _probabilities(last, places, null[1:])
    found: dict[tuple[int, int], float] = {}
    for window, at, a, b in zip(windows, places, p, q, strict=False):
        # Several spans may extend to the same words, so more are looked at than asked for.
        for score, i, j in _best(a, b, 4 * top + 8, longest):
            span = _span(context, window, at[i], at[j])
            if span[0] < span[1]:
                found[span] = max(score, found.get(span, 0.0))
    best = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:top]
    null_score = float(p[-1][0] * q[-1][0]) if null else None
    answers = [Answer(score, s, e, context[s:e], null_score) for (s, e), score in best]
    if null_threshold is None or null_score is None:
        return answers
    return _with_none(answers, null_score, null_threshold)[:top]


def _with_none(answers: list[Answer], null: float, threshold: float) -> list[Answer]:
    """The answers and the one that there is none, in their order."""
    empty = Answer(null, 0, 0, "", null)
    # Of two products of probabilities with the same divisors, the logarithm of the ratio is the
    # difference of the logits.
    if not answers or _difference(null, answers[0].score) > threshold:
        return [empty, *answers]
    place = next((i for i, a in enumerate(answers) if i and a.score < null), len(answers))
    return [*answers[:place], empty, *answers[place:]]


def _difference(a: float, b: float) -> float:
    return math.log(a) - math.log(b) if a and b else math.inf if a else -math.inf


def _null(windows: Sequence[Any], starts: _Logits, ends: _Logits) -> list[float]:
    """The logits of start and end that say that there is no answer; [] if nothing can say it."""
    found = []
    for window, start, end in zip(windows, starts, ends, strict=True):
        at = _first(window.sequence_ids)
        if at is not None:
            found.append([float(start[at]), float(end[at])])
    return min(found, key=sum) if found else []


def _first(sides: Sequence[int | None]) -> int | None:
    """The token that stands for the whole sequence: the first, or in families that end a sequence
    with two special tokens, the last."""
    if sides[0] is None:
        return 0
    return len(sides) - 1 if list(sides[-2:]) == [None, None] else None


def _probabilities(
    logits: _Logits, places: Sequence[np.ndarray], more: list[float]
) -> list[np.ndarray]:
    """One softmax over the logits at `places` of all windows, and over `more`, which come last."""
    kept = [*(x[at] for x, at in zip(logits, places, strict=True)), np.array(more)]
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


class Answers(Task):
    """The answers to a question, a list of Answer; the second text is the context."""

    name = "question-answering"
    options: ClassVar[Mapping[str, Option]] = {
        "top": count(1),
        "max_answer_tokens": count(15),
        "null_threshold": Option(valid=lambda value: not math.isnan(value), remedy="a number"),
    }
    pairs, per, outputs, scored = CONTEXT, OF_TOKENS, ("start_logits", "end_logits"), True

    def interpret(
        self, prepared: Prepared, outputs: Sequence[Outputs], manifest: Manifest, tokenizer: Any
    ) -> list[Answer]:
        activation, asked = manifest.get("activation"), prepared.options
        starts, ends = ([as_logits(_named(o, name), activation) for o in outputs]
                        for name in self.outputs)  # fmt: skip
        return find_answers(prepared.pair or "", prepared.windows, starts, ends, asked["top"],
                            asked["max_answer_tokens"], asked["null_threshold"])  # fmt: skip

    def form(self, prepared: Prepared, result: Any) -> dict[str, Any]:
        return {"answers": [answer.to_dict() for answer in result]}

    def lines(self, result: Any, options: Mapping[str, Any]) -> Iterator[str]:
        if not result:
            yield NOTHING
            return
        best = result[0]
        if best.null_score is not None and best.null_score > best.score and best.text:
            yield f"{best.null_score:8.4f}  no answer (--null-threshold 0 gives this one)"
        for a in result:
            place = f"{a.start}-{a.end}  {a.text}" if a.text else "no answer"
            yield f"{a.score:8.4f}  {place}"


def _named(outputs: Outputs, name: str) -> np.ndarray:
    found = outputs.get(name)
    if found is None:
        raise InputError(f"the model has no output {name}; it cannot answer questions")
    return found
