"""Batched GEMM of two activations: the right one is packed into panels, then register tiles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from canao.fuse.forms.form import BatchedGemm
from canao.fuse.group import Region
from canao.graph.dtypes import I32
from canao.graph.ir import Graph, product
from canao.lower.batches import one_batch
from canao.lower.cpu.tiles import default_tile, tiles
from canao.lower.lowering import Context, Kernel, canonical
from canao.lower.naming import plain
from canao.schedule.operands import Operand
from canao.schedule.schedule import Buffer
from canao.schedule.work import TILES, Work
from canao.target import Target


@dataclass(frozen=True, slots=True)
class BatchedGemmPlan:
    """mr x nr register tile."""

    kind: ClassVar[str] = "batched_gemm"
    mr: int
    nr: int

    @property
    def tile(self) -> tuple[int, int]:
        return self.mr, self.nr

    @property
    def name(self) -> str:
        return f"{self.mr}x{self.nr}"


class BatchedGemmLowering:
    """Kernels of the form BatchedGemm."""

    plans = BatchedGemmPlan

    def legal(self, graph: Graph, form: BatchedGemm) -> bool:
        """Tiles read consecutive elements of the left operand; there is one stride for heads."""
        return form.a.strides[-1] == 1 and one_batch(form.a.shape[:-2])

    def default(self, form: BatchedGemm, target: Target) -> BatchedGemmPlan:
        return BatchedGemmPlan(*default_tile(target))

    def space(self, form: BatchedGemm, target: Target) -> Iterator[BatchedGemmPlan]:
        yield self.default(form, target)
        for tile in tiles(target):
            yield BatchedGemmPlan(*tile)

    def kernel(self, context: Context, region: Region, plan: BatchedGemmPlan) -> Kernel:
        form = region.form
        assert isinstance(form, BatchedGemm)
        batch = product(form.a.shape[:-2])
        m, k, n = form.a.shape[-2], form.a.shape[-1], form.b.shape[-1]
        sizes = "x".join(plain(d) for d in (batch, m, k, n))
        reads = [Operand(form.a.base), Operand(form.b.base)]
        if form.near:
            reads.append(Operand(form.near, dtype=I32))
        return Kernel(
            name=f"batched_gemm_{sizes}{'_near' if form.near else ''}_{context.target.isa}",
            reads=tuple(dict.fromkeys(reads)),
            work=Work(TILES, m, heads=batch, tile=plan.mr),
            facts=(plan, canonical(form, context.graph)),
            scratch=(Buffer("c", plan.mr * plan.nr), Buffer("packed", n, plan.nr, k)),
        )
