"""Named entities in a text, from the labels of its tokens.

First each word gets one label, as a strategy says. Then neighbouring words become one entity where
the scheme of the labels says so (scheme.py).

Strategies and their results are those of the token-classification pipeline of Transformers, with
three differences: labels of other schemes than IOB are understood, `word` takes the words of the
tokenizer, and offsets leave out blanks at the ends.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from canao.inference.tasks.classify import label_names, scores_of
from canao.inference.tasks.prepared import Prepared
from canao.inference.tasks.results import Entity
from canao.inference.tasks.scheme import Scheme, scheme_of
from canao.inference.tasks.task import (
    NOTHING,
    OF_TOKENS,
    Manifest,
    Option,
    Outputs,
    Task,
    first_of,
)
from canao.inference.tasks.windows import joined

# How a word gets its label: that of its first token, of the mean of its tokens, or of its most
# confident token. With none and simple each token keeps its own; none joins nothing.
STRATEGIES = ("word", "first", "average", "max", "simple", "none")
_Piece = tuple[str, float, int, int]  # label, score, start, end


def find_entities(
    text: str, window: Any, logits: np.ndarray, manifest: Mapping[str, Any], aggregate: str,
    ignored: Collection[str] | None = None, word_model: bool = True, unknown: int | None = None,
) -> list[Entity]:  # fmt: skip
    """The entities of a text, in the order of the text.

    `ignored` are labels of entities that are left out; None: those that the scheme says are
    outside. `word_model` and `unknown` say how Transformers finds the words: whether the vocabulary
    marks tokens inside of words, and the id of the unknown token.
    """
    scores = scores_of(logits.reshape(len(window.ids), -1), manifest.get("activation"))
    labels = label_names(manifest, scores.shape[1])
    scheme = scheme_of(labels)
    if aggregate == "word":
        words = _words(window)
    else:
        whole = aggregate not in ("none", "simple")
        words = _pieces(text, window, word_model, unknown) if whole else _tokens(window)
    pieces = [_labelled(word, scores, labels, window.offsets, aggregate) for word in words]
    groups = [[p] for p in pieces] if aggregate == "none" else _joined(pieces, scheme)
    left_out = scheme.outside if ignored is None else ignored
    found = [_entity(text, group, scheme, bare=aggregate != "none") for group in groups]
    return [e for e in found if e.start < e.end and e.label not in left_out]


def _tokens(window: Any) -> list[list[int]]:
    """The tokens one by one, without those that the tokenizer added."""
    return [[i] for i, special in enumerate(window.special_tokens_mask) if not special]


def _words(window: Any) -> list[list[int]]:
    """The tokens of each word of the tokenizer."""
    words: list[list[int]] = []
    last: object = None
    for i, (special, place) in enumerate(
        zip(window.special_tokens_mask, window.word_ids, strict=True)
    ):
        if special:
            last = None
            continue
        if place is not None and place == last:
            words[-1].append(i)
        else:
            words.append([i])
        last = place
    return words


def _pieces(
    text: str, window: Any, word_model: bool, unknown: int | None
) -> list[list[int]]:
    """The tokens of each word as Transformers' pipeline finds it.

    Where the vocabulary marks tokens inside of words, those are longer than their text. Elsewhere a
    word ends at a blank only, so that what follows it, such as a full stop, is part of it.
    """
    words: list[list[int]] = []
    for (i,) in _tokens(window):
        start, end = window.offsets[i]
        if window.ids[i] == unknown:
            inside = False
        elif word_model:
            inside = len(window.tokens[i]) != end - start
        else:
            inside = start > 0 and " " not in text[start - 1 : start + 1]
        if inside and words:
            words[-1].append(i)
        else:
            words.append([i])
    return words


def _labelled(
    word: Sequence[int], scores: np.ndarray, labels: Sequence[str],
    offsets: Sequence[tuple[int, int]], aggregate: str,
) -> _Piece:  # fmt: skip
    """A word, given by its tokens, with the label that its tokens give it together."""
    rows = scores[list(word)]
    row = rows[0]
    if aggregate == "average":
        row = rows.mean(0)
    elif aggregate == "max":
        row = rows[rows.max(1).argmax()]
    best = int(row.argmax())
    return labels[best], float(row[best]), offsets[word[0]][0], offsets[word[-1]][1]


def _joined(pieces: Sequence[_Piece], scheme: Scheme) -> list[list[_Piece]]:
    """Neighbouring pieces of one entity in one list."""
    groups: list[list[_Piece]] = []
    for piece in pieces:
        if groups and scheme.continues(groups[-1][-1][0], piece[0]):
            groups[-1].append(piece)
        else:
            groups.append([piece])
    return groups


def _entity(text: str, group: Sequence[_Piece], scheme: Scheme, *, bare: bool) -> Entity:
    start, end = trimmed(text, group[0][2], group[-1][3])
    score = float(np.mean([p[1] for p in group]))
    label = scheme.type_of(group[0][0]) if bare else group[0][0]
    return Entity(label, score, start, end, text[start:end])


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """A span without the blanks at its ends: tokens of some tokenizers begin with a blank."""
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), end - (len(part) - len(part.rstrip()))


class Entities(Task):
    """The entities of a text, a list of Entity."""

    name = "token-classification"
    options: ClassVar[Mapping[str, Option]] = {
        "aggregate": Option("word", choices=STRATEGIES),
        "ignore_labels": Option(
            valid=lambda value: not isinstance(value, str), remedy="a list of labels"
        ),
    }
    windows, per, scored, bounded = True, OF_TOKENS, True, True

    def interpret(
        self, prepared: Prepared, outputs: Sequence[Outputs], manifest: Manifest, tokenizer: Any
    ) -> list[Entity]:
        window, logits, asked = prepared.windows[0], first_of(outputs[0]), prepared.options
        if prepared.whole is not None:
            rows = [first_of(o).reshape(len(w.ids), -1)
                    for o, w in zip(outputs, prepared.windows, strict=True)]  # fmt: skip
            window, logits = prepared.whole, joined(prepared.whole, prepared.windows, rows)
        return find_entities(prepared.text, window, logits, manifest, asked["aggregate"],
                             asked["ignore_labels"], *_words_of(tokenizer))  # fmt: skip

    def form(self, prepared: Prepared, result: Any) -> dict[str, Any]:
        return {"entities": [entity.to_dict() for entity in result]}

    def lines(self, result: Any, options: Mapping[str, Any]) -> Iterator[str]:
        for e in result:
            yield f"{e.score:8.4f}  {e.label}  {e.start}-{e.end}  {e.text}"
        if not result:
            yield NOTHING

    def described(self, head: Manifest) -> Iterator[tuple[str, str]]:
        yield "scheme", str(scheme_of(head["labels"]))


def _words_of(tokenizer: Any) -> tuple[bool, int | None]:
    """Whether a tokenizer's vocabulary marks tokens inside of words, and its unknown token's id."""
    model = tokenizer.library.model
    unknown = getattr(model, "unk_token", None)
    found = tokenizer.token_to_id(unknown) if unknown else getattr(model, "unk_id", None)
    return bool(getattr(model, "continuing_subword_prefix", None)), found
