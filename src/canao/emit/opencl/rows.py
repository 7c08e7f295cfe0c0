"""OpenCL C for row-local computations: the items of a group go over a row together, a vector each,
and bring its sums and maxima together in the group's memory."""

from __future__ import annotations

from canao.emit.arguments import Arguments, row_type
from canao.emit.c.kernel import KernelText
from canao.emit.expressions import expression
from canao.emit.language import OPENCL
from canao.emit.opencl.kernel import kernel
from canao.emit.rowcode import RowCode, RowStyle
from canao.emit.writer import Writer
from canao.fuse.forms.rows import (
    BESIDE_SLOT,
    OUTPUT_SLOT,
    Reduction,
    RowProgram,
    Rows,
    Scalar,
    Stage,
    row_program,
)
from canao.graph.dtypes import NARROW, QUANTIZED
from canao.graph.ir import Graph, dim_at
from canao.lower.opencl.levels import level_row
from canao.lower.opencl.rows import GroupRowsPlan, reduces
from canao.schedule.schedule import Step


def rows_text(graph: Graph, step: Step, vector: int) -> KernelText:
    """All stages on a row for each group, or for each of a group's rows."""
    rows, plan = step.region.form, step.plan
    assert isinstance(rows, Rows) and isinstance(plan, GroupRowsPlan)
    arguments, body = Arguments(step.reads, OPENCL), Writer()
    program = row_program(graph, rows)
    code = _GroupCode(graph, rows, program, arguments, plan, vector)
    body.depth = 1
    code.kernel_body(body)
    about = f"{', '.join(step.region.ops)} on rows of {rows.width}"
    return KernelText(kernel(step, arguments, body, about), frozenset(code.needs))


class _GroupCode(RowCode):
    """Passes over a row by the items of a group: an item has every `items`th vector, in all passes
    the same, so that it reads what it stored itself."""

    def __init__(
        self, graph: Graph, rows: Rows, program: RowProgram, arguments: Arguments,
        plan: GroupRowsPlan, vector: int,
    ) -> None:  # fmt: skip
        super().__init__(graph, rows, program, arguments, (), RowStyle(1, vector, language=OPENCL))
        self.plan = plan

    def kernel_body(self, w: Writer) -> None:
        rows, items = expression(self.rows.rows), self.plan.items
        if reduces(self.rows) and items > 1:
            self.needs.add("group")
            w.line(f"__local float part[{items}];")
        for slot in range(1, self.program.slots):
            size = dim_at(self.rows.width, self.graph.max_length)
            whole = -(-size // self.style.width) * self.style.width
            w.line(f"__local float row{slot}[{whole}];")
        w.line(f"const int r = get_group_id(1) * {self.plan.rows} + get_local_id(1);")
        w.line("const int lane = get_local_id(0);")
        if not reduces(self.rows):  # kernel.py says why
            w.line(f"if (r >= {rows} || r < {rows} / s * first)")
            w.line("    return;")
        result, width = self.program.result, expression(self.rows.width)
        scalar = result.name if isinstance(result, Scalar) else ""
        for slot, dtype in ((OUTPUT_SLOT, self.program.writes), (BESIDE_SLOT, self.program.beside)):
            if dtype is not None:
                kind = row_type(dtype) if dtype in NARROW else "float"
                name, start = ("o", "out") if slot == OUTPUT_SLOT else ("b", "beside")
                pitch: object = 1 if scalar else width
                if dtype in QUANTIZED:
                    pitch = level_row(self.rows.width).pitch
                w.line(f"__global {kind} *const {name} = {start} + r * {pitch};")
                if dtype in NARROW:
                    self.needs.add(kind)
        self.open_row(w, self.program.stages)
        for stage in self.program.stages:
            self.stage(w, stage)
        if self.narrow in QUANTIZED:
            place = "o" if self.narrow_slot == OUTPUT_SLOT else "b"
            w.line("if (lane == 0)")
            w.line(f"    {row_type(self.narrow)}_end({place}, {level_row(self.rows.width).scale}, "
                   f"{self.top});")  # fmt: skip
        if scalar:
            w.line("if (lane == 0)")
            w.line(f"    o[0] = {self.local[scalar]};")

    def stores(self, w: Writer, stage: Stage, partial: str) -> None:
        """Rows in the group's memory end with a whole vector."""
        for x, slot in stage.stores:
            inside = slot not in (OUTPUT_SLOT, BESIDE_SLOT)
            one = Stage(stage.steps, ((x, slot),), ())
            super().stores(w, one, "" if inside else partial)

    def _slot(self, slot: int) -> str:
        if slot in (OUTPUT_SLOT, BESIDE_SLOT):
            return super()._slot(slot)
        return f"row{slot}"

    def stage(self, w: Writer, stage: Stage) -> None:
        """One pass over row r, with its reductions."""
        width, vector, items = self.rows.width, self.style.width, self.plan.items
        for r in stage.reductions:
            least = f"-{OPENCL.infinity}" if r.kind == "max" else "0.0f"
            self.lanes[r.scalar] = name = self._named((r.scalar, "lanes"), r.kind)
            w.line(f"vf {name}[1] = {{vf_set1({least})}};")
        start, step = ("lane * VF", f"{items} * VF")
        if isinstance(width, int):
            full = width - width % vector
            if full:
                with w.block(f"for (int j = {start}; j < {full}; j += {step})"):
                    self._body(w, stage, "")
            if width > full:
                with w.block(f"if (lane == {full // vector % items})"):
                    w.line(f"const int j = {full}, n = {width - full};")
                    self._body(w, stage, "n")
        else:
            with w.block(f"for (int j = {start}; j < {expression(width)}; j += {step})"):
                w.line(f"const int n = {expression(width)} - j;")
                with w.block("if (n >= VF)"):
                    self._body(w, stage, "")
                with w.block("else"):
                    self._body(w, stage, "n")
        for r in stage.reductions:
            self._finish(w, r, 1)

    def _over_row(self, partial: str, r: Reduction) -> str:
        if self.plan.items == 1:
            return partial
        function = "group_sum" if r.kind == "sum" else "group_top"
        return f"{function}({partial}, part, {self.plan.items})"
