"""An independent check of a memory plan: which bytes of the arena each thread reads and writes in
each step, computed index by index. Nothing here uses the planner's rules.

    Steps between two barriers may run at the same time in different threads: what one writes no
    other thread may touch.
    Whatever a step reads of a value must be there: nobody has written over it since.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from canao.fuse.access import Access
from canao.fuse.forms.form import PackedGemm
from canao.fuse.forms.rows import Rows
from canao.fuse.group import Region
from canao.graph.dtypes import NARROW
from canao.graph.ir import Graph, Type, dim_at
from canao.isa.table import SIZES
from canao.lower.cpu.quantized import row_layout, tile_of
from canao.schedule.schedule import Schedule, Step
from canao.schedule.work import ROWS

ELEMENT = 4  # bytes of all that lies in the arena
Touched = dict[str, np.ndarray]  # value -> numbers of the elements, from its own first one


@dataclass(frozen=True)
class Run:
    """A run of so many tokens, of which the last `wanted` are asked for, by so many threads. `isa`
    lays out narrow rows."""

    tokens: int
    wanted: int
    threads: int
    isa: str = "avx512"


def faults(schedule: Schedule, run: Run) -> list[str]:
    """What goes wrong in the arena in a run by a schedule."""
    owner = np.full(schedule.memory.size // ELEMENT, -1)
    values = [value for r in schedule.program.regions for value in r.outputs]
    found: list[str] = []
    together: list[tuple[Step, int, np.ndarray, np.ndarray]] = []  # since the last barrier
    for step in schedule.steps:
        if step.waits:
            together = []
        made: list[Touched] = []
        for thread in range(run.threads):
            reads, written = _touched(schedule, step, thread, run)
            writes = np.concatenate(list(written.values()))
            for value, places in reads.items():
                if (owner[places] != values.index(value)).any():
                    found.append(f"{step.name} reads {value}, which is no longer there")
            read = np.concatenate([*reads.values(), writes])
            found += [f"{step.name} and {other.name} meet between barriers"
                      for other, by, others_read, others_written in together
                      if by != thread and other is not step
                      and (_meet(writes, others_read) or _meet(others_written, read))]  # fmt: skip
            together.append((step, thread, read, writes))
            made.append(written)
        for value, places in (item for written in made for item in written.items()):
            owner[places] = values.index(value)
    for _, value in schedule.program.graph.outputs:
        root = _root(schedule, value)
        places = _whole(schedule, root, run)
        if root not in schedule.memory.last and (owner[places] != values.index(root)).any():
            found.append(f"the output {value} is no longer there at the end")
    return found


def _meet(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.isin(a, b).any())


def _root(schedule: Schedule, value: str) -> str:
    while value in schedule.memory.aliases:
        value = schedule.memory.aliases[value]
    return value


def _whole(schedule: Schedule, value: str, run: Run) -> np.ndarray:
    kind = schedule.program.graph.types[value]
    size = dim_at(kind.elements, run.tokens)
    if kind.dtype in NARROW:
        size = size // dim_at(kind.shape[-1], run.tokens) * _pitch(kind, run.isa)
    return schedule.memory.place(value) // ELEMENT + np.arange(size)


def _pitch(kind: Type, isa: str) -> int:
    """Elements of the arena from one narrow row to the next."""
    layout, size = row_layout(kind.shape[-1], kind.dtype, isa), tile_of(kind.dtype, isa).activations
    return -(-layout.pitch * SIZES[size] // ELEMENT)


def _touched(schedule: Schedule, step: Step, thread: int, run: Run) -> tuple[Touched, Touched]:
    """The elements of the arena that a thread reads, and those that it writes, by value. A step
    that shares out anything but rows may touch all of its values."""
    graph, memory, region = schedule.program.graph, schedule.memory, step.region
    reads: dict[str, list[np.ndarray]] = {}
    by_row = step.work.axis == ROWS
    rows = _share(step, thread, run) if by_row else np.arange(0)
    for value, places in (_rows_read(graph, region, rows, run) if by_row else ()):
        if _root(schedule, value) in memory.offsets:
            start = memory.place(value) // ELEMENT
            reads.setdefault(_root(schedule, value), []).append(start + places)
    indexed = {value for value, _ in _accesses(region)} if by_row else set()
    for operand in step.reads:
        root = _root(schedule, operand.value)
        if root in memory.offsets and operand.value not in indexed:
            reads.setdefault(root, []).append(_whole(schedule, root, run))
    written: Touched = {}
    for operand in step.writes:
        # What an appending step writes is in the cache.
        places = _whole(schedule, operand.value, run)[: 0 if step.appends else None]
        if by_row:
            width = len(places) // dim_at(step.work.count, run.tokens)
            places = places[0] + (rows[:, None] * width + np.arange(width)).ravel()
        written[operand.value] = places
    return {value: np.unique(np.concatenate(all_)) for value, all_ in reads.items()}, written


def _share(step: Step, thread: int, run: Run) -> np.ndarray:
    """The rows of a thread."""
    total = dim_at(step.work.count, run.tokens)
    first = total // run.tokens * (run.tokens - run.wanted) if step.last_only else 0
    count = total - first
    begin, end = (first + count * t // run.threads for t in (thread, thread + 1))
    return np.arange(begin, end)


def _accesses(region: Region) -> list[tuple[str, Access]]:
    """How row r reads what it reads, but for what is gathered by index: that may be anywhere."""
    form = region.form
    rows = form.epilogue if isinstance(form, PackedGemm) else form
    found = [(form.a.base, form.a)] if isinstance(form, PackedGemm) else []
    if isinstance(rows, Rows):
        anywhere = {n.inputs[0] for n in rows.body if n.op in ("gather", "pick")}
        found += [(a.base, a) for name, a in rows.reads.items() if name not in anywhere]
    return found


def _rows_read(
    graph: Graph, region: Region, rows: np.ndarray, run: Run
) -> Iterator[tuple[str, np.ndarray]]:
    """The elements that some rows read of each value."""
    form = region.form
    inner = form.epilogue if isinstance(form, PackedGemm) else form
    if not isinstance(inner, Rows):
        return
    for value, access in _accesses(region):
        if value in graph.constants:
            continue
        left = isinstance(form, PackedGemm) and access is form.a
        if left and form.rows in NARROW:
            pitch = _pitch(graph.types[value], run.isa)
            yield value, (rows[:, None] * pitch + np.arange(pitch)).ravel()
            continue
        lead = access.shape[:-1] if left else inner.lead
        sizes = [dim_at(d, run.tokens) for d in lead]
        shape = [dim_at(d, run.tokens) for d in access.shape]
        steps = [dim_at(d, run.tokens) for d in access.strides]
        pad = len(sizes) + 1 - len(shape)
        index = np.unravel_index(rows, sizes) if sizes else ()
        places = np.full((len(rows), 1), dim_at(access.offset, run.tokens))
        for axis in range(len(shape) - 1):
            if shape[axis] != 1:
                places = places + index[axis + pad][:, None] * steps[axis]
        yield value, (places + np.arange(shape[-1]) * steps[-1]).ravel()
