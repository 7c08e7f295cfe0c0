"""Row-local computations: a few passes over each row, in vectors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from canao.fuse.forms.rows import RowProgram, Rows, row_program
from canao.fuse.group import Region
from canao.graph.ir import Dim, Graph, dim_add, dim_mul
from canao.isa.registry import ISAS
from canao.lower.lowering import Context, Kernel
from canao.lower.naming import op_names, plain
from canao.lower.row_reads import row_facts, row_operands
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
