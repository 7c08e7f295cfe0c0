"""C for whole numbers of the tokens, one after another."""

from __future__ import annotations

from canao.emit.arguments import IDS, Arguments
from canao.emit.c.kernel import KernelText, mark_unused, signature
from canao.emit.expressions import expression
from canao.emit.writer import Writer
from canao.fuse.forms.scan import Scan
from canao.graph.dtypes import BOOL
from canao.graph.ir import Graph
from canao.graph.ops import OPS
from canao.isa.table import Isa
from canao.schedule.schedule import Step


def scan_text(graph: Graph, step: Step, isa: Isa) -> KernelText:
    """All operations on one token after another."""
    form = step.region.form
    assert isinstance(form, Scan)
    arguments, body = Arguments(step.reads), Writer()
    local: dict[str, str] = {}

    def operand(name: str) -> str:
        if name not in local:
            known = form.operands[name]
            if isinstance(known, int):
                return str(known)
            local[name] = f"{arguments.of(name, IDS)}[t]"
        return local[name]

    sums: list[str] = []
    body.depth = 2
    for i, n in enumerate(form.body):
        operands = [operand(name) for name in n.inputs]
        if n.op == "cumsum":
            sums.append(f"sum{i}")
            body.line(f"sum{i} += {operands[0]};")
            local[n.output] = f"sum{i}"
        elif n.op == "reshape":
            local[n.output] = operands[0]
        else:
            truth = n.op == "cast" and n.attribute("dtype") == BOOL
            value = f"{operands[0]} != 0" if truth else OPS[n.op].whole.format(*operands)
            body.line(f"const int32_t v{i} = {value};")
            local[n.output] = f"v{i}"
    w = Writer()
    w.line(f"/* {', '.join(n.op for n in form.body)} of each token */")
    w.line(signature(step.name, arguments))
    w.line("{")
    w.depth += 1
    mark_unused(w, "scratch")
    w.line("int32_t *const to = (int32_t *)out;")
    for name in sums:
        w.line(f"int32_t {name} = 0;")
    with w.block(f"for (int64_t t = 0; begin < end && t < {expression(form.length)}; t++)"):
        w.raw(body.text())
        w.line(f"to[t] = {local[form.output]};")
    w.depth -= 1
    w.line("}")
    return KernelText(w.text())
