"""C for each form of region: products with epilogues, attention by tiles, row-local passes.

Every kernel is a function of (s, pointers..., out, scratch, begin, end) over its unit of work:
rows, or (head, row tile) pairs. Register and cache tiles come from the plan; nothing is decided.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from canao.emit.isa import Isa
from canao.emit.rowcode import Parameter, Parameters, RowCode, expression
from canao.emit.writer import Writer, number
from canao.fuse.access import Access
from canao.fuse.form import Attention, Matmul, Product
from canao.fuse.group import Region
from canao.fuse.rows import Operand, Reduction, RowProgram, Rows, Stage, lower
from canao.graph.ir import Dim, Graph, product
from canao.graph.ops import OPS
from canao.schedule.plan import Plan

TILE = """\
/* acc[m][NR] += a[m][k] b[k][NR]: a by rows lda apart, b a packed panel. */
CANAO_INLINE void panel_fma(const int m, int64_t k, const float *a, int64_t lda, const float *b,
                            vf acc[MR][NV])
{
    for (int64_t p = 0; p < k; p++, b += NR) {
        vf w[NV];
        UNROLL for (int v = 0; v < NV; v++)
            w[v] = vf_load(b + v * VF);
        UNROLL for (int i = 0; i < m; i++) {
            const vf x = vf_set1(a[i * lda + p]);
            UNROLL for (int v = 0; v < NV; v++)
                acc[i][v] = vf_fma(x, w[v], acc[i][v]);
        }
    }
}
"""
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


@dataclass(frozen=True, slots=True)
class Kernel:
    """C of one region: its text (with NAME for its name), pointers, and unit of work."""

    base_name: str
    text: str
    parameters: tuple[Parameter, ...]
    units: str
    row_units: bool
    needs: frozenset[str]

    def named(self, name: str) -> str:
        return self.text.replace("NAME", name)


def kernel(graph: Graph, region: Region, plan: Plan, isa: Isa) -> Kernel:
    """The kernel of a region that is no alias."""
    form = region.form
    if isinstance(form, Product):
        return _ProductCode(graph, region, form, plan, isa).kernel()
    if isinstance(form, Attention):
        return _attention(form, plan, isa)
    if isinstance(form, Matmul):
        return _matmul(form, isa)
    assert isinstance(form, Rows)
    return _rows(graph, region, form, isa)


def _ops(region: Region) -> str:
    names = [n.op for n in region.nodes if not OPS[n.op].view and n.op not in ("linear", "matmul")]
    return "".join(f"_{name}" for name in names)


def _plain(d: Dim) -> str:
    return str(d).replace(" ", "").replace("+", "p").replace("*", "")


def _signature(parameters: Parameters) -> str:
    return (
        f"static void NAME(int64_t s, {_declared(parameters.list)}float *restrict out, "
        "float *restrict scratch, int64_t begin, int64_t end)"
    )


def _used(parameters: Parameters, text: str) -> list[Parameter]:
    return [p for p in parameters.list if re.search(rf"\b{p.name}\b", text)]


def _declared(parameters: list[Parameter]) -> str:
    return "".join(f"{p.declaration}, " for p in parameters)


def _passed(parameters: list[Parameter]) -> str:
    return "".join(f"{p.name}, " for p in parameters)


def _unused(w: Writer, *names: str) -> None:
    for name in names:
        w.line(f"(void){name};")


def _rows(graph: Graph, region: Region, rows: Rows, isa: Isa) -> Kernel:
    parameters, body = Parameters(), Writer()
    code = RowCode(graph, rows, lower(graph, rows), isa, parameters)
    body.depth = 1
    _unused(body, "s", "scratch")
    code.row_pass(body, code.program.stages)
    w = Writer()
    w.line(f"/* {', '.join(region.ops)} on rows of {rows.width} */")
    w.line(_signature(parameters))
    w.line("{")
    w.raw(body.text())
    w.line("}")
    ops = _ops(region) or "_copy"
    name = f"rows_{_plain(rows.width)}{ops}_{isa.name}"
    needs = frozenset({"strided"} if code.strided else ())
    return Kernel(name, w.text(), tuple(parameters.list), expression(rows.rows), True, needs)


class _ProductCode:
    """A product by blocks of rows, passes of kc and panels of NR columns."""

    def __init__(self, graph: Graph, region: Region, form: Product, plan: Plan, isa: Isa) -> None:
        self.graph, self.region, self.form, self.plan, self.isa = graph, region, form, plan, isa
        self.parameters = Parameters()
        self.a = self.parameters.of(form.a.base)
        self.w = self.parameters.of(form.weight, "packed")
        self.bias = self.parameters.of(form.bias) if form.bias else ""
        self.program = lower(graph, form.epilogue)
        self.passes = -(-form.k // plan.kc)

    def kernel(self) -> Kernel:
        form, plan = self.form, self.plan
        code = RowCode(self.graph, form.epilogue, self.program, self.isa, self.parameters)
        tile, rows = Writer(), Writer()
        self._tile_body(tile, code)
        later = _after_tiles(self.program)
        if later:
            rows.depth = 1
            code.row_pass(rows, later)
        self.tile_uses = _used(self.parameters, tile.text())
        self.rows_uses = _used(self.parameters, rows.text())
        w = Writer()
        depth = f" in {self.passes} passes of {plan.kc}" if self.passes > 1 else ""
        w.line(
            f"/* [{form.epilogue.rows}, {form.k}] x [{form.k}, {form.n}]{depth}"
            f"{', then ' if len(self.region.ops) > 1 else ''}"
            f"{', '.join(o for o in self.region.ops if o != 'linear')} */"
        )
        with w.block(
            f"CANAO_INLINE void NAME_tile(const int m, const int64_t width, int64_t s, "
            f"{_declared(self.tile_uses)}float *restrict out, int64_t row, int64_t col, "
            "int64_t k0)"
        ):
            w.raw(tile.text())
        w.line()
        if later:
            w.line("/* What needs whole rows, on rows that are still in cache. */")
            w.line(
                f"static void NAME_rows(int64_t s, {_declared(self.rows_uses)}float *restrict "
                "out, float *restrict scratch, int64_t begin, int64_t end)"
            )
            w.line("{")
            for name in ("s", "scratch"):
                w.line(f"    (void){name};")
            w.raw(rows.text())
            w.line("}")
            w.line()
        self._main(w, bool(later))
        name = f"product_{form.k}x{form.n}{_ops(self.region)}_{self.isa.name}_{plan.name}"
        units = expression(form.epilogue.rows)
        needs = frozenset({"tile", *(("strided",) if code.strided else ())})
        return Kernel(name, w.text(), tuple(self.parameters.list), units, True, needs)

    def _tile_body(self, w: Writer, code: RowCode) -> None:
        form = self.form
        w.depth = 1
        w.line("(void)s;")
        lda = form.a.rows()
        assert lda is not None
        place = code.place(Access(form.a.base, (2,), (lda,), form.a.offset), "row")
        n = form.n
        w.line("vf acc[MR][NV];")
        with w.block("UNROLL for (int v = 0; v < NV; v++)"):
            start = (
                f"vf_load_upto({self.bias} + col + v * VF, width - v * VF)"
                if self.bias
                else ("vf_set1(0.0f)")
            )
            w.line(f"const vf start = {start};")
            with w.block("UNROLL for (int i = 0; i < m; i++)"):
                if self.passes > 1:
                    w.line(
                        f"acc[i][v] = k0 ? vf_load_upto(out + (row + i) * {n} + col + v * VF, "
                        "width - v * VF) : start;"
                    )
                else:
                    w.line("acc[i][v] = start;")
        depth = str(form.k) if self.passes == 1 else f"min64({self.plan.kc}, {form.k} - k0)"
        w.line(
            f"panel_fma(m, {depth}, {self.a} + {place} + k0, {expression(lda)}, "
            f"{self.w} + col * {form.k} + k0 * NR, acc);"
        )
        if self.passes > 1:
            with w.block(f"if (k0 + {self.plan.kc} < {form.k})"):
                with w.block("UNROLL for (int i = 0; i < m; i++)"):
                    w.line("UNROLL for (int v = 0; v < NV; v++)")
                    w.line(
                        f"    vf_store_upto(out + (row + i) * {n} + col + v * VF, acc[i][v], "
                        "width - v * VF);"
                    )
                w.line("return;")
        first = self.program.stages[0]
        with w.block("UNROLL for (int i = 0; i < m; i++)"):
            w.line("const int64_t r = row + i;")
            w.line(f"float *const o = out + r * {n};")
            code.open_row(w, (Stage(first.steps, first.stores, ()),))
            with w.block("UNROLL for (int v = 0; v < NV; v++)"):
                w.line("const int64_t j = col + v * VF, n = width - v * VF;")
                code.source = "acc[i][v]"
                tiled = Stage(first.steps, _stored(self.program), ())
                upto = Writer()
                upto.depth = w.depth
                code.steps(upto, tiled, "n")
                code.stores(upto, tiled, "n")
                text = upto.text().replace("_load_n(", "_load_upto(")
                w.raw(text.replace("_store_n(", "_store_upto("))

    def _main(self, w: Writer, later: bool) -> None:
        form, plan = self.form, self.plan
        whole, rest = form.n - form.n % plan.nr, form.n % plan.nr
        w.line(_signature(self.parameters))
        w.line("{")
        w.depth += 1
        _unused(w, "scratch")
        with w.block(f"for (int64_t top = begin; top < end; top += {plan.mc})"):
            w.line(f"const int64_t bottom = min64(top + {plan.mc}, end);")
            with w.block(f"for (int64_t k0 = 0; k0 < {form.k}; k0 += {plan.kc})"):
                if whole:
                    with w.block(f"for (int64_t col = 0; col < {whole}; col += NR)"):
                        self._tiles(w, "NR")
                if rest:
                    with w.block(""):
                        w.line(f"const int64_t col = {whole};")
                        self._tiles(w, str(rest))
            if later:
                names = _passed(self.rows_uses)
                w.line(f"NAME_rows(s, {names}out, scratch, top, bottom);")
        w.depth -= 1
        w.line("}")

    def _tiles(self, w: Writer, width: str) -> None:
        with (
            w.block("for (int64_t row = top; row < bottom; row += MR)"),
            w.block("switch (min64(bottom - row, MR))"),
        ):
            for m in range(1, self.plan.mr + 1):
                names = _passed(self.tile_uses)
                call = f"NAME_tile({m}, {width}, s, {names}out, row, col, k0)"
                w.line(f"case {m}: {call}; break;")


def _stored(program: RowProgram) -> tuple[tuple[Operand, int], ...]:
    """What the tiles store: the first stage's values, or the bare product if it has none."""
    first = program.stages[0]
    if first.stores:
        return first.stores
    values = [r.value for r in first.reductions] or [program.result]
    return ((values[0], 0),)


