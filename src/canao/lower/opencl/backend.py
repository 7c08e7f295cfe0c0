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
from canao.target import OPENCL

OPENCL_DEVICES = Backend(
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
