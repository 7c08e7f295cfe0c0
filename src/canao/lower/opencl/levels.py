"""How rows of whole numbers lie in memory: levels, then the float32 that they are multiples of."""

from __future__ import annotations

from canao.graph.dtypes import F32, QUANTIZED
from canao.graph.ir import Dim, Type, dim_at
from canao.schedule.operands import RowLayout


def level_row(width: Dim) -> RowLayout:
    """The layout of a row of so many levels, in bytes."""
    assert isinstance(width, int)
    scale = -(-width // F32.bytes) * F32.bytes
    return RowLayout(scale, scale + F32.bytes)


def level_bytes(kind: Type, length: int) -> int:
    """Bytes of a value of such rows at a length of so many tokens."""
    assert kind.dtype in QUANTIZED
    width = kind.shape[-1]
    return dim_at(kind.elements, length) // dim_at(width, length) * level_row(width).pitch
