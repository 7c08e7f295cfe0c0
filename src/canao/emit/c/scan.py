"""C for whole numbers of the tokens, one after another."""

from __future__ import annotations

from canao.emit.arguments import Arguments
from canao.emit.c.kernel import KernelText, mark_unused, signature
from canao.emit.copies import scan_body
from canao.emit.expressions import expression
from canao.emit.writer import Writer
from canao.fuse.forms.scan import Scan
from canao.graph.ir import Graph
from canao.isa.table import Isa
from canao.schedule.schedule import Step


def scan_text(graph: Graph, step: Step, isa: Isa) -> KernelText:
    """All operations on one token after another."""
    form = step.region.form
    assert isinstance(form, Scan)
    arguments = Arguments(step.reads)
    body = scan_body(form, arguments, depth=2)
    w = Writer()
    w.line(f"/* {', '.join(n.op for n in form.body)} of each token */")
    w.line(signature(step.name, arguments))
    w.line("{")
    w.depth += 1
    mark_unused(w, "scratch")
    w.line("int32_t *const to = (int32_t *)out;")
    for name in body.sums:
        w.line(f"int32_t {name} = 0;")
    with w.block(f"for (int64_t t = 0; begin < end && t < {expression(form.length)}; t++)"):
        w.raw(body.text)
        w.line(f"to[t] = {body.result};")
    w.depth -= 1
    w.line("}")
    return KernelText(w.text())
