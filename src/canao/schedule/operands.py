"""What a kernel reads: a value, how it lies in memory, and of which type its elements are."""

from __future__ import annotations

from dataclasses import dataclass

from canao.graph.dtypes import F32, NARROW, DType
from canao.graph.ir import Type, dim_at

ALIGNMENT = 64  # bytes: of the widest vectors, and of cache lines


def aligned(size: int) -> int:
    """A size in bytes, rounded up to where the next thing may begin."""
    return -(-size // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True, slots=True)
class RowMajor:
    """Row after row, as the value's type says."""

    @property
    def name(self) -> str:
        return "rows"


@dataclass(frozen=True, slots=True)
class Packed:
    """[n, k] in panels of `nr` columns, `kr` elements of the depth together:
    [n / nr][k / kr][nr][kr], with zeros where the last panel and the last step have none.
    `offset` is added to each weight, which then is an unsigned byte."""

    nr: int
    kr: int = 1
    offset: int = 0

    @property
    def name(self) -> str:
        return f"panels {self.nr}x{self.kr}{f' + {self.offset}' if self.offset else ''}"

    def elements(self, n: int, k: int) -> int:
        """Weights of n columns of depth k, with the zeros."""
        return -(-n // self.nr) * self.nr * -(-k // self.kr) * self.kr


@dataclass(frozen=True, slots=True)
class RowLayout:
    """A row, in elements as the instruction set has them in memory.

    scale   where the elements end, and of levels the scale is     pitch   from row to row
    start   where the first sums of a product are; 0 where these are zeros

    Where instructions multiply blocks, of several rows at once, rows begin on cache lines, an odd
    number of them apart: these are not in the same few sets of the cache.
    """

    scale: int
    pitch: int
    start: int = 0


@dataclass(frozen=True, slots=True)
class NarrowRows:
    """Row after row of Q8, Q7, bf16 or f16, as lower/cpu/quantized.py lays them out."""

    @property
    def name(self) -> str:
        return "narrow rows"


Storage = RowMajor | Packed | NarrowRows
ROW_MAJOR, NARROW_ROWS = RowMajor(), NarrowRows()


@dataclass(frozen=True, slots=True)
class Operand:
    """A pointer that a kernel takes."""

    value: str
    storage: Storage = ROW_MAJOR
    dtype: DType = F32


def activation(value: str, dtype: DType) -> Operand:
    """What one kernel has written and another reads."""
    return Operand(value, NARROW_ROWS if dtype in NARROW else ROW_MAJOR, dtype)


def stored_bytes(kind: Type, max_length: int) -> int:
    """Bytes of a value of a graph at the longest sequence; booleans are stored as int32."""
    return kind.dtype.bytes * dim_at(kind.elements, max_length)
