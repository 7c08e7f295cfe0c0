"""Row-local computations: a few passes over each row, in vectors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from canao.fuse.access import Access
from canao.fuse.forms.rows import (
    Gather,
    Read,
    RowProgram,
    Rows,
    Stage,
    TakeAlongAxis,
    outside,
    row_program,
)
from canao.fuse.group import Region
from canao.graph.dtypes import I32
from canao.graph.ir import Dim, Graph, dim_add, dim_mul
from canao.isa.registry import ISAS
from canao.lower.cpu.naming import op_names, plain
from canao.lower.lowering import Context, Kernel, canonical
from canao.schedule.operands import Operand
from canao.schedule.schedule import Buffer
from canao.schedule.work import ROWS, Work
from canao.target import Target

# Partial results of a reduction over a row, so that it does not wait for every addition.
CHAINS = 4
# What the last vector of a row may write beyond it.
_SPILL = 16


@dataclass(frozen=True, slots=True)
class RowsPlan:
    """chains: partial results of a reduction."""

    kind: ClassVar[str] = "rows"
    chains: int = 1

    @property
    def name(self) -> str:
        return f"chains{self.chains}"


class RowsLowering:
    """Kernels of the form Rows."""

    plans = RowsPlan

    def legal(self, graph: Graph, form: Rows) -> bool:
        return True

    def default(self, form: Rows, target: Target) -> RowsPlan:
        return RowsPlan(chains(form.width, target))

    def space(self, form: Rows, target: Target) -> Iterator[RowsPlan]:
        yield self.default(form, target)

    def kernel(self, context: Context, region: Region, plan: RowsPlan) -> Kernel:
        graph, form = context.graph, region.form
        assert isinstance(form, Rows)
        program, isa = row_program(graph, form), context.target.isa
        return Kernel(
            name=f"rows_{plain(form.width)}{op_names(region) or '_copy'}_{isa}",
            reads=tuple(dict.fromkeys(row_operands(context, form, program.stages))),
            work=Work(ROWS, form.rows),
            facts=(region.ops, plan, row_facts(context, form, program)),
            scratch=row_buffers(form.width, program),
        )


def chains(width: Dim, target: Target) -> int:
    """Partial results that a reduction over rows of so many columns is worth."""
    wide = isinstance(width, int) and width >= CHAINS * ISAS[target.isa].width
    return CHAINS if wide else 1


def row_buffers(width: Dim, program: RowProgram, block: int = 1) -> tuple[Buffer, ...]:
    """Rows that later stages read; the first of all is the output row itself. Of a narrow program,
    the first buffer is a block of so many rows."""
    return tuple(
        Buffer(f"row{slot}",
               dim_add(dim_mul(width, block if program.narrow and slot == 1 else 1), _SPILL))
        for slot in range(1, program.slots)
    )  # fmt: skip


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
