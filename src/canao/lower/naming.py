"""Parts of kernel names, whose grammar is in docs/kernels.md."""

from __future__ import annotations

from canao.fuse.group import Region
from canao.graph.ir import Dim
from canao.graph.ops import OPS

_IN_THE_FORM = ("linear", "quantized_linear", "matmul")


def op_names(region: Region) -> str:
    """The operations of a region, but for views and what its form says."""
    names = [n.op for n in region.nodes if not OPS[n.op].view and n.op not in _IN_THE_FORM]
    return "".join(f"_{name}" for name in names)


def plain(d: Dim) -> str:
    """A dimension in letters and digits."""
    return str(d).replace(" ", "").replace("+", "p").replace("*", "")
