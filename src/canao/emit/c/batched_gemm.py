"""C for products of two activations: packing of the right one into panels, then tiles."""

from __future__ import annotations

from canao.emit.arguments import IDS, Arguments
from canao.emit.c.kernel import KernelText, buffer_pointers, signature
from canao.emit.c.tile_templates import tile_words
from canao.emit.expressions import expression
from canao.emit.writer import fill
from canao.fuse.forms.form import BatchedGemm
from canao.graph.ir import Graph, product
from canao.isa.table import Isa
from canao.lower.batches import batch_of
from canao.lower.cpu.batched_gemm import BatchedGemmPlan
from canao.schedule.schedule import Step

_ALL = "    const int64_t first = 0, last = n;\n"
_NEAR = """\
    int64_t first = n, last = 0;
    for (int64_t i = ${longest} - s; i < ${longest} + s - 1; i++) {
        first = min64(first, ${table}[i]);
        last = max64(last, ${table}[i] + 1);
    }
    first = first / $NR * $NR;
"""
_GEMM = """\
/* ${batch} x [${m}, ${k}] x [${k}, ${n}]${what} */
${signature}
{
    (void)s;
    const int64_t m = ${rows}, k = ${depth}, n = ${columns}, tiles = (m + $MR - 1) / $MR;
${buffers}
    int64_t ready = -1;
${window}    for (int64_t t = begin; t < end; t++) {
        const int64_t h = t / tiles, row = part(m, tiles, t % tiles);
        const int64_t rows = part(m, tiles, t % tiles + 1) - row;
        if (h != ready) {
            for (int64_t j = first; j < last; j += $NR)
                pack_panel_${shape}(k, n, ${b} + ${b0} + h * ${b_head}, ${b_row}, ${b_column}, j,
                                    packed + (j - first) * k);
            ready = h;
        }
        const float *const from = ${a} + ${a0} + h * ${a_head} + row * ${a_row};
        for (int64_t j = first; j < last; j += $NR) {
            small_product_${shape}(rows, k, from, ${a_row}, packed + (j - first) * k, c);
            for (int64_t i = 0; i < rows; i++)
                for (int64_t v = 0; v < $NR; v += VF)
                    vf_store_upto(out + (h * m + row + i) * n + j + v, vf_load(c + i * $NR + v),
                                  n - j - v);
        }
    }
}
"""


def batched_gemm_text(graph: Graph, step: Step, isa: Isa) -> KernelText:
    """All columns, or those that a table names for the distances within this sequence."""
    form, plan, e = step.region.form, step.plan, expression
    assert isinstance(form, BatchedGemm) and isinstance(plan, BatchedGemmPlan)
    arguments, words = Arguments(step.reads), tile_words(plan.tile, isa)
    m, k, n = form.a.shape[-2], form.a.shape[-1], form.b.shape[-1]
    window, what = _ALL, ""
    if form.near:
        table = arguments.of(form.near, IDS)
        window = fill(_NEAR, table=table, longest=form.longest, **words)
        what = ", the columns of its distances"
    text = fill(
        _GEMM, batch=product(form.a.shape[:-2]), m=m, k=k, n=n, what=what,
        signature=signature(step.name, arguments), window=window,
        buffers="\n".join(f"    {line}" for line in buffer_pointers(step.scratch)),
        rows=e(m), depth=e(k), columns=e(n),
        a=arguments.of(form.a.base), b=arguments.of(form.b.base),
        a0=e(form.a.offset), a_head=e(batch_of(form.a.shape, form.a.strides)[1]),
        a_row=e(form.a.strides[-2]),
        b0=e(form.b.offset), b_head=e(batch_of(form.b.shape, form.b.strides)[1]),
        b_row=e(form.b.strides[-2]), b_column=e(form.b.strides[-1]), **words,
    )  # fmt: skip
    return KernelText(text, frozenset({"tile", "pack", "small_product"}), plan.tile)
