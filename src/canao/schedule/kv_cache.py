"""Decoders: where keys and values of earlier tokens lie, and which kernels need only last rows.

Keys and values are kept as the tiles of attention read them, in panels, so that nothing is packed
twice: a head's keys [keys / nr][d][nr], its values [dv / nr][keys][nr].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from canao.fuse.forms.form import Alias, Attention, PackedGemm
from canao.fuse.forms.rows import Rows
from canao.fuse.group import Program, Region
from canao.graph.dtypes import F32, DType
from canao.graph.ir import TOKENS, Shape, dim_div
from canao.schedule.operands import aligned


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """What one attention keeps: of each of `heads` heads its keys, then of each its values. Those
    of int8 are followed by the keys' scales, float32, and the values'.

    key_head, value_head   elements of `dtype` of a head's keys, and of its values
    scales                 of a head's keys, and of its values; 0 where there are none
    """

    heads: int
    key_head: int
    value_head: int
    dtype: DType = F32
    scales: int = 0

    @property
    def values(self) -> int:
        """The first element of the values."""
        return aligned(self.dtype.bytes * self.heads * self.key_head) // self.dtype.bytes

    @property
    def key_scales(self) -> int:
        """The first byte of the keys' scales."""
        size = self.dtype.bytes
        return size * self.values + aligned(size * self.heads * self.value_head)

    @property
    def value_scales(self) -> int:
        """The first byte of the values' scales."""
        return self.key_scales + aligned(F32.bytes * self.heads * self.scales)

    @property
    def size(self) -> int:
        """Bytes of all."""
        return self.value_scales + aligned(F32.bytes * self.heads * self.scales)


@dataclass(frozen=True, slots=True)
class Cache:
    """The part of one attention: its first byte, and what is there."""

    offset: int
    layout: CacheLayout


@dataclass(frozen=True, slots=True)
class CachePlan:
    """The part of each causal attention, by the output of its region; bytes of all."""

    parts: Mapping[str, Cache]
    size: int


def plan_cache(layouts: Mapping[str, CacheLayout]) -> CachePlan:
    """Parts for the attentions with these outputs, one after another."""
    parts: dict[str, Cache] = {}
    offset = 0
    for output, layout in layouts.items():
        parts[output] = Cache(offset, layout)
        offset += layout.size
    return CachePlan(parts, offset)


def last_rows(program: Program) -> frozenset[str]:
    """Outputs of regions that may compute the last tokens' rows only, when the caller wants only
    the results of these tokens. They are the regions from the last attention on, because no other
    token's row is read after it. Empty for a program that keeps no cache."""
    found: set[str] = set()
    if not program.graph.resumes:
        return frozenset()
    users = _users(program)
    for region in reversed(program.regions):
        last = all(u.output in found and _by_row(u, name)
                   for name in region.outputs for u in users.get(name, ()))  # fmt: skip
        if last and _in_order(region):
            found.update(region.outputs)
    return frozenset(found)


def _users(program: Program) -> Mapping[str, Sequence[Region]]:
    """The regions that read each value that another makes."""
    found: dict[str, list[Region]] = {}
    for region in program.regions:
        for name in dict.fromkeys(i for n in region.nodes for i in n.inputs):
            if name not in region.outputs:
                found.setdefault(name, []).append(region)
    return found


def _by_row(region: Region, name: str) -> bool:
    """Whether a region reads only rows of `name` that stand for the rows it computes."""
    form = region.form
    return not isinstance(form, Attention) or name not in (form.k.base, form.v.base)


def _in_order(region: Region) -> bool:
    """Whether a region's rows are in the order of the tokens, so that the last tokens' are last."""
    form = region.form
    if isinstance(form, Attention):
        return form.cached
    rows = form.epilogue if isinstance(form, PackedGemm) else form
    if not isinstance(rows, Rows):
        return isinstance(rows, Alias)
    return dim_div(rows.rows, TOKENS) is not None and _outer(rows.lead) == TOKENS


def _outer(shape: Shape) -> object:
    return next((d for d in shape if d != 1), 1)
