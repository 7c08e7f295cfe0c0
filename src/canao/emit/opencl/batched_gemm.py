"""OpenCL C for products of two activations: some rows of one vector of columns for each work-item.
"""

from __future__ import annotations

from canao.emit.arguments import Arguments
from canao.emit.c.kernel import KernelText
from canao.emit.expressions import expression
from canao.emit.language import OPENCL
from canao.emit.opencl.kernel import kernel
from canao.emit.writer import Writer
from canao.fuse.forms.form import BatchedGemm
from canao.graph.ir import Graph, product
from canao.lower.batches import batch_of
from canao.lower.opencl.batched_gemm import ItemBatchedGemmPlan
from canao.schedule.schedule import Step


def batched_gemm_text(graph: Graph, step: Step, vector: int) -> KernelText:
    """All columns, also where a table names those that are read: others do no harm."""
    form, plan, e = step.region.form, step.plan, expression
    assert isinstance(form, BatchedGemm) and isinstance(plan, ItemBatchedGemmPlan)
    arguments, w = Arguments(step.reads, OPENCL), Writer()
    m, k, n = form.a.shape[-2], form.a.shape[-1], form.b.shape[-1]
    a, b = arguments.of(form.a.base), arguments.of(form.b.base)
    row, column = form.b.strides[-2:]
    needs = set[str]()
    w.depth = 1
    w.line(f"const int rows = {e(m)}, depth = {e(k)}, columns = {e(n)};")
    w.line(f"const int tiles = (rows + {plan.mr - 1}) / {plan.mr};")
    w.line("const int j = get_global_id(0) * VF, t = get_group_id(1), n = columns - j;")
    w.line("const int head = t / tiles, i0 = t % tiles * " f"{plan.mr};")
    w.line(f"if (n <= 0 || head >= {e(product(form.a.shape[:-2]))})")
    w.line("    return;")
    for i in range(plan.mr):
        w.line(f"__global const float *a{i} = {a} + {e(form.a.offset)} + head * "
               f"{e(batch_of(form.a.shape, form.a.strides)[1])} + min(i0 + {i}, rows - 1) * "
               f"{e(form.a.strides[-2])};")  # fmt: skip
        w.line(f"vf c{i} = vf_set1(0.0f);")
    w.line(f"__global const float *y = {b} + {e(form.b.offset)} + head * "
           f"{e(batch_of(form.b.shape, form.b.strides)[1])} + j * {e(column)};")  # fmt: skip
    for partial in ("", "n"):
        with w.block("if (n >= VF)" if not partial else "else"), w.block(
            "for (int k = 0; k < depth; k++)"
        ):
            place = f"y + k * {e(row)}"
            if column == 1:
                load = f"vf_load_n({place}, n)" if partial else f"vf_load({place})"
            else:
                needs.add("strided")
                load = f"vf_gather({place}, {e(column)}, {partial or 'VF'})"
            w.line(f"const vf z = {load};")
            for i in range(plan.mr):
                w.line(f"c{i} = vf_fma(vf_set1(a{i}[k]), z, c{i});")
    for i in range(plan.mr):
        with w.block(f"if (i0 + {i} < rows)"):
            w.line(f"__global float *o = out + (head * rows + i0 + {i}) * columns + j;")
            with w.block("if (n >= VF)"):
                w.line(f"vf_store(o, c{i});")
            with w.block("else"):
                w.line(f"vf_store_n(o, c{i}, n);")
    about = f"{product(form.a.shape[:-2])} x [{m}, {k}] x [{k}, {n}]"
    return KernelText(kernel(step, arguments, w, about), frozenset(needs))
