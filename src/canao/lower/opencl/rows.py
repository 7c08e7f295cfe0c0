"""Row-local computations: the work-items of a group share a row, a vector each in turn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from canao.fuse.forms.rows import REDUCTIONS, RowProgram, Rows, row_program
from canao.fuse.group import Region
from canao.graph.dtypes import F16, QUANTIZED
from canao.graph.ir import Dim, Graph, dim_at
from canao.lower.lowering import Context, Kernel
from canao.lower.naming import op_names, plain
from canao.lower.opencl.device import LOCAL_BYTES, MOST_ITEMS, vector_name
from canao.lower.row_reads import row_facts, row_operands
from canao.schedule.work import WHOLE, Grid, Work
from canao.target import Target

_USUAL_ITEMS = 64


@dataclass(frozen=True, slots=True)
class GroupRowsPlan:
    """items: work-items that share a row; rows: of a group, which has no more of them than one
    where they wait for each other."""

    kind: ClassVar[str] = "group_rows"
    items: int
    rows: int

    @property
    def name(self) -> str:
        return f"{self.items}x{self.rows}"


class GroupRowsLowering:
    """Kernels of the form Rows."""

    plans = GroupRowsPlan

    def legal(self, graph: Graph, form: Rows) -> bool:
        """Rows that later stages read lie in the memory of the group."""
        program = row_program(graph, form)
        held = (program.slots - 1) * row_bytes(form.width, graph.max_length)
        return held <= LOCAL_BYTES and writes_known_types(program)

    def default(self, form: Rows, target: Target) -> GroupRowsPlan:
        items = _power(form.width, target.vector)
        return GroupRowsPlan(items, 1 if reduces(form) else _USUAL_ITEMS // items)

    def space(self, form: Rows, target: Target) -> Iterator[GroupRowsPlan]:
        yield self.default(form, target)
        items = 1
        while items <= MOST_ITEMS:
            yield GroupRowsPlan(items, 1 if reduces(form) else max(1, _USUAL_ITEMS // items))
            items *= 2

    def kernel(self, context: Context, region: Region, plan: GroupRowsPlan) -> Kernel:
        graph, form = context.graph, region.form
        assert isinstance(form, Rows)
        program = row_program(graph, form)
        end = f"{vector_name(context.target)}_{plan.name}"
        return Kernel(
            name=f"rows_{plain(form.width)}{op_names(region) or '_copy'}_{end}",
            reads=tuple(dict.fromkeys(row_operands(context, form, program.stages))),
            work=Work(WHOLE),
            facts=(region.ops, plan, form.rows, row_facts(context, form, program),
                   graph.max_length if program.slots > 1 else 0),
            grid=Grid((plan.items, plan.rows), ((1, 1), (form.rows, plan.rows))),
        )  # fmt: skip


def row_bytes(width: Dim, longest: int) -> int:
    """Bytes of a row of floats at the longest sequence."""
    return 4 * dim_at(width, longest)


def writes_known_types(program: RowProgram) -> bool:
    """Whether a narrow row, if one is stored, is of halves or of levels."""
    return program.narrow_row is None or program.narrow_row[1] in (F16, *QUANTIZED)


def reduces(form: Rows) -> bool:
    """Whether work-items that share a row wait for each other: for a result of the whole row."""
    return any(n.op in REDUCTIONS for n in form.body)


def _power(width: Dim, vector: int) -> int:
    """Work-items for a row: one for each vector, or the next power of two, up to the usual."""
    if not isinstance(width, int):
        return _USUAL_ITEMS // 2
    items = 1
    while items < _USUAL_ITEMS and items * vector < width:
        items *= 2
    return items
