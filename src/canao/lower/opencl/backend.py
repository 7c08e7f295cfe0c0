"""The OpenCL backend: a lowering for each form."""

from __future__ import annotations

from canao.fuse.forms.attention import Attention
from canao.fuse.forms.concat import Concat
from canao.fuse.forms.form import BatchedGemm, PackedGemm
from canao.fuse.forms.rows import Rows
from canao.fuse.forms.scan import Scan
from canao.lower.lowering import Backend
from canao.lower.opencl.attention import ItemAttentionLowering
from canao.lower.opencl.batched_gemm import ItemBatchedGemmLowering
from canao.lower.opencl.copies import ItemConcatLowering, ItemScanLowering
from canao.lower.opencl.packed_gemm import ItemGemmLowering
from canao.lower.opencl.rows import GroupRowsLowering
from canao.target import OPENCL, Target

# Of rows and weights: floats, halves, and floats by whole numbers of eight bits.
_PRODUCTS = ("f32", "f16", "f32_i8")


class OpenCl(Backend):
    """GPUs, and whatever else runs OpenCL C."""

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
