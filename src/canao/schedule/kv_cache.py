"""Decoders: where keys and values of earlier tokens lie, and which kernels need only last rows.

Keys and values are kept as the tiles of attention read them, in panels, so that nothing is packed
twice: a head's keys [keys / nr][d][nr], its values [dv / nr][keys][nr].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from canao.fuse.forms.form import Alias, Attention, Product
from canao.fuse.forms.rows import Rows
from canao.fuse.group import Program, Region
from canao.graph.ir import TOKENS, Shape, dim_div, product
from canao.schedule.plan import Plan

_ALIGN = 16  # floats


@dataclass(frozen=True, slots=True)
class Cache:
    """One attention's part of the cache, in floats: `values` come after the keys of all heads."""

    offset: int
    key_head: int
    value_head: int
    values: int
    size: int


def plan_cache(program: Program, plans: Sequence[Plan]) -> tuple[dict[str, Cache], int]:
    """The part of each causal attention, by the output of its region, and the size of all."""
    parts: dict[str, Cache] = {}
    offset, longest = 0, program.graph.max_length
    for region, plan in zip(program.regions, plans, strict=True):
        form, nr = region.form, plan.nr
        if not isinstance(form, Attention) or not form.cached:
            continue
        heads = int(product(form.q.shape[:-2]))  # type: ignore[arg-type]
        d, dv = int(form.q.shape[-1]), int(form.v.shape[-1])  # type: ignore[arg-type]
        key_head, value_head = _up(longest, nr) * d, longest * _up(dv, nr)
        values = _up(heads * key_head, _ALIGN)
        size = values + _up(heads * value_head, _ALIGN)
        parts[region.output] = Cache(offset, key_head, value_head, values, size)
        offset += size
    return parts, offset


def _up(value: int, step: int) -> int:
    return -(-value // step) * step


def last_rows(program: Program) -> frozenset[str]:
    """Outputs of the regions of which a caller who wants the last tokens' results needs no other
    rows: those from the last attention on. Nothing unless the program resumes."""
    found: set[str] = set()
    if not program.graph.resumes:
        return frozenset()
    for region in reversed(program.regions):
        name = region.output
        users = all(u.output in found and _by_row(u, name) for u in _users(program, name))
        if users and _in_order(region):
            found.add(name)
    return frozenset(found)


def _users(program: Program, name: str) -> Iterator[Region]:
    return (r for r in program.regions if any(name in n.inputs for n in r.nodes)
            and name != r.output)  # fmt: skip


def _by_row(region: Region, name: str) -> bool:
    """Whether a region reads only rows of `name` that stand for the rows it computes."""
    form = region.form
    return not isinstance(form, Attention) or name not in (form.k.base, form.v.base)


def _in_order(region: Region) -> bool:
    """Whether a region's rows are in the order of the tokens, so that the last tokens' are last."""
    form = region.form
    if isinstance(form, Attention):
        return form.cached
    rows = form.epilogue if isinstance(form, Product) else form
    if not isinstance(rows, Rows):
        return isinstance(rows, Alias)
    return dim_div(rows.rows, TOKENS) is not None and _outer(rows.lead) == TOKENS


def _outer(shape: Shape) -> object:
    return next((d for d in shape if d != 1), 1)
