"""C for row-local computations: the stages of fuse/forms/rows.py over vectors of a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from canao.emit.isa import Isa
from canao.emit.vecmath import vector_code
from canao.emit.writer import Writer, number
from canao.fuse.access import Access
from canao.fuse.forms.rows import Operand, Reduction, RowProgram, Rows, Stage
from canao.graph.ir import Dim, Graph, Poly, dim_mul

NO_PANELS: Mapping[str, int] = {}
# Partial results of a reduction over a row, so that it does not wait for every addition.
CHAINS = 4


def expression(d: Dim) -> str:
    """A dimension as C; `s` is the token count."""
    return f"({d})" if isinstance(d, Poly) else str(d)


C_TYPES = {"float": "float", "packed": "float", "ids": "int32_t"}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A pointer that a kernel takes: the value it points to, and the C name.

    kind: float (plain), ids (token or type ids), packed (weights in panels of NR columns)
    nr: the columns of a panel, where they are not those of the kernel's own plan
    """

    value: str
    name: str
    kind: str = "float"
    nr: int = 0

    @property
    def declaration(self) -> str:
        return f"const {C_TYPES[self.kind]} *restrict {self.name}"


class Parameters:
    """The pointers of one kernel, in the order in which its code first needs them."""

    def __init__(self) -> None:
        self.list: list[Parameter] = []

    def of(self, value: str, kind: str = "float", nr: int = 0) -> str:
        for p in self.list:
            if (p.value, p.kind) == (value, kind):
                return p.name
        prefix = {"float": "in", "ids": "ids", "packed": "w"}[kind]
        self.list.append(Parameter(value, f"{prefix}{len(self.list)}", kind, nr))
        return self.list[-1].name


