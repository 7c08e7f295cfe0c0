"""The C of each form of kernel: functions of (s, pointers, out, scratch, begin, end) over a range
of their unit of work. All that may vary comes from the step's plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from canao.emit.c.attention import attention_text
from canao.emit.c.batched_gemm import batched_gemm_text
from canao.emit.c.concat import concat_text
from canao.emit.c.kernel import KernelText
from canao.emit.c.packed_gemm import packed_gemm_text
from canao.emit.c.rows import rows_text
from canao.emit.c.scan import scan_text
from canao.fuse.forms.attention import Attention
from canao.fuse.forms.concat import Concat
from canao.fuse.forms.form import BatchedGemm, PackedGemm
from canao.fuse.forms.rows import Rows
from canao.fuse.forms.scan import Scan
from canao.graph.ir import Graph
from canao.isa.table import Isa
from canao.schedule.schedule import Step

TEXTS: Mapping[type, Callable[[Graph, Step, Isa], KernelText]] = {
    Rows: rows_text, Concat: concat_text, Scan: scan_text, PackedGemm: packed_gemm_text,
    BatchedGemm: batched_gemm_text, Attention: attention_text,
}  # fmt: skip


def kernel_text(graph: Graph, step: Step, isa: Isa) -> KernelText:
    """The functions of a step's kernel."""
    return TEXTS[type(step.region.form)](graph, step, isa)
