"""OpenCL C for concatenations, whose rows' elements the items of a group share, and for whole
numbers of the tokens, which one item computes one after another."""

from __future__ import annotations

from canao.emit.arguments import IDS, Arguments
from canao.emit.expressions import expression
from canao.emit.language import OPENCL
from canao.emit.opencl.kernel import KernelText, kernel
from canao.emit.writer import Writer
from canao.fuse.forms.concat import Concat, Piece
from canao.fuse.forms.scan import Scan
from canao.graph.dtypes import BOOL
from canao.graph.ir import Dim, Graph, dim_mul
from canao.graph.ops import OPS
from canao.lower.opencl.copies import ItemConcatPlan
from canao.schedule.schedule import Step


def concat_text(graph: Graph, step: Step, vector: int) -> KernelText:
    """Rows piece by piece."""
    form, plan = step.region.form, step.plan
    assert isinstance(form, Concat) and isinstance(plan, ItemConcatPlan)
    arguments, w = Arguments(step.reads, OPENCL), Writer()
    w.depth = 1
    w.line("const int r = get_group_id(1);")
    w.line(f"__global float *o = out + r * {form.width};")
    size: Dim = 1
    for axis in reversed(range(len(form.lead))):
        w.line(f"const int i{axis} = r / {expression(size)} % {expression(form.lead[axis])};")
        size = dim_mul(size, form.lead[axis])
    for piece in form.pieces:
        _piece(w, form, piece, arguments, plan.items)
    about = f"rows of {form.width} from {len(form.pieces)} pieces"
    return KernelText(kernel(step, arguments, w, about))


def _piece(w: Writer, form: Concat, piece: Piece, arguments: Arguments, items: int) -> None:
    e = expression
    strides = piece.source.strides if piece.table else piece.source.strides[:-1]
    terms = [e(piece.source.offset), *(f"i{axis} * {e(step)}" for axis, step in enumerate(strides)
                                       if step != 0 and form.lead[axis] != 1)]  # fmt: skip
    place, step = " + ".join(terms), "1"
    if piece.table:
        index = f"{arguments.of(piece.source.base, IDS)}[{place}]"
        start = f"{arguments.of(piece.table)} + {index} * {piece.width}"
    else:
        start = f"{arguments.of(piece.source.base)} + {place}"
        step = e(piece.source.strides[-1])
    inside = [f"i{axis} >= {e(first)} && i{axis} < {e(end)}" for axis, first, end in piece.bounds]
    with w.block(f"if ({' && '.join(inside)})" if inside else ""):
        w.line(f"__global const float *p = {start};")
        w.line(f"for (int j = get_local_id(0); j < {piece.width}; j += {items})")
        w.line(f"    o[{piece.column} + j] = p[j * {step}];")


def scan_text(graph: Graph, step: Step, vector: int) -> KernelText:
    """All operations on one token after another."""
    form = step.region.form
    assert isinstance(form, Scan)
    arguments, body = Arguments(step.reads, OPENCL), Writer()
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
            body.line(f"const int v{i} = {value};")
            local[n.output] = f"v{i}"
    w = Writer()
    w.depth = 1
    w.line("__global int *to = (__global int *)out;")
    for name in sums:
        w.line(f"int {name} = 0;")
    with w.block(f"for (int t = 0; t < {expression(form.length)}; t++)"):
        w.raw(body.text())
        w.line(f"to[t] = {local[form.output]};")
    about = f"{', '.join(n.op for n in form.body)} of each token"
    return KernelText(kernel(step, arguments, w, about))
