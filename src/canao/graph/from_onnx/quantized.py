"""Values that another tool has quantised: whole numbers, and what they stand for.

    Levels       whole numbers of a quantised type, computed by nodes; a value of F32 holds them
    Dequantized  (levels - zero) * scale, not computed yet: products of two such become products of
                 whole numbers (products.py), and everything else computes it first

Whole numbers in the file are Known, of the narrow type that they have there, and stay so in the
library where a kernel reads int8: weights of products, and tables that token ids look up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from canao.errors import UnsupportedError
from canao.graph.dtypes import F32, I32, DType
from canao.graph.from_onnx import parts, views
from canao.graph.from_onnx.elements import ELEMENTS, NARROW
from canao.graph.from_onnx.values import Known, Value, known
from canao.graph.from_onnx.views import OnnxRule
from canao.graph.ir import Poly, Shape, product

if TYPE_CHECKING:
    from canao.graph.from_onnx.builder import Builder

EIGHT = (np.dtype(np.uint8), np.dtype(np.int8))
SHIFT = 128  # uint8 minus this is int8
INT32 = np.dtype(np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Levels:
    """Whole numbers in the value `name` of F32, of NumPy's type `kind` in ONNX.

    exact   whether float32 holds all that they may be
    """

    name: str
    shape: Shape
    kind: np.dtype[Any]
    exact: bool = True

    dtype: ClassVar[DType] = F32


@dataclass(frozen=True, slots=True, eq=False)
class Dequantized:
    """(levels - zero) * scale; without a scale it is 1, without a zero 0. Both are one number, or
    one for each index in dimension `axis`."""

    levels: Levels | Known
    scale: Value | None
    zero: Levels | Known | None
    axis: int

    dtype: ClassVar[DType] = F32

    @property
    def shape(self) -> Shape:
        return self.levels.shape


def refused(b: Builder, what: str, remedy: str) -> UnsupportedError:
    """The error for the operator being imported, with a remedy of its own."""
    return UnsupportedError.of([b.problem(b.current, remedy, what)])


def kind_of(b: Builder, x: Any) -> np.dtype[Any]:
    """NumPy's type of whole numbers; UnsupportedError where x is no whole numbers known as such."""
    if isinstance(x, Levels):
        return x.kind
    if isinstance(x, Known) and x.dtype == I32:
        return x.array.dtype if x.array.dtype in NARROW else INT32
    raise refused(b, "an operand that is no quantised whole numbers", "quantise it in the model")


def floats(b: Builder, x: Any) -> Value:
    """Whole numbers as F32."""
    if isinstance(x, Levels):
        return x.name
    kind_of(b, x)
    return Known(x.array.astype(np.float32), x.shape, F32)


def number(value: float) -> Known:
    return known(np.array(value, np.float32))


def single(b: Builder, x: Any) -> bool:
    """Whether x is one number, or none."""
    return x is None or product(b.shape(x)) == 1


def _along(b: Builder, x: Value, axis: int, of: Shape, what: str) -> Value:
    """Scales or zero points of a value, as they are broadcast to it."""
    if product(b.shape(x)) == 1:
        return views.as_shape(b, x, ())
    at = views.dimension(b, axis, len(of))
    _require_along(b, x, at, of, what)
    return views.as_shape(b, x, tuple(of[at] if i == at else 1 for i in range(len(of))))


def _require_along(b: Builder, x: Any, at: int, of: Shape, what: str) -> None:
    """UnsupportedError unless x has one number for each index in dimension `at`."""
    if b.shape(x) != (of[at],):
        raise refused(b, f"{what} of shape [{', '.join(map(str, b.shape(x)))}]",
                      "quantise by tensor, or by channel of one axis, not by blocks")  # fmt: skip


def _checked(b: Builder, scale: Value, positive: bool) -> Value:
    """A scale, if it is one: numbers that are finite; above 0 where values are divided by them."""
    if b.dtype(scale) != F32:
        raise refused(b, "a scale that is no float", "quantise with scales of float32")
    if isinstance(scale, Known):
        array = scale.array
        if not np.isfinite(array).all() or (positive and (array <= 0).any()):
            raise refused(b, "a scale that is not positive and finite", "quantise the model anew")
    return scale


def _require_no_blocks(b: Builder, block_size: int) -> None:
    if block_size:
        raise refused(b, f"blocks of {block_size}", "quantise by tensor or by channel")


def plain(b: Builder, x: Any) -> Any:
    """x itself, or what it stands for, computed."""
    if not isinstance(x, Dequantized):
        return x
    key = ("plain", id(x))
    if key not in b.levels:
        found = _computed(b, x)
        b.note(found)
        b.levels[key] = (found, x)
    return b.levels[key][0]


def _computed(b: Builder, x: Dequantized) -> Value:
    value = floats(b, x.levels)
    if x.zero is not None:
        zero = _along(b, floats(b, x.zero), x.axis, x.shape, "zero points")
        value = b.pointwise("sub", value, zero)
    if x.scale is None:
        return value
    return b.pointwise("mul", value, _along(b, x.scale, x.axis, x.shape, "scales"))


