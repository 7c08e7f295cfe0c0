"""Which blocks lose least of the teacher within a budget: an exact dynamic program.

For each layer there are choices, a number of heads and one of FFN units; each has a time, which is
that of its kernels in the latency table, and an error (`train/pruning.py`). Errors and times add
up. So the choices of least error within a time are found layer by layer, for every time up to the
budget in buckets (Kurtic et al. 2023, "ZipLM", section 3; Frantar and Alistarh 2022, "SPDY"). Times
are rounded up to whole buckets, so that the sum of the times keeps the budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from canao.model.arch import Arch, Block
from canao.search.space import Space

_BUCKETS = 4096


class Errors(Protocol):
    """What a layer loses with fewer heads or FFN units, relative to what its halves give."""

    def of_heads(self, layer: int, heads: int) -> float: ...

    def of_ffn(self, layer: int, units: int) -> float: ...


@dataclass(frozen=True, slots=True)
class Choice:
    """A block for one of the teacher's layers, its milliseconds, and what it loses."""

    block: Block
    ms: float
    error: float


def allocated(
    base: Arch, sizes: tuple[Sequence[int], Sequence[int]], errors: Errors, layers: int,
    kept: Callable[[int], Sequence[int]], time: Callable[[Block], float], budget_ms: float,
) -> Arch | None:  # fmt: skip
    """The architecture as wide as `base` that loses least of a teacher of `layers` layers, among
    those whose blocks take `budget_ms` together; None if not even one small block does.

    sizes   numbers of heads and of FFN units that a block may have, or none of either
    kept    which of the teacher's layers a student of so many layers keeps
    time    milliseconds of a block

    A layer that is not kept loses both of its halves, whose errors are 1 each.
    """
    found: tuple[float, tuple[Block, ...]] | None = None
    for count in range(1, layers + 1):
        choices = [list(_choices(layer, sizes, errors, time)) for layer in kept(count)]
        best = least_error(choices, budget_ms)
        if best is not None:
            lost = best[0] + 2.0 * (layers - count)
            if found is None or lost < found[0]:
                found = lost, tuple(choice.block for choice in best[1])
    return None if found is None else Arch(base.hidden, base.head_size, found[1])


def least_error(
    choices: Sequence[Sequence[Choice]], budget_ms: float
) -> tuple[float, list[Choice]] | None:
    """One of each sequence of choices, so that the errors add up to the least and the times to
    `budget_ms` at most; None if there is no such."""
    if not budget_ms > 0:
        return None
    step = budget_ms / _BUCKETS
    best = np.zeros(_BUCKETS + 1)  # the least error of the layers so far, with so many buckets
    picks: list[np.ndarray] = []
    for row in choices:
        now = np.full(_BUCKETS + 1, np.inf)
        pick = np.full(_BUCKETS + 1, -1, dtype=np.int32)
        for i, choice in enumerate(row):
            cost = _buckets(choice, step)
            if cost > _BUCKETS:
                continue
            lost = best[: _BUCKETS + 1 - cost] + choice.error
            better = lost < now[cost:]
            now[cost:][better] = lost[better]
            pick[cost:][better] = i
        best = now
        picks.append(pick)
    if not np.isfinite(best[_BUCKETS]):
        return None
    at, chosen = _BUCKETS, list[Choice]()
    for row, pick in zip(reversed(choices), reversed(picks), strict=True):
        choice = row[int(pick[at])]
        chosen.append(choice)
        at -= _buckets(choice, step)
    return float(best[_BUCKETS]), chosen[::-1]


def widths(space: Space) -> tuple[int, ...]:
    """The hidden sizes for which blocks are chosen: the teacher's, and three quarters, half and a
    quarter of it, or what of the space comes near."""
    values = space.choices()["hidden"]
    wanted = [share * space.hidden for share in (1.0, 0.75, 0.5, 0.25)]
    near = [min(values, key=lambda v: (abs(v - width), v)) for width in wanted]
    return tuple(dict.fromkeys(near))


def _buckets(choice: Choice, step: float) -> int:
    return math.ceil(choice.ms / step - 1e-9)


def _choices(
    layer: int, sizes: tuple[Sequence[int], Sequence[int]], errors: Errors,
    time: Callable[[Block], float],
) -> Iterator[Choice]:  # fmt: skip
    """What a block for a layer of the teacher may be, of those that are not worse than another in
    both time and error."""
    heads = [(h, errors.of_heads(layer, h)) for h in (0, *sizes[0])]
    units = [(f, errors.of_ffn(layer, f)) for f in (0, *sizes[1])]
    all_of_them = [
        Choice(block, time(block), lost + more)
        for h, lost in heads
        for f, more in units
        if h or f
        for block in [Block(h, f)]
        if math.isfinite(time(block))
    ]
    least = math.inf
    for choice in sorted(all_of_them, key=lambda c: (c.ms, c.error)):
        if choice.error < least:
            least = choice.error
            yield choice
