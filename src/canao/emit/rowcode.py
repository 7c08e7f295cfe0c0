"""C for row-local computations: the stages of fuse/forms/rows.py over vectors of a row."""

from __future__ import annotations

from dataclasses import dataclass

from canao.emit.arguments import IDS, Arguments, c_type, row_type
from canao.emit.expressions import expression
from canao.emit.language import C11, Language
from canao.emit.vecmath import RARE, vector_code
from canao.emit.writer import Writer, number
from canao.fuse.access import Access
from canao.fuse.forms.rows import (
    BESIDE_SLOT,
    OUTPUT_SLOT,
    Gather,
    Local,
    Number,
    Outside,
    Read,
    Reduction,
    RowOperand,
    RowProgram,
    Rows,
    Scalar,
    Slot,
    Stage,
    TakeAlongAxis,
    outside,
)
from canao.graph.dtypes import F32, QUANTIZED, DType
from canao.graph.ir import Dim, Graph, dim_mul
from canao.schedule.operands import Operand, RowLayout
from canao.schedule.schedule import Buffer

# How partial results of a reduction are put together, where they are not added.
_COMBINED = {"max": "vf_max", "magnitude": "vf_max"}


@dataclass(frozen=True, slots=True)
class RowStyle:
    """How row code is written.

    chains    partial results of a reduction
    width     floats in a vector
    upto      whether the count of lanes in use may be a whole vector's or more
    layout    of the narrow row, where one is stored
    block     whether the first scratch buffer holds a row for each of the rows, and not one
    """

    chains: int
    width: int
    upto: bool = False
    language: Language = C11
    layout: RowLayout | None = None
    block: bool = False


