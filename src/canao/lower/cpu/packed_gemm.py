"""Packed GEMM: blocks of rows, passes over the depth, panels of packed weights, register tiles.

A norm or a softmax in the epilogue runs on a block of rows that is still in cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from canao.fuse.forms.form import PackedGemm
from canao.fuse.forms.rows import MAKES_NARROW, row_program
from canao.fuse.group import Region
from canao.graph.dtypes import F32, I8, DType
from canao.graph.ir import Graph
from canao.isa.registry import ISAS
from canao.isa.table import SIZES, TileOps
from canao.lower.cpu.quantized import tile_name
from canao.lower.cpu.rows import chains, row_buffers
from canao.lower.cpu.tiles import default_tile, rough_cost, rounded, tiles
from canao.lower.epilogue import split, tiles_suffice
from canao.lower.lowering import Context, Kernel, canonical
from canao.lower.naming import op_names
from canao.lower.row_reads import row_facts, row_operands
from canao.schedule.operands import Operand, Packed, activation
from canao.schedule.work import ROWS, Work
from canao.target import Target

PAGE = 4096


@dataclass(frozen=True, slots=True)
class PackedGemmPlan:
    """mr x nr register tile, passes of kc, blocks of mc rows. A tile that is alone in its panel
    fetches the panel `ahead` bytes before it reads it. chains: of reductions in the epilogue."""

    kind: ClassVar[str] = "gemm"
    mr: int
    nr: int
    kc: int
    mc: int
    ahead: int = PAGE
    chains: int = 1

    @property
    def tile(self) -> tuple[int, int]:
        return self.mr, self.nr

    @property
    def name(self) -> str:
        return f"{self.mr}x{self.nr}_kc{self.kc}_mc{self.mc}"


class PackedGemmLowering:
    """Kernels of the form PackedGemm."""

    plans = PackedGemmPlan

    def legal(self, graph: Graph, form: PackedGemm) -> bool:
        """Tiles read rows of consecutive elements, a fixed stride apart."""
        if form.a.strides[-1] != 1 or form.a.rows() is None:
            return False
        program = row_program(graph, form.epilogue)
        if program.narrow_row and any(n.op == "causal_attention" for n in graph.nodes):
            return False  # threads share out the columns of a single token
        return tiles_suffice(program)

    def default(self, form: PackedGemm, target: Target) -> PackedGemmPlan:
        """The panel of weights in a fifth of L2, rows in half."""
        mr, nr = default_tile(target, form.n, product_name(form))
        kc = _depth(form, _passes(form, nr, target), target)
        return _plan(form, target, (mr, nr), kc, _tiles_in_cache(form, kc, mr, target))

    def space(self, form: PackedGemm, target: Target) -> Iterator[PackedGemmPlan]:
        default = self.default(form, target)
        for tile in dict.fromkeys([default.tile, *tiles(target, product_name(form))]):
            yield from _of_tile(form, target, tile)

    def kernel(self, context: Context, region: Region, plan: PackedGemmPlan) -> Kernel:
        graph, form = context.graph, region.form
        assert isinstance(form, PackedGemm)
        program, isa = row_program(graph, form.epilogue), context.target.isa
        stages, names = split(program), dict[str, int]()
        reads = [rows_of(form), weights(graph, form, plan, isa)]
        reads += [Operand(name) for name in (form.bias, form.scales) if name]
        for part in ((stages.tile,), stages.later):
            reads += row_operands(context, form.epilogue, part)
        columns = 0 if stages.later else form.n
        return Kernel(
            name=f"gemm_{form.k}x{form.n}{_kind(form)}{op_names(region)}_{isa}_{plan.name}",
            reads=tuple(dict.fromkeys(reads)),
            work=Work(ROWS, form.epilogue.rows, columns=columns, panel=plan.nr),
            facts=(region.ops, plan, form.k, form.n, bool(form.bias), _kind(form),
                   form.a.rows(), form.a.offset, form.epilogue.rows,
                   row_facts(context, form.epilogue, program),
                   canonical([r.value for r in reads], graph, names)),
            scratch=row_buffers(form.epilogue.width, program, plan.mc),
        )  # fmt: skip

    def product(self, form: PackedGemm) -> str:
        return product_name(form)

    def tile(self, plan: PackedGemmPlan) -> tuple[int, int]:
        return plan.tile

    def rough_cost(
        self, form: PackedGemm, plan: PackedGemmPlan, rows: int, keys: int, target: Target
    ) -> float:
        return rough_cost(plan.tile, (form.n,), rows, target, product_name(form))

    def in_effect(self, plan: PackedGemmPlan, rows: int) -> PackedGemmPlan:
        """With as many rows in a block as there are in fact."""
        return replace(plan, mc=min(plan.mc, rows))


def weights(graph: Graph, form: PackedGemm, plan: PackedGemmPlan, isa: str) -> Operand:
    """The weights of a form as its plan and their type's inner loop read them."""
    dtype = graph.types[form.weight].dtype
    tile = ISAS[isa].tiles[tile_name(form.rows, dtype)]
    return Operand(form.weight, Packed(plan.nr, tile.kr, tile.offset), dtype)


