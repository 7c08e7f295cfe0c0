"""C for row-local computations."""

from __future__ import annotations

from canao.emit.arguments import Arguments
from canao.emit.c.kernel import KernelText, buffer_pointers, mark_unused, signature
from canao.emit.language import C11, Language
from canao.emit.rowcode import RowCode, RowStyle
from canao.emit.writer import Writer
from canao.fuse.forms.rows import Rows, row_program
from canao.graph.ir import Graph
from canao.isa.table import Isa
from canao.lower.cpu.quantized import row_layout
from canao.lower.cpu.rows import RowsPlan
from canao.schedule.schedule import Step


def rows_text(graph: Graph, step: Step, isa: Isa, language: Language = C11) -> KernelText:
    """All stages on each row, in a language whose `vf` has as many floats as the ISA's vector."""
    rows, plan = step.region.form, step.plan
    assert isinstance(rows, Rows) and isinstance(plan, RowsPlan)
    arguments, body = Arguments(step.reads, language), Writer()
    program = row_program(graph, rows)
    narrow = program.narrow_row
    layout = row_layout(rows.width, narrow[1], isa.name) if narrow else None
    style = RowStyle(plan.chains, isa.width, language=language, layout=layout)
    code = RowCode(graph, rows, program, arguments, step.scratch, style)
    body.depth = 1
    mark_unused(body, "s", "scratch")
    for line in buffer_pointers(step.scratch, language):
        body.line(line)
    code.row_pass(body, code.program.stages)
    w = Writer()
    w.line(f"/* {', '.join(step.region.ops)} on rows of {rows.width} */")
    w.line(signature(step.name, arguments, writes=step.writes))
    w.line("{")
    w.raw(body.text())
    w.line("}")
    return KernelText(w.text(), frozenset(code.needs))
