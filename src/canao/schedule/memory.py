"""Memory plan: where each value lives in one arena, and where threads must wait for each other.

Every thread runs every kernel, on its share of the work. A kernel needs a barrier before it if it
reads rows that another thread wrote, as attention does. It needs none if each thread reads only
rows that it wrote itself.

Between two barriers the threads may be in different kernels at the same time. So a later value may
take the memory of an earlier one in two cases only:
    a barrier lies between the last use of the earlier value and the first use of the later one;
    each thread touches the same rows of both, so that no thread sees another's.
By the second rule the feed-forward network of a layer works in one buffer, which stays in cache.

With few tokens for each thread (`FEW_TOKENS` in schedule.py), threads share out columns instead of
rows, and there is a barrier before every kernel. The same offsets are right then too, because
memory passes from one value to another only between two kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from canao.fuse.access import Access
from canao.fuse.forms.form import Alias, PackedGemm, Rows
from canao.fuse.group import Program, Region
from canao.graph.ir import Dim, Type, dim_mul
from canao.schedule.kv_cache import last_rows
from canao.schedule.operands import aligned
from canao.schedule.work import Work

# How threads share out a value's rows: (rows, pitch, whether it may be the last rows only).
_Own = tuple[Dim, Dim, bool]


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """In bytes.

    offsets    value -> its first byte in the arena
    aliases    value -> another value that it lies in the place of
    size       of the arena
    barriers   for each region, whether threads wait for each other before it
    last       values of which a run may leave out all rows but the last: schedule/kv_cache.py
    """

    offsets: Mapping[str, int]
    aliases: Mapping[str, str]
    size: int
    barriers: tuple[bool, ...]
    last: frozenset[str]

    def place(self, name: str) -> int:
        """The first byte of a value or of what it is an alias of."""
        return self.offsets[_root(name, self.aliases)]


def _root(name: str, aliases: Mapping[str, str]) -> str:
    while name in aliases:
        name = aliases[name]
    return name


def plan_memory(
    program: Program, works: Sequence[Work | None], bytes_of: Callable[[Type, int], int]
) -> MemoryPlan:
    """Place barriers, then give each value the first free offset. `works` says how threads share
    out each region, None for an alias; `bytes_of` what a value takes at a length."""
    return _Planner(program, works, bytes_of).plan()


@dataclass(slots=True)
class _Span:
    """When a value is in use, and which of its rows each thread touches. An epoch is the time
    between two barriers.

    first, last   epochs            size      bytes
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


def _place(spans: Mapping[str, _Span]) -> dict[str, int]:
    """Offsets of values: the place of the last value that may hand its own on, else the first that
    is free."""
    offsets: dict[str, int] = {}
    # Of values that were handed one place in turn, the one that is read last speaks for all.
    held: dict[tuple[int, int, int, _Own | None], _Span] = {}
    for name, span in spans.items():
        # Values are in the order in which they are made: what has ended is of no further account.
        held = {key: v for key, v in held.items() if v.overlaps(span)}
        live = [(at, v) for (at, _, _, _), v in held.items()]
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
        key = (offset, span.size, span.last, span.kept)
        if key not in held or held[key].read < span.read:
            held[key] = span
    return offsets


def _meet(at: int, span: _Span, other_at: int, other: _Span) -> bool:
    return at < other_at + other.size and other_at < at + span.size


