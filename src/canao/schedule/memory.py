"""Memory plan: where each value lives in one arena, and where threads must wait for each other.

Every thread runs all regions on rows of its own. A region that reads only the rows that its
own thread wrote needs no barrier; attention reads other rows and does. Between two barriers
threads are in different places, so memory is reused across one, or where each thread keeps to the
same rows of both values: the networks of a layer then work in one buffer, which stays in cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from canao.fuse.access import Access
from canao.fuse.forms.form import Alias, Product, Rows
from canao.fuse.group import Program, Region
from canao.graph.ir import Dim, dim_at, dim_mul
from canao.schedule.kv_cache import last_rows

_ALIGN = 16  # floats: 64 bytes
# How threads share out a value's rows: (rows, pitch, whether it may be the last rows only).
_Own = tuple[Dim, Dim, bool]


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """offsets: value -> first float in the arena. barriers[i]: wait before region i.
    last: values of which a run may leave out all rows but the last, see schedule/kv_cache.py."""

    offsets: Mapping[str, int]
    floats: int
    barriers: tuple[bool, ...]
    last: frozenset[str]


def root(program: Program, name: str, aliases: Mapping[str, str]) -> str:
    while name in aliases:
        name = aliases[name]
    return name


def plan_memory(program: Program) -> MemoryPlan:
    """Barriers first, then first-fit offsets by their epochs."""
    aliases = {r.output: r.form.source for r in program.regions if isinstance(r.form, Alias)}
    last = last_rows(program)
    barriers = _barriers(program, aliases, last)
    epoch, epochs = 0, []
    for waits in barriers:
        epoch += waits
        epochs.append(epoch)
    spans = _spans(program, aliases, epochs, last)
    offsets = _place(spans)
    total = max((offsets[name] + span.size for name, span in spans.items()), default=0)
    return MemoryPlan(offsets, total, barriers, last)


@dataclass(slots=True)
class _Span:
    """When a value is in use, and by whose rows.

    first, last   epochs            size      floats
    made, read    regions           written   _Own rows, if each thread writes rows of its own
    kept          `written`, if in the last epoch each thread touches those rows only
    """

    first: int
    last: int
    made: int
    read: int
    size: int
    written: _Own | None
    kept: _Own | None

    def touched(self, region: int, epoch: int, rows: _Own | None) -> None:
        """A region reads the value, each thread in those rows only (None: in any)."""
        if epoch > self.last:
            self.last, self.kept = epoch, rows
        elif rows != self.kept:
            self.kept = None
        self.read = region

    def overlaps(self, other: _Span) -> bool:
        return self.first <= other.last and other.first <= self.last

    def hands_on(self, to: _Span) -> bool:
        """Whether `to` may lie in the same place though no barrier is between the two."""
        same = self.kept is not None and self.kept == to.written and self.size == to.size
        return same and self.last == to.first and self.read < to.made


def _spans(
    program: Program, aliases: Mapping[str, str], epochs: Sequence[int], last: frozenset[str]
) -> dict[str, _Span]:
    """The span of each value that a region stores, in the order in which they are made."""
    graph, spans = program.graph, dict[str, _Span]()
    for i, (region, at) in enumerate(zip(program.regions, epochs, strict=True)):
        for name in dict.fromkeys(_inputs(region)):
            source = root(program, name, aliases)
            if source in spans:
                own = _own_rows(program, region, name, last) if source == name else None
                spans[source].touched(i, at, own)
        if region.output not in aliases:
            size = dim_at(graph.types[region.output].elements, graph.max_length)
            size, rows = -(-size // _ALIGN) * _ALIGN, _written_rows(program, region, last)
            spans[region.output] = _Span(at, at, i, i, size, rows, rows)
    for _, value in graph.outputs:
        spans[root(program, value, aliases)].touched(len(epochs), epochs[-1], None)
    return spans


def _place(spans: Mapping[str, _Span]) -> dict[str, int]:
    """Offsets: where the last value that hands on its place lay, else the first that is free."""
    offsets: dict[str, int] = {}
    for name, span in spans.items():
        live = [(offsets[k], v) for k, v in spans.items() if k in offsets and v.overlaps(span)]
        handed = sorted((v.read, at) for at, v in live if v.hands_on(span))
        offset = 0
        for candidate in [at for _, at in reversed(handed)]:
            if not any(_meet(candidate, span, at, v) for at, v in live
                       if at != candidate or not v.hands_on(span)):  # fmt: skip
                offset = candidate
                break
        else:
            for at, v in sorted(live, key=lambda item: item[0]):
                if _meet(offset, span, at, v):
                    offset = at + v.size
        offsets[name] = offset
    return offsets


def _meet(at: int, span: _Span, other_at: int, other: _Span) -> bool:
    return at < other_at + other.size and other_at < at + span.size


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


def _row_aligned(
    program: Program, region: Region, producer: Region, name: str, last: frozenset[str]
) -> bool:
    """Whether each row that `region` reads of `name` was written by the same thread."""
    own = _own_rows(program, region, name, last)
    return own is not None and (partition(producer), producer.output in last) == (own[0], own[2])


def _own_rows(program: Program, region: Region, name: str, last: frozenset[str]) -> _Own | None:
    """The rows if row r of `region` reads row r of `name` and no other, else None."""
    shared, pitch = partition(region), program.graph.shape(name)[-1]
    if shared is None or isinstance(shared, int):
        return None
    for access in _reads(region).get(name, []):
        span = access.rows()
        within = isinstance(access.offset, int) and isinstance(pitch, int) and access.offset < pitch
        if span != pitch or not within or access.strides[-1] not in (0, 1):
            return None
        if dim_mul(pitch, shared) != program.graph.types[name].elements:
            return None
    return shared, pitch, region.output in last


def _written_rows(program: Program, region: Region, last: frozenset[str]) -> _Own | None:
    """The rows of a result whose row r is written by the thread that has row r."""
    shared, shape = partition(region), program.graph.shape(region.output)
    if shared is None or isinstance(shared, int) or not shape:
        return None
    whole = dim_mul(shape[-1], shared) == program.graph.types[region.output].elements
    return (shared, shape[-1], region.output in last) if whole else None


def _barriers(
    program: Program, aliases: Mapping[str, str], last: frozenset[str]
) -> tuple[bool, ...]:
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
                needs |= source != name or not _row_aligned(
                    program, region, since[source], name, last
                )
        if needs:
            since.clear()
        waits.append(needs)
        since[region.output] = region
    return tuple(waits)
