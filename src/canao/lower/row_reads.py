"""What row-local code reads, and what its text depends on, on every backend."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from canao.fuse.access import Access
from canao.fuse.forms.rows import (
    Gather,
    Read,
    RowProgram,
    Rows,
    Stage,
    TakeAlongAxis,
    outside,
)
from canao.graph.dtypes import I32
from canao.lower.lowering import Context, canonical
from canao.schedule.operands import Operand


def row_operands(context: Context, form: Rows, stages: Iterable[Stage]) -> Iterator[Operand]:
    """The pointers that stages need, in the order in which their rows are opened."""
    for x in outside(stages):
        if isinstance(x, Gather):
            yield Operand(form.reads[x.ids].base, dtype=I32)
            stored = context.graph.types[x.table].dtype
            yield context.panels.get(x.table, Operand(x.table, dtype=stored))
        elif isinstance(x, TakeAlongAxis):
            yield Operand(form.reads[x.source].base)
            yield Operand(form.reads[x.indices].base, dtype=I32)
        else:
            yield Operand(form.reads[x.name].base)


def row_facts(context: Context, form: Rows, program: RowProgram) -> object:
    """What the code of the stages depends on."""
    graph, names = context.graph, dict[str, int]()
    read: list[object] = []
    for x in outside(program.stages):
        if isinstance(x, Gather):
            table = context.panels.get(x.table)
            read += [form.reads[x.ids], graph.shape(x.table)[1:], str(graph.types[x.table].dtype),
                     table and table.storage]
        else:
            ends = (x.name,) if isinstance(x, Read) else (x.source, x.indices)
            read += [form.reads[name] for name in ends]
    source = canonical(form.source, graph, names)
    code = [_as_addressed(x, form) if isinstance(x, Access) else x for x in read]
    return (form.width, source, canonical(program, graph, names), canonical(code, graph, names))


def _as_addressed(access: Access, form: Rows) -> tuple[object, ...]:
    """An access as the code sees it: one stride from row to row, or the indices of the row."""
    whole = len(access.shape) > len(form.lead)
    lead, steps = (x[:-1] if whole else x for x in (access.shape, access.strides))
    stride = Access(access.base, (*lead, 1), (*steps, 0)).rows()
    where = (stride,) if stride is not None else (form.lead, lead, steps)
    return access.base, access.offset, access.strides[-1] if whole else 0, where
