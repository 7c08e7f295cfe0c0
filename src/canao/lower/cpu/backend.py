"""The CPU backend: a lowering for each form."""

from __future__ import annotations

from collections.abc import Sequence

from canao.fuse.forms.attention import Attention
from canao.fuse.forms.concat import Concat
from canao.fuse.forms.form import TABLES, BatchedGemm, PackedGemm
from canao.fuse.forms.rows import Rows
from canao.fuse.forms.scan import Scan
from canao.fuse.group import Program
from canao.graph.dtypes import F32, I8, NARROW
from canao.graph.ir import Type
from canao.isa.registry import ISAS
from canao.lower.cpu.attention import AttentionLowering
from canao.lower.cpu.batched_gemm import BatchedGemmLowering
from canao.lower.cpu.copies import ConcatLowering, ScanLowering
from canao.lower.cpu.packed_gemm import PackedGemmLowering, PackedGemmPlan, weights
from canao.lower.cpu.quantized import narrow_bytes
from canao.lower.cpu.rows import RowsLowering
from canao.lower.lowering import Backend, Context
from canao.schedule.operands import Operand, Packed
from canao.schedule.plan import Plan
from canao.target import Target


class Cpu(Backend):
    """Cores with vector units."""

    def emulates(self, product: str, target: Target) -> bool:
        return product in ISAS[target.isa].emulated

    def bytes_of(self, kind: Type, length: int, target: Target) -> int:
        if kind.dtype in NARROW:
            return narrow_bytes(kind, length, target.isa)
        return super().bytes_of(kind, length, target)

    def context(self, program: Program, plans: Sequence[Plan], target: Target) -> Context:
        return Context(program.graph, target, shared_panels(program, plans, target))


def shared_panels(
    program: Program, plans: Sequence[Plan], target: Target
) -> dict[str, Operand]:
    """Tables that are a GEMM's weights as well, as embeddings tied to a language head are, as that
    reads them. They are stored once, and look-ups read them from the panels.

    Not those that are read in another way too, which need the table row by row.
    """
    panels: dict[str, Operand] = {}
    plain: set[str] = set()
    for region, plan in zip(program.regions, plans, strict=True):
        form, weight = region.form, ""
        if isinstance(form, PackedGemm):
            assert isinstance(plan, PackedGemmPlan)
            weight = form.weight
            panels.setdefault(weight, weights(program.graph, form, plan, target.isa))
        for n in region.nodes:
            looked_up = n.op in TABLES and isinstance(form, Rows)
            plain.update(n.inputs[1:] if looked_up else (i for i in n.inputs if i != weight))
    return {name: operand for name, operand in panels.items()
            if name not in plain and _one_by_one(operand)}  # fmt: skip


def _one_by_one(operand: Operand) -> bool:
    """Whether look-ups can read a table from panels: elements as they are, one after another."""
    storage = operand.storage
    plain = isinstance(storage, Packed) and storage.kr == 1 and not storage.offset
    return plain and operand.dtype in (F32, I8)


CPU = Cpu(
    "cpu",
    {
        Rows: RowsLowering(),
        Concat: ConcatLowering(),
        Scan: ScanLowering(),
        PackedGemm: PackedGemmLowering(),
        BatchedGemm: BatchedGemmLowering(),
        Attention: AttentionLowering(),
    },
)
