"""Packed GEMM: each work-item computes a tile of some rows and one panel of columns in registers.

Weights are read front to back by a work-item, rows by all items of a group alike, from the caches.
Of whole numbers of eight bits, four elements of the depth may lie together: one instruction
multiplies and adds them up where a device has it. A norm or a softmax in the epilogue needs whole
rows: then a group has all panels of its rows, and values wait for it in registers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

from canao.fuse.forms.form import PackedGemm
from canao.fuse.forms.rows import row_program
from canao.fuse.group import Region
from canao.graph.dtypes import BF16, F32, I8, Q8, QUANTIZED
from canao.graph.ir import Graph
from canao.lower.epilogue import split, tiles_suffice
from canao.lower.lowering import Context, Kernel, canonical
from canao.lower.naming import op_names
from canao.lower.opencl.device import MOST_ITEMS, vector_name
from canao.lower.opencl.rows import reduces, writes_known_types
from canao.lower.row_reads import row_facts, row_operands
from canao.schedule.operands import Operand, Packed, activation
from canao.schedule.work import WHOLE, Grid, Work
from canao.target import GPU_VECTOR, Target

# Rows of a tile, the usual ones first. On a GPU 4 by 8: a multiply-add reads as much as with 8 by
# 4, and the operands that are held fit in the 64 registers that a Mali has for a work-item.
_ROWS = {True: (4, 8, 16, 6, 2, 1), False: (8, 16, 6, 4, 2, 1)}
_WIDEST = 16  # columns of the widest panel, of vectors of any width
_ITEMS = (64, 32, 16, 8, 128)  # of a group that shares no rows, the usual ones first


@dataclass(frozen=True, slots=True)
class ItemGemmPlan:
    """A tile of mr rows and nr columns for each work-item; groups of `items` panels of columns by
    `rows` tiles of rows, one where the items of a row wait for each other. `deep` elements of the
    depth are multiplied at once: 1 or, of whole numbers, 4."""

    kind: ClassVar[str] = "item_gemm"
    mr: int
    nr: int
    items: int
    rows: int
    deep: int

    @property
    def name(self) -> str:
        deep = "" if self.deep == 1 else f"_d{self.deep}"
        return f"{self.mr}x{self.nr}_{self.items}x{self.rows}{deep}"


class ItemGemmLowering:
    """Kernels of the form PackedGemm."""

    plans = ItemGemmPlan

    def legal(self, graph: Graph, form: PackedGemm) -> bool:
        """Rows of consecutive elements, a fixed stride apart."""
        if form.a.strides[-1] != 1 or form.a.rows() is None or form.rows == BF16:
            return False
        program = row_program(graph, form.epilogue)
        if not tiles_suffice(program) or not writes_known_types(program):
            return False
        return not reduces(form.epilogue) or form.n <= MOST_ITEMS * _WIDEST

    def default(self, form: PackedGemm, target: Target) -> ItemGemmPlan:
        return next(self.space(form, target))

    def space(self, form: PackedGemm, target: Target) -> Iterator[ItemGemmPlan]:
        gpu = target.vector == GPU_VECTOR
        # A CPU reads two vectors of weights for each element of a row that it spreads over one.
        counts = (2, 1, 4) if gpu else (2, 1)
        for mr, deep, vectors in product(_ROWS[gpu], _deep(form, target), counts):
            nr = vectors * target.vector
            panels = -(-form.n // nr)
            if reduces(form.epilogue):
                if panels <= MOST_ITEMS:
                    yield ItemGemmPlan(mr, nr, panels, 1, deep)
                continue
            for rows_of_group in (1, 2, 4, 8):
                for items in dict.fromkeys(min(n, panels) for n in _ITEMS):
                    if items * rows_of_group <= MOST_ITEMS:
                        yield ItemGemmPlan(mr, nr, items, rows_of_group, deep)

    def product(self, form: PackedGemm) -> str:
        """The types that are multiplied, by the names of instruction sets' tiles."""
        if not form.scales:
            return form.rows.name
        return I8.name if form.rows == Q8 else f"{form.rows}_{I8}"

    def tile(self, plan: ItemGemmPlan) -> tuple[int, int]:
        return plan.mr, plan.nr

    def rough_cost(
        self, form: PackedGemm, plan: ItemGemmPlan, rows: int, keys: int, target: Target
    ) -> float:
        """Multiply-adds and loads of vectors, of whole groups. On CPUs, which have no instruction
        for it in OpenCL, a dot product is as many multiply-adds and takes its operands apart."""
        vectors = plan.nr // target.vector
        panels = -(-form.n // (plan.nr * plan.items)) * plan.items
        tiles = -(-rows // (plan.mr * plan.rows)) * plan.rows
        step = plan.mr * vectors + vectors + plan.mr / 4
        if plan.deep > 1:
            step = step / plan.deep if target.vector == GPU_VECTOR else step + vectors + plan.mr
        return panels * tiles * step / rows

    def in_effect(self, plan: ItemGemmPlan, rows: int) -> ItemGemmPlan:
        return plan

    def kernel(self, context: Context, region: Region, plan: ItemGemmPlan) -> Kernel:
        graph, form = context.graph, region.form
        assert isinstance(form, PackedGemm)
        program = row_program(graph, form.epilogue)
        stages, names = split(program), dict[str, int]()
        reads = [activation(form.a.base, form.rows), weights(graph, form, plan)]
        reads += [Operand(name) for name in (form.bias, form.scales) if name]
        for part in ((stages.tile,), stages.later):
            reads += row_operands(context, form.epilogue, part)
        panels = -(-form.n // plan.nr)
        product = self.product(form)
        kind = "" if product == F32.name else f"_{product}"
        end = f"{vector_name(context.target)}_{plan.name}"
        return Kernel(
            name=f"gemm_{form.k}x{form.n}{kind}{op_names(region)}_{end}",
            reads=tuple(dict.fromkeys(reads)),
            work=Work(WHOLE),
            facts=(region.ops, plan, form.k, form.n, bool(form.bias), kind,
                   form.a.rows(), form.a.offset, form.epilogue.rows,
                   row_facts(context, form.epilogue, program),
                   canonical([r.value for r in reads], graph, names)),
            grid=Grid((plan.items, plan.rows),
                      ((panels, plan.items), (form.epilogue.rows, plan.mr * plan.rows))),
        )  # fmt: skip


def spreads_from_memory(form: PackedGemm, vector: int) -> bool:
    """Whether elements of a row are read one by one: a CPU spreads them over a vector as it reads
    them, and out of a vector in two steps."""
    return form.rows == F32 and vector > GPU_VECTOR


def weights(graph: Graph, form: PackedGemm, plan: ItemGemmPlan) -> Operand:
    """The weights of a form, in panels of the plan's columns."""
    return Operand(form.weight, Packed(plan.nr, plan.deep), graph.types[form.weight].dtype)


def _deep(form: PackedGemm, target: Target) -> tuple[int, ...]:
    """How many elements of the depth may be multiplied at once, the usual number first."""
    if form.rows not in QUANTIZED:
        return (1,)
    return (4, 1) if target.vector == GPU_VECTOR else (1, 4)
