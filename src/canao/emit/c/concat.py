"""C for concatenations: every row of the output, piece by piece."""

from __future__ import annotations

from canao.emit.arguments import Arguments
from canao.emit.c.kernel import KernelText, mark_unused, signature
from canao.emit.copies import concat_row
from canao.emit.writer import Writer
from canao.fuse.forms.concat import Concat
from canao.graph.ir import Graph
from canao.isa.table import Isa
from canao.schedule.schedule import Step


def concat_text(graph: Graph, step: Step, isa: Isa) -> KernelText:
    """Rows piece by piece."""
    form = step.region.form
    assert isinstance(form, Concat)
    arguments, body = Arguments(step.reads), Writer()
    body.depth = 1
    mark_unused(body, "s", "scratch")
    with body.block("for (int64_t r = begin; r < end; r++)"):
        body.line(f"float *const o = out + r * {form.width};")
        concat_row(body, form, arguments, "0", "j++")
    w = Writer()
    w.line(f"/* rows of {form.width} from {len(form.pieces)} pieces */")
    w.line(signature(step.name, arguments))
    w.line("{")
    w.raw(body.text())
    w.line("}")
    return KernelText(w.text())
