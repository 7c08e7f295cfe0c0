"""How rows of Q8 lie in memory: the levels of a row, zeros up to a whole step of the product's
inner loop, then the row's scale, a float32 on a boundary of 4 bytes, and where weights have an
offset what a product starts with, an int32."""

from __future__ import annotations

from dataclasses import dataclass

from canao.graph.dtypes import F32, I8, I32
from canao.graph.ir import Dim, Type, dim_at
from canao.isa.registry import ISAS
from canao.lower.cpu.tiles import rounded


@dataclass(frozen=True, slots=True)
class RowLayout:
    """A row of Q8, in elements of the instruction set's level.

    scale   where the scale is     pitch   from row to row
    start   where the first sums of a product are; 0 where these are zeros
    """

    scale: int
    pitch: int
    start: int = 0


def row_layout(width: Dim, isa: str) -> RowLayout:
    """The layout of a row of so many levels."""
    assert isinstance(width, int)
    size, tile = ISAS[isa].levels.bytes, ISAS[isa].tiles[I8.name]
    scale = rounded(rounded(width, tile.kr) * size, F32.bytes) // size
    start = scale + F32.bytes // size
    if not tile.offset:
        return RowLayout(scale, start)
    return RowLayout(scale, start + I32.bytes // size, start)


def quantized_bytes(kind: Type, length: int, isa: str) -> int:
    """Bytes of a value of Q8 at a length of so many tokens."""
    width = kind.shape[-1]
    rows = dim_at(kind.elements, length) // dim_at(width, length)
    return rows * row_layout(width, isa).pitch * ISAS[isa].levels.bytes
