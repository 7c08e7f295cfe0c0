"""Rules of products: of floats, and of whole numbers that another tool has quantised.

A product of quantised rows by quantised constant weights becomes `quantized_linear`, whose sums are
exact. With levels a and w, of zero points z and y, a sum over the depth k is

    sum (a - z)(w - y) = sum a w - z (sum w - k y) - y sum a

The second term is a number for each column, known at compile time up to z; the third is there only
where int8 does not hold w - y. Levels of uint8 are shifted to int8, and so are their zero points.

Sums become float32 before these terms are added, and beyond 2^24 would be rounded there. Where the
third term could make them so large, w - y is the sum of two weights of int8, of a product each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from canao.graph.dtypes import F32
from canao.graph.from_onnx import quantized, views
from canao.graph.from_onnx.quantized import (
    EIGHT,
    INT32,
    SHIFT,
    Dequantized,
    Levels,
    fits,
    floats,
    number,
    plain,
    refused,
    single,
)
from canao.graph.from_onnx.values import Known, Value
from canao.graph.from_onnx.views import OnnxRule

if TYPE_CHECKING:
    from canao.graph.from_onnx.builder import Builder

_DEEPEST = (2**31 - 1) // SHIFT**2  # products whose sums int32 holds, whatever the numbers
_WHOLE = 2**24  # up to here float32 holds all whole numbers
_EXACT = _WHOLE // 255**2  # products whose sums it holds, whatever the numbers


def matmul(b: Builder, x: Any, y: Any) -> Value:
    found = _quantized_product(b, x, y)
    if found is not None:
        return found
    x, y = (_floats(b, v) for v in (x, y))
    if isinstance(y, Known) and len(y.shape) == 2 and len(b.shape(x)) >= 2:
        return b.emit("linear", b.name(x), b.transposed_weight(y))
    rank_x, rank_y = len(b.shape(x)), len(b.shape(y))
    left, right = b.name(x), b.name(y)
    if rank_x == 1:
        left = b.reshape(left, (1, *b.shape(left)))
    if rank_y == 1:
        right = b.reshape(right, (*b.shape(right), 1))
    out = b.emit("matmul", left, right)
    shape = b.shape(out)
    if rank_x == 1:
        shape = (*shape[:-2], shape[-1])
    if rank_y == 1:
        shape = shape[:-1]
    return b.reshape(out, shape)


def _gemm(b: Builder, x: Any, w: Any, c: Any = None, alpha: float = 1.0,
          beta: float = 1.0, transA: int = 0, transB: int = 0) -> Value:  # fmt: skip
    turn = quantized.RULES["Transpose"]
    left = turn(b, x, perm=[1, 0]) if transA else x
    out = _quantized_product(b, left, turn(b, w, perm=[1, 0]) if transB else w)
    if out is None:
        left, w = (_floats(b, v) for v in (left, w))
        if isinstance(w, Known):
            weight = b.name(w) if transB else b.transposed_weight(w)
            out = b.emit("linear", b.name(left), weight)
        else:
            right = views.transpose(b, w, perm=[1, 0]) if transB else w
            out = b.emit("matmul", b.name(left), b.name(right))
    if alpha != 1:
        out = b.pointwise("mul", out, number(alpha))
    if c is None or beta == 0:
        return out
    c = _floats(b, c)
    return b.pointwise("add", out, c if beta == 1 else b.pointwise("mul", c, number(beta)))


def _floats(b: Builder, x: Any) -> Value:
    if isinstance(x, Levels):
        raise refused(b, f"a product of {x.kind}", "use MatMulInteger, or dequantise before it")
    found: Value = plain(b, x)
    return found


# Of whole numbers.


def _matmul_integer(b: Builder, x: Any, y: Any, x_zero: Any = None, y_zero: Any = None) -> Any:
    """Sums of int32, which are computed from operands around 0."""
    rows = Dequantized(_eight(b, x), None, x_zero, max(0, len(b.shape(x)) - 2))
    columns = Dequantized(_eight(b, y), None, y_zero, max(0, len(b.shape(y)) - 1))
    for zero in (x_zero, y_zero):
        if zero is not None:
            _eight(b, zero)
    out = matmul(b, rows, columns)
    depth = b.shape(x)[-1]
    return Levels(b.name(out), b.shape(out), INT32, isinstance(depth, int) and depth <= _EXACT)


def _eight(b: Builder, x: Any) -> Any:
    kind = quantized.kind_of(b, x)
    if kind not in EIGHT:
        raise refused(b, f"operands of {kind}", "quantise to int8 or uint8")
    return x


def _qlinear_matmul(b: Builder, a: Any, a_scale: Value, a_zero: Any, w: Any, w_scale: Value,
                    w_zero: Any, y_scale: Value, y_zero: Any) -> Any:  # fmt: skip
    """The product of what is dequantised, quantised: sums are exact, and rounded once."""
    rows = Dequantized(_eight(b, a), a_scale, a_zero, max(0, len(b.shape(a)) - 2))
    columns = Dequantized(_eight(b, w), w_scale, w_zero, max(0, len(b.shape(w)) - 1))
    out = matmul(b, rows, columns)
    return quantized.quantize(b, out, y_scale, y_zero, axis=max(0, len(b.shape(out)) - 2))


@dataclass(frozen=True, slots=True)
class _Weights:
    """Constant weights [k, n] as int8: each is `name`'s [n, k], and that of `more` if there is one,
    minus `rest` of its column.

    sums   of each column's weights
    """

    name: str
    more: str
    rest: np.ndarray
    sums: np.ndarray


def _quantized_product(b: Builder, x: Any, w: Any) -> Value | None:
    """x w in whole numbers; None where kernels have no such product, as of two computed values."""
    if not _has_kernel(b, x, w):
        return None
    weights, kind = _weights(b, w), quantized.kind_of(b, x.levels)
    shift = SHIFT if kind == EIGHT[0] else 0
    levels = b.pointwise("sub", x.levels.name, number(shift)) if shift else x.levels.name
    factor = np.ones(w.shape[1], np.float32)
    if w.scale is not None:
        factor = factor * w.scale.array.reshape(-1)
    scale = x.scale
    if isinstance(scale, Known):
        factor, scale = (factor * scale.array.reshape(-1)).astype(np.float32), None
    exact = factor.astype(np.float64)
    operands = [_row_levels(b, b.name(levels)), weights.name, b.constant(factor)]
    zero = _zero(b, x.zero, shift)
    if isinstance(zero, float) and zero:
        operands.append(b.constant((-zero * weights.sums * exact).astype(np.float32)))
    out: Value = b.emit("quantized_linear", *operands)
    if weights.more:
        more = b.emit("quantized_linear", operands[0], weights.more, operands[2])
        out = b.pointwise("add", out, more)
    if not isinstance(zero, float):
        out = b.pointwise("sub", out, b.pointwise("mul", zero, _columns(weights.sums * exact)))
    if weights.rest.any():
        sums = b.emit("reduce_sum", b.name(levels))
        out = b.pointwise("sub", out, b.pointwise("mul", sums, _columns(weights.rest * exact)))
    if scale is not None:
        out = b.pointwise("mul", out, views.as_shape(b, scale, ()))
    return out


def _columns(array: np.ndarray) -> Known:
    return Known(array.astype(np.float32), array.shape, F32)


def _has_kernel(b: Builder, x: Any, w: Any) -> bool:
    """Whether rows of one scale are multiplied by constant weights, with one for each column."""
    if not (isinstance(x, Dequantized) and isinstance(x.levels, Levels)):
        return False
    if not (isinstance(w, Dequantized) and isinstance(w.levels, Known) and len(w.shape) == 2):
        return False
    k, n = w.shape
    if not (isinstance(k, int) and isinstance(n, int) and 0 < k <= _DEEPEST and n > 0):
        return False
    known = all(v is None or isinstance(v, Known) for v in (w.scale, w.zero))
    by_column = w.axis == 1 or (single(b, w.scale) and single(b, w.zero))
    rows = single(b, x.scale) and single(b, x.zero) and len(x.shape) >= 2 and x.shape[-1] == k
    eight = {quantized.kind_of(b, x.levels), w.levels.array.dtype} <= set(EIGHT)
    return known and by_column and rows and eight


def _weights(b: Builder, w: Dequantized) -> _Weights:
    assert isinstance(w.levels, Known)
    zero = w.zero.array.astype(np.int64).reshape(-1) if isinstance(w.zero, Known) else np.zeros(1)
    key = ("weights", id(w.levels), zero.tobytes())
    if key not in b.levels:
        levels = w.levels.full().astype(np.int64)
        # What is taken from a column is as near to its zero point as int8 allows: mostly all of it,
        # and then sums stay as small as the product itself.
        taken = np.clip(zero.astype(np.int64), levels.max(0) - (SHIFT - 1), levels.min(0) + SHIFT)
        stored, rest = levels - taken, zero.astype(np.int64) - taken
        sums = stored.sum(0) - len(stored) * rest
        centred, more = stored - rest, ""
        low = np.clip(centred, -SHIFT, SHIFT - 1)
        if rest.any() and SHIFT * np.abs(stored).sum(0).max() > _WHOLE and fits(centred - low):
            stored, rest, more = low, np.zeros_like(rest), _int8(b, centred - low)
        b.levels[key] = (_Weights(_int8(b, stored), more, rest, sums), w.levels)
    found: _Weights = b.levels[key][0]
    return found


def _int8(b: Builder, array: np.ndarray) -> str:
    """The constant that holds [k, n] as weights [n, k]."""
    return b.constant(np.ascontiguousarray(array.T.astype(np.int8)))


def _zero(b: Builder, zero: Any, shift: int) -> float | Value:
    """A zero point of shifted levels: a number where it is known."""
    if zero is None:
        return float(-shift)
    if isinstance(zero, Known):
        return float(zero.item() - shift)
    return b.pointwise("sub", views.as_shape(b, floats(b, zero), ()), number(shift))


def _row_levels(b: Builder, name: str) -> str:
    """Rows of Q8 of whole numbers, once for all products that read them."""
    key = ("rows", name)
    if key not in b.levels:
        b.levels[key] = (b.emit("rows_of_levels", name), None)
    made: str = b.levels[key][0]
    return made


RULES: dict[str, OnnxRule] = {
    "MatMul": matmul, "Gemm": _gemm, "MatMulInteger": _matmul_integer,
    "QLinearMatMul": _qlinear_matmul,
}  # fmt: skip
