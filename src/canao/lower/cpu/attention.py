"""Attention by tiles of queries and of keys with a running softmax; causal attention keeps keys and
values of earlier tokens in a cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from canao.fuse.forms.attention import Attention
from canao.fuse.group import Region
from canao.graph.dtypes import F32, I8, I32
from canao.graph.ir import Graph, product
from canao.isa.registry import ISAS
from canao.lower.batches import one_batch
from canao.lower.cpu.quantized import tile_name
from canao.lower.cpu.tiles import default_tile, rough_cost, rounded, tiles
from canao.lower.lowering import Context, Kernel, canonical
from canao.lower.naming import plain
from canao.schedule.kv_cache import CacheLayout
from canao.schedule.operands import Operand
from canao.schedule.schedule import Buffer
from canao.schedule.work import HEADS, TILES, Work
from canao.target import Target

# Keys whose scores are held at once: 8 rows of them fill half of a small L1, 16 rows all of that.
KEYS = 512


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """mr x nr register tile; scores of `keys` keys at once."""

    kind: ClassVar[str] = "attention"
    mr: int
    nr: int
    keys: int

    @property
    def tile(self) -> tuple[int, int]:
        return self.mr, self.nr

    @property
    def name(self) -> str:
        return f"{self.mr}x{self.nr}_keys{self.keys}"


class AttentionLowering:
    """Kernels of the form Attention."""

    plans = AttentionPlan

    def legal(self, graph: Graph, form: Attention) -> bool:
        """Tiles read and write consecutive elements of a head; there is one stride for heads.

        Narrow rows are not made here: a row has one scale for all its heads, and no thread has all
        of them. Tiles run head after head, as a thread packs one head's keys and values at a time.
        """
        consecutive = form.q.strides[-1] == 1 and form.store[-1] == 1
        return consecutive and one_batch(form.q.shape[:-2])

    def default(self, form: Attention, target: Target) -> AttentionPlan:
        return _plan(default_tile(target, depth(form)[1], form.rounded.name), KEYS)

    def space(self, form: Attention, target: Target) -> Iterator[AttentionPlan]:
        default = self.default(form, target)
        for tile in dict.fromkeys([default.tile, *tiles(target, form.rounded.name)]):
            for keys in (64, 128, 256, KEYS):
                yield _plan(tile, keys)

    def kernel(self, context: Context, region: Region, plan: AttentionPlan) -> Kernel:
        form, isa = region.form, context.target.isa
        assert isinstance(form, Attention)
        heads = product(form.q.shape[:-2])
        longest = context.graph.max_length
        cache = cache_layout(form, plan, longest) if form.cached else None
        kind = "causal" if form.cached else "attention"
        kept = "" if form.cache in (None, F32) else f"_{form.cache}"
        kept += "" if form.rounded == F32 else f"_{form.rounded}"
        return Kernel(
            name=f"{kind}_{plain(heads)}x{form.q.shape[-1]}{kept}_{isa}_{plan.name}",
            reads=tuple(dict.fromkeys(_operands(form))),
            work=Work(TILES, form.q.shape[-2], heads=heads, tile=plan.mr),
            facts=(plan, longest if form.cached else 0, canonical(form, context.graph)),
            scratch=buffers(form, plan, isa),
            cache=cache,
            appending=Work(HEADS, heads) if form.cached else None,
        )

    def product(self, form: Attention) -> str:
        return multiplied(form)

    def tile(self, plan: AttentionPlan) -> tuple[int, int]:
        return plan.tile

    def rough_cost(
        self, form: Attention, plan: AttentionPlan, rows: int, keys: int, target: Target
    ) -> float:
        columns = (depth(form)[1], keys)
        return rough_cost(plan.tile, columns, rows, target, form.rounded.name)

    def in_effect(self, plan: AttentionPlan, rows: int) -> AttentionPlan:
        return plan


def _plan(tile: tuple[int, int], keys: int) -> AttentionPlan:
    """Tiles of keys are of whole panels."""
    mr, nr = tile
    return AttentionPlan(mr, nr, keys=max(1, keys // nr) * nr)


def depth(form: Attention) -> tuple[int, int]:
    """Elements of a key and of a value."""
    d, dv = form.q.shape[-1], form.v.shape[-1]
    assert isinstance(d, int) and isinstance(dv, int)
    return d, dv


def multiplied(form: Attention) -> str:
    """Which row of an instruction set's tiles multiplies: float32 by keys and by values, or what
    both are rounded to."""
    return tile_name(F32, form.cache or F32) if form.rounded == F32 else form.rounded.name


def _operands(form: Attention) -> Iterator[Operand]:
    for access in (form.q, form.k, form.v):
        yield Operand(access.base)
    for bias in form.biases:
        yield Operand(bias.read.base)
        if bias.indices is not None:
            yield Operand(bias.indices.base, dtype=I32)


def buffers(form: Attention, plan: AttentionPlan, isa: str) -> tuple[Buffer, ...]:
    """The scores of a tile and its mix of values; a head's keys and values in panels, where they
    do not lie in the cache. Where these are bf16, a tile's queries and its weights of values are
    too, in places of their own."""
    d, dv = depth(form)
    wide, keys = rounded(dv, plan.nr), form.k.shape[-1]
    tile = (Buffer("p", plan.mr * plan.keys), Buffer("mix", plan.mr * wide))
    if form.cached:
        return tile
    if form.rounded == F32:
        return (*tile, Buffer("kt", keys, plan.nr, d), Buffer("vp", product((keys, wide))))
    deep, kr = deep_row(form, isa), ISAS[isa].tiles[form.rounded.name].kr
    narrow = partial(Buffer, dtype=form.rounded)
    return (
        *tile, narrow("qn", plan.mr * deep), narrow("pn", plan.mr * plan.keys),
        narrow("kt", keys, plan.nr, deep), narrow("vp", keys, kr, wide),
    )  # fmt: skip


def deep_row(form: Attention, isa: str) -> int:
    """Elements from one query of bf16, or one column of a panel of keys, to the next."""
    return rounded(depth(form)[0], ISAS[isa].width)


def cache_layout(form: Attention, plan: AttentionPlan, max_length: int) -> CacheLayout:
    """Keys and values of all tokens, as tiles read them. Scales are read in whole vectors."""
    d, dv = depth(form)
    heads, keys = product(form.q.shape[:-2]), rounded(max_length, plan.nr)
    assert isinstance(heads, int) and form.cache is not None
    scales = keys if form.cache == I8 else 0
    return CacheLayout(
        heads, keys * d, max_length * rounded(dv, plan.nr), form.cache, scales
    )
