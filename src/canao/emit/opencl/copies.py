"""OpenCL C for concatenations, whose rows' elements the items of a group share, and for whole
numbers of the tokens, which one item computes one after another."""

from __future__ import annotations

from canao.emit.arguments import Arguments
from canao.emit.c.kernel import KernelText
from canao.emit.copies import concat_row, scan_body
from canao.emit.expressions import expression
from canao.emit.language import OPENCL
from canao.emit.opencl.kernel import kernel
from canao.emit.writer import Writer
from canao.fuse.forms.concat import Concat
from canao.fuse.forms.scan import Scan
from canao.graph.ir import Graph
from canao.lower.opencl.copies import ItemConcatPlan
from canao.schedule.schedule import Step


def concat_text(graph: Graph, step: Step, vector: int) -> KernelText:
    """A row for each group, piece by piece."""
    form, plan = step.region.form, step.plan
    assert isinstance(form, Concat) and isinstance(plan, ItemConcatPlan)
    arguments, w = Arguments(step.reads, OPENCL), Writer()
    w.depth = 1
    w.line("const int r = get_group_id(1), lane = get_local_id(0);")
    w.line(f"__global float *const o = out + r * {form.width};")
    concat_row(w, form, arguments, "lane", f"j += {plan.items}")
    about = f"rows of {form.width} from {len(form.pieces)} pieces"
    return KernelText(kernel(step, arguments, w, about))


def scan_text(graph: Graph, step: Step, vector: int) -> KernelText:
    """All operations on one token after another."""
    form = step.region.form
    assert isinstance(form, Scan)
    arguments, w = Arguments(step.reads, OPENCL), Writer()
    body = scan_body(form, arguments, depth=2)
    w.depth = 1
    w.line("__global int *const to = (__global int *)out;")
    for name in body.sums:
        w.line(f"int {name} = 0;")
    with w.block(f"for (int t = 0; t < {expression(form.length)}; t++)"):
        w.raw(body.text)
        w.line(f"to[t] = {body.result};")
    about = f"{', '.join(n.op for n in form.body)} of each token"
    return KernelText(kernel(step, arguments, w, about))
