"""C for products of two activations: packing of the right one into panels, tiles, and matmul."""

from __future__ import annotations

from canao.emit.isa import Isa
from canao.emit.kernel import Kernel, plain, signature
from canao.emit.rowcode import Parameters, expression
from canao.fuse.forms.form import Matmul
from canao.graph.ir import Dim, product

TRANSPOSE = """\
#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int32_t quad_index __attribute__((vector_size(16)));
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (quad_index){__VA_ARGS__})
#endif
typedef float quad __attribute__((vector_size(16)));

/* 4 x 4 floats: rows of `from`, `step` apart, become columns of `to`, its rows `pitch` apart. */
CANAO_INLINE void transpose4(const float *from, int64_t step, float *to, int64_t pitch)
{
    quad x[4], y[4];
    UNROLL for (int i = 0; i < 4; i++)
        __builtin_memcpy(x + i, from + i * step, sizeof(quad));
    const quad a = SHUFFLE(x[0], x[1], 0, 4, 1, 5), b = SHUFFLE(x[0], x[1], 2, 6, 3, 7);
    const quad c = SHUFFLE(x[2], x[3], 0, 4, 1, 5), d = SHUFFLE(x[2], x[3], 2, 6, 3, 7);
    y[0] = SHUFFLE(a, c, 0, 1, 4, 5);
    y[1] = SHUFFLE(a, c, 2, 3, 6, 7);
    y[2] = SHUFFLE(b, d, 0, 1, 4, 5);
    y[3] = SHUFFLE(b, d, 2, 3, 6, 7);
    UNROLL for (int i = 0; i < 4; i++)
        __builtin_memcpy(to + i * pitch, y + i, sizeof(quad));
}
"""

PACK = """\
/* Panel of columns j0 .. j0 + NR of b [k][n], element (p, j) at b[p * bk + j * bn]. */
static void pack_panel(int64_t k, int64_t n, const float *b, int64_t bk, int64_t bn, int64_t j0,
                       float *panel)
{
    b += j0 * bn;
    n = min64(n - j0, NR);
    if (bn == 1) {
        for (int64_t p = 0; p < k; p++)
            for (int64_t j = 0; j < NR; j += VF)
                vf_store(panel + p * NR + j, vf_load_upto(b + p * bk + j, n - j));
        return;
    }
    const int64_t deep = bk == 1 ? k - k % 4 : 0, wide = n - n % 4;
    for (int64_t p = 0; p < deep; p += 4)
        for (int64_t j = 0; j < wide; j += 4)
            transpose4(b + p + j * bn, bn, panel + p * NR + j, NR);
    for (int64_t p = 0; p < k; p++)
        for (int64_t j = p < deep ? wide : 0; j < NR; j++)
            panel[p * NR + j] = j < n ? b[p * bk + j * bn] : 0.0f;
}
"""

_SMALL_PRODUCT = """\
/* c[m][NR] = a[m][k] b[k][NR], c by rows NR apart. */
CANAO_INLINE void tile_product(const int m, int64_t k, const float *a, int64_t lda, const float *b,
                               float *c)
{
    vf acc[MR][NV];
    UNROLL for (int i = 0; i < m; i++)
        UNROLL for (int v = 0; v < NV; v++)
            acc[i][v] = vf_set1(0.0f);
    panel_fma(m, k, a, lda, b, 0, 0, 0, acc);
    UNROLL for (int i = 0; i < m; i++)
        UNROLL for (int v = 0; v < NV; v++)
            vf_store(c + i * NR + v * VF, acc[i][v]);
}

static void small_product(int64_t m, int64_t k, const float *a, int64_t lda, const float *b,
                          float *c)
{
    switch (m) {
%s    }
}
"""


def small_product(mr: int) -> str:
    """The product of activations, for each number of rows up to mr."""
    cases = "".join(
        f"    case {m}: tile_product({m}, k, a, lda, b, c); break;\n" for m in range(1, mr + 1)
    )
    return _SMALL_PRODUCT % cases


def batch_of(shape: tuple[Dim, ...], strides: tuple[Dim, ...]) -> tuple[Dim, Dim]:
    """Size and stride of the one batch dimension that is not 1."""
    for size, stride in zip(shape[:-2], strides[:-2], strict=True):
        if size != 1:
            return size, stride
    return 1, 0


_ALL = "    const int64_t first = 0, last = n;\n"
_NEAR = """\
    int64_t first = n, last = 0;
    for (int64_t i = {longest} - s; i < {longest} + s - 1; i++) {{
        first = min64(first, {table}[i]);
        last = max64(last, {table}[i] + 1);
    }}
    first = first / NR * NR;
"""
_MATMUL = """\
/* {batch} x [{m}, {k}] x [{k}, {n}]{what} */
{signature}
{{
    (void)s;
    const int64_t m = {rows}, k = {depth}, n = {columns}, tiles = (m + MR - 1) / MR;
    float *const c = scratch, *const packed = scratch + MR * NR;
    int64_t ready = -1;
{window}    for (int64_t t = begin; t < end; t++) {{
        const int64_t h = t / tiles, row = part(m, tiles, t % tiles);
        const int64_t rows = part(m, tiles, t % tiles + 1) - row;
        if (h != ready) {{
            for (int64_t j = first; j < last; j += NR)
                pack_panel(k, n, {b} + {b0} + h * {b_head}, {b_row}, {b_column}, j,
                           packed + (j - first) * k);
            ready = h;
        }}
        const float *const from = {a} + {a0} + h * {a_head} + row * {a_row};
        for (int64_t j = first; j < last; j += NR) {{
            small_product(rows, k, from, {a_row}, packed + (j - first) * k, c);
            for (int64_t i = 0; i < rows; i++)
                for (int64_t v = 0; v < NR; v += VF)
                    vf_store_upto(out + (h * m + row + i) * n + j + v, vf_load(c + i * NR + v),
                                  n - j - v);
        }}
    }}
}}
"""


def matmul_kernel(form: Matmul, isa: Isa) -> Kernel:
    """All columns, or those that a table names for the distances within this text."""
    parameters, e = Parameters(), expression
    a, b = parameters.of(form.a.base), parameters.of(form.b.base)
    batch = product(form.a.shape[:-2])
    m, k, n = form.a.shape[-2], form.a.shape[-1], form.b.shape[-1]
    window, what, near = _ALL, "", ""
    if form.near:
        table = parameters.of(form.near, "ids")
        window = _NEAR.format(table=table, longest=form.longest)
        what, near = ", the columns of its distances", "_near"
    text = _MATMUL.format(
        batch=batch, m=m, k=k, n=n, what=what, signature=signature(parameters), window=window,
        rows=e(m), depth=e(k), columns=e(n), a=a, b=b,
        a0=e(form.a.offset), a_head=e(batch_of(form.a.shape, form.a.strides)[1]),
        a_row=e(form.a.strides[-2]),
        b0=e(form.b.offset), b_head=e(batch_of(form.b.shape, form.b.strides)[1]),
        b_row=e(form.b.strides[-2]), b_column=e(form.b.strides[-1]),
    )  # fmt: skip
    name = f"matmul_{plain(batch)}x{plain(m)}x{plain(k)}x{plain(n)}{near}_{isa.name}"
    units = f"{e(batch)} * (({e(m)} + MR - 1) / MR)"
    needs = frozenset({"tile", "pack", "small_product"})
    return Kernel(name, text, tuple(parameters.list), units, needs)
