"""C for products of two activations: matmul by itself, and attention by tiles."""

from __future__ import annotations

from canao.emit.isa import Isa
from canao.emit.kernel import Kernel, mark_unused, plain, signature
from canao.emit.rowcode import Parameters, expression
from canao.emit.writer import Writer, number
from canao.fuse.form import Attention, Matmul
from canao.graph.ir import Dim, product
from canao.schedule.plan import Plan

_ADD_TILE = """\
/* c[m][NR] += a[m][k] b[k][NR], c by rows ldc apart. */
CANAO_INLINE void add_tile(const int m, int64_t k, const float *a, int64_t lda, const float *b,
                           float *c, int64_t ldc)
{
    vf acc[MR][NV];
    UNROLL for (int i = 0; i < m; i++)
        UNROLL for (int v = 0; v < NV; v++)
            acc[i][v] = vf_load(c + i * ldc + v * VF);
    panel_fma(m, k, a, lda, b, acc);
    UNROLL for (int i = 0; i < m; i++)
        UNROLL for (int v = 0; v < NV; v++)
            vf_store(c + i * ldc + v * VF, acc[i][v]);
}

static void add_product(int64_t m, int64_t k, const float *a, int64_t lda, const float *b,
                        float *c, int64_t ldc)
{
    switch (m) {
%s    }
}

/* Panel of columns j0 .. j0 + NR of b [k][n], element (p, j) at b[p * bk + j * bn]. */
static void pack_panel(int64_t k, int64_t n, const float *b, int64_t bk, int64_t bn, int64_t j0,
                       float *panel)
{
    if (bn == 1) {
        for (int64_t p = 0; p < k; p++)
            for (int64_t j = 0; j < NR; j += VF)
                vf_store(panel + p * NR + j, vf_load_upto(b + p * bk + j0 + j, n - j0 - j));
        return;
    }
    for (int64_t p = 0; p < k; p++)
        for (int64_t j = 0; j < NR; j++)
            panel[p * NR + j] = j0 + j < n ? b[p * bk + (j0 + j) * bn] : 0.0f;
}
"""


def add_tile(plan: Plan) -> str:
    """The product of activations, for each number of rows up to mr."""
    cases = "".join(
        f"    case {m}: add_tile({m}, k, a, lda, b, c, ldc); break;\n"
        for m in range(1, plan.mr + 1)
    )
    return _ADD_TILE % cases


def _batch(shape: tuple[Dim, ...], strides: tuple[Dim, ...]) -> tuple[Dim, Dim]:
    """Size and stride of the one batch dimension that is not 1."""
    for size, stride in zip(shape[:-2], strides[:-2], strict=True):
        if size != 1:
            return size, stride
    return 1, 0


def matmul_kernel(form: Matmul, isa: Isa) -> Kernel:
    parameters, w = Parameters(), Writer()
    a, b = parameters.of(form.a.base), parameters.of(form.b.base)
    batch = product(form.a.shape[:-2])
    m, k, n = form.a.shape[-2], form.a.shape[-1], form.b.shape[-1]
    _, a_step = _batch(form.a.shape, form.a.strides)
    _, b_step = _batch(form.b.shape, form.b.strides)
    e = expression
    w.line(f"/* {batch} x [{m}, {k}] x [{k}, {n}] */")
    w.line(signature(parameters))
    w.line("{")
    w.depth += 1
    mark_unused(w, "s")
    w.line(f"const int64_t m = {e(m)}, k = {e(k)}, n = {e(n)}, tiles = (m + MR - 1) / MR;")
    w.line("float *const c = scratch, *const packed = scratch + MR * NR;")
    w.line("int64_t ready = -1;")
    with w.block("for (int64_t t = begin; t < end; t++)"):
        w.line("const int64_t h = t / tiles, row = t % tiles * MR, rows = min64(m - row, MR);")
        with w.block("if (h != ready)"):
            w.line("for (int64_t j = 0; j < n; j += NR)")
            w.line(
                f"    pack_panel(k, n, {b} + {e(form.b.offset)} + h * {e(b_step)}, "
                f"{e(form.b.strides[-2])}, {e(form.b.strides[-1])}, j, packed + j * k);"
            )
            w.line("ready = h;")
        w.line(
            f"const float *const from = {a} + {e(form.a.offset)} + h * {e(a_step)} "
            f"+ row * {e(form.a.strides[-2])};"
        )
        with w.block("for (int64_t j = 0; j < n; j += NR)"):
            w.line("for (int64_t i = 0; i < MR * NR; i += VF)")
            w.line("    vf_store(c + i, vf_set1(0.0f));")
            w.line(f"add_product(rows, k, from, {e(form.a.strides[-2])}, packed + j * k, c, NR);")
            w.line("for (int64_t i = 0; i < rows; i++)")
            w.line("    for (int64_t v = 0; v < NR; v += VF)")
            w.line(
                "        vf_store_upto(out + (h * m + row + i) * n + j + v, "
                "vf_load(c + i * NR + v), n - j - v);"
            )
    w.depth -= 1
    w.line("}")
    name = f"matmul_{plain(batch)}x{plain(m)}x{plain(k)}x{plain(n)}_{isa.name}"
    units = f"{e(batch)} * (({e(m)} + MR - 1) / MR)"
    return Kernel(
        name,
        w.text(),
        tuple(parameters.list),
        units,
        False,
        frozenset({"tile", "add_tile", "upto"}),
    )