def _after_tiles(program: RowProgram) -> tuple[Stage, ...]:
    """The stages that need whole rows: reductions of the first, then all others."""
    first = program.stages[0]
    if len(program.stages) == 1 and not first.reductions:
        return ()
    slots = {x.name: slot for x, slot in _stored(program)}
    reductions = tuple(
        Reduction(r.scalar, r.kind, Operand("slot", str(slots[r.value.name])), r.finish, r.eps)
        for r in first.reductions
    )
    return (Stage((), (), reductions), *program.stages[1:])


def _batch(shape: tuple[Dim, ...], strides: tuple[Dim, ...]) -> tuple[Dim, Dim]:
    """Size and stride of the one batch dimension that is not 1."""
    for size, stride in zip(shape[:-2], strides[:-2], strict=True):
        if size != 1:
            return size, stride
    return 1, 0


def _matmul(form: Matmul, isa: Isa) -> Kernel:
    parameters, w = Parameters(), Writer()
    a, b = parameters.of(form.a.base), parameters.of(form.b.base)
    batch = product(form.a.shape[:-2])
    m, k, n = form.a.shape[-2], form.a.shape[-1], form.b.shape[-1]
    _, a_step = _batch(form.a.shape, form.a.strides)
    _, b_step = _batch(form.b.shape, form.b.strides)
    e = expression
    w.line(f"/* {batch} x [{m}, {k}] x [{k}, {n}] */")
    w.line(_signature(parameters))
    w.line("{")
    w.depth += 1
    _unused(w, "s")
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
    name = f"matmul_{_plain(batch)}x{_plain(m)}x{_plain(k)}x{_plain(n)}_{isa.name}"
    units = f"{e(batch)} * (({e(m)} + MR - 1) / MR)"
    return Kernel(
        name,
        w.text(),
        tuple(parameters.list),
        units,
        False,
        frozenset({"tile", "add_tile", "upto"}),
    )