class RowCode:
    """Emits the passes over a row. `r` is the row, `j` the column, `o` the output row in C, `b` a
    narrow row beside it.

    `source` is the C of the value that a GEMM puts into each row. `needs` are the functions of the
    whole file that the code calls.
    """

    def __init__(
        self, graph: Graph, rows: Rows, program: RowProgram, arguments: Arguments,
        scratch: tuple[Buffer, ...], style: RowStyle,
    ) -> None:  # fmt: skip
        self.graph, self.rows, self.program, self.style = graph, rows, program, style
        self.arguments, self.scratch = arguments, scratch
        self.long, self.pointer = style.language.int64, style.language.pointer
        # The C of values, and of what a reduction has beside its result.
        self.local: dict[str | tuple[str, str], str] = {}
        self.lanes: dict[str, str] = {}
        self.pointers: dict[Outside, str] = {}
        self.needs: set[str] = set()
        self.source = ""
        # The slot of the narrow row, and its type; the largest magnitude of a row that is
        # quantised, or of levels that are given, what makes their scale 1.
        row: tuple[int | None, DType] = program.narrow_row or (None, F32)
        self.narrow_slot, self.narrow = row
        self.top = f"{self.narrow.levels}.0f"

    # Operands.

    def _named(self, value: str | tuple[str, str], op: str) -> str:
        if value not in self.local:
            self.local[value] = f"{op}_{len(self.local)}"
        return self.local[value]

    def operand(self, x: RowOperand, partial: str) -> str:
        """C for an operand at column j; `partial` names the count of lanes, '' for all."""
        match x:
            case Local(name):
                return self.source if name == self.rows.source else self.local[name]
            case Number(value):
                return f"vf_set1({number(value, self.style.language)})"
            case Scalar(name):
                return f"vf_set1({self.local[name]})"
            case Slot(index):
                return self._load(f"{self._slot(index)} + j", partial)
            case TakeAlongAxis():
                return self._taken(x, partial)
            case Gather(table, _):
                return self._strided(x, self._table_step(table), partial)
            case Read(name):
                return self._strided(x, self.rows.reads[name].strides[-1], partial)

    def _strided(self, x: Outside, step: Dim, partial: str) -> str:
        """Elements `step` apart of the row that the operand's pointer is at."""
        pointer = self.pointers[x]
        if step == 0:
            return f"vf_set1({pointer}[0])"
        if isinstance(x, Gather) and self._table_type(x.table) != F32:
            return self._converted(pointer, self._table_type(x.table), step, partial)
        if step == 1:
            return self._load(f"{pointer} + j", partial)
        self.needs.add("strided")
        count = partial or "VF"
        return f"vf_gather({pointer} + j * {expression(step)}, {expression(step)}, {count})"

    def _converted(self, pointer: str, dtype: DType, step: Dim, partial: str) -> str:
        """Elements of another type, `step` apart, as floats."""
        self.needs.add(f"load_{dtype}")
        count = f"min64({partial}, VF)" if partial and self.style.upto else partial
        if step != 1:
            apart = expression(step)
            return f"load_{dtype}_by({pointer} + j * {apart}, {apart}, {count or 'VF'})"
        place = f"{pointer} + j"
        return f"load_{dtype}_n({place}, {count})" if count else f"load_{dtype}({place})"

    def _taken(self, x: TakeAlongAxis, partial: str) -> str:
        """Elements of the row at the operand's pointer, at the places that its indices name."""
        self.needs.add("take")
        pointer = self.pointers[x]
        source, places = self.rows.reads[x.source], self.rows.reads[x.indices]
        step, apart = expression(source.strides[-1]), expression(places.strides[-1])
        return (f"vf_take({pointer}, 0, {step}, {pointer}_at + j * {apart}, {apart}, "
                f"{partial or 'VF'})")  # fmt: skip

    def _table_step(self, table: str) -> int:
        """From one element of a table's row to the next; 0 where it has one, for all columns."""
        if self.graph.shape(table)[1] == 1 and self.rows.width != 1:
            return 0
        return self.arguments.weights(table)[1].nr if self.arguments.is_packed(table) else 1

    def _load(self, place: str, partial: str) -> str:
        if not partial:
            return f"vf_load({place})"
        return f"vf_load_{'upto' if self.style.upto else 'n'}({place}, {partial})"

    def _slot(self, slot: int) -> str:
        """Where a stored row begins: the output row, or a buffer of the scratch memory. Tiles have
        one place for what they store."""
        if self.style.upto:
            return "o"
        if slot == BESIDE_SLOT:
            return "b"
        if slot == 1 and self.style.block:
            return f"{self.scratch[0].name} + (r - begin) * {expression(self.rows.width)}"
        return self.scratch[slot - 1].name if slot else "o"

    # Rows.

    def open_row(self, w: Writer, stages: tuple[Stage, ...]) -> None:
        """Declare the pointers that the stages of row r need."""
        self.pointers = {}
        needed = outside(stages)
        self._indices(w, [a for x in needed for a in self._accesses(x)])
        for k, x in enumerate(needed):
            self.pointers[x] = name = f"p{k}"
            if isinstance(x, Gather):
                access = self.rows.reads[x.ids]
                index = f"{self.arguments.of(access.base, IDS)}[{self.place(access, 'r')}]"
                kind = self.style.language.type_of(self._table_type(x.table))
                w.line(f"{self.pointer}const {kind} *{name} = {self._table_row(x.table, index)};")
                continue
            starts = zip(self._accesses(x), ("", "_at"), (F32, IDS), strict=False)
            for row, suffix, dtype in starts:
                base = self.arguments.of(row.base, dtype)
                kind = c_type(Operand(row.base, dtype=dtype), self.style.language)
                place = self.place(row, "r")
                w.line(f"{self.pointer}const {kind} *{name}{suffix} = {base} + {place};")

    def _table_type(self, table: str) -> DType:
        return self.graph.types[table].dtype

    def _table_row(self, table: str, index: str) -> str:
        """Where row `index` of a table begins: [rows][width], or [rows / nr][width][nr]."""
        width = self.graph.shape(table)[1]
        assert isinstance(width, int)
        if not self.arguments.is_packed(table):
            name = self.arguments.of(table, self._table_type(table))
            return f"{name} + ({self.long}){index} * {width}"
        packed, storage = self.arguments.weights(table)
        nr = storage.nr
        return f"{packed} + ({self.long})({index} / {nr}) * {width * nr} + {index} % {nr}"

    def _accesses(self, x: Outside) -> list[Access]:
        """Where row r of each part of an operand begins."""
        if isinstance(x, Gather):
            return [self.rows.reads[x.ids]]
        names = (x.name,) if isinstance(x, Read) else (x.source, x.indices)
        whole = [self.rows.reads[name] for name in names]
        return [Access(a.base, a.shape[:-1], a.strides[:-1], a.offset) for a in whole]

    def _indices(self, w: Writer, accesses: list[Access]) -> None:
        """Split r into the indices of the leading dimensions where one stride cannot serve."""
        if all(_one_stride(a) is not None for a in accesses):
            return
        sizes = self.rows.lead
        step: Dim = 1
        for axis in reversed(range(len(sizes))):
            if sizes[axis] != 1:
                size = expression(sizes[axis])
                w.line(f"const {self.long} i{axis} = r / {expression(step)} % {size};")
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
            self.needs.update(RARE.get(step.op, ()))
            if step.op in ("gather", "take_along_axis"):
                text = self.operand(step.operands[0], partial)
            else:
                text = vector_code(step.op, *(self.operand(x, partial) for x in step.operands))
            w.line(f"const vf {self._named(step.target, step.op)} = {text};")

    def stores(self, w: Writer, stage: Stage, partial: str) -> None:
        for x, slot in stage.stores:
            place = f"{self._slot(slot)} + j"
            value = self.operand(x, partial)
            if slot == self.narrow_slot:
                kind = row_type(self.narrow)
                store = f"{kind}_store_n({place}, {value}, {partial})" if partial else (
                    f"{kind}_store({place}, {value})")  # fmt: skip
                w.line(f"{store};")
            elif partial:
                store = "vf_store_upto" if self.style.upto else "vf_store_n"
                w.line(f"{store}({place}, {value}, {partial});")
            else:
                w.line(f"vf_store({place}, {value});")

    def stage(self, w: Writer, stage: Stage) -> None:
        """One pass over row r, with its reductions."""
        width, vector = self.rows.width, self.style.width
        chains = self.style.chains if stage.reductions else 1
        for r in stage.reductions:
            least = f"-{self.style.language.infinity}" if r.kind == "max" else "0.0f"
            start = f"vf_set1({least})"
            self.lanes[r.scalar] = name = self._named((r.scalar, "lanes"), r.kind)
            w.line(f"vf {name}[{chains}] = {{{', '.join([start] * chains)}}};")
        if isinstance(width, int):
            full = width - width % vector
            done = 0
            if chains > 1:
                done = full - full % (chains * vector)
                with (
                    w.block(f"for ({self.long} j0 = 0; j0 < {done}; j0 += {chains} * VF)"),
                    w.block(f"{self.style.language.unroll} for (int u = 0; u < {chains}; u++)"),
                ):
                    w.line(f"const {self.long} j = j0 + u * VF;")
                    self._body(w, stage, "", "u")
            if full > done:
                with w.block(f"for ({self.long} j = {done}; j < {full}; j += VF)"):
                    self._body(w, stage, "")
            if width > full:
                with w.block(""):
                    w.line(f"const {self.long} j = {full}, n = {width - full};")
                    self._body(w, stage, "n")
        else:
            with w.block(f"for ({self.long} j = 0; j < {expression(width)}; j += VF)"):
                w.line(f"const {self.long} n = {expression(width)} - j;")
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
            lanes = f"{self.lanes[r.scalar]}[{chain}]"
            value = self.operand(r.value, partial)
            if partial:
                fill = f"-{self.style.language.infinity}" if r.kind == "max" else "0.0f"
                value = f"vf_keep({value}, {partial}, {fill})"
            value = f"vf_abs({value})" if r.kind == "magnitude" else value
            w.line(f"{lanes} = {_COMBINED.get(r.kind, 'vf_add')}({lanes}, {value});")

    def _finish(self, w: Writer, r: Reduction, chains: int) -> None:
        name, op = self.lanes[r.scalar], _COMBINED.get(r.kind, "vf_add")
        parts = [f"{name}[{u}]" for u in range(chains)]
        while len(parts) > 1:
            parts = [f"{op}({a}, {b})" for a, b in zip(parts[::2], parts[1::2], strict=True)]
        whole = self._over_row(f"vf_{'sum' if r.kind == 'sum' else 'top'}({parts[0]})", r)
        if r.finish == "levels":
            self.top = self._named((r.scalar, "top"), "top")
            w.line(f"const float {self.top} = {whole};")
            whole = self.top
        w.line(f"const float {self._named(r.scalar, r.finish)} = {self.finished(r, whole)};")

    def finished(self, r: Reduction, whole: str) -> str:
        """C for what is made of the sum, or of the maximum, of a whole row."""
        width, eps = f"(float){expression(self.rows.width)}", number(r.eps, self.style.language)
        return {
            "sum": whole,
            "mean": f"{whole} / {width}",
            "max": whole,
            "inverse": f"1.0f / {whole}",
            "rstd": f"1.0f / {self.style.language.sqrt}({whole} / {width} + {eps})",
            "levels": f"{row_type(self.narrow)}_inverse({whole})",
        }[r.finish]

    def _over_row(self, partial: str, r: Reduction) -> str:
        """C for the sum or maximum of a row, of whose elements `partial` is that of a part."""
        return partial

    def row_pass(self, w: Writer, stages: tuple[Stage, ...]) -> None:
        """All of `stages` for each row r in [begin, end)."""
        result = self.program.result
        scalar = result.name if isinstance(result, Scalar) else ""
        width, layout = expression(self.rows.width), self.style.layout
        with w.block(f"for ({self.long} r = begin; r < end; r++)"):
            if self.narrow_slot != OUTPUT_SLOT:
                pitch = "1" if scalar else width
                w.line(f"{self.pointer}float *const o = out + r * {pitch};")
            if layout is not None:
                self._open_narrow(w, layout)
            self.open_row(w, stages)
            for stage in stages:
                self.stage(w, stage)
            if scalar:
                w.line(f"o[0] = {self.local[scalar]};")
            if layout is not None:
                self._end_narrow(w, layout)

    def _open_narrow(self, w: Writer, layout: RowLayout) -> None:
        """Declare the pointer to the narrow row."""
        kind = row_type(self.narrow)
        self.needs.add(kind)
        name, start = ("o", "out") if self.narrow_slot == OUTPUT_SLOT else ("b", "beside")
        w.line(f"{self.pointer}{kind} *const {name} = {start} + r * {layout.pitch};")

    def _end_narrow(self, w: Writer, layout: RowLayout) -> None:
        """What follows the elements of the narrow row."""
        assert self.narrow_slot is not None
        top = f", {self.top}" if self.narrow in QUANTIZED else ""
        w.line(f"{row_type(self.narrow)}_end({self._slot(self.narrow_slot)}, "
               f"{expression(self.rows.width)}, {layout.scale}{top});")  # fmt: skip


def _one_stride(access: Access) -> Dim | None:
    """Stride from row to row where the leading dimensions act as one, else None."""
    return Access(access.base, (*access.shape, 1), (*access.strides, 0), access.offset).rows()
