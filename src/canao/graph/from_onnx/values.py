"""What an ONNX import knows of a value at compile time, and arithmetic on it.

Exporters compute shapes, positions and masks with tensors. Nothing of that depends on the text
but its length, so it is evaluated here, with the length as a symbol:

    Known   elements are given, as numbers or polynomials in s; where all along a dimension are
            the same it is held once, so that a mask [1, 1, s, s] of ones is one number
    Ramp    start, start + step, ... along one dimension, such as positions 0 to s - 1

Everything else is a value of the graph, held by its name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from canao.graph.dtypes import BOOL, F32, I32, DType
from canao.graph.from_onnx.elements import NARROW, held_in
from canao.graph.ir import Dim, Poly, Shape, dim_add, dim_div, dim_mul, fixed
from canao.graph.ops import OPS
from canao.graph.shapes import broadcast

# Elements that a value computed at compile time may have when it is written out; of polynomials.
LIMIT, OBJECTS = 1 << 26, 1 << 16


class Undecided(Exception):
    """The result depends on the length in a way that no polynomial says. Holds what, in words."""


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """Elements known at compile time: `array` broadcast to `shape`, both of one rank.

    array holds float32, int64 or bool; quantised whole numbers as they are in the file; or, as
    objects, whole numbers and polynomials in s.
    """

    array: np.ndarray
    shape: Shape
    dtype: DType

    @property
    def uniform(self) -> bool:
        return self.array.size == 1

    def item(self) -> Any:
        value = self.array.flat[0]
        return value.item() if isinstance(value, np.generic) else value

    def full(self) -> np.ndarray:
        """The elements written out; Undecided where the shape depends on s."""
        shape = fixed(self.shape)
        if shape is None:
            raise Undecided("elements whose number depends on the length")
        if math.prod(shape) > LIMIT:
            raise Undecided(f"a constant of more than {LIMIT} elements")
        return np.broadcast_to(self.array, shape)


@dataclass(frozen=True, slots=True, eq=False)
class Ramp:
    """Whole numbers start + step * i, i the index in dimension `axis`."""

    shape: Shape
    axis: int
    start: int
    step: int

    dtype = I32


Value = str | Known | Ramp


def known(array: np.ndarray) -> Known:
    """Elements given one by one."""
    return _held(np.asarray(array), tuple(np.shape(array)), _dtype(np.asarray(array)))


def number(value: float) -> Known:
    """One number that rules compute with."""
    return known(np.array(value, np.float32))


def fill(value: Any, shape: Sequence[Dim], dtype: DType) -> Known:
    """The same element everywhere."""
    cell = np.empty((1,) * len(shape), object)
    cell[...] = value
    return _held(cell, tuple(shape), dtype)


def sizes(shape: Sequence[Dim]) -> Known:
    """Dimensions as a vector."""
    cells = np.empty(len(shape), object)
    cells[:] = list(shape)
    return _held(cells, (len(shape),), I32)


def _dtype(array: np.ndarray) -> DType:
    if array.dtype == np.bool_:
        return BOOL
    return I32 if array.dtype.kind in "iu" or array.dtype == object else F32


def _held(array: np.ndarray, shape: Shape, dtype: DType) -> Known:
    """A Known whose array is of the plainest type that holds its elements."""
    for v in array.flat if array.dtype == object else ():
        if isinstance(v, Poly) and (len(v.coefficients) > 5 or max(map(abs, v.coefficients)) >> 62):
            raise Undecided("a size of more than the fourth power of the number of tokens")
    if array.dtype != object or not any(isinstance(v, Poly) for v in array.flat):
        array = array if array.dtype in NARROW else array.astype(held_in(dtype), copy=False)
    return Known(array, shape, dtype)


def has_length(x: Known) -> bool:
    """Whether elements of x depend on s."""
    return x.array.dtype == object


# Pointwise operators.


def at_lengths(d: Dim, longest: int) -> np.ndarray:
    """A dimension at every length; Undecided where whole numbers of 64 bits do not hold it."""
    lengths = np.arange(1, longest + 1, dtype=np.int64)
    coefficients = d.coefficients if isinstance(d, Poly) else (d,)
    if sum(abs(c) * longest**i for i, c in enumerate(coefficients)) >> 62:
        raise Undecided("a size beyond 62 bits")
    return sum((c * lengths**i for i, c in enumerate(coefficients)), np.zeros_like(lengths))


def holds(test: Callable[[Any, Any], Any], a: Dim, b: Dim, longest: int) -> bool:
    """Whether a comparison holds at every length; Undecided if at some only."""
    found = np.asarray(test(at_lengths(a, longest), at_lengths(b, longest)))
    if found.all() or not found.any():
        return bool(found.all())
    raise Undecided(f"whether {a} and {b} compare one way or the other depends on the length")


def _exact(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return int(a / b) if b else 0
    quotient = dim_div(a, b)
    if quotient is None:
        raise Undecided(f"{a} divided by {b}")
    return quotient


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind == "f" or b.dtype.kind == "f":
        return a / b
    quotient = np.floor_divide(np.abs(a), np.maximum(np.abs(b), 1)) * np.sign(a) * np.sign(b)
    return quotient.astype(np.int64)


def _wide(array: np.ndarray) -> np.ndarray:
    """The same elements, of a type that does not wrap around."""
    return array.astype(np.int64) if array.dtype in NARROW else array


# Operators that graphs have no op for, and division, which rounds whole numbers towards 0 here.
_OWN: dict[str, Callable[..., Any]] = {
    "div": _divide, "mod": np.mod, "pow": np.power, "logical_xor": np.logical_xor,
    "isnan": np.isnan,
}  # fmt: skip
_TESTS = {"eq": np.equal, "ge": np.greater_equal, "gt": np.greater, "le": np.less_equal,
          "lt": np.less}  # fmt: skip


def _evaluated(op: str, arrays: Sequence[np.ndarray]) -> Any:
    return _OWN[op](*arrays) if op in _OWN else OPS[op].meaning(arrays, {})


def _result_dtype(op: str, operands: Sequence[Known]) -> DType:
    if op in ("logical_xor", "isnan"):
        return BOOL
    return (OPS[op].result if op in OPS else None) or operands[-1].dtype


def _of_dims(op: str, longest: int) -> Callable[..., Any]:
    """The operator on one element of each operand, which may be polynomials."""
    if op in _TESTS:
        return lambda a, b: holds(_TESTS[op], a, b, longest)
    if op in ("maximum", "minimum"):
        test = np.greater_equal if op == "maximum" else np.less_equal
        return lambda a, b: a if holds(test, a, b, longest) else b
    table: dict[str, Callable[..., Any]] = {
        "add": dim_add, "sub": lambda a, b: dim_add(a, dim_mul(b, -1)), "mul": dim_mul,
        "div": _exact, "neg": lambda a: dim_mul(a, -1), "floor": lambda a: a, "ceil": lambda a: a,
        "where": lambda c, a, b: a if c else b,
    }  # fmt: skip
    if op not in table:
        raise Undecided(f"{op} of a number that depends on the length")
    return table[op]


def computed(op: str, operands: Sequence[Known], longest: int) -> Known:
    """A pointwise operator on known operands."""
    if op not in _OWN and not (op in OPS and OPS[op].pointwise):
        raise Undecided(f"{op} of constants")
    shape = broadcast([x.shape for x in operands])
    arrays = [_wide(x.array).reshape((1,) * (len(shape) - x.array.ndim) + x.array.shape)
              for x in operands]  # fmt: skip
    most = OBJECTS if any(has_length(x) for x in operands) else LIMIT
    if math.prod(np.broadcast_shapes(*(a.shape for a in arrays))) > most:
        raise Undecided(f"a constant of more than {most} elements")
    with np.errstate(all="ignore"):
        if any(has_length(x) for x in operands):
            function = np.frompyfunc(_of_dims(op, longest), len(arrays), 1)
            result = np.asarray(function(*(a.astype(object) for a in arrays)), object)
        else:
            result = np.asarray(_evaluated(op, arrays))
    return _held(result, shape, _result_dtype(op, operands))


def shifted(op: str, x: Value, y: Value, longest: int) -> Value | None:
    """A pointwise operator where one operand is a Ramp; None if the result is neither a Ramp nor
    the same everywhere."""
    if isinstance(x, Ramp) and isinstance(y, Ramp):
        return None
    ramp, other = (x, y) if isinstance(x, Ramp) else (y, x)
    if not isinstance(ramp, Ramp) or not isinstance(other, Known):
        return None
    c = other.item() if other.uniform else None
    if not isinstance(c, (int, float)) or isinstance(c, bool) or c != int(c):
        return None
    shape = broadcast([ramp.shape, other.shape])
    axis, c = ramp.axis + len(shape) - len(ramp.shape), int(c)
    if op in ("add", "mul") or (op == "sub" and ramp is x):
        start, step = {"add": (ramp.start + c, ramp.step), "sub": (ramp.start - c, ramp.step),
                       "mul": (ramp.start * c, ramp.step * c)}[op]  # fmt: skip
        return Ramp(shape, axis, start, step)
    if op not in (*_TESTS, "maximum", "minimum"):
        return None
    last = dim_add(ramp.start, dim_mul(dim_add(ramp.shape[ramp.axis], -1), ramp.step))
    try:
        if op in _TESTS:
            pairs = [(e, c) if ramp is x else (c, e) for e in (ramp.start, last)]
            ends = [holds(_TESTS[op], a, b, longest) for a, b in pairs]
            return fill(ends[0], shape, BOOL) if ends[0] == ends[1] and op != "eq" else None
        test = np.greater_equal if op == "maximum" else np.less_equal
        ends = [holds(test, e, c, longest) for e in (ramp.start, last)]
    except Undecided:
        return None
    if ends[0] != ends[1]:
        return None
    return Ramp(shape, axis, ramp.start, ramp.step) if ends[0] else fill(c, shape, I32)


# Views.


def reshaped(x: Known | Ramp, shape: Shape) -> Known | Ramp | None:
    """x under another shape; None where it would have to be written out and cannot be."""
    if isinstance(x, Ramp):
        place = _same_order(x.shape, shape, x.axis)
        return None if place is None else Ramp(shape, place, x.start, x.step)
    if x.uniform:
        return fill(x.item(), shape, x.dtype)
    if any(isinstance(d, Poly) for d in x.shape):
        return None
    return _held(np.ascontiguousarray(x.full()).reshape(tuple(int(d) for d in shape)),  # type: ignore[arg-type]
                 shape, x.dtype)  # fmt: skip


def _same_order(before: Shape, after: Shape, axis: int) -> int | None:
    """Where dimension `axis` is after a reshape that only adds and drops dimensions of 1."""
    kept, found = [(d, i) for i, d in enumerate(before) if d != 1], []
    found = [(d, i) for i, d in enumerate(after) if d != 1]
    if [d for d, _ in kept] != [d for d, _ in found]:
        return None
    places = {old: new for (_, old), (_, new) in zip(kept, found, strict=True)}
    return places.get(axis, 0 if after else None)


def transposed(x: Known | Ramp, perm: Sequence[int]) -> Known | Ramp:
    shape = tuple(x.shape[p] for p in perm)
    if isinstance(x, Ramp):
        return Ramp(shape, list(perm).index(x.axis), x.start, x.step)
    return Known(x.array.transpose(perm), shape, x.dtype)


def expanded(x: Known | Ramp, shape: Shape) -> Known | Ramp:
    pad = len(shape) - len(x.shape)
    if isinstance(x, Ramp):
        return Ramp(shape, x.axis + pad, x.start, x.step)
    return Known(x.array.reshape((1,) * pad + x.array.shape), shape, x.dtype)


def progression(x: Known, axis: int) -> tuple[int, int] | None:
    """(start, step) if x is whole numbers in even steps along `axis` and in no other dimension."""
    row = _wide(x.array).reshape(-1)
    if x.dtype != I32 or has_length(x) or x.array.shape[axis] != row.size or row.size < 2:
        return None
    step = int(row[1]) - int(row[0])
    return (int(row[0]), step) if (np.diff(row) == step).all() else None
