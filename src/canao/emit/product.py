"""C for products with weights packed at compile time, and their epilogues."""

from __future__ import annotations

from canao.emit.isa import Isa
from canao.emit.kernel import Kernel, declared, mark_unused, op_names, passed, signature, used_in
from canao.emit.rowcode import Parameters, RowCode, expression
from canao.emit.writer import Writer
from canao.fuse.access import Access
from canao.fuse.forms.form import Product
from canao.fuse.forms.rows import Operand, Reduction, RowProgram, Stage, lower
from canao.fuse.group import Region
from canao.graph.ir import Graph
from canao.schedule.plan import Plan

TILE = """\
/* acc[m][NR] += a[m][k] b[k][NR]: a by rows lda apart, b a packed panel. Where `ahead`, what lies
   at `next` is fetched meanwhile, `step` bytes for every step. */
CANAO_INLINE void panel_fma(const int m, int64_t k, const float *a, int64_t lda, const float *b,
                            const int ahead, const char *next, int64_t step, vf acc[MR][NV])
{
    for (int64_t p = 0; p < k; p++, b += NR) {
        if (ahead)
            UNROLL for (int v = 0; v < (NV * VF + 15) / 16; v++)
                __builtin_prefetch(next + p * step + v * 64);
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
BLOCKS = """\
/* First of the rows of part i, where `rows` are shared out evenly: no block or tile is a sliver. */
CANAO_INLINE int64_t part(int64_t rows, int64_t parts, int64_t i) { return rows * i / parts; }
"""


class ProductCode:
    """A product by blocks of rows, passes of kc and panels of NR columns.

    One whose tiles are all that there is takes a range of columns as well, so that threads can
    share out these where there are too few rows to share out.
    """

    def __init__(self, graph: Graph, region: Region, form: Product, plan: Plan, isa: Isa) -> None:
        self.graph, self.region, self.form, self.plan, self.isa = graph, region, form, plan, isa
        self.parameters = Parameters()
        self.a = self.parameters.of(form.a.base)
        self.w = self.parameters.of(form.weight, "packed")
        self.bias = self.parameters.of(form.bias) if form.bias else ""
        self.program = lower(graph, form.epilogue)
        self.passes = -(-form.k // plan.kc)
        self.by_columns = not _after_tiles(self.program)

    def kernel(self) -> Kernel:
        form, plan = self.form, self.plan
        code = RowCode(self.graph, form.epilogue, self.program, self.isa, self.parameters)
        tile, rows = Writer(), Writer()
        self._tile_body(tile, code)
        later = _after_tiles(self.program)
        if later:
            rows.depth = 1
            code.row_pass(rows, later)
        self.tile_uses = used_in(self.parameters, tile.text())
        self.rows_uses = used_in(self.parameters, rows.text())
        w = Writer()
        depth = f" in {self.passes} passes of {plan.kc}" if self.passes > 1 else ""
        w.line(
            f"/* [{form.epilogue.rows}, {form.k}] x [{form.k}, {form.n}]{depth}"
            f"{', then ' if len(self.region.ops) > 1 else ''}"
            f"{', '.join(o for o in self.region.ops if o != 'linear')} */"
        )
        with w.block(
            f"CANAO_INLINE void NAME_tile(const int m, const int64_t width, int64_t s, "
            f"{declared(self.tile_uses)}float *restrict out, int64_t row, int64_t col, "
            "int64_t k0, const char *next, int64_t step)"
        ):
            w.raw(tile.text())
        w.line()
        if later:
            w.line("/* What needs whole rows, on rows that are still in cache. */")
            w.line(
                f"static void NAME_rows(int64_t s, {declared(self.rows_uses)}float *restrict "
                "out, float *restrict scratch, int64_t begin, int64_t end)"
            )
            w.line("{")
            for name in ("s", "scratch"):
                w.line(f"    (void){name};")
            w.raw(rows.text())
            w.line("}")
            w.line()
        self._main(w, bool(later))
        name = f"product_{form.k}x{form.n}{op_names(self.region)}_{self.isa.name}_{plan.name}"
        units = expression(form.epilogue.rows)
        needs = frozenset({"tile", *code.needs})
        columns = form.n if self.by_columns else 0
        return Kernel(name, w.text(), tuple(self.parameters.list), units, needs, columns=columns)

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
            f"{self.w} + col * {form.k} + k0 * NR, 1, next, step, acc);"
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
        first, stop, beyond = "0", str(whole), ""
        if self.by_columns:
            first, stop, beyond = "left", f"min64(right, {whole})", f"if (right > {whole})"
        w.line(signature(self.parameters, ", int64_t left, int64_t right" * self.by_columns))
        w.line("{")
        w.depth += 1
        mark_unused(w, "scratch", *(("left",) if self.by_columns else ()))
        w.line(f"const int64_t all = end - begin, blocks = (all + {plan.mc} - 1) / {plan.mc};")
        with w.block("for (int64_t block = 0; block < blocks; block++)"):
            w.line("const int64_t top = begin + part(all, blocks, block);")
            w.line("const int64_t rows = begin + part(all, blocks, block + 1) - top;")
            w.line("const int64_t tiles = (rows + MR - 1) / MR;")
            with w.block(f"for (int64_t k0 = 0; k0 < {form.k}; k0 += {plan.kc})"):
                if whole:
                    with w.block(f"for (int64_t col = {first}; col < {stop}; col += NR)"):
                        self._tiles(w, "NR")
                if rest:
                    with w.block(beyond):
                        w.line(f"const int64_t col = {whole};")
                        self._tiles(w, str(rest))
            if later:
                names = passed(self.rows_uses)
                w.line(f"NAME_rows(s, {names}out, scratch, top, top + rows);")
        w.depth -= 1
        w.line("}")

    def _tiles(self, w: Writer, width: str) -> None:
        """All tiles of one panel. They share out the fetching of the panel after it; a tile alone
        has to read faster than that: it fetches its own panel, a page ahead."""
        k = self.form.k
        w.line(f"const int64_t depth = min64({self.plan.kc}, {k} - k0), step = NR * 4 / tiles;")
        w.line(f"const char *next = (const char *)({self.w} + col * {k} + k0 * NR) + "
               f"(tiles > 1 ? NR * 4 * {k} : 4096);")  # fmt: skip
        with w.block("for (int64_t t = 0; t < tiles; t++, next += step * depth)"):
            w.line("const int64_t row = top + part(rows, tiles, t);")
            with w.block("switch (top + part(rows, tiles, t + 1) - row)"):
                for m in range(1, self.plan.mr + 1):
                    names = passed(self.tile_uses)
                    call = f"NAME_tile({m}, {width}, s, {names}out, row, col, k0, next, step)"
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
