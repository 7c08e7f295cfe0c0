"""Overlapping windows over a text of more tokens than the model takes.

The result for a token comes from the window in which it has the most context on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from canao.errors import InputError

# The most tokens that two neighbouring windows share.
SHARED = 128


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens `start` to `stop` of a text, with the special tokens that begin and end every text."""

    start: int
    stop: int
    ids: list[int]
    type_ids: list[int]


def cut_windows(whole: Any, limit: int) -> tuple[Window, ...]:
    """Windows of `limit` tokens over the encoding of one text that has more.

    All windows are full, the last one too. InputError if special tokens leave no room for text.
    """
    before, after = _around(whole)
    count, room = len(whole.ids) - before - after, limit - before - after
    if room < 1:
        raise InputError(f"the model takes {limit} tokens, which leaves none for the text")
    step = room - min(SHARED, room // 2)
    starts = [*range(0, count - room, step), count - room]
    return tuple(_window(whole, before, after, start, start + room) for start in starts)


def _around(whole: Any) -> tuple[int, int]:
    """How many special tokens the tokenizer put before the text and after it."""
    own = np.flatnonzero(np.array(whole.special_tokens_mask) == 0)
    if not len(own):
        return len(whole.ids), 0
    return int(own[0]), len(whole.ids) - 1 - int(own[-1])


def _window(whole: Any, before: int, after: int, start: int, stop: int) -> Window:
    end = len(whole.ids) - after

    def part(values: Sequence[int]) -> list[int]:
        return [*values[:before], *values[before + start : before + stop], *values[end:]]

    return Window(start, stop, part(whole.ids), part(whole.type_ids))


def joined(whole: Any, windows: Sequence[Window], rows: Sequence[np.ndarray]) -> np.ndarray:
    """One array [tokens of the whole text, width] from those of its windows [tokens, width].

    Special tokens are those of the first window. The context of a token in a window is its distance
    to the nearer end of the window at which the text was cut.
    """
    before, after = _around(whole)
    count = len(whole.ids) - before - after
    best, context = np.empty((count, rows[0].shape[-1]), rows[0].dtype), np.full(count, -1)
    for window, row in zip(windows, rows, strict=True):
        at = np.arange(window.start, window.stop)
        left = at - window.start if window.start else np.full(len(at), count)
        right = window.stop - 1 - at if window.stop < count else np.full(len(at), count)
        better = np.minimum(left, right) > context[at]
        context[at[better]] = np.minimum(left, right)[better]
        best[at[better]] = row[before : len(row) - after][better]
    first = rows[0]
    return np.concatenate([first[:before], best, first[len(first) - after :]])
