"""Rows put together from pieces, and whole numbers computed token by token: no choices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from canao.fuse.forms.concat import Concat
from canao.fuse.forms.scan import Scan
from canao.fuse.group import Region
from canao.graph.dtypes import I32
from canao.graph.ir import Graph
from canao.lower.lowering import Context, Kernel, canonical
from canao.lower.naming import plain
from canao.schedule.operands import Operand
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
        reads: list[Operand] = []
        for piece in form.pieces:
            base = piece.source.base
            reads += [Operand(base, dtype=I32), Operand(piece.table)] if piece.table else [
                Operand(base)
            ]
        return Kernel(
            name=f"concat_{plain(form.width)}_{len(form.pieces)}_{context.target.isa}",
            reads=tuple(dict.fromkeys(reads)),
            work=Work(ROWS, form.rows),
            facts=canonical(form, context.graph),
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
        inside = {n.output for n in form.body}
        read = dict.fromkeys(
            name for n in form.body for name in n.inputs
            if name not in inside and not isinstance(form.operands[name], int)
        )  # fmt: skip
        names = "".join(f"_{n.op}" for n in form.body if n.op != "reshape")
        body = [(n.op, n.inputs, n.output, n.attributes) for n in form.body]
        numbers = [form.operands.get(name) for n in form.body for name in n.inputs
                   if isinstance(form.operands.get(name), int)]  # fmt: skip
        return Kernel(
            name=f"scan_{plain(form.length)}{names}_{context.target.isa}",
            reads=tuple(Operand(name, dtype=I32) for name in read),
            work=Work(WHOLE),
            facts=(form.length, _body(context.graph, body), tuple(numbers)),
        )


def _body(graph: Graph, body: Sequence[tuple[object, ...]]) -> object:
    names: dict[str, int] = {}
    return tuple(
        (op, canonical([inputs, output], graph, names), repr(attributes))
        for op, inputs, output, attributes in body
    )