# The operators.


def quantize(b: Builder, x: Any, y_scale: Value, y_zero_point: Any = None, axis: int = 1,
             block_size: int = 0, output_dtype: int = 0) -> Levels | Known:  # fmt: skip
    """x / scale + zero point, to the nearest whole number, saturated."""
    _require_no_blocks(b, block_size)
    x = plain(b, x)
    if y_zero_point is not None:
        kind = kind_of(b, y_zero_point)
    elif output_dtype:
        kind = ELEMENTS[output_dtype].held if output_dtype in ELEMENTS else np.dtype(object)
    else:
        kind = EIGHT[0]
    if kind not in NARROW or isinstance(x, Levels) or b.dtype(x) != F32:
        raise refused(b, "a type other than int8, uint8, int16 or uint16, or quantising other "
                      "than floats", "quantise floats to int8 or uint8")  # fmt: skip
    shape = b.shape(x)
    scale = _along(b, _checked(b, y_scale, True), axis, shape, "scales")
    zero: Value = number(0)
    if y_zero_point is not None:
        zero = _along(b, floats(b, y_zero_point), axis, shape, "zero points")
    return _levels(b, x, scale, zero, kind)


def _levels(b: Builder, x: Value, scale: Value, zero: Value, kind: np.dtype[Any]) -> Levels | Known:
    ends = np.iinfo(kind)
    made = b.pointwise("levels", x, scale, zero, number(ends.min), number(ends.max))
    if isinstance(made, Known):
        return Known(made.array.astype(kind), made.shape, I32)
    return Levels(b.name(made), b.shape(made), kind)


def _dequantize(b: Builder, x: Any, x_scale: Value, x_zero_point: Any = None, axis: int = 1,
                block_size: int = 0, output_dtype: int = 0) -> Dequantized:  # fmt: skip
    """(x - zero point) * scale, when it is read."""
    _require_no_blocks(b, block_size)
    if output_dtype and (output_dtype not in ELEMENTS or ELEMENTS[output_dtype].dtype != F32):
        raise refused(b, f"a result of type {output_dtype}", "dequantise to a float type")
    kind = kind_of(b, x)
    if kind == INT32 and x_zero_point is not None:
        zero = x_zero_point.array if isinstance(x_zero_point, Known) else np.ones(1)
        if zero.any():
            raise refused(b, "a zero point of int32 that is not 0", "quantise biases around 0")
        x_zero_point = None
    _checked(b, x_scale, False)
    by_axis = not (single(b, x_scale) and single(b, x_zero_point))
    at = views.dimension(b, axis, len(x.shape)) if by_axis else 0
    for part, what in ((x_scale, "scales"), (x_zero_point, "zero points")):
        if not single(b, part):
            _require_along(b, part, at, x.shape, what)
    return Dequantized(x, x_scale, x_zero_point, at)


def _dynamic(b: Builder, x: Any) -> list[Any]:
    """x as uint8 by the range of all its elements and 0, with that range's scale and zero point.

    Elements are all those of one text: texts of a batch are run one by one.
    """
    x = plain(b, x)
    if isinstance(x, Levels) or b.dtype(x) != F32:
        raise refused(b, "quantising other than floats", "quantise floats")
    name = b.name(x)
    top, bottom = (_largest(b, v) for v in (name, b.emit("neg", name)))
    extent = b.pointwise("add", top, bottom)
    scale = b.pointwise("select", extent, b.pointwise("div", extent, number(255)), number(1))
    zero = b.pointwise("levels", bottom, scale, number(0), number(0), number(255))
    return [_levels(b, x, scale, zero, EIGHT[0]), scale, Levels(b.name(zero), (), EIGHT[0])]


def _largest(b: Builder, x: str) -> Value:
    """The largest of all elements of x and 0: of rows first, by which threads share it out."""
    x = b.emit("reduce_max", b.reshape(x, b.shape(x) or (1,)))
    if product(b.shape(x)) != 1:
        x = b.emit("reduce_max", b.reshape(x, (product(b.shape(x)),)))
    return b.pointwise("maximum", b.reshape(x, ()), number(0))


def cast(b: Builder, x: Levels, to: int) -> Any:
    """Whole numbers as floats, or as what they are."""
    if to in ELEMENTS and ELEMENTS[to].dtype == F32:
        return x.name
    if to in ELEMENTS and ELEMENTS[to].held == x.kind:
        return x
    raise refused(b, f"a cast of quantised {x.kind} to element type {to}", "cast it to float")


def _transpose(b: Builder, x: Any, perm: Sequence[int] | None = None) -> Any:
    """Weights stay whole numbers."""
    if isinstance(x, Dequantized) and isinstance(x.levels, Known):
        order = list(perm) if perm is not None else list(range(len(x.shape)))[::-1]
        turned = views.transpose(b, x.levels, perm=order)
        assert isinstance(turned, Known)
        return Dequantized(turned, x.scale, x.zero, order.index(x.axis) if order else 0)
    x = plain(b, x)
    if isinstance(x, Levels):
        return _like(b, views.transpose(b, x.name, perm=perm), x)
    return views.transpose(b, x, perm=perm)


