"""Named entities in a text, from the labels of its tokens.

First each word gets one label (such models are trained on the first token of each word). Then
neighbouring words of the same type become one entity; a label that starts with B- begins a new one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from canao.inference.tasks.classify import label_names, probabilities
from canao.inference.tasks.results import Entity

OUTSIDE = "O"
# How a word gets its label. With none and simple each token keeps its own; none joins nothing.
STRATEGIES = ("first", "average", "max", "simple", "none")
_Piece = tuple[str, float, int, int]  # label, score, start, end


def find_entities(
    text: str, window: Any, logits: np.ndarray, manifest: Mapping[str, Any], aggregate: str
) -> list[Entity]:
    """The entities of a text, in the order of the text."""
    scores = probabilities(logits.reshape(len(window.ids), -1))
    labels = label_names(manifest, scores.shape[1])
    words = _words(window, whole=aggregate not in ("none", "simple"))
    pieces = [_labelled(word, scores, labels, window.offsets, aggregate) for word in words]
    groups = [[p] for p in pieces] if aggregate == "none" else _joined(pieces)
    found = [_entity(text, g, bare=aggregate != "none") for g in groups if g[0][0] != OUTSIDE]
    return [e for e in found if e.start < e.end]


def _words(window: Any, *, whole: bool) -> list[list[int]]:
    """The tokens of each word, or one by one; tokens that the tokenizer added are left out."""
    words: list[list[int]] = []
    last: object = None
    for i, (special, place) in enumerate(
        zip(window.special_tokens_mask, window.word_ids, strict=True)
    ):
        if special:
            last = None
            continue
        if whole and place is not None and place == last:
            words[-1].append(i)
        else:
            words.append([i])
        last = place
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


def _joined(pieces: Sequence[_Piece]) -> list[list[_Piece]]:
    """Neighbouring pieces of the same kind in one list; a label with B- begins a new list."""
    groups: list[list[_Piece]] = []
    for piece in pieces:
        begins = piece[0].startswith("B-")
        if groups and not begins and _kind(piece[0]) == _kind(groups[-1][-1][0]):
            groups[-1].append(piece)
        else:
            groups.append([piece])
    return groups


def _kind(label: str) -> str:
    """A label without its B- or I-."""
    return label[2:] if label.startswith(("B-", "I-")) else label


def _entity(text: str, group: Sequence[_Piece], *, bare: bool) -> Entity:
    start, end = trimmed(text, group[0][2], group[-1][3])
    score = float(np.mean([p[1] for p in group]))
    label = _kind(group[0][0]) if bare else group[0][0]
    return Entity(label, score, start, end, text[start:end])


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """A span without the blanks at its ends: tokens of some tokenizers begin with a blank."""
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), end - (len(part) - len(part.rstrip()))
