"""Batched GEMM of two activations: each work-item computes some rows of a vector of columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from canao.fuse.forms.form import BatchedGemm
from canao.fuse.group import Region
from canao.graph.ir import Dim, Graph, product
from canao.lower.batches import one_batch
from canao.lower.lowering import Context, Kernel, canonical
from canao.lower.naming import plain
from canao.lower.opencl.device import vector_name
from canao.schedule.operands import Operand
from canao.schedule.work import WHOLE, Grid, Work
from canao.target import Target

_ITEMS = 32


@dataclass(frozen=True, slots=True)
class ItemBatchedGemmPlan:
    """A tile of mr rows and nr columns, one vector, for each work-item; groups of `items` of these.
    """

    kind: ClassVar[str] = "item_batched_gemm"
    mr: int
    nr: int
    items: int

    @property
    def name(self) -> str:
        return f"{self.mr}x{self.nr}_{self.items}"


class ItemBatchedGemmLowering:
    """Kernels of the form BatchedGemm."""

    plans = ItemBatchedGemmPlan

    def legal(self, graph: Graph, form: BatchedGemm) -> bool:
        return form.a.strides[-1] == 1 and one_batch(form.a.shape[:-2])

    def default(self, form: BatchedGemm, target: Target) -> ItemBatchedGemmPlan:
        return ItemBatchedGemmPlan(4, target.vector, _items(form.b.shape[-1], target.vector))

    def space(self, form: BatchedGemm, target: Target) -> Iterator[ItemBatchedGemmPlan]:
        for mr in (4, 8, 2, 1):
            yield ItemBatchedGemmPlan(mr, target.vector, _items(form.b.shape[-1], target.vector))

    def kernel(self, context: Context, region: Region, plan: ItemBatchedGemmPlan) -> Kernel:
        form = region.form
        assert isinstance(form, BatchedGemm)
        batch = product(form.a.shape[:-2])
        m, k, n = form.a.shape[-2], form.a.shape[-1], form.b.shape[-1]
        sizes = "x".join(plain(d) for d in (batch, m, k, n))
        reads = (Operand(form.a.base), Operand(form.b.base))
        # Second dimension of the grid: the tiles of one head after those of another.
        tiles = _tiles(m, plan.mr)
        return Kernel(
            name=f"batched_gemm_{sizes}_{vector_name(context.target)}_{plan.name}",
            reads=tuple(dict.fromkeys(reads)),
            work=Work(WHOLE),
            facts=(plan, canonical(form, context.graph)),
            grid=Grid((plan.items, 1), ((n, plan.nr * plan.items), (product((batch, tiles)), 1))),
        )


def _items(columns: Dim, vector: int) -> int:
    """Work-items of a group: no more than there are vectors of columns, where that is known."""
    return min(_ITEMS, -(-columns // vector)) if isinstance(columns, int) else _ITEMS


def _tiles(rows: Dim, mr: int) -> Dim:
    """At least as many tiles as the rows need; the text leaves out what is too many."""
    return -(-rows // mr) if isinstance(rows, int) else rows
