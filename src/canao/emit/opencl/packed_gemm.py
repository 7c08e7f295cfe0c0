"""OpenCL C for packed GEMMs: a tile in the registers of each work-item, all written out; then the
epilogue on these registers, for which the items of a group bring sums of rows together."""

from __future__ import annotations

from canao.emit.arguments import Arguments, row_type
from canao.emit.c.kernel import KernelText
from canao.emit.expressions import expression
from canao.emit.language import OPENCL
from canao.emit.opencl.kernel import BARRIER, kernel, unrolled
from canao.emit.rowcode import RowCode, RowStyle
from canao.emit.writer import Writer
from canao.fuse.forms.form import PackedGemm
from canao.fuse.forms.rows import (
    BESIDE_SLOT,
    OUTPUT_SLOT,
    RowOperand,
    Scalar,
    Slot,
    Stage,
    row_program,
)
from canao.graph.dtypes import F16, F32, QUANTIZED, DType
from canao.graph.ir import Graph
from canao.lower.epilogue import split
from canao.lower.opencl.levels import level_row
from canao.lower.opencl.packed_gemm import ItemGemmPlan, spreads_from_memory
from canao.schedule.operands import activation
from canao.schedule.schedule import Step

# Elements of a row, or words of four, that are read at once.
_AT_ONCE = 4


def packed_gemm_text(graph: Graph, step: Step, vector: int) -> KernelText:
    """The product of a tile, then each stage of the epilogue on it."""
    form, plan = step.region.form, step.plan
    assert isinstance(form, PackedGemm) and isinstance(plan, ItemGemmPlan)
    arguments, body = Arguments(step.reads, OPENCL), Writer()
    code = _TileCode(graph, step, form, plan, arguments, vector)
    body.depth = 1
    code.kernel_body(body)
    about = f"[{form.epilogue.rows}, {form.k}] x [{form.k}, {form.n}], {', '.join(step.region.ops)}"
    return KernelText(kernel(step, arguments, body, about), frozenset(code.needs))