def rows_of(form: PackedGemm) -> Operand:
    """What is multiplied by the weights."""
    return activation(form.a.base, form.rows)


def weight_type(form: PackedGemm) -> DType:
    """The type of a form's weights: int8 where they have scales, else that of the rows."""
    return I8 if form.scales else form.rows


def product_name(form: PackedGemm) -> str:
    """Which row of an instruction set's tiles multiplies."""
    return tile_name(form.rows, weight_type(form))


def _kind(form: PackedGemm) -> str:
    """The types of a product as part of a kernel's name; '' for float32."""
    name = product_name(form)
    return "" if name == F32.name else f"_{name}"


def _tile(form: PackedGemm, target: Target) -> TileOps:
    return ISAS[target.isa].tiles[product_name(form)]


def _bytes(form: PackedGemm, target: Target) -> tuple[int, int]:
    """Of an element of the rows and of a weight."""
    tile = _tile(form, target)
    return SIZES[tile.activations], SIZES[tile.weights]


def _depth(form: PackedGemm, passes: int, target: Target) -> int:
    """The part of the depth that each of so many passes takes: whole turns of the inner loop."""
    return rounded(-(-form.k // passes), _tile(form, target).deep)


def _plan(
    form: PackedGemm, target: Target, tile: tuple[int, int], kc: int, blocks: int
) -> PackedGemmPlan:
    mr, nr = tile
    partial = chains(form.epilogue.width, target)
    if form.epilogue.body and form.epilogue.body[-1].op in MAKES_NARROW:
        # Rows wait in float32 until they are whole.
        blocks = max(1, min(blocks, target.l2_bytes // 2 // (F32.bytes * form.n) // mr))
    return PackedGemmPlan(mr, nr, kc=kc, mc=blocks * mr, chains=partial)


def _of_tile(
    form: PackedGemm, target: Target, tile: tuple[int, int]
) -> Iterator[PackedGemmPlan]:
    """Plans around those that `default` would take for a tile. Passes share k evenly."""
    mr, nr = tile
    usual = _passes(form, nr, target)
    counts = {1, 2, 3, 4, 6, 8, usual - 1, usual, usual + 1} - {0}
    for kc in sorted({_depth(form, n, target) for n in counts if n <= usual or form.k >= 96 * n}):
        for blocks in sorted({2, 4, 8, 16, 32, _tiles_in_cache(form, kc, mr, target)}):
            yield _plan(form, target, tile, kc, blocks)


def _passes(form: PackedGemm, nr: int, target: Target) -> int:
    """Passes over k whose panels of weights take a fifth of L2 at most.

    Deep passes pay: a panel that streams from L2 costs less than storing and loading the tile
    once more (MiniLM at 128 tokens, avx512: kc 128, 192, 384 take 29.9, 28.4, 27.3 ms).
    """
    _, size = _bytes(form, target)
    return -(-form.k // max(128, target.l2_bytes // 5 // (size * nr)))


def _tiles_in_cache(form: PackedGemm, kc: int, mr: int, target: Target) -> int:
    """Row tiles of a cache block: the rows take half of L2."""
    size, _ = _bytes(form, target)
    return max(4, min(32, target.l2_bytes // 2 // (size * kc) // mr))
