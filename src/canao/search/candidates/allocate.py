"""Which blocks lose least of the teacher within a budget: an exact dynamic program.

For each layer there are choices, a number of heads and one of FFN units; each has a time, which is
that of its kernels in the latency table, and an error (`train/inheritance/pruning.py`). Errors and
times add up. So the choices of least error within a time are found layer by layer, for every time
up to the budget in buckets (Kurtic et al. 2023, "ZipLM", section 3; Frantar and Alistarh 2022,
"SPDY"). Times are rounded up to whole buckets, so that the sum of the times keeps the budget.

A budget of size or of memory limits the weights of the layers as well. Where what is best by time
alone has more, the same is done for every time and every number of weights, with coarser buckets of
time. Weights come in whole steps of heads and of FFN units, so that few numbers of them occur.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from canao.model.arch import Arch, Block
from canao.search.candidates.space import Space

_BUCKETS = 4096
_COARSE = 1024  # buckets of time, where weights are limited too
_UNITS = 512  # numbers of weights that are told apart, at most


class Errors(Protocol):
    """What a layer loses with fewer heads or FFN units, relative to what its halves give."""

    def of_heads(self, layer: int, heads: int) -> float: ...

    def of_ffn(self, layer: int, units: int) -> float: ...


@dataclass(frozen=True, slots=True)
class Choice:
    """A block for one of the teacher's layers, its milliseconds, what it loses, and its weights, 0
    where nothing limits them."""

    block: Block
    ms: float
    error: float
    weights: int = 0


Found = tuple[float, list[Choice]]  # what is lost in all, and a choice for each layer


def allocated(
    base: Arch, sizes: tuple[Sequence[int], Sequence[int]], errors: Errors, layers: int,
    kept: Callable[[int], Sequence[int]], time: Callable[[Block], float], budget_ms: float,
    most_weights: float = math.inf,
) -> Arch | None:  # fmt: skip
    """The architecture as wide as `base` that loses least of a teacher of `layers` layers, among
    those whose blocks take `budget_ms` together, with `most_weights` weights; None if not even one
    small block does.

    sizes   numbers of heads and of FFN units that a block may have, or none of either
    kept    which of the teacher's layers a student of so many layers keeps
    time    milliseconds of a block

    A layer that is not kept loses both of its halves, whose errors are 1 each.
    """

    def weights(block: Block) -> int:
        return 0 if math.isinf(most_weights) else replace(base, blocks=(block,)).weights()

    by_time: list[tuple[float, int, list[list[Choice]], Found]] = []
    for count in range(1, layers + 1):
        choices = [list(_choices(layer, sizes, errors, time, weights)) for layer in kept(count)]
        best = least_error(choices, budget_ms)
        if best is not None:
            by_time.append((best[0] + 2.0 * (layers - count), count, choices, best))
    found: tuple[float, tuple[Block, ...]] | None = None
    for least, count, choices, by_time_alone in sorted(by_time, key=lambda row: row[:2]):
        if found is not None and least >= found[0]:
            break  # with fewer weights none of the rest loses less
        best = by_time_alone
        if sum(choice.weights for choice in best[1]) > most_weights:
            best = least_error(choices, budget_ms, most_weights)
        if best is not None:
            lost = best[0] + 2.0 * (layers - count)
            if found is None or lost < found[0]:
                found = lost, tuple(choice.block for choice in best[1])
    return None if found is None else Arch(base.hidden, base.head_size, found[1])


def least_error(
    choices: Sequence[Sequence[Choice]], budget_ms: float, most_weights: float = math.inf
) -> Found | None:
    """One of each sequence of choices, so that the errors add up to the least, the times to
    `budget_ms` at most and the weights to `most_weights`; None if there is no such."""
    if not (budget_ms > 0 and most_weights > 0):
        return None
    units, times, cost = _grid(choices, budget_ms, most_weights)
    # The least error of the layers so far, with so many weights (rows) and buckets of time.
    best = np.zeros((units + 1, times + 1))
    picks: list[np.ndarray] = []
    for row in choices:
        now = np.full(best.shape, np.inf)
        pick = np.full(best.shape, -1, dtype=np.int32)
        for i, choice in enumerate(row):
            w, t = cost(choice)
            if w > units or t > times:
                continue
            lost = best[: units + 1 - w, : times + 1 - t] + choice.error
            better = lost < now[w:, t:]
            now[w:, t:][better] = lost[better]
            pick[w:, t:][better] = i
        best = now
        picks.append(pick)
    if not np.isfinite(best[units, times]):
        return None
    w, t, chosen = units, times, list[Choice]()
    for row, pick in zip(reversed(choices), reversed(picks), strict=True):
        choice = row[int(pick[w, t])]
        chosen.append(choice)
        w, t = w - cost(choice)[0], t - cost(choice)[1]
    return float(best[units, times]), chosen[::-1]


def _grid(
    choices: Sequence[Sequence[Choice]], budget_ms: float, most_weights: float
) -> tuple[int, int, Callable[[Choice], tuple[int, int]]]:
    """How many units of weights and buckets of time there are, and how many a choice takes, rounded
    up to whole ones."""
    limited = math.isfinite(most_weights)
    times = _COARSE if limited else _BUCKETS
    step, unit = budget_ms / times, 1.0
    if limited:
        common = math.gcd(*(choice.weights for row in choices for choice in row))
        unit = max(1, common, most_weights / _UNITS)

    def cost(choice: Choice) -> tuple[int, int]:
        w = math.ceil(choice.weights / unit - 1e-9) if limited else 0
        return w, math.ceil(choice.ms / step - 1e-9)

    return int(most_weights / unit + 1e-9) if limited else 0, times, cost


def widths(space: Space) -> tuple[int, ...]:
    """The hidden sizes for which blocks are chosen: the teacher's, and three quarters, half and a
    quarter of it, or what of the space comes near."""
    values = space.choices()["hidden"]
    wanted = [share * space.hidden for share in (1.0, 0.75, 0.5, 0.25)]
    near = [min(values, key=lambda v: (abs(v - width), v)) for width in wanted]
    return tuple(dict.fromkeys(near))


def _choices(
    layer: int, sizes: tuple[Sequence[int], Sequence[int]], errors: Errors,
    time: Callable[[Block], float], weights: Callable[[Block], int],
) -> Iterator[Choice]:  # fmt: skip
    """What a block for a layer of the teacher may be, of those that are not worse than another in
    time, error and weights."""
    heads = [(h, errors.of_heads(layer, h)) for h in (0, *sizes[0])]
    units = [(f, errors.of_ffn(layer, f)) for f in (0, *sizes[1])]
    all_of_them = [
        Choice(block, time(block), lost + more, weights(block))
        for h, lost in heads
        for f, more in units
        if h or f
        for block in [Block(h, f)]
        if math.isfinite(time(block))
    ]
    good: list[Choice] = []
    for choice in sorted(all_of_them, key=lambda c: (c.ms, c.error, c.weights)):
        if not any(g.error <= choice.error and g.weights <= choice.weights for g in good):
            good.append(choice)
            yield choice