class RowCode:
    """Emits the passes over a row. `r` is the row, `j` the column, `o` the output row in C.

    `panels` are the tables that lie packed for a product, with the columns of their panels.
    """

    def __init__(
        self, graph: Graph, rows: Rows, program: RowProgram, isa: Isa, parameters: Parameters,
        panels: Mapping[str, int] = NO_PANELS,
    ) -> None:  # fmt: skip
        self.graph, self.rows, self.program, self.isa = graph, rows, program, isa
        self.parameters, self.panels = parameters, panels
        self.local: dict[str, str] = {}
        self.pointers: dict[str, str] = {}
        self.needs: set[str] = set()
        self.source = ""

    # Operands.

    def _named(self, value: str, op: str) -> str:
        if value not in self.local:
            self.local[value] = f"{op}_{len(self.local)}"
        return self.local[value]

    def operand(self, x: Operand, partial: str) -> str:
        """C for an operand at column j; `partial` names the count of lanes, '' for all."""
        if x.kind == "local":
            return self.source if x.name == self.rows.source else self.local[x.name]
        if x.kind == "number":
            return f"vf_set1({number(x.number)})"
        if x.kind == "scalar":
            return f"vf_set1({self.local[x.name]})"
        if x.kind == "slot":
            return self._load(f"{self._slot(int(x.name))} + j", partial)
        pointer = self.pointers[x.name]
        if x.kind == "pick":
            return self._picked(x, pointer, partial)
        step = self._table_step(x) if x.kind == "gather" else self.rows.reads[x.name].strides[-1]
        if step == 0:
            return f"vf_set1({pointer}[0])"
        if step == 1:
            return self._load(f"{pointer} + j", partial)
        self.needs.add("strided")
        count = partial or "VF"
        return f"vf_gather({pointer} + j * {expression(step)}, {expression(step)}, {count})"

    def _picked(self, x: Operand, pointer: str, partial: str) -> str:
        """Elements of the row at `pointer`, at the places that row r of the other operand names."""
        self.needs.add("pick")
        source, places = (self.rows.reads[name] for name in x.name.split("\n"))
        step, apart = expression(source.strides[-1]), expression(places.strides[-1])
        return (f"vf_pick({pointer}, 0, {step}, {pointer}_at + j * {apart}, {apart}, "
                f"{partial or 'VF'})")  # fmt: skip

    def _table_step(self, x: Operand) -> int:
        """From one element of a table's row to the next."""
        return self.panels.get(x.name.split("\n")[0], 1)

    def _load(self, place: str, partial: str) -> str:
        return f"vf_load_n({place}, {partial})" if partial else f"vf_load({place})"

    def _slot(self, slot: int) -> str:
        if slot == 0:
            return "o"
        pitch = expression(self.rows.width)
        return "scratch" if slot == 1 else f"scratch + {slot - 1} * ({pitch} + 16)"

    # Rows.

    def open_row(self, w: Writer, stages: tuple[Stage, ...]) -> None:
        """Declare the pointers that the stages of row r need."""
        needed: dict[str, Operand] = {}
        for stage in stages:
            used = [x for step in stage.steps for x in step.operands]
            used += [r.value for r in stage.reductions]
            needed.update({x.name: x for x in used if x.kind in ("read", "gather", "pick")})
        self.pointers = {}
        self._indices(w, [a for x in needed.values() for a in self._accesses(x)])
        for k, x in enumerate(needed.values()):
            self.pointers[x.name] = name = f"p{k}"
            if x.kind == "gather":
                table, ids = x.name.split("\n")
                access = self.rows.reads[ids]
                index = f"{self.parameters.of(access.base, 'ids')}[{self.place(access, 'r')}]"
                w.line(f"const float *{name} = {self._table_row(table, index)};")
                continue
            starts = zip(self._accesses(x), ("", "_at"), ("float", "ids"), strict=False)
            for row, suffix, kind in starts:
                base, c = self.parameters.of(row.base, kind), C_TYPES[kind]
                w.line(f"const {c} *{name}{suffix} = {base} + {self.place(row, 'r')};")

    def _table_row(self, table: str, index: str) -> str:
        """Where row `index` of a table begins: [rows][width], or [rows / nr][width][nr]."""
        width, nr = self.graph.shape(table)[1], self.panels.get(table)
        if nr is None:
            return f"{self.parameters.of(table)} + (int64_t){index} * {width}"
        packed = self.parameters.of(table, "packed", nr)
        return f"{packed} + (int64_t)({index} / {nr}) * {width * nr} + {index} % {nr}"

    def _accesses(self, x: Operand) -> list[Access]:
        """Where row r of each operand begins."""
        if x.kind == "gather":
            return [self.rows.reads[x.name.split("\n")[1]]]
        whole = [self.rows.reads[name] for name in x.name.split("\n")]
        return [Access(a.base, a.shape[:-1], a.strides[:-1], a.offset) for a in whole]

    def _indices(self, w: Writer, accesses: list[Access]) -> None:
        """Split r into the indices of the leading dimensions where one stride cannot serve."""
        if all(_one_stride(a) is not None for a in accesses):
            return
        sizes = self.rows.lead
        step: Dim = 1
        for axis in reversed(range(len(sizes))):
            if sizes[axis] != 1:
                w.line(
                    f"const int64_t i{axis} = r / {expression(step)} % {expression(sizes[axis])};"
                )
            step = dim_mul(step, sizes[axis])

    def place(self, access: Access, row: str) -> str:
        """Index in the base of the first element of a row."""
        start = [expression(access.offset)] if access.offset != 0 else []
        step = _one_stride(access)
        if step is not None:
            terms = [] if step == 0 else [row if step == 1 else f"{row} * {expression(step)}"]
            return " + ".join(start + terms) or "0"
        pad = len(self.rows.lead) - len(access.shape)
        for axis, (size, stride) in enumerate(zip(access.shape, access.strides, strict=True)):
            if size != 1 and stride != 0:
                start.append(f"i{axis + pad} * {expression(stride)}")
        return " + ".join(start) or "0"

    # Passes.

    def steps(self, w: Writer, stage: Stage, partial: str) -> None:
        for step in stage.steps:
            if step.op in ("gather", "pick"):
                text = self.operand(step.operands[0], partial)
            else:
                text = vector_code(step.op, *(self.operand(x, partial) for x in step.operands))
            w.line(f"const vf {self._named(step.target, step.op)} = {text};")

    def stores(self, w: Writer, stage: Stage, partial: str) -> None:
        for x, slot in stage.stores:
            place = f"{self._slot(slot)} + j"
            value = self.operand(x, partial)
            if partial:
                w.line(f"vf_store_n({place}, {value}, {partial});")
            else:
                w.line(f"vf_store({place}, {value});")

    def stage(self, w: Writer, stage: Stage) -> None:
        """One pass over row r, with its reductions."""
        width = self.rows.width
        chains = 1
        if stage.reductions and isinstance(width, int) and width >= CHAINS * self.isa.width:
            chains = CHAINS
        for r in stage.reductions:
            start = "vf_set1(-INF_F)" if r.kind == "max" else "vf_set1(0.0f)"
            name = self._named(r.scalar + " lanes", r.kind)
            w.line(f"vf {name}[{chains}] = {{{', '.join([start] * chains)}}};")
        if isinstance(width, int):
            full = width - width % self.isa.width
            done = 0
            if chains > 1:
                done = full - full % (chains * self.isa.width)
                with (
                    w.block(f"for (int64_t j0 = 0; j0 < {done}; j0 += {chains} * VF)"),
                    w.block(f"UNROLL for (int u = 0; u < {chains}; u++)"),
                ):
                    w.line("const int64_t j = j0 + u * VF;")
                    self._body(w, stage, "", "u")
            if full > done:
                with w.block(f"for (int64_t j = {done}; j < {full}; j += VF)"):
                    self._body(w, stage, "")
            if width > full:
                with w.block(""):
                    w.line(f"const int64_t j = {full}, n = {width - full};")
                    self._body(w, stage, "n")
        else:
            with w.block(f"for (int64_t j = 0; j < {expression(width)}; j += VF)"):
                w.line(f"const int64_t n = {expression(width)} - j;")
                with w.block("if (n >= VF)"):
                    self._body(w, stage, "")
                with w.block("else"):
                    self._body(w, stage, "n")
        for r in stage.reductions:
            self._finish(w, r, chains)

    def _body(self, w: Writer, stage: Stage, partial: str, chain: str = "0") -> None:
        self.steps(w, stage, partial)
        self.stores(w, stage, partial)
        for r in stage.reductions:
            lanes = f"{self.local[r.scalar + ' lanes']}[{chain}]"
            value = self.operand(r.value, partial)
            if partial:
                fill = "-INF_F" if r.kind == "max" else "0.0f"
                value = f"vf_keep({value}, {partial}, {fill})"
            op = "vf_max" if r.kind == "max" else "vf_add"
            w.line(f"{lanes} = {op}({lanes}, {value});")

    def _finish(self, w: Writer, r: Reduction, chains: int) -> None:
        name, op = self.local[r.scalar + " lanes"], "vf_max" if r.kind == "max" else "vf_add"
        parts = [f"{name}[{u}]" for u in range(chains)]
        while len(parts) > 1:
            parts = [f"{op}({a}, {b})" for a, b in zip(parts[::2], parts[1::2], strict=True)]
        lanes = parts[0]
        width = f"(float){expression(self.rows.width)}"
        text = {
            "sum": f"vf_sum({lanes})",
            "mean": f"vf_sum({lanes}) / {width}",
            "max": f"vf_top({lanes})",
            "inverse": f"1.0f / vf_sum({lanes})",
            "rstd": f"1.0f / __builtin_sqrtf(vf_sum({lanes}) / {width} + {number(r.eps)})",
        }[r.finish]
        w.line(f"const float {self._named(r.scalar, r.finish)} = {text};")

    def row_pass(self, w: Writer, stages: tuple[Stage, ...]) -> None:
        """All of `stages` for each row r in [begin, end)."""
        scalar = self.program.result.kind == "scalar"
        width = "1" if scalar else expression(self.rows.width)
        with w.block("for (int64_t r = begin; r < end; r++)"):
            w.line(f"float *const o = out + r * {width};")
            self.open_row(w, stages)
            for stage in stages:
                self.stage(w, stage)
            if scalar:
                w.line(f"o[0] = {self.local[self.program.result.name]};")


def _one_stride(access: Access) -> Dim | None:
    """Stride from row to row where the leading dimensions act as one, else None."""
    return Access(access.base, (*access.shape, 1), (*access.strides, 0), access.offset).rows()
