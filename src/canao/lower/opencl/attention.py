"""Attention in one kernel that stores no scores: each work-item has a query and goes over the keys
with a running softmax, a block of keys at a time, which the items of a group bring into its memory
together. Causal attention keeps keys and values of earlier tokens in a cache, row by row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from canao.fuse.forms.attention import Attention
from canao.fuse.group import Region
from canao.graph.dtypes import F16, F32, I8, I32
from canao.graph.ir import Graph, product
from canao.lower.batches import one_batch
from canao.lower.lowering import Context, Kernel, canonical
from canao.lower.naming import plain
from canao.lower.opencl.device import LOCAL_BYTES, vector_name
from canao.schedule.kv_cache import CacheLayout
from canao.schedule.operands import Operand
from canao.schedule.work import WHOLE, Grid, Work
from canao.target import GPU_VECTOR, Target

# Floats that an item holds of its query and of its result; more would not stay in registers.
_MOST_DEPTH = 256
_UNDER_WAY = 4  # sums of vectors at once
_VECTORS, _ITEMS = (4, 2, 1, 8), (64, 32, 128, 16)  # of keys, and items; the usual ones first


@dataclass(frozen=True, slots=True)
class ItemAttentionPlan:
    """Blocks of `keys` keys, whole vectors; groups of `items` queries. A group's memory holds the
    keys of a block, and with `values` (1) their values."""

    kind: ClassVar[str] = "item_attention"
    keys: int
    items: int
    values: int

    @property
    def name(self) -> str:
        return f"{'keys' if self.values else 'onlykeys'}{self.keys}_{self.items}"


class ItemAttentionLowering:
    """Kernels of the form Attention."""

    plans = ItemAttentionPlan

    def legal(self, graph: Graph, form: Attention) -> bool:
        consecutive = form.q.strides[-1] == 1 and form.store[-1] == 1
        kept = form.cache in (None, F32, F16, I8) and form.rounded == F32
        small = max(depth(form)) <= _MOST_DEPTH
        return consecutive and kept and small and one_batch(form.q.shape[:-2])

    def default(self, form: Attention, target: Target) -> ItemAttentionPlan:
        return next(self.space(form, target))

    def space(self, form: Attention, target: Target) -> Iterator[ItemAttentionPlan]:
        for values in (1, 0):
            for keys in (vectors * target.vector for vectors in _VECTORS):
                if local_bytes(form, keys, values, target) <= LOCAL_BYTES:
                    yield from (ItemAttentionPlan(keys, items, values) for items in _ITEMS)

    def product(self, form: Attention) -> str:
        return F32.name

    def tile(self, plan: ItemAttentionPlan) -> tuple[int, int]:
        return plan.items, plan.keys

    def rough_cost(
        self, form: Attention, plan: ItemAttentionPlan, rows: int, keys: int, target: Target
    ) -> float:
        """Blocks of keys that groups bring into their memory, and what items make of them."""
        groups, blocks = -(-rows // plan.items), -(-keys // plan.keys)
        return groups * blocks * plan.keys * (1 + 1 / plan.keys + plan.items / 16) / rows

    def in_effect(self, plan: ItemAttentionPlan, rows: int) -> ItemAttentionPlan:
        return plan

    def kernel(self, context: Context, region: Region, plan: ItemAttentionPlan) -> Kernel:
        form = region.form
        assert isinstance(form, Attention)
        heads, longest = product(form.q.shape[:-2]), context.graph.max_length
        cache = cache_layout(form, longest) if form.cached else None
        kind = "causal" if form.cached else "attention"
        kept = "" if form.cache in (None, F32) else f"_{form.cache}"
        reads = [Operand(access.base) for access in (form.q, form.k, form.v)]
        for bias in form.biases:
            reads.append(Operand(bias.read.base))
            if bias.indices is not None:
                reads.append(Operand(bias.indices.base, dtype=I32))
        end = f"{vector_name(context.target)}_{plan.name}"
        return Kernel(
            name=f"{kind}_{plain(heads)}x{form.q.shape[-1]}{kept}_{end}",
            reads=tuple(dict.fromkeys(reads)),
            work=Work(WHOLE),
            facts=(plan, longest if form.cached else 0, canonical(form, context.graph)),
            cache=cache,
            appending=Work(WHOLE) if form.cached else None,
            grid=Grid((plan.items, 1), ((form.q.shape[-2], plan.items), (heads, 1))),
            append_grid=Grid((plan.items, 1), ((form.k.shape[-1], plan.items), (heads, 1)))
            if form.cached else None,
        )  # fmt: skip


def depth(form: Attention) -> tuple[int, int]:
    """Elements of a key and of a value."""
    d, dv = form.q.shape[-1], form.v.shape[-1]
    assert isinstance(d, int) and isinstance(dv, int)
    return d, dv


def sums_under_way(form: Attention, vector: int) -> int:
    """How many sums there are of each vector of a result: a few vectors' would wait for one another
    on a CPU, while a GPU has other items to go on with."""
    return 1 if vector == GPU_VECTOR else max(1, _UNDER_WAY // -(-depth(form)[1] // vector))


def local_bytes(form: Attention, keys: int, values: int, target: Target) -> int:
    """What a block of keys takes of a group's memory, in whole vectors."""
    wide = [-(-width // target.vector) * target.vector for width in depth(form)]
    return F32.bytes * keys * (wide[0] + values * wide[1])


def cache_layout(form: Attention, max_length: int) -> CacheLayout:
    """Keys and values of all tokens of a head, each row by row; of int8 a scale for each row."""
    d, dv = depth(form)
    heads = product(form.q.shape[:-2])
    assert isinstance(heads, int) and form.cache is not None
    scales = max_length if form.cache == I8 else 0
    return CacheLayout(heads, max_length * d, max_length * dv, form.cache, scales)
