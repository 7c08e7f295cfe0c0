"""How rows of Q8, Q7, bf16 and f16 lie in memory: the elements of a row, and zeros up to a whole
step of the product's inner loop. After a row of Q8 or Q7 comes its scale, a float32 on a boundary
of 4 bytes, and where weights have an offset what a product starts with, an int32."""

from __future__ import annotations

from canao.graph.dtypes import F32, I8, I32, Q8, QUANTIZED, DType
from canao.graph.ir import Dim, Type, dim_at
from canao.isa.registry import ISAS
from canao.isa.table import SIZES, TileOps
from canao.lower.cpu.tiles import rounded
from canao.schedule.operands import RowLayout

CACHE_LINE = 64


def tile_name(rows: DType, weights: DType) -> str:
    """Which row of an instruction set's tiles multiplies rows and weights of these types."""
    return weights.name if rows in (weights, Q8) else f"{rows}_{weights}"


def tile_of(rows: DType, isa: str) -> TileOps:
    """The tile that multiplies narrow rows, which have weights of one type."""
    return ISAS[isa].tiles[tile_name(rows, I8 if rows in QUANTIZED else rows)]


def row_layout(width: Dim, rows: DType, isa: str) -> RowLayout:
    """The layout of a narrow row of so many elements."""
    assert isinstance(width, int)
    tile = tile_of(rows, isa)
    size = SIZES[tile.activations]
    scale = rounded(rounded(width, tile.kr) * size, F32.bytes) // size
    start = scale + (F32.bytes // size if rows in QUANTIZED else 0)
    end = start + (I32.bytes // size if tile.offset else 0)
    if tile.blocks:
        end = CACHE_LINE // size * (-(-end * size // CACHE_LINE) | 1)
    return RowLayout(scale, end, start if tile.offset else 0)


def narrow_bytes(kind: Type, length: int, isa: str) -> int:
    """Bytes of a value of narrow rows at a length of so many tokens."""
    width = kind.shape[-1]
    rows = dim_at(kind.elements, length) // dim_at(width, length)
    size = SIZES[tile_of(kind.dtype, isa).activations]
    return rows * row_layout(width, kind.dtype, isa).pitch * size
