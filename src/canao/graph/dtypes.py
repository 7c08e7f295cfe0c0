"""Element types as values: what an element is, and how it is held in each place. One row a type.

Graphs have constants of those of COMPUTED.

A value of Q8 or Q7 is quantised row by row: int8, and for each row the float32 that they are
multiples of. What CANAO quantises goes from -`levels` to `levels`, so that negation is exact: of Q8
from -127 to 127, of Q7, whose whole numbers have 7 bits, from -63 to 63. What others quantised
(graph/from_onnx/quantized.py) is of Q8, from -128. How a row of these, of BF16 or of F16 lies in
memory is the backend's to say (lower/cpu/quantized.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from canao.errors import UnsupportedError

# From the narrowest to the widest: a value of one kind can be held as one of those after it.
KINDS = ("bool", "int", "float")


@dataclass(frozen=True, slots=True)
class DType:
    """An element type.

    name     in graphs, in their text form and in the tuning database
    kind     bool, int, float, or quantized
    numpy    what holds elements in Python; None where no array does. Of bf16, the upper half of a
             float32, it is the bits
    stored   NumPy's name of the bytes in weights files and in a library's memory, little-endian.
             Truths are stored as i32, since kernels compute them in whole numbers
    c        the type in generated C
    onnx     ONNX's number of it, of TensorProto.DataType; 0 where it has none
    levels   the largest whole number that floats become when they are quantised; 0 where none are
    """

    name: str
    kind: str
    numpy: np.dtype[Any] | None
    stored: np.dtype[Any]
    c: str
    onnx: int
    levels: int = 0

    @property
    def bytes(self) -> int:
        """Of one element as it is stored."""
        return self.stored.itemsize

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, ...]:
        return by_name, (self.name,)  # a copy, pickled or not, is the same object


def _row(
    name: str, kind: str, numpy: str, stored: str, c: str, onnx: int, levels: int = 0
) -> DType:
    held = np.dtype(numpy) if numpy else None
    return DType(name, kind, held, np.dtype(stored), c, onnx, levels)


F32 = _row("f32", "float", numpy="float32", stored="<f4", c="float", onnx=1)
I32 = _row("i32", "int", numpy="int32", stored="<i4", c="int32_t", onnx=6)
BOOL = _row("bool", "bool", numpy="bool", stored="<i4", c="int32_t", onnx=9)
F16 = _row("f16", "float", numpy="float16", stored="<f2", c="uint16_t", onnx=10)
BF16 = _row("bf16", "float", numpy="uint16", stored="<u2", c="uint16_t", onnx=16)
I8 = _row("i8", "int", numpy="int8", stored="|i1", c="int8_t", onnx=3, levels=127)
Q8 = _row("q8", "quantized", numpy="", stored="|i1", c="q8", onnx=0, levels=127)
Q7 = _row("q7", "quantized", numpy="", stored="|i1", c="q7", onnx=0, levels=63)

DTYPES: Mapping[str, DType] = {d.name: d for d in (F32, I32, BOOL, F16, BF16, I8, Q8, Q7)}
COMPUTED = (F32, I32, BOOL, I8, F16, BF16)
# Of the rows that products in fewer bits multiply. A value of these types is made for such products
# alone: no other operator reads it.
NARROW = (Q8, Q7, BF16, F16)
QUANTIZED = (Q8, Q7)  # of these, rows of whole numbers, which products multiply by I8
_OF_NUMPY = {d.numpy: d for d in DTYPES.values() if d.numpy is not None}


def by_name(name: str) -> DType:
    """The element type called `name`; UnsupportedError if there is none."""
    return _found(DTYPES, name, f"'{name}'")


def by_numpy(dtype: np.dtype[Any]) -> DType:
    """The element type that arrays of `dtype` hold; UnsupportedError if there is none."""
    return _found(_OF_NUMPY, dtype.newbyteorder("="), f"'{dtype.name}' of NumPy")


def _found(table: Mapping[Any, DType], key: Any, shown: str) -> DType:
    if key not in table:
        names = ", ".join(DTYPES)
        raise UnsupportedError(f"element type {shown} is not supported; use one of {names}")
    return table[key]


def widest(dtypes: Iterable[DType]) -> DType:
    """The one of `dtypes` that can hold the values of all others."""
    return max(dtypes, key=lambda d: (KINDS.index(d.kind), d.bytes))
