"""Plans: how each region runs, as values. The legal ones are enumerated here; nothing is text.

m n k      problem            mr nr      register tile (nr in vectors)
kc         depth of a pass    mc         rows that stay in cache
keys       keys in one tile of attention
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass

from canao.fuse.forms.form import Attention, Matmul, Product
from canao.fuse.group import Program, Region
from canao.graph.ir import dim_at
from canao.target import Target

# ISA -> (floats in a vector, vector registers, default mr, default nr in vectors).
# avx2: 6x2 accumulators + 2 of weights + 1 broadcast fill 15 of 16 registers. avx512: 8 rows
# leave no remainder at 128 tokens on two threads; 16 accumulators cover the FMA latency.
REGISTERS = {"scalar": (1, 16, 4, 3), "avx2": (8, 16, 6, 2), "avx512": (16, 32, 8, 2),
             "neon": (4, 32, 6, 4)}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """Register tile and cache blocks of one region."""

    mr: int
    nr: int
    kc: int = 0
    mc: int = 0
    keys: int = 0

    @property
    def tile(self) -> tuple[int, int]:
        return self.mr, self.nr

    @property
    def name(self) -> str:
        parts = [f"{self.mr}x{self.nr}"]
        parts += [
            f"{k}{v}" for k, v in (("kc", self.kc), ("mc", self.mc), ("keys", self.keys)) if v
        ]
        return "_".join(parts)


# Keys of attention whose scores are held at once: 8 rows of them fill half of a small L1.
KEYS = 512


def tiles(target: Target) -> Iterator[tuple[int, int]]:
    """Register tiles (mr, nr in floats) that leave room for the operands, widest last."""
    width, registers, _, _ = REGISTERS[target.isa]
    for mr in range(2, 15):
        for vectors in range(1, 5):
            if mr * vectors + vectors + 1 <= registers and mr * vectors >= 8:
                yield mr, vectors * width


def default_tile(target: Target, columns: int = 0) -> tuple[int, int]:
    """mr and nr for a result of so many columns: few columns of padding, then the widest."""
    width, registers, mr, vectors = REGISTERS[target.isa]
    fitting = [v for v in range(1, 5) if mr * v + v + 1 <= registers]
    if not columns:
        return mr, vectors * width
    # A row's broadcasts and the tile's start and end weigh less the more columns share them.
    cost = {v: -(-columns // (v * width)) * (v + 0.1) for v in fitting}
    return mr, min(reversed(fitting), key=cost.__getitem__) * width


def _passes(k: int, nr: int, target: Target) -> int:
    """Passes over k whose panels of weights take a fifth of L2 at most.

    Deep passes pay: a panel that streams from L2 costs less than storing and loading the tile
    once more (MiniLM at 128 tokens, avx512: kc 128, 192, 384 take 29.9, 28.4, 27.3 ms).
    """
    return -(-k // max(128, target.l2_bytes // 5 // (4 * nr)))


def _tiles_in_cache(kc: int, mr: int, target: Target) -> int:
    """Row tiles of a cache block: the rows take half of L2."""
    return max(4, min(32, target.l2_bytes // 2 // (4 * kc) // mr))


def default_plan(region: Region, target: Target) -> Plan:
    """A good plan without measuring: the panel of weights in a fifth of L2, rows in half."""
    form = region.form
    if isinstance(form, Product):
        mr, nr = default_tile(target, form.n)
        kc = -(-form.k // _passes(form.k, nr, target))
        return Plan(mr, nr, kc=kc, mc=_tiles_in_cache(kc, mr, target) * mr)
    if isinstance(form, Attention):
        mr, nr = default_tile(target, int(form.v.shape[-1]))  # type: ignore[arg-type]
        return Plan(mr, nr, keys=max(1, KEYS // nr) * nr)
    return Plan(*default_tile(target))


def space(region: Region, target: Target) -> tuple[Plan, ...]:
    """Every legal plan of a region, the default first."""
    plans = [default_plan(region, target)]
    for tile in dict.fromkeys([plans[0].tile, *tiles(target)]):
        plans += _of_tile(region, target, *tile)
    return tuple(dict.fromkeys(plans))


def _of_tile(region: Region, target: Target, mr: int, nr: int) -> Iterator[Plan]:
    """Plans around those that `default_plan` would take for a tile. Passes share k evenly."""
    form = region.form
    if isinstance(form, Product):
        usual = _passes(form.k, nr, target)
        counts = {1, 2, 3, 4, 6, 8, usual - 1, usual, usual + 1} - {0}
        for kc in sorted({-(-form.k // n) for n in counts if n <= usual or form.k >= 96 * n}):
            for blocks in sorted({2, 4, 8, 16, 32, _tiles_in_cache(kc, mr, target)}):
                yield Plan(mr, nr, kc=kc, mc=blocks * mr)
    elif isinstance(form, Attention):
        for keys in (64, 128, 256, KEYS):
            yield Plan(mr, nr, keys=max(1, keys // nr) * nr)
    else:
        yield Plan(mr, nr)


def distance(a: Plan, b: Plan) -> float:
    """How far two plans of a region are apart: octaves, summed over the axes."""
    pairs = zip(astuple(a), astuple(b), strict=True)
    return sum(abs(math.log2(x / y)) for x, y in pairs if x and y)


def neighbours(plan: Plan, plans: Sequence[Plan]) -> Iterator[Plan]:
    """Of `plans`, those one step from `plan` along one axis. Which steps there are depends on the
    axes before it, which stay; those after it stay as near as is legal."""
    for axis in ("mr", "nr", "kc", "mc", "keys"):
        here = getattr(plan, axis)
        values = sorted({getattr(p, axis) for p in plans})
        for value in (*[v for v in values if v < here][-1:], *[v for v in values if v > here][:1]):
            there = [p for p in plans if getattr(p, axis) == value]
            yield min(there, key=lambda p: (distance(p, plan), astuple(p)))
        plans = [p for p in plans if getattr(p, axis) == here]


def default_plans(program: Program, target: Target) -> tuple[Plan, ...]:
    """The default plan of each region, in their order."""
    return tuple(default_plan(r, target) for r in program.regions)


def scratch_floats(region: Region, plan: Plan, max_length: int, row_slots: int) -> int:
    """Floats of scratch that one thread needs for the region, at most."""
    form, nr = region.form, plan.nr

    def up(value: int) -> int:
        return -(-value // nr) * nr

    if isinstance(form, Attention):
        d, keys = form.q.shape[-1], dim_at(form.k.shape[-1], max_length)
        dv = up(int(form.v.shape[-1]))  # type: ignore[arg-type]
        tile = plan.mr * (plan.keys + dv)
        if form.cached:  # keys and values lie in the cache
            return tile + 64
        return up(keys) * int(d) + keys * dv + tile + 64  # type: ignore[arg-type]
    if isinstance(form, Matmul):
        k, n = (dim_at(x, max_length) for x in form.b.shape[-2:])
        return k * up(n) + plan.mr * nr + 64
    width = form.epilogue.width if isinstance(form, Product) else getattr(form, "width", 0)
    return max(0, row_slots - 1) * (up(dim_at(width, max_length)) + 16)