def _attention(form: Attention, plan: Plan, isa: Isa) -> Kernel:
    parameters = Parameters()
    q, k, v = (parameters.of(x.base) for x in (form.q, form.k, form.v))
    m, d, keys, dv = form.q.shape[-2], form.q.shape[-1], form.k.shape[-1], form.v.shape[-1]
    batch = product(form.q.shape[:-2])
    steps = [_batch(x.shape, x.strides)[1] for x in (form.q, form.k, form.v)]
    store = _batch(form.q.shape, form.store)[1]
    wide = -(-int(dv) // plan.nr) * plan.nr  # type: ignore[arg-type]
    e = expression
    text = _ATTENTION.format(
        signature=_signature(parameters),
        m=e(m),
        d=d,
        keys=e(keys),
        dv=dv,
        wide=wide,
        tile=plan.keys,
        scale=number(form.scale),
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
    name = f"attention_{_plain(batch)}x{d}_{isa.name}_{plan.name}"
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
                vf high = vf_set1(-INF_F), sum = vf_set1(0.0f);
                for (int64_t j = 0; j < count; j += VF) {{
                    const vf z = vf_mul(vf_load(x + j), vf_set1({scale}));
                    const vf y = vf_keep(z, count - j, -INF_F);
                    vf_store(x + j, y);
                    high = vf_max(high, y);
                }}
                const float peak = vf_top(vf_max(high, vf_set1(top[i])));
                for (int64_t j = 0; j < count; j += VF) {{
                    const vf y = vf_exp(vf_sub(vf_load(x + j), vf_set1(peak)));
                    vf_store(x + j, y);
                    sum = vf_add(sum, vf_keep(y, count - j, 0.0f));
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
