"""The OpenCL backend: a lowering for each form."""

from __future__ import annotations

from collections.abc import Sequence

from canao.fuse.forms.attention import Attention
from canao.fuse.forms.concat import Concat
from canao.fuse.forms.form import BatchedGemm, PackedGemm
from canao.fuse.forms.rows import Rows
from canao.fuse.forms.scan import Scan
from canao.fuse.group import Program
from canao.graph.dtypes import QUANTIZED
from canao.graph.ir import Type
from canao.lower.lowering import Backend, Context
from canao.lower.opencl.attention import ItemAttentionLowering
from canao.lower.opencl.batched_gemm import ItemBatchedGemmLowering
from canao.lower.opencl.copies import ItemConcatLowering, ItemScanLowering
from canao.lower.opencl.levels import level_bytes
from canao.lower.opencl.packed_gemm import ItemGemmLowering, weights
from canao.lower.opencl.rows import GroupRowsLowering
from canao.lower.panels import shared_panels
from canao.schedule.plan import Plan
from canao.target import OPENCL, Target

# Of rows and weights: floats, halves, floats by whole numbers of eight bits, and levels by these.
_PRODUCTS = ("f32", "f16", "f32_i8", "i8", "q7_i8")


class OpenCl(Backend):
    """GPUs, and whatever else runs OpenCL C."""

    def context(self, program: Program, plans: Sequence[Plan], target: Target) -> Context:
        panels = shared_panels(
            program, plans, lambda form, plan: weights(program.graph, form, plan)
        )
        return Context(program.graph, target, panels)

    def bytes_of(self, kind: Type, length: int, target: Target) -> int:
        if kind.dtype in QUANTIZED:
            return level_bytes(kind, length)
        return super().bytes_of(kind, length, target)

    def counts(self, elements: int) -> bool:
        return elements < 1 << 31  # places within a value are ints

    def emulates(self, product: str, target: Target) -> bool:
        return product not in _PRODUCTS


OPENCL_DEVICES = OpenCl(
    OPENCL,
    {
        Rows: GroupRowsLowering(),
        Concat: ItemConcatLowering(),
        Scan: ItemScanLowering(),
        PackedGemm: ItemGemmLowering(),
        BatchedGemm: ItemBatchedGemmLowering(),
        Attention: ItemAttentionLowering(),
    },
)