class _Planner:
    """`epochs` count the barriers before each region."""

    def __init__(
        self, program: Program, works: Sequence[Work | None], bytes_of: Callable[[Type, int], int]
    ) -> None:
        self.program, self.graph, self.bytes_of = program, program.graph, bytes_of
        self.works = {r.output: w for r, w in zip(program.regions, works, strict=True)}
        self.aliases = {
            r.output: r.form.source for r in program.regions if isinstance(r.form, Alias)
        }
        self.last = last_rows(program)

    def plan(self) -> MemoryPlan:
        barriers = self._barriers()
        epoch, epochs = 0, []
        for waits in barriers:
            epoch += waits
            epochs.append(epoch)
        spans = self._spans(epochs)
        offsets = _place(spans)
        total = max((offsets[name] + span.size for name, span in spans.items()), default=0)
        return MemoryPlan(offsets, self.aliases, total, barriers, self.last)

    def _barriers(self) -> tuple[bool, ...]:
        waits: list[bool] = []
        since: dict[str, Region] = {}  # made since the last barrier
        for region in self.program.regions:
            if isinstance(region.form, Alias):
                waits.append(False)
                continue
            needs = False
            for name in _inputs(region):
                source = _root(name, self.aliases)
                if source in since:
                    needs |= source != name or not self._row_aligned(region, since[source], name)
            if needs:
                since.clear()
            waits.append(needs)
            since.update(dict.fromkeys(region.outputs, region))
        return tuple(waits)

    def _spans(self, epochs: Sequence[int]) -> dict[str, _Span]:
        """The span of each value that a region stores, in the order in which they are made."""
        spans = dict[str, _Span]()
        for i, (region, at) in enumerate(zip(self.program.regions, epochs, strict=True)):
            for name in dict.fromkeys(_inputs(region)):
                source = _root(name, self.aliases)
                if source in spans:
                    own = self._own_rows(region, name) if source == name else None
                    spans[source].touched(i, at, own)
            for name in region.outputs if region.output not in self.aliases else ():
                size = self.bytes_of(self.graph.types[name], self.graph.max_length)
                rows = self._written_rows(region, name)
                spans[name] = _Span(at, at, i, i, aligned(size), rows, rows)
        for _, value in self.graph.outputs:
            spans[_root(value, self.aliases)].touched(len(epochs), epochs[-1], None)
        return spans

    def _shared(self, region: Region) -> Dim | None:
        """Number of rows that the region's threads share out; None where by other units."""
        work = self.works[region.output]
        return None if work is None else work.rows

    def _row_aligned(self, region: Region, producer: Region, name: str) -> bool:
        """Whether each row that `region` reads of `name` was written by the same thread."""
        own = self._own_rows(region, name)
        made = (self._shared(producer), producer.output in self.last)
        return own is not None and made == (own[0], own[2])

    def _own_rows(self, region: Region, name: str) -> _Own | None:
        """The rows if row r of `region` reads row r of `name` and no other, else None."""
        shared, pitch = self._shared(region), (self.graph.shape(name) or (1,))[-1]
        if shared is None or isinstance(shared, int):
            return None
        accesses = _reads(region).get(name)
        if not accesses:
            return None
        for access in accesses:
            span, offset = access.rows(), access.offset
            within = isinstance(offset, int) and isinstance(pitch, int) and offset < pitch
            if span != pitch or not within or access.strides[-1] not in (0, 1):
                return None
            if dim_mul(pitch, shared) != self.graph.types[name].elements:
                return None
        return shared, pitch, region.output in self.last

    def _written_rows(self, region: Region, name: str) -> _Own | None:
        """The rows of a result whose row r is written by the thread that has row r."""
        shared, shape = self._shared(region), self.graph.shape(name)
        if shared is None or isinstance(shared, int) or not shape:
            return None
        whole = dim_mul(shape[-1], shared) == self.graph.types[name].elements
        return (shared, shape[-1], region.output in self.last) if whole else None


def _inputs(region: Region) -> list[str]:
    inside = {n.output for n in region.nodes}
    return [i for n in region.nodes for i in n.inputs if i not in inside]


def _reads(region: Region) -> dict[str, list[Access]]:
    """How a region that threads share out by rows reads the values that other regions made."""
    form = region.form
    out: dict[str, list[Access]] = {}
    rows = form.epilogue if isinstance(form, PackedGemm) else form
    accesses = list(rows.reads.values()) if isinstance(rows, Rows) else []
    if isinstance(form, PackedGemm):
        accesses.append(form.a)
    for access in accesses:
        out.setdefault(access.base, []).append(access)
    return out
