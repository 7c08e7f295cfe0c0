"""A row-local computation as stages: what one pass over a row computes, stores and reduces.

A norm or a softmax needs its whole row before it can go on, so each ends a stage. Values that a
later stage reads are stored in the meantime: the first in the output row itself, others in
scratch rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from canao.fuse.access import Access
from canao.graph.dtypes import F32, NARROW, DType
from canao.graph.ir import Dim, Graph, Node, Shape, product

# To one number a row, and what is done with its elements and with their sum or maximum.
REDUCES = {"reduce_sum": ("sum", "sum"), "reduce_mean": ("sum", "mean"),
           "reduce_max": ("max", "max")}  # fmt: skip
REDUCTIONS = ("layer_norm", "softmax", "quantize", *REDUCES)

# What makes narrow rows.
MAKES_NARROW = ("quantize", "narrow", "rows_of_levels")


@dataclass(frozen=True, slots=True)
class Rows:
    """A row-local computation over `lead` x `width`.

    body     the computing nodes, in order; views are resolved into `reads`
    reads    how each operand that comes from outside is read, by its name in the body
    names    value inside the region -> the computed value that it is a view of
    output   the computed value (or read) that is stored
    source   the value that a packed GEMM has put into each row before the body runs, or ''
    beside   the last value of the body, of narrow rows, that is stored besides a float32 output,
             or ''
    """

    lead: Shape
    width: Dim
    body: tuple[Node, ...]
    reads: Mapping[str, Access]
    names: Mapping[str, str]
    output: str
    source: str = ""
    beside: str = ""

    @property
    def rows(self) -> Dim:
        return product(self.lead)


@dataclass(frozen=True, slots=True)
class Local:
    """A value that this stage has computed."""

    name: str


@dataclass(frozen=True, slots=True)
class Slot:
    """A row that an earlier stage has stored: 0 is the output row, those from 1 are scratch."""

    index: int


@dataclass(frozen=True, slots=True)
class Scalar:
    """One number a row, from a reduction."""

    name: str


@dataclass(frozen=True, slots=True)
class Number:
    """A constant."""

    value: float


@dataclass(frozen=True, slots=True)
class Read:
    """A value from outside, by its name in `Rows.reads`."""

    name: str


@dataclass(frozen=True, slots=True)
class Gather:
    """The row of a constant table that an id names; `ids` is a name in `Rows.reads`."""

    table: str
    ids: str


@dataclass(frozen=True, slots=True)
class TakeAlongAxis:
    """take_along_axis: element i is source[indices[i]]. `source` and `indices` are names in
    `Rows.reads`, each read a row at a time."""

    source: str
    indices: str


Outside = Read | Gather | TakeAlongAxis
RowOperand = Local | Slot | Scalar | Number | Outside


@dataclass(frozen=True, slots=True)
class RowStep:
    """target = op(operands), on one vector of the row."""

    target: str
    op: str
    operands: tuple[RowOperand, ...]


@dataclass(frozen=True, slots=True)
class Reduction:
    """After the pass: `scalar` = finish(sum, max or largest magnitude of `value`); finish: sum,
    mean, max, rstd, inverse, levels (of the largest magnitude: what quantises the row)."""

    scalar: str
    kind: str
    value: RowOperand
    finish: str
    eps: float = 0.0


@dataclass(frozen=True, slots=True)
class Stage:
    steps: tuple[RowStep, ...]
    stores: tuple[tuple[Local, int], ...]
    reductions: tuple[Reduction, ...]


OUTPUT_SLOT = 0
# A narrow row beside the output row. No stage reads it.
BESIDE_SLOT = -1


@dataclass(frozen=True, slots=True)
class RowProgram:
    """Stages in order; slot 0 is the output row, slots from 1 are scratch rows.

    writes      type of the output row. If it is narrow, the last stage stores it and nothing
                before goes there
    beside      type of a narrow row that the last stage stores besides, if there is one
    """

    stages: tuple[Stage, ...]
    slots: int
    result: RowOperand
    writes: DType = F32
    beside: DType | None = None

    @property
    def narrow(self) -> bool:
        return self.writes in NARROW

    @property
    def narrow_row(self) -> tuple[int, DType] | None:
        """The slot and the type of the one narrow row that is stored; None where there is none."""
        if self.beside is not None:
            return BESIDE_SLOT, self.beside
        return (OUTPUT_SLOT, self.writes) if self.narrow else None


class _Stages:
    def __init__(self, graph: Graph, rows: Rows) -> None:
        self.graph, self.rows = graph, rows
        self.stages: list[Stage] = []
        self.steps: list[RowStep] = []
        self.stores: dict[str, int] = {}
        self.pending: list[tuple[Local, int]] = []
        self.reductions: list[Reduction] = []
        self.local: set[str] = {rows.source} if rows.source else set()
        self.scalars: set[str] = set()
        self.writes = graph.types[rows.output].dtype
        # What later stages read is float32, for which a narrow row has no room.
        self.slots = 1 if self.writes in NARROW else 0
        self.serial = self.position = 0
        self.last_reader = _last_readers(rows)
        order = [n.output for n in rows.body]
        self.output_made = order.index(rows.output) if rows.output in order else -1

    def fresh(self) -> str:
        self.serial += 1
        return f"t{self.serial}"

    def operand(self, name: str) -> RowOperand:
        name = self.rows.names.get(name, name)
        array = self.graph.constants.get(name)
        if array is not None and array.size == 1:
            return Number(float(array.reshape(())))
        if name in self.scalars:
            return Scalar(name)
        if name in self.local:
            return Local(name)
        if name in self.stores:
            return Slot(self.stores[name])
        return Read(name)

    def step(self, op: str, *operands: RowOperand, target: str = "") -> Local:
        target = target or self.fresh()
        self.steps.append(RowStep(target, op, operands))
        self.local.add(target)
        return Local(target)

    def keep(self, value: RowOperand) -> RowOperand:
        """The operand to read `value` by in later stages, stored if it has to be."""
        if not isinstance(value, Local):
            return value
        if value.name not in self.stores:
            self.stores[value.name] = slot = self._slot(value.name)
            self.pending.append((value, slot))
        return Slot(self.stores[value.name])

    def _slot(self, name: str) -> int:
        """The slot to keep a value in: the output row until the output is there, then scratch."""
        if self.rows.beside:
            if name == self.rows.output:
                self.slots = max(self.slots, 1)
                return OUTPUT_SLOT
            last = max(self.position, self.last_reader.get(name, 0))
            if last > self.output_made:
                self.slots = max(self.slots, 1)
        self.slots += 1
        return self.slots - 1

    def keep_live(self) -> None:
        """Store what was computed in this stage and is read after the node that ends it."""
        for name in sorted(self.local):
            if self.last_reader.get(name, -1) > self.position:
                self.keep(Local(name))

    @property
    def in_parts(self) -> bool:
        """Whether this stage runs on tiles, which have a part of a row."""
        return bool(self.rows.source) and not self.stages

    def end_stage(self) -> None:
        self.stages.append(Stage(tuple(self.steps), tuple(self.pending), tuple(self.reductions)))
        self.steps, self.pending, self.reductions = [], [], []
        self.local = set()

    def reduce(self, kind: str, value: RowOperand, finish: str, eps: float = 0.0) -> Scalar:
        scalar = self.fresh()
        self.reductions.append(Reduction(scalar, kind, value, finish, eps))
        self.scalars.add(scalar)
        return Scalar(scalar)


def outside(stages: Iterable[Stage]) -> tuple[Outside, ...]:
    """What stages read from outside, in the order of its first use."""
    used = [x for stage in stages
            for x in (*(x for step in stage.steps for x in step.operands),
                      *(r.value for r in stage.reductions))]  # fmt: skip
    return tuple(dict.fromkeys(x for x in used if isinstance(x, (Read, Gather, TakeAlongAxis))))


def row_program(graph: Graph, rows: Rows) -> RowProgram:
    """The stages of a row-local form."""
    state = _Stages(graph, rows)
    for position, n in enumerate(rows.body):
        state.position = position
        if n.op in REDUCTIONS or (n.op in MAKES_NARROW and state.in_parts):
            state.keep_live()
        _NODE.get(n.op, _pointwise)(state, n)
    result = state.operand(rows.output)
    if isinstance(result, Local):
        state.pending.append((result, OUTPUT_SLOT))
        state.slots = max(state.slots, 1)
    elif isinstance(result, Read) or not state.stages:
        copied = state.step("copy", result)
        state.pending.append((copied, OUTPUT_SLOT))
    beside = graph.types[rows.beside].dtype if rows.beside else None
    if beside is not None:
        state.pending.append((Local(rows.beside), BESIDE_SLOT))
    state.end_stage()
    return RowProgram(tuple(state.stages), max(state.slots, 1), result, state.writes, beside)


def _last_readers(rows: Rows) -> dict[str, int]:
    last: dict[str, int] = {}
    for position, n in enumerate(rows.body):
        for name in n.inputs:
            last[rows.names.get(name, name)] = position
    last[rows.output] = len(rows.body)
    return last


def _pointwise(state: _Stages, n: Node) -> None:
    state.step(n.op, *(state.operand(i) for i in n.inputs), target=n.output)


def _gather(state: _Stages, n: Node) -> None:
    table, ids = n.inputs
    state.step("gather", Gather(table, ids), target=n.output)


def _quantized_gather(state: _Stages, n: Node) -> None:
    table, scales, ids = n.inputs
    levels, scale = (state.step("gather", Gather(name, ids)) for name in (table, scales))
    state.step("mul", levels, scale, target=n.output)


def _take_along_axis(state: _Stages, n: Node) -> None:
    source, indices = n.inputs
    state.step("take_along_axis", TakeAlongAxis(source, indices), target=n.output)


def _layer_norm(state: _Stages, n: Node) -> None:
    x = state.operand(n.inputs[0])
    mean = state.reduce("sum", x, "mean")
    x = state.keep(x)
    state.end_stage()
    centred = state.step("sub", x, mean)
    square = state.step("mul", centred, centred)
    rstd = state.reduce("sum", square, "rstd", n.attribute("eps"))
    state.end_stage()
    normal = state.step("mul", state.step("sub", x, mean), rstd)
    gamma, beta = (state.operand(i) for i in n.inputs[1:])
    state.step("fma", normal, gamma, beta, target=n.output)


def _softmax(state: _Stages, n: Node) -> None:
    x = state.operand(n.inputs[0])
    top = state.reduce("max", x, "max")
    x = state.keep(x)
    state.end_stage()
    e = state.step("exp", state.step("sub", x, top))
    inverse = state.reduce("sum", e, "inverse")
    kept = state.keep(e)
    state.end_stage()
    state.step("mul", kept, inverse, target=n.output)


def _quantize(state: _Stages, n: Node) -> None:
    x = state.operand(n.inputs[0])
    levels = state.reduce("magnitude", x, "levels")
    x = state.keep(x)
    state.end_stage()
    state.step("mul", x, levels, target=n.output)


def _narrow(state: _Stages, n: Node) -> None:
    x = state.operand(n.inputs[0])
    if state.in_parts:
        x = state.keep(x)
        state.end_stage()
    state.step("copy", x, target=n.output)


def _reduce(state: _Stages, n: Node) -> None:
    kind, finish = REDUCES[n.op]
    scalar = state.reduce(kind, state.operand(n.inputs[0]), finish)
    state.end_stage()
    # The scalar takes the node's name, so that later nodes find it.
    last = state.stages[-1]
    renamed = tuple(
        Reduction(n.output, r.kind, r.value, r.finish, r.eps) if r.scalar == scalar.name else r
        for r in last.reductions
    )
    state.stages[-1] = Stage(last.steps, last.stores, renamed)
    state.scalars.add(n.output)


_NODE = {"gather": _gather, "quantized_gather": _quantized_gather,
         "take_along_axis": _take_along_axis, "layer_norm": _layer_norm,
         "softmax": _softmax, "quantize": _quantize, "narrow": _narrow,
         "rows_of_levels": _narrow,
         **dict.fromkeys(REDUCES, _reduce)}  # fmt: skip
