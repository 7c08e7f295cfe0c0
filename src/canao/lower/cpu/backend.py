"""The CPU backend: a lowering for each form."""

from __future__ import annotations

from collections.abc import Sequence

from canao.fuse.forms.attention import Attention
from canao.fuse.forms.concat import Concat
from canao.fuse.forms.form import BatchedGemm, PackedGemm
from canao.fuse.forms.rows import Rows
from canao.fuse.forms.scan import Scan
from canao.fuse.group import Program
from canao.graph.dtypes import NARROW
from canao.graph.ir import Type
from canao.isa.registry import ISAS
from canao.lower.cpu.attention import AttentionLowering
from canao.lower.cpu.batched_gemm import BatchedGemmLowering
from canao.lower.cpu.copies import ConcatLowering, ScanLowering
from canao.lower.cpu.packed_gemm import PackedGemmLowering, weights
from canao.lower.cpu.quantized import narrow_bytes
from canao.lower.cpu.rows import RowsLowering
from canao.lower.lowering import Backend, Context
from canao.lower.panels import shared_panels
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
        panels = shared_panels(
            program, plans, lambda form, plan: weights(program.graph, form, plan, target.isa)
        )
        return Context(program.graph, target, panels)


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
