"""Memory plan: where each value lives in one arena, and where threads must wait for each other.

Every thread runs all regions on rows of its own. A region that reads only the rows that its
own thread wrote needs no barrier; attention reads other rows and does. Between two barriers
threads are in different places, so memory is reused only across one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from canao.fuse.access import Access
from canao.fuse.form import Alias, Product, Rows
from canao.fuse.group import Program, Region
from canao.graph.ir import Dim, dim_at, dim_mul

_ALIGN = 16  # floats: 64 bytes


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """offsets: value -> first float in the arena. barriers[i]: wait before region i."""

    offsets: Mapping[str, int]
    floats: int
    barriers: tuple[bool, ...]


def root(program: Program, name: str, aliases: Mapping[str, str]) -> str:
    while name in aliases:
        name = aliases[name]
    return name


def plan_memory(program: Program) -> MemoryPlan:
    """Barriers first, then first-fit offsets by their epochs."""
    aliases = {r.output: r.form.source for r in program.regions if isinstance(r.form, Alias)}
    barriers = _barriers(program, aliases)
    epoch, epochs = 0, []
    for waits in barriers:
        epoch += waits
        epochs.append(epoch)
    spans: dict[str, list[int]] = {}
    for region, at in zip(program.regions, epochs, strict=True):
        for name in [*_inputs(region), region.output]:
            name = root(program, name, aliases)
            spans.setdefault(name, [at, at])[1] = at
    for _, value in program.graph.outputs:
        spans.setdefault(root(program, value, aliases), [epoch, epoch])[1] = epoch
    made = {r.output for r in program.regions} - set(aliases)
    return _place(program, {k: v for k, v in spans.items() if k in made}, barriers)


def _place(
    program: Program, spans: Mapping[str, Sequence[int]], barriers: tuple[bool, ...]
) -> MemoryPlan:
    graph = program.graph
    placed: list[tuple[int, int, int, int]] = []  # offset, size, first epoch, last epoch
    offsets: dict[str, int] = {}
    for name, (first, last) in sorted(spans.items(), key=lambda item: (item[1][0], item[0])):
        size = dim_at(graph.types[name].elements, graph.max_length)
        size = -(-size // _ALIGN) * _ALIGN
        offset = 0
        for start, taken, begin, end in sorted(placed):
            if begin <= last and first <= end and start < offset + size and offset < start + taken:
                offset = start + taken
        offsets[name] = offset
        placed.append((offset, size, first, last))
    total = max((start + size for start, size, _, _ in placed), default=0)
    return MemoryPlan(offsets, total, barriers)


def _inputs(region: Region) -> list[str]:
    inside = {n.output for n in region.nodes}
    return [i for n in region.nodes for i in n.inputs if i not in inside]


def partition(region: Region) -> Dim | None:
    """Number of rows that the region's threads share out evenly; None if by other units."""
    if isinstance(region.form, Product):
        return region.form.epilogue.rows
    return region.form.rows if isinstance(region.form, Rows) else None


def _reads(region: Region) -> dict[str, list[Access]]:
    """How a row-partitioned region reads the values that other regions made."""
    form = region.form
    out: dict[str, list[Access]] = {}
    rows = form.epilogue if isinstance(form, Product) else form
    accesses = list(rows.reads.values()) if isinstance(rows, Rows) else []
    if isinstance(form, Product):
        accesses.append(form.a)
    for access in accesses:
        out.setdefault(access.base, []).append(access)
    return out


def _row_aligned(program: Program, region: Region, producer: Region, name: str) -> bool:
    """Whether each row that `region` reads of `name` was written by the same thread."""
    shared = partition(region)
    if shared is None or partition(producer) != shared or isinstance(shared, int):
        return False
    pitch = program.graph.shape(name)[-1]
    for access in _reads(region).get(name, []):
        span = access.rows()
        within = isinstance(access.offset, int) and isinstance(pitch, int) and access.offset < pitch
        if span != pitch or not within or access.strides[-1] not in (0, 1):
            return False
        if dim_mul(pitch, shared) != program.graph.types[name].elements:
            return False
    return True


def _barriers(program: Program, aliases: Mapping[str, str]) -> tuple[bool, ...]:
    waits: list[bool] = []
    since: dict[str, Region] = {}  # made since the last barrier
    for region in program.regions:
        if isinstance(region.form, Alias):
            waits.append(False)
            continue
        needs = False
        for name in _inputs(region):
            source = root(program, name, aliases)
            if source in since:
                needs |= source != name or not _row_aligned(program, region, since[source], name)
        if needs:
            since.clear()
        waits.append(needs)
        since[region.output] = region
    return tuple(waits)