class _TileCode(RowCode):
    """Passes over the tile of a work-item: row i, vector v. What a pass keeps is in registers:
    slot0_1_2 is vector 2 of row 1 of what later passes read as slot 0."""

    def __init__(
        self, graph: Graph, step: Step, form: PackedGemm, plan: ItemGemmPlan,
        arguments: Arguments, vector: int,
    ) -> None:  # fmt: skip
        program = row_program(graph, form.epilogue)
        style = RowStyle(1, vector, language=OPENCL)
        super().__init__(graph, form.epilogue, program, arguments, (), style)
        self.form, self.plan, self.vector = form, plan, vector
        self.vectors = plan.nr // vector
        self.stages = split(program)
        self.at = (0, 0)  # in the tile
        self.partial = "" if form.n % plan.nr == 0 else "n"
        self.kept: set[int] = set()
        self.sums = "c"  # what the names of the product's sums begin with
        self.tops: dict[int, str] = {}  # the largest magnitude of each row that is quantised

    def kernel_body(self, w: Writer) -> None:
        form, plan = self.form, self.plan
        rows = expression(form.epilogue.rows)
        reduces = any(s.reductions for s in self.stages.later)
        if reduces and plan.items > 1:
            most = max(len(s.reductions) for s in self.stages.later)
            w.line(f"__local float part[{most * plan.mr * plan.items}];")
        w.line("const int lane = get_local_id(0);")
        w.line(f"const int panel = get_group_id(0) * {plan.items} + lane;")
        w.line(f"const int row = get_global_id(1) * {plan.mr};")
        ends = [f"row >= {rows}", f"row + {plan.mr} <= {rows} / s * first"]
        if -(-form.n // plan.nr) % plan.items:
            ends.append(f"panel >= {-(-form.n // plan.nr)}")
        if not reduces:  # kernel.py says why
            w.line(f"if ({' || '.join(ends)})")
            w.line("    return;")
        self._product(w, rows)
        self._sums(w)
        stages = (self.stages.tile, *self.stages.later)
        for index, stage in enumerate(stages):
            self._pass(w, stage, stages[index + 1 :], rows)
        if self.narrow in QUANTIZED:
            self._end_levels(w, rows)
        if isinstance(self.program.result, Scalar):
            for i in range(plan.mr):
                with w.block(f"if (lane == 0 && row + {i} < {rows})"):
                    w.line(f"out[row + {i}] = {self._scalar(self.program.result.name, i)};")

    # The product.

    def _product(self, w: Writer, rows: str) -> None:
        form, plan = self.form, self.plan
        a = self.arguments.rows(activation(form.a.base, form.rows))
        weight, _ = self.arguments.weights(form.weight)
        dtype = self.graph.types[form.weight].dtype
        offset = f" + {expression(form.a.offset)}" if form.a.offset != 0 else ""
        row = "float" if form.rows == F32 else row_type(form.rows)
        whole = form.rows in QUANTIZED
        stride = level_row(form.k).pitch if whole else form.a.rows()
        assert stride is not None
        # Four elements together are a word. Bytes of a row's last word that are no levels of it
        # meet weights of zero.
        of_row, of_weights = ("int",) * 2 if self.words else (row, OPENCL.type_of(dtype))
        depth = -(-form.k // plan.deep)
        for i in range(plan.mr):
            w.line(f"const int r{i} = min(row + {i}, {rows} - 1);")
            start = f"{a}{offset} + r{i} * {expression(stride)}"
            w.line(f"__global const {of_row} *a{i} = {self._words(start)};")
        w.line(f"__global const {of_weights} *w = {self._words(weight)} + "
               f"panel * {depth * plan.nr};")  # fmt: skip
        for i, v in unrolled(plan.mr, self.vectors):
            w.line(f"vi c{i}_{v} = (vi)(0);" if whole else f"vf c{i}_{v} = vf_set1(0.0f);")
        even = depth - depth % _AT_ONCE
        if even:
            with w.block(f"for (int k = 0; k < {even}; k += {_AT_ONCE})"):
                spread = spreads_from_memory(form, self.vector)
                for i in () if spread else range(plan.mr):
                    load = "vload_half4" if form.rows == F16 else "vload4"
                    value = f"{load}(0, a{i} + k)"
                    if whole and not self.words:
                        value = f"convert_int4({value})"
                    w.line(f"const {'int4' if whole else 'float4'} x{i} = {value};")
                for kk in range(_AT_ONCE):
                    element = f"a{{}}[k + {kk}]" if spread else f"x{{}}.s{kk}"
                    self._step(w, dtype, f"(k + {kk})", element)
        if depth > even:
            with w.block(f"for (int k = {even}; k < {depth}; k++)"):
                for i in range(plan.mr):
                    value = f"vload_half(k, a{i})" if form.rows == F16 else f"a{i}[k]"
                    w.line(f"const {'int' if whole else 'float'} x{i} = {value};")
                self._step(w, dtype, "k", "x{}")
        if form.rows != F32:
            self.needs.add(row)
        if dtype != F32 and not whole:
            self.needs.add(f"load_{dtype}")
        if self.words:
            self.needs.add("dot4")

    @property
    def words(self) -> bool:
        """Whether rows and weights are read as words of four elements of the depth."""
        return self.plan.deep > 1

    def _words(self, pointer: str) -> str:
        """A pointer to elements, as one to words where they are read as such."""
        return f"(__global const int *)({pointer})" if self.words else pointer

    def _step(self, w: Writer, dtype: DType, k: str, element: str) -> None:
        """One element of the depth, or one word: a row of the panel, by that of each row, which is
        `element` with the row's number in it."""
        whole, vector = self.form.rows in QUANTIZED, self.vector
        with w.block(""):
            for v in range(self.vectors):
                place = f"w + {k} * {self.plan.nr} + {v} * VF"
                if not whole:
                    load = "vf_load" if dtype == F32 else f"load_{dtype}"
                    w.line(f"const vf y{v} = {load}({place});")
                    continue
                value = f"vload{vector}(0, {place})"
                w.line(f"const vi y{v} = "
                       f"{value if self.words else f'convert_int{vector}({value})'};")  # fmt: skip
            for i, v in unrolled(self.plan.mr, self.vectors):
                x, c = element.format(i), f"c{i}_{v}"
                if self.words:
                    w.line(f"{c} = vi_dot4(y{v}, {x}, {c});")
                elif whole:  # exact sums of 32 bits, of factors that 24 bits hold
                    w.line(f"{c} = mad24(y{v}, (vi)({x}), {c});")
                else:
                    w.line(f"{c} = vf_fma(vf_set1({x}), y{v}, {c});")

    def _sums(self, w: Writer) -> None:
        """Scales of the rows and of the columns, and the bias."""
        if self.form.rows in QUANTIZED:
            self.sums, scale = "f", level_row(self.form.k).scale // (4 if self.words else 1)
            for i in range(self.plan.mr):
                w.line(f"const float unit{i} = *(__global const float *)(a{i} + {scale});")
            for i, v in unrolled(self.plan.mr, self.vectors):
                product = f"convert_float{self.vector}(c{i}_{v})"
                w.line(f"vf f{i}_{v} = vf_mul({product}, vf_set1(unit{i}));")
        sums = self.sums
        names = ((self.form.scales, "vf_mul"), (self.form.bias, "vf_add"))
        for name, function in names:
            if not name:
                continue
            pointer = self.arguments.of(name)
            for v in range(self.vectors):
                with w.block(""):
                    self._column(w, v)
                    w.line(f"const vf y = {self._load(f'{pointer} + j', self.partial)};")
                    for i in range(self.plan.mr):
                        w.line(f"{sums}{i}_{v} = {function}({sums}{i}_{v}, y);")

    def _column(self, w: Writer, v: int) -> None:
        w.line(f"const int j = panel * {self.plan.nr} + {v} * VF;")
        if self.partial:
            w.line(f"const int n = {self.form.n} - j;")

    # The epilogue.

    def _pass(self, w: Writer, stage: Stage, later: tuple[Stage, ...], rows: str) -> None:
        """One stage on all of the tile."""
        for _, slot in stage.stores:
            if slot != BESIDE_SLOT and self._read_later(slot, later) and slot not in self.kept:
                self.kept.add(slot)
                for i, v in unrolled(self.plan.mr, self.vectors):
                    w.line(f"vf slot{slot}_{i}_{v};")
        for k, r in enumerate(stage.reductions):
            least = f"-{OPENCL.infinity}" if r.kind == "max" else "0.0f"
            for i in range(self.plan.mr):
                w.line(f"vf {self._sum(stage, k)}_{i} = vf_set1({least});")
        for i in range(self.plan.mr):
            with w.block(""):
                w.line(f"const int r = r{i};")
                self.at = (i, 0)
                self.open_row(w, (stage,))
                for v in range(self.vectors):
                    self.at = (i, v)
                    self.source = f"{self.sums}{i}_{v}"
                    with w.block(""):
                        self._column(w, v)
                        self.steps(w, stage, self.partial)
                        self._keep(w, stage, later, rows)
                        self._reduce(w, stage)
        self._finish_rows(w, stage)

    def _read_later(self, slot: int, later: tuple[Stage, ...]) -> bool:
        """Whether a later stage reads a slot, before another stores something else there."""
        for stage in later:
            used = [x for step in stage.steps for x in step.operands]
            if Slot(slot) in (*used, *(r.value for r in stage.reductions)):
                return True
            if any(stored == slot for _, stored in stage.stores):
                return False
        return False

    def _keep(self, w: Writer, stage: Stage, later: tuple[Stage, ...], rows: str) -> None:
        """Keep values in registers for later stages, and store those that nothing replaces."""
        i, v = self.at
        for x, slot in stage.stores:
            value = self.operand(x, self.partial)
            if slot in self.kept:
                w.line(f"slot{slot}_{i}_{v} = {value};")
            if slot > 0 or any(stored == slot for s in later for _, stored in s.stores):
                continue
            if isinstance(self.program.result, Scalar) and slot == OUTPUT_SLOT:
                continue
            with w.block(f"if (row + {i} < {rows})"):
                self._store(w, slot, value)

    def _store(self, w: Writer, slot: int, value: str) -> None:
        name = "beside" if slot == BESIDE_SLOT else "out"
        pitch: object = expression(self.rows.width)
        if slot == self.narrow_slot and self.narrow in QUANTIZED:
            pitch = level_row(self.rows.width).pitch
        place = f"{name} + r * {pitch} + j"
        if slot == self.narrow_slot:
            kind = row_type(self.narrow)
            self.needs.add(kind)
            store = f"{kind}_store"
        else:
            store = "vf_store"
        whole, part = f"{store}({place}, {value});", f"{store}_n({place}, {value}, n);"
        w.line(part if self.partial else whole)

    def operand(self, x: RowOperand, partial: str) -> str:
        match x:
            case Slot(index):
                return f"slot{index}_{self.at[0]}_{self.at[1]}"
            case Scalar(name):
                return f"vf_set1({self._scalar(name, self.at[0])})"
            case _:
                return super().operand(x, partial)

    def _scalar(self, name: str, row: int) -> str:
        return f"{self._named((name, 'row'), 'of_row')}_{row}"

    def _sum(self, stage: Stage, k: int) -> str:
        return self._named((stage.reductions[k].scalar, "lanes"), stage.reductions[k].kind)

    def _reduce(self, w: Writer, stage: Stage) -> None:
        i, _ = self.at
        for k, r in enumerate(stage.reductions):
            value = self.operand(r.value, self.partial)
            if self.partial:
                least = f"-{OPENCL.infinity}" if r.kind == "max" else "0.0f"
                value = f"vf_keep({value}, n, {least})"
            value = f"vf_abs({value})" if r.kind == "magnitude" else value
            function = "vf_add" if r.kind == "sum" else "vf_max"
            w.line(f"{self._sum(stage, k)}_{i} = {function}({self._sum(stage, k)}_{i}, {value});")

    def _finish_rows(self, w: Writer, stage: Stage) -> None:
        """The sums and maxima of whole rows: those of all rows of the tile at once."""
        if not stage.reductions:
            return
        mr, items = self.plan.mr, self.plan.items
        own = {(k, i): f"vf_{'sum' if r.kind == 'sum' else 'top'}({self._sum(stage, k)}_{i})"
               for k, r in enumerate(stage.reductions) for i in range(mr)}  # fmt: skip
        if items > 1:
            w.line(BARRIER)
            for (k, i), value in own.items():
                w.line(f"part[{(k * mr + i) * items} + lane] = {value};")
            w.line(BARRIER)
            with w.block(f"for (int m = {items}; m > 1; m = (m + 1) / 2)"):
                w.line("const int half_way = (m + 1) / 2;")
                with w.block("if (lane + half_way < m)"):
                    for k, i in own:
                        a = f"part[{(k * mr + i) * items} + lane]"
                        b = f"part[{(k * mr + i) * items} + lane + half_way]"
                        top = stage.reductions[k].kind != "sum"
                        w.line(f"{a} = fmax({a}, {b});" if top else f"{a} += {b};")
                w.line(BARRIER)
            own = {(k, i): f"part[{(k * mr + i) * items}]" for k, i in own}
        for (k, i), value in own.items():
            name = self._scalar(stage.reductions[k].scalar, i)
            if stage.reductions[k].finish == "levels":
                self.tops[i] = f"top{i}"
                w.line(f"const float top{i} = {value};")
                value = f"top{i}"
            w.line(f"const float {name} = {self.finished(stage.reductions[k], value)};")

    def _end_levels(self, w: Writer, rows: str) -> None:
        """What the levels of each row are multiples of."""
        layout, kind = level_row(self.rows.width), row_type(self.narrow)
        name = "beside" if self.narrow_slot == BESIDE_SLOT else "out"
        for i in range(self.plan.mr):
            w.line(f"if (lane == 0 && row + {i} < {rows})")
            w.line(f"    {kind}_end({name} + r{i} * {layout.pitch}, {layout.scale}, "
                   f"{self.tops.get(i, self.top)});")  # fmt: skip


