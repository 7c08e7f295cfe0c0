"""C for packed GEMMs and their epilogues."""

from __future__ import annotations

from canao.emit.arguments import Arguments, row_type
from canao.emit.c.kernel import (
    RESULTS,
    KernelText,
    buffer_pointers,
    declared,
    declared_results,
    mark_unused,
    passed,
    signature,
)
from canao.emit.expressions import expression
from canao.emit.rowcode import RowCode, RowStyle
from canao.emit.writer import Writer
from canao.fuse.access import Access
from canao.fuse.forms.form import PackedGemm
from canao.fuse.forms.rows import row_program
from canao.graph.dtypes import NARROW
from canao.graph.ir import Graph
from canao.isa.table import SIZES, Isa
from canao.lower.cpu.packed_gemm import PackedGemmPlan, product_name, rows_of
from canao.lower.cpu.quantized import row_layout
from canao.lower.cpu.tiles import rounded
from canao.lower.epilogue import split
from canao.schedule.operands import Operand, Packed
from canao.schedule.schedule import Step


class PackedGemmCode:
    """Blocks of rows, passes of kc and panels of nr columns.

    One whose tiles are all that there is takes a range of columns as well, so that threads can
    share out these where there are too few rows to share out.
    """

    def __init__(self, graph: Graph, step: Step, isa: Isa) -> None:
        form, plan = step.region.form, step.plan
        assert isinstance(form, PackedGemm) and isinstance(plan, PackedGemmPlan)
        self.form, self.plan, self.step, self.name = form, plan, step, step.name
        self.nv = plan.nr // isa.width
        self.weights, storage = step.reads[1], step.reads[1].storage
        assert isinstance(storage, Packed)
        self.depth = rounded(form.k, storage.kr)  # as it lies in the panels
        self.product = product_name(form)
        self.tile = isa.tiles[self.product]
        # Whoever multiplies whole blocks has the sums in memory: rows are counted when it runs.
        self.each_row = f"{'' if self.tile.blocks else 'UNROLL '}for (int i = 0; i < m; i++)"
        self.layout = row_layout(form.k, form.rows, isa.name) if form.rows in NARROW else None
        self.program = row_program(graph, form.epilogue)
        narrow = self.program.narrow_row
        layout = row_layout(form.n, narrow[1], isa.name) if narrow else None
        # Where the output is narrow, tiles write into a block of rows in scratch memory.
        self.written = self.program.narrow
        self.stages = split(self.program)
        self.passes = -(-form.k // plan.kc)
        self.by_columns = step.work.columns > 0
        self.arguments = Arguments(step.reads)
        self.code = RowCode(
            graph, form.epilogue, self.program, self.arguments, step.scratch,
            RowStyle(plan.chains, isa.width, upto=True),
        )  # fmt: skip
        self.rows_code = RowCode(
            graph, form.epilogue, self.program, self.arguments, step.scratch,
            RowStyle(plan.chains, isa.width, layout=layout, block=self.written),
        )  # fmt: skip

    def kernel(self) -> KernelText:
        form, plan, later = self.form, self.plan, self.stages.later
        tile, rows = Writer(), Writer()
        tile.depth = rows.depth = 1
        self._tile_body(tile)
        self.tile_uses = self.arguments.taken()
        if later:
            self.rows_code.row_pass(rows, later)
        self.rows_uses = self.arguments.taken()
        w = Writer()
        depth = f" in {self.passes} passes of {plan.kc}" if self.passes > 1 else ""
        ops = self.step.region.ops
        w.line(
            f"/* [{form.epilogue.rows}, {form.k}] x [{form.k}, {form.n}]{depth}"
            f"{', then ' if len(ops) > 1 else ''}{', '.join(o for o in ops if o != 'linear')} */"
        )
        with w.block(
            f"CANAO_INLINE void {self.name}_tile(const int m, const int64_t width, int64_t s, "
            f"{self._declared(self.tile_uses)}float *restrict out, int64_t row, int64_t col, "
            f"int64_t k0, const char *next, int64_t step{', int64_t from' if self.written else ''}"
            f"{', uint64_t *shapes' if self.tile.blocks else ''})"
        ):
            w.raw(tile.text())
        w.line()
        if later:
            self._rows_function(w, rows)
        self._main(w, bool(later))
        narrow = {row_type(form.rows)} if self.layout else set[str]()
        needs = frozenset({"tile", *narrow, *self.code.needs, *self.rows_code.needs})
        return KernelText(w.text(), needs, plan.tile, self.product)

    def _declared(self, uses: frozenset[Operand]) -> str:
        return declared(self.arguments.declarations(uses))

    def _passed(self, uses: frozenset[Operand]) -> str:
        return passed(self.arguments.passed(uses))

    def _rows_function(self, w: Writer, rows: Writer) -> None:
        w.line("/* What needs whole rows, on rows that are still in cache. */")
        w.line(
            f"static void {self.name}_rows(int64_t s, {self._declared(self.rows_uses)}"
            f"{declared(declared_results(self.step.writes))}float *restrict scratch, "
            "int64_t begin, int64_t end)"
        )
        w.line("{")
        w.depth = 1
        mark_unused(w, "s", "scratch")
        for line in buffer_pointers(self.step.scratch):
            w.line(line)
        w.depth = 0
        w.raw(rows.text())
        w.line("}")
        w.line()

    def _tile_body(self, w: Writer) -> None:
        form, plan, nv = self.form, self.plan, self.nv
        mark_unused(w, "s")
        lda = self.layout.pitch if self.layout else form.a.rows()
        assert lda is not None
        place = self.code.place(Access(form.a.base, (2,), (lda,), form.a.offset), "row")
        a, (weights, _) = self._rows_name(), self.arguments.weights(form.weight)
        w.line(f"{self.tile.vc} acc[{rounded(plan.mr, 1 + self.tile.pairs)}][{nv}];")
        if not self.fresh:
            self._start(w)
        depth = str(form.k) if self.passes == 1 else f"min64({plan.kc}, {form.k} - k0)"
        w.line(
            f"panel_fma_{self.product}_{plan.mr}x{plan.nr}(m, {depth}, {a} + {place} + k0, "
            f"{expression(lda)}, {weights} + col * {self.depth} + k0 * {plan.nr}, 1, next, step, "
            f"acc{f', {int(self.fresh)}, shapes' if self.tile.blocks else ''});"
        )
        if self.passes > 1:
            self._keep_partial(w)
        self._epilogue(w)

    def _rows_name(self) -> str:
        """The pointer to the rows that are multiplied."""
        return self.arguments.rows(rows_of(self.form))

    def _start(self, w: Writer) -> None:
        """Accumulators start with the bias, those of whole numbers with 0; or with what the pass
        before has stored."""
        nv = self.nv
        if self.tile.offset:
            self._start_by_rows(w)
            return
        with w.block(f"UNROLL for (int v = 0; v < {nv}; v++)"):
            w.line(f"const {self.tile.vc} start = {self._first_sums()};")
            with w.block(self.each_row):
                self._start_one(w)

    def _start_by_rows(self, w: Writer) -> None:
        """Accumulators of a row start with what the offset of the weights wants."""
        assert self.layout is not None
        row = f"{self._rows_name()} + (row + i) * {self.layout.pitch}"
        with w.block(self.each_row):
            sums = f"{row_type(self.form.rows)}_start({row}, {self.layout.start})"
            w.line(f"const {self.tile.vc} start = start_{self.product}({sums});")
            with w.block(f"UNROLL for (int v = 0; v < {self.nv}; v++)"):
                self._start_one(w)

    def _start_one(self, w: Writer) -> None:
        if self.passes > 1:
            stored = f"vf_load_upto({self._partial()}, width - v * VF)"
            stored = f"of_bits_{self.product}({stored})" if self._whole else stored
            w.line(f"acc[i][v] = k0 ? {stored} : start;")
        else:
            w.line("acc[i][v] = start;")

    @property
    def fresh(self) -> bool:
        """Whether blocks start with zeros, which need not be in memory."""
        zero = not self.tile.offset and self._first_sums() == self.tile.zero
        return self.tile.blocks is not None and zero and self.passes == 1

    @property
    def _whole(self) -> bool:
        """Whether sums are whole numbers."""
        return self.tile.vc != "vf"

    def _partial(self) -> str:
        """Where the sums of vector v of row i are between passes."""
        row = "(row + i - from)" if self.written else "(row + i)"
        return f"out + {row} * {self.form.n} + col + v * VF"

    def _first_sums(self) -> str:
        """What the accumulators of vector v start with."""
        form = self.form
        if form.bias and not form.scales:
            bias = self.arguments.of(form.bias)
            return f"vf_load_upto({bias} + col + v * VF, width - v * VF)"
        return self.tile.zero

    def _keep_partial(self, w: Writer) -> None:
        """All passes but the last store their sums and leave."""
        form, nv = self.form, self.nv
        with w.block(f"if (k0 + {self.plan.kc} < {form.k})"):
            with w.block(self.each_row):
                sums = f"to_bits_{self.product}(acc[i][v])" if self._whole else "acc[i][v]"
                w.line(f"UNROLL for (int v = 0; v < {nv}; v++)")
                w.line(
                    f"    vf_store_upto({self._partial()}, {sums}, width - v * VF);"
                )
            w.line("return;")

    def _epilogue(self, w: Writer) -> None:
        """The part of the epilogue that tiles run, on each vector of the accumulators."""
        tile = self.stages.tile
        with w.block(self.each_row):
            w.line("const int64_t r = row + i;")
            place = "(r - from)" if self.written else "r"
            w.line(f"float *const o = out + {place} * {self.form.n};")
            self.code.open_row(w, (tile,))
            if self.layout and self.form.scales:
                row = f"{self._rows_name()} + r * {self.layout.pitch}"
                scale = f"{row_type(self.form.rows)}_scale({row}, {self.layout.scale})"
                w.line(f"const vf unit = vf_set1({scale});")
            with w.block(f"UNROLL for (int v = 0; v < {self.nv}; v++)"):
                w.line("const int64_t j = col + v * VF, n = width - v * VF;")
                self.code.source = self._result(w)
                self.code.steps(w, tile, "n")
                self.code.stores(w, tile, "n")

    def _result(self, w: Writer) -> str:
        """The product in vector v of row i, with its bias."""
        form = self.form
        if not form.scales:
            return "acc[i][v]"
        scales = f"vf_load_upto({self.arguments.of(form.scales)} + j, n)"
        bias = f"vf_load_upto({self.arguments.of(form.bias)} + j, n)" if form.bias else ""
        product = f"to_float_{self.product}(acc[i][v])" if self._whole else "acc[i][v]"
        scale = f"vf_mul(unit, {scales})" if self.layout else scales
        whole = f"vf_fma({product}, {scale}, {bias})" if bias else f"vf_mul({product}, {scale})"
        w.line(f"const vf product = {whole};")
        return "product"

    def _main(self, w: Writer, later: bool) -> None:
        form, plan = self.form, self.plan
        whole, rest = form.n - form.n % plan.nr, form.n % plan.nr
        first, stop, beyond = "0", str(whole), ""
        if self.by_columns:
            first, stop, beyond = "left", f"min64(right, {whole})", f"if (right > {whole})"
        columns = ", int64_t left, int64_t right" if self.by_columns else ""
        w.line(signature(self.name, self.arguments, columns, self.step.writes))
        w.line("{")
        w.depth += 1
        if self.written:
            w.line(buffer_pointers(self.step.scratch)[0])
        mark_unused(w, "scratch", *(("left",) if self.by_columns else ()))
        if self.tile.blocks:
            w.line("uint64_t shapes = 0;")
        w.line(f"const int64_t all = end - begin, blocks = (all + {plan.mc} - 1) / {plan.mc};")
        with w.block("for (int64_t block = 0; block < blocks; block++)"):
            w.line("const int64_t top = begin + part(all, blocks, block);")
            w.line("const int64_t rows = begin + part(all, blocks, block + 1) - top;")
            w.line(f"const int64_t tiles = (rows + {plan.mr} - 1) / {plan.mr};")
            with w.block(f"for (int64_t k0 = 0; k0 < {form.k}; k0 += {plan.kc})"):
                if whole:
                    head = f"for (int64_t col = {first}; col < {stop}; col += {plan.nr})"
                    with w.block(head):
                        self._tiles(w, str(plan.nr))
                if rest:
                    with w.block(beyond):
                        w.line(f"const int64_t col = {whole};")
                        self._tiles(w, str(rest))
            if later:
                names = self._passed(self.rows_uses)
                names += passed(RESULTS[: len(self.step.writes)])
                w.line(f"{self.name}_rows(s, {names}scratch, top, top + rows);")
        if self.tile.blocks:
            w.line("blocks_done();")
        w.depth -= 1
        w.line("}")

    def _tiles(self, w: Writer, width: str) -> None:
        """All tiles of one panel. They share out the fetching of the panel after it; a tile alone
        has to read faster than that: it fetches its own panel, so many bytes ahead."""
        k, plan, size = self.form.k, self.plan, SIZES[self.tile.weights]
        weights, _ = self.arguments.weights(self.form.weight)
        w.line(f"const int64_t depth = min64({plan.kc}, {k} - k0), "
               f"step = {plan.nr * size} / tiles;")  # fmt: skip
        panel = f"{weights} + col * {self.depth} + k0 * {plan.nr}"
        w.line(f"const char *next = (const char *)({panel}) + "
               f"(tiles > 1 ? {plan.nr * size * self.depth} : {plan.ahead});")  # fmt: skip
        with w.block("for (int64_t t = 0; t < tiles; t++, next += step * depth)"):
            w.line("const int64_t row = top + part(rows, tiles, t);")
            names = self._passed(self.tile_uses)
            out, top = (self.step.scratch[0].name, ", top") if self.written else ("out", "")
            rest = f"{width}, s, {names}{out}, row, col, k0, next, step{top}"
            rows = "top + part(rows, tiles, t + 1) - row"
            if self.tile.blocks:
                w.line(f"{self.name}_tile((int)({rows}), {rest}, &shapes);")
                return
            with w.block(f"switch ({rows})"):
                for m in range(1, plan.mr + 1):
                    w.line(f"case {m}: {self.name}_tile({m}, {rest}); break;")


def packed_gemm_text(graph: Graph, step: Step, isa: Isa) -> KernelText:
    """A packed GEMM by its plan."""
    return PackedGemmCode(graph, step, isa).kernel()
