"""Rows put together from pieces, and whole numbers computed token by token: no choices."""

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
from canao.schedule.work import ROWS, WHOLE, Work
from canao.target import Target


@dataclass(frozen=True, slots=True)
class ConcatPlan:
    """Nothing to choose."""

    kind: ClassVar[str] = "concat"

    @property
    def name(self) -> str:
        return "only"


@dataclass(frozen=True, slots=True)
class ScanPlan:
    """Nothing to choose."""

    kind: ClassVar[str] = "scan"

    @property
    def name(self) -> str:
        return "only"


class ConcatLowering:
    """Kernels of the form Concat."""

    plans = ConcatPlan

    def legal(self, graph: Graph, form: Concat) -> bool:
        return True

    def default(self, form: Concat, target: Target) -> ConcatPlan:
        return ConcatPlan()

    def space(self, form: Concat, target: Target) -> Iterator[ConcatPlan]:
        yield ConcatPlan()

    def kernel(self, context: Context, region: Region, plan: ConcatPlan) -> Kernel:
        form = region.form
        assert isinstance(form, Concat)
        return Kernel(
            name=f"concat_{plain(form.width)}_{len(form.pieces)}_{context.target.isa}",
            reads=concat_reads(form),
            work=Work(ROWS, form.rows),
            facts=concat_facts(context.graph, form),
        )


class ScanLowering:
    """Kernels of the form Scan."""

    plans = ScanPlan

    def legal(self, graph: Graph, form: Scan) -> bool:
        return True

    def default(self, form: Scan, target: Target) -> ScanPlan:
        return ScanPlan()

    def space(self, form: Scan, target: Target) -> Iterator[ScanPlan]:
        yield ScanPlan()

    def kernel(self, context: Context, region: Region, plan: ScanPlan) -> Kernel:
        form = region.form
        assert isinstance(form, Scan)
        return Kernel(
            name=f"{scan_name(form)}_{context.target.isa}",
            reads=scan_reads(form),
            work=Work(WHOLE),
            facts=scan_facts(context.graph, form),
        )