def _like(b: Builder, made: Value, x: Levels) -> Levels:
    return Levels(b.name(made), b.shape(made), x.kind, x.exact)


# Look-ups.


def _gather(b: Builder, x: Any, ids: Value, axis: int = 0) -> Any:
    """Rows of a table stay whole numbers until they are looked up."""
    if isinstance(ids, str) and len(b.shape(x)) == 2 and axis in (0, -2):
        if isinstance(x, Dequantized) and isinstance(x.levels, Known):
            return _dequantized_rows(b, x, x.levels, ids)
        if isinstance(x, Known) and x.array.dtype in EIGHT:
            return _rows(b, x, ids)
    x = plain(b, x)
    if isinstance(x, Levels):
        return _like(b, parts.gather(b, x.name, ids, axis), x)
    if isinstance(x, Known) and x.array.dtype in NARROW:
        found = parts.gather(b, floats(b, x), ids, axis)
        if isinstance(found, Known):
            return Known(found.array.astype(x.array.dtype), found.shape, I32)
        return Levels(b.name(found), b.shape(found), x.array.dtype)
    return parts.gather(b, x, ids, axis)


def _dequantized_rows(b: Builder, x: Dequantized, table: Known, ids: str) -> Any:
    """Rows of a table that has one scale, or one for each column or row."""
    whole = single(b, x.scale) and single(b, x.zero)
    if table.array.dtype in EIGHT and (whole or x.axis == 1):
        rows = _rows(b, table, ids)
        return Dequantized(rows, x.scale, x.zero, len(rows.shape) - 1)
    if table.array.dtype not in EIGHT or not isinstance(x.scale, Known):
        return parts.gather(b, plain(b, x), ids)
    zero = x.zero.array if isinstance(x.zero, Known) else np.zeros(1, np.int64)
    centred = table.full().astype(np.int64) - zero.astype(np.int64).reshape(-1, 1)
    if (x.zero is not None and not isinstance(x.zero, Known)) or not fits(centred):
        return parts.gather(b, plain(b, x), ids)
    scales = np.broadcast_to(x.scale.array.reshape(-1, 1), (table.shape[0], 1))  # type: ignore[arg-type]
    return b.emit("quantized_gather", b.constant(centred.astype(np.int8)),
                  b.constant(np.ascontiguousarray(scales, np.float32)), ids)  # fmt: skip


def fits(levels: np.ndarray) -> bool:
    """Whether int8 holds these whole numbers."""
    return bool(levels.size == 0 or (levels.min() >= -SHIFT and levels.max() < SHIFT))


def _rows(b: Builder, table: Known, ids: str) -> Levels:
    """Rows of a table of 8 bits, as whole numbers."""
    kind = table.array.dtype
    if any(isinstance(d, Poly) for d in table.shape):
        raise b.unsupported("a table whose size depends on the text")
    shift = SHIFT if kind == EIGHT[0] else 0
    key = ("table", id(table))
    if key not in b.levels:
        levels = (table.full().astype(np.int64) - shift).astype(np.int8)
        names = (b.constant(levels), b.constant(np.ones((len(levels), 1), np.float32)))
        b.levels[key] = (names, table)
    rows: Value = b.emit("quantized_gather", *b.levels[key][0], ids)
    if shift:
        rows = b.pointwise("add", rows, number(shift))
    return Levels(b.name(rows), b.shape(rows), kind)


# How the other rules get what they take.

# Operators that only move elements: whole numbers come out as they went in.
_MOVING = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Expand", "Tile", "Slice", "Split",
           "Concat")  # fmt: skip
RULES: dict[str, OnnxRule] = {
    "QuantizeLinear": quantize, "DequantizeLinear": _dequantize, "DynamicQuantizeLinear": _dynamic,
    "Transpose": _transpose, "Gather": _gather,
}  # fmt: skip
_AWARE = (*RULES, "MatMul", "Gemm", "MatMulInteger", "QLinearMatMul", "Cast", "Identity", "IsNaN",
          "Shape", "Size")  # fmt: skip


def called(b: Builder, operator: str, rule: OnnxRule, operands: Sequence[Any],
           attributes: dict[str, Any]) -> list[Any]:  # fmt: skip
    """The results of a rule, whose operands may be quantised."""
    whole = [x for x in operands if isinstance(x, Levels)]
    if operator not in _AWARE:
        operands = [plain(b, x) for x in operands]
        if whole and operator not in _MOVING:
            raise refused(b, f"computing with quantised {whole[0].kind}",
                          "dequantise before it: quantise with QuantizeLinear and "
                          "DequantizeLinear around the operator (QDQ)")  # fmt: skip
        operands = [x.name if isinstance(x, Levels) else x for x in operands]
    made = rule(b, *operands, **attributes)
    results = made if isinstance(made, list) else [made]
    if whole and operator in _MOVING:
        results = [_like(b, x, whole[0]) for x in results]
    return results
