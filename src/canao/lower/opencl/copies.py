"""Rows put together from pieces, an element for each work-item; whole numbers of the tokens, which
are computed one after another, by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from canao.fuse.forms.concat import Concat
from canao.fuse.forms.scan import Scan
from canao.fuse.group import Region
from canao.graph.ir import Graph
from canao.lower.copies import concat_facts, concat_reads, scan_facts, scan_name, scan_reads
from canao.lower.lowering import Context, Kernel
from canao.lower.naming import plain
from canao.lower.opencl.device import vector_name
from canao.schedule.work import WHOLE, Grid, Work
from canao.target import Target

_ITEMS = 64


@dataclass(frozen=True, slots=True)
class ItemConcatPlan:
    """items: work-items that share a row."""

    kind: ClassVar[str] = "item_concat"
    items: int

    @property
    def name(self) -> str:
        return str(self.items)


@dataclass(frozen=True, slots=True)
class ItemScanPlan:
    """Nothing to choose."""

    kind: ClassVar[str] = "item_scan"

    @property
    def name(self) -> str:
        return "only"


class ItemConcatLowering:
    """Kernels of the form Concat."""

    plans = ItemConcatPlan

    def legal(self, graph: Graph, form: Concat) -> bool:
        return True

    def default(self, form: Concat, target: Target) -> ItemConcatPlan:
        return ItemConcatPlan(min(_ITEMS, form.width))

    def space(self, form: Concat, target: Target) -> Iterator[ItemConcatPlan]:
        yield self.default(form, target)

    def kernel(self, context: Context, region: Region, plan: ItemConcatPlan) -> Kernel:
        form = region.form
        assert isinstance(form, Concat)
        end = vector_name(context.target)
        return Kernel(
            name=f"concat_{plain(form.width)}_{len(form.pieces)}_{end}_{plan.name}",
            reads=concat_reads(form),
            work=Work(WHOLE),
            facts=(plan, concat_facts(context.graph, form)),
            grid=Grid((plan.items, 1), ((1, 1), (form.rows, 1))),
        )


class ItemScanLowering:
    """Kernels of the form Scan."""

    plans = ItemScanPlan

    def legal(self, graph: Graph, form: Scan) -> bool:
        return True

    def default(self, form: Scan, target: Target) -> ItemScanPlan:
        return ItemScanPlan()

    def space(self, form: Scan, target: Target) -> Iterator[ItemScanPlan]:
        yield ItemScanPlan()

    def kernel(self, context: Context, region: Region, plan: ItemScanPlan) -> Kernel:
        form = region.form
        assert isinstance(form, Scan)
        return Kernel(
            name=f"{scan_name(form)}_{vector_name(context.target)}",
            reads=scan_reads(form),
            work=Work(WHOLE),
            facts=scan_facts(context.graph, form),
            grid=Grid((1, 1), ((1, 1), (1, 1))),
        )
