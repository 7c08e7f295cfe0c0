"""Element types of ONNX files: how their bytes are read, and what the IR computes them in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from canao.graph.dtypes import BF16, BOOL, F16, F32, I8, I32, DType


@dataclass(frozen=True, slots=True)
class Element:
    """`onnx` is ONNX's number of it, `raw` NumPy's type of its bytes in a file."""

    onnx: int
    raw: np.dtype[Any]
    dtype: DType

    @property
    def held(self) -> np.dtype[Any]:
        """NumPy's type of elements that are known at compile time."""
        plain = self.raw.newbyteorder("=")
        narrow = self.dtype == I32 and plain in NARROW  # bfloat16 is read as whole numbers too
        return plain if narrow else np.dtype(held_in(self.dtype))


# Types that weights are quantised to: their elements are kept as they are.
NARROW = tuple(np.dtype(t) for t in (np.int8, np.uint8, np.int16, np.uint16))
# Whole numbers of 64 bits are mostly sizes and ids: those that need more than 32 are refused where
# they become constants of the graph.
ELEMENTS: Mapping[int, Element] = {
    number: Element(number, np.dtype(raw), dtype)
    for number, raw, dtype in (
        (F32.onnx, "<f4", F32), (F16.onnx, "<f2", F32), (BF16.onnx, "<u2", F32), (11, "<f8", F32),
        (BOOL.onnx, "?", BOOL), (I8.onnx, "i1", I32), (2, "u1", I32), (5, "<i2", I32),
        (4, "<u2", I32), (I32.onnx, "<i4", I32), (7, "<i8", I32),
    )
}  # fmt: skip
INT64 = 7


def declared(dtype: DType) -> int:
    """ONNX's number for a value of the IR: whole numbers are those of shapes and ids there."""
    return INT64 if dtype.kind == "int" else dtype.onnx


def held_in(dtype: DType) -> Any:
    """NumPy's type of elements that are computed at compile time: whole numbers may be sizes beyond
    32 bits."""
    return np.int64 if dtype.kind == "int" else dtype.numpy