def attention_kernel(form: Attention, plan: Plan, isa: Isa) -> Kernel:
    parameters = Parameters()
    q, k, v = (parameters.of(x.base) for x in (form.q, form.k, form.v))
    m, d, keys, dv = form.q.shape[-2], form.q.shape[-1], form.k.shape[-1], form.v.shape[-1]
    batch = product(form.q.shape[:-2])
    steps = [_batch(x.shape, x.strides)[1] for x in (form.q, form.k, form.v)]
    store = _batch(form.q.shape, form.store)[1]
    wide = -(-int(dv) // plan.nr) * plan.nr  # type: ignore[arg-type]
    e = expression
    scaled = "vf_load(x + j)"
    if form.scale != 1.0:
        scaled = f"vf_mul({scaled}, vf_set1({number(form.scale)}))"
    text = _ATTENTION.format(
        signature=signature(parameters),
        m=e(m),
        d=d,
        keys=e(keys),
        dv=dv,
        wide=wide,
        tile=plan.keys,
        scale=number(form.scale),
        scaled=scaled,
        batch=batch,
        q=q,
        k=k,
        v=v,
        q0=e(form.q.offset),
        k0=e(form.k.offset),
        v0=e(form.v.offset),
        q_head=e(steps[0]),
        k_head=e(steps[1]),
        v_head=e(steps[2]),
        q_row=e(form.q.strides[-2]),
        k_d=e(form.k.strides[-2]),
        k_key=e(form.k.strides[-1]),
        v_key=e(form.v.strides[-2]),
        v_d=e(form.v.strides[-1]),
        o_head=e(store),
        o_row=e(form.store[-2]),
        passes=wide // plan.nr,
    )
    name = f"attention_{plain(batch)}x{d}_{isa.name}_{plan.name}"
    units = f"{e(batch)} * (({e(m)} + MR - 1) / MR)"
    return Kernel(
        name, text, tuple(parameters.list), units, False, frozenset({"tile", "add_tile", "upto"})
    )


_ATTENTION = """\
/* {batch} heads of softmax(q k^T * {scale}) v, {tile} keys at a time with a running maximum and
   sum, so that no more than a tile of scores exists at any time. */
{signature}
{{
    const int64_t m = {m}, keys = {keys}, tiles = (m + MR - 1) / MR;
    float *const p = scratch, *const mix = p + MR * {tile}, *const kt = mix + MR * {wide};
    float *const vp = kt + (keys + NR - 1) / NR * NR * {d};
    int64_t ready = -1;
    for (int64_t t = begin; t < end; t++) {{
        const int64_t h = t / tiles, row = t % tiles * MR, rows = min64(m - row, MR);
        if (h != ready) {{
            for (int64_t j = 0; j < keys; j += NR)
                pack_panel({d}, keys, {k} + {k0} + h * {k_head}, {k_d}, {k_key}, j, kt + j * {d});
            for (int64_t j = 0; j < {dv}; j += NR)
                pack_panel(keys, {dv}, {v} + {v0} + h * {v_head}, {v_key}, {v_d}, j, vp + j * keys);
            ready = h;
        }}
        const float *const from = {q} + {q0} + h * {q_head} + row * {q_row};
        float top[MR], total[MR];
        for (int64_t i = 0; i < MR; i++) {{
            top[i] = -INF_F;
            total[i] = 0.0f;
        }}
        for (int64_t j = 0; j < MR * {wide}; j += VF)
            vf_store(mix + j, vf_set1(0.0f));
        for (int64_t key = 0; key < keys; key += {tile}) {{
            const int64_t count = min64(keys - key, {tile});
            for (int64_t j = 0; j < MR * {tile}; j += VF)
                vf_store(p + j, vf_set1(0.0f));
            for (int64_t j = 0; j < count; j += NR)
                add_product(rows, {d}, from, {q_row}, kt + (key + j) * {d}, p + j, {tile});
            for (int64_t i = 0; i < rows; i++) {{
                float *const x = p + i * {tile};
                const int64_t whole = count - count % VF, rest = count - whole;
                vf high = vf_set1(-INF_F), sum = vf_set1(0.0f);
                for (int64_t j = 0; j < whole; j += VF)
                    high = vf_max(high, {scaled});
                if (rest) {{
                    const int64_t j = whole;
                    high = vf_max(high, vf_keep({scaled}, rest, -INF_F));
                }}
                const float peak = vf_top(vf_max(high, vf_set1(top[i])));
                for (int64_t j = 0; j < whole; j += VF) {{
                    const vf y = vf_exp(vf_sub({scaled}, vf_set1(peak)));
                    vf_store(x + j, y);
                    sum = vf_add(sum, y);
                }}
                if (rest) {{
                    const int64_t j = whole;
                    const vf y = vf_exp(vf_sub({scaled}, vf_set1(peak)));
                    vf_store(x + j, y);
                    sum = vf_add(sum, vf_keep(y, rest, 0.0f));
                }}
                const vf shrink = vf_exp(vf_set1(top[i] - peak));
                total[i] = total[i] * vf_top(shrink) + vf_sum(sum);
                top[i] = peak;
                for (int64_t j = 0; j < {wide}; j += VF)
                    vf_store(mix + i * {wide} + j, vf_mul(vf_load(mix + i * {wide} + j), shrink));
            }}
            for (int64_t j = 0; j < {wide}; j += NR)
                add_product(rows, count, p, {tile}, vp + j * keys + key * NR, mix + j, {wide});
        }}
        for (int64_t i = 0; i < rows; i++) {{
            float *const o = out + h * {o_head} + (row + i) * {o_row};
            const vf inverse = vf_set1(1.0f / total[i]);
            for (int64_t j = 0; j < {dv}; j += VF)
                vf_store_upto(o + j, vf_mul(vf_load(mix + i * {wide} + j), inverse), {dv} - j);
        }}
    }}
}}
"""
