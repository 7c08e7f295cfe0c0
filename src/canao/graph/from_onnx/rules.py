"""How each ONNX operator becomes nodes of the IR: one table.

A rule takes the importer, the operands (None where left out) and the attributes of the node by
name, and returns the result or a list of results. Rules of shapes and views are in views.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from canao.graph.dtypes import BOOL, F32
from canao.graph.from_onnx import attention, parts, products, quantized, views
from canao.graph.from_onnx.elements import ELEMENTS
from canao.graph.from_onnx.values import Known, Ramp, Value, fill, has_length, known, number
from canao.graph.from_onnx.views import OnnxRule
from canao.graph.ir import Dim, Shape, product

if TYPE_CHECKING:
    from canao.graph.from_onnx.builder import Builder

LONGEST = 1 << 15  # tokens; no diagonal is farther off


def _unary(op: str) -> OnnxRule:
    return lambda b, x: b.pointwise(op, x)


def _binary(op: str) -> OnnxRule:
    return lambda b, x, y: b.pointwise(op, x, y)


def _many(op: str) -> OnnxRule:
    """An operator of any number of operands, taken two at a time."""

    def rule(b: Builder, first: Value, *rest: Value) -> Value:
        for x in rest:
            first = b.pointwise(op, first, x)
        return first

    return rule


def _mean(b: Builder, *operands: Value) -> Value:
    total = _many("add")(b, *operands)
    return b.pointwise("mul", total, number(1 / len(operands))) if len(operands) > 1 else total


def _pass(b: Builder, x: Value) -> Value:
    return x


def _dropout(b: Builder, x: Value, _ratio: Any = None, training: Any = None) -> Any:
    if isinstance(training, Known) and training.item():
        raise b.unsupported("training")
    return [x, fill(True, b.shape(x), BOOL)]


def _is_nan(b: Builder, x: Any) -> Value:
    if isinstance(x, quantized.Dequantized):
        return fill(False, x.shape, BOOL)  # whole numbers are none
    if isinstance(x, Known):
        return b.pointwise("isnan", x)
    if x in b.made and b.made[x].op == "softmax":
        return fill(False, b.shape(x), BOOL)  # no query masks all of its keys
    raise b.unsupported("a test for what a model never computes")


def _not(b: Builder, x: Value) -> Value:
    if isinstance(x, Known):
        return b.pointwise("logical_not", x)
    return b.emit("logical_not", b.name(x))


def _where(b: Builder, condition: Value, x: Value, y: Value) -> Value:
    operands = (condition, x, y)
    if isinstance(condition, Known) and condition.uniform:
        shape = views.common(b, operands)
        return b.spread(x if condition.item() else y, shape)
    return b.pointwise("where", *operands)


def _cast(b: Builder, x: Any, to: int) -> Any:
    if to not in ELEMENTS:
        raise b.unsupported(f"a cast to element type {to}")
    x, kind = quantized.plain(b, x), ELEMENTS[to].dtype
    if isinstance(x, quantized.Levels):
        return quantized.cast(b, x, to)
    if isinstance(x, Known) and x.array.dtype != object:
        held = ELEMENTS[to].held
        return x if x.array.dtype == held else Known(x.array.astype(held), x.shape, kind)
    if b.dtype(x) == kind:
        return x
    if isinstance(x, Known):
        return Known(x.array, x.shape, kind)
    return b.emit("cast", b.name(x), dtype=kind)


def _pow(b: Builder, x: Value, y: Value) -> Value:
    if isinstance(x, Known) and isinstance(y, Known):
        return b.pointwise("pow", x, y)
    exponent = y.item() if isinstance(y, Known) and y.uniform else None
    shape = views.common(b, (x, y))
    if exponent in (2, 3):
        square = b.pointwise("mul", x, x)
        return b.spread(square if exponent == 2 else b.pointwise("mul", square, x), shape)
    ops = {0.5: ("sqrt",), -1.0: ("reciprocal",), -0.5: ("sqrt", "reciprocal"), 1.0: ()}
    if exponent not in ops:
        shown = "that is not constant" if exponent is None else str(exponent)
        raise b.unsupported(f"a power {shown}")
    for op in ops[exponent]:
        x = b.pointwise(op, x)
    return b.spread(x, shape)


def _clip(b: Builder, x: Value, low: Value | None = None, high: Value | None = None) -> Value:
    for op, bound in (("maximum", low), ("minimum", high)):
        if bound is not None:
            x = b.pointwise(op, x, bound)
    return x


def _gelu(b: Builder, x: Value, approximate: str = "none") -> Value:
    if approximate not in ("none", "tanh"):
        raise b.unsupported(f"a gelu by the approximation '{approximate}'")
    return b.emit("gelu_tanh" if approximate == "tanh" else "gelu", b.name(x))


def _swish(b: Builder, x: Value, alpha: float = 1.0) -> Value:
    if alpha == 1:
        return b.emit("silu", b.name(x))
    return b.pointwise("mul", x, b.pointwise("sigmoid", b.pointwise("mul", x, number(alpha))))


def _softplus(b: Builder, x: Value) -> Value:
    return b.emit("softplus", b.name(x))


def _mish(b: Builder, x: Value) -> Value:
    """x tanh(log(1 + e^x)) = x n / (n + 2) with n = e^x (e^x + 2); n / (n + 2) is 1 from 20 on."""
    e = b.pointwise("exp", b.pointwise("minimum", x, number(20)))
    n = b.pointwise("mul", e, b.pointwise("add", e, number(2)))
    return b.pointwise("mul", x, b.pointwise("div", n, b.pointwise("add", n, number(2))))


def _leaky(b: Builder, x: Value, alpha: float = 0.01) -> Value:
    low = b.pointwise("minimum", x, number(0))
    return b.pointwise("add", b.pointwise("relu", x), b.pointwise("mul", low, number(alpha)))


def _prelu(b: Builder, x: Value, slope: Value) -> Value:
    low = b.pointwise("minimum", x, number(0))
    return b.pointwise("add", b.pointwise("relu", x), b.pointwise("mul", low, slope))


def _elu(b: Builder, x: Value, alpha: float = 1.0) -> Value:
    return _selu(b, x, alpha, 1.0)


def _selu(b: Builder, x: Value, alpha: float = 1.67326319217681884765625,
          gamma: float = 1.05070102214813232421875) -> Value:  # fmt: skip
    low = b.pointwise("exp", b.pointwise("minimum", x, number(0)))
    low = b.pointwise("mul", b.pointwise("sub", low, number(1)), number(alpha))
    return b.pointwise("mul", b.pointwise("add", b.pointwise("relu", x), low), number(gamma))


def _hard_sigmoid(b: Builder, x: Value, alpha: float = 0.2, beta: float = 0.5) -> Value:
    line = b.pointwise("add", b.pointwise("mul", x, number(alpha)), number(beta))
    return _clip(b, line, number(0), number(1))


def _hard_swish(b: Builder, x: Value) -> Value:
    return b.pointwise("mul", x, _hard_sigmoid(b, x, 1 / 6, 0.5))


def _softsign(b: Builder, x: Value) -> Value:
    return b.pointwise("div", x, b.pointwise("add", b.pointwise("abs", x), number(1)))


# Along dimensions.


def _axes(b: Builder, x: Value, axes: Sequence[int]) -> list[int]:
    rank = len(b.shape(x))
    return sorted({views.dimension(b, a, rank) for a in axes})


def _softmax(b: Builder, x: Value, axis: int = -1) -> Value:
    rank = len(b.shape(x))
    axis = views.dimension(b, axis, rank)
    if axis == rank - 1:
        return b.emit("softmax", b.name(x))
    perm = [i for i in range(rank) if i != axis] + [axis]
    turned = b.emit("softmax", b.emit("transpose", b.name(x), perm=tuple(perm)))
    return b.emit("transpose", turned, perm=tuple(perm.index(i) for i in range(rank)))


def _log_softmax(b: Builder, x: Value, axis: int = -1) -> Value:
    axes = [views.dimension(b, axis, len(b.shape(x)))]
    _, shifted = _shifted(b, x, axes)
    total = _reduced(b, "reduce_sum", b.emit("exp", b.name(shifted)), axes, 1)
    return b.pointwise("sub", shifted, b.emit("log", total))


def _log_sum_exp(b: Builder, x: Value, axes_in: Value | None = None, axes: Any = None,
                 keepdims: int = 1, noop_with_empty_axes: int = 0) -> Value:  # fmt: skip
    if axes_in is not None:
        axes = b.numbers(axes_in, "axes")
    if not axes and noop_with_empty_axes:
        return x
    along = _axes(b, x, axes or range(len(b.shape(x))))
    most, shifted = _shifted(b, x, along)
    total = _reduced(b, "reduce_sum", b.emit("exp", b.name(shifted)), along, keepdims)
    logs = b.emit("log", total)
    return b.pointwise("add", b.reshape(most, b.shape(logs)), logs)


def _shifted(b: Builder, x: Value, axes: list[int]) -> tuple[str, Value]:
    """The largest element along dimensions, and x minus it, whose exponentials cannot overflow."""
    most = _reduced(b, "reduce_max", b.name(x), axes, 1)
    return most, b.pointwise("sub", x, most)


def _reduce(op: str, before: str = "", after: str = "") -> OnnxRule:
    """A reduction over any dimensions; `before` and `after` are applied to elements and sums."""

    def rule(b: Builder, x: Value, axes_in: Value | None = None, axes: Any = None,
             keepdims: int = 1, noop_with_empty_axes: int = 0) -> Value:  # fmt: skip
        if axes_in is not None:
            axes = b.numbers(axes_in, "axes")
        if not axes and noop_with_empty_axes:
            return x
        name = b.name(x)
        if before:
            name = b.emit("mul", name, name) if before == "square" else b.emit(before, name)
        out = _reduced(b, op, name, _axes(b, x, axes or range(len(b.shape(x)))), keepdims)
        return b.emit(after, out) if after else out

    return rule


def _reduced(b: Builder, op: str, x: str, axes: list[int], keepdims: int) -> str:
    shape = b.shape(x)
    rest = [i for i in range(len(shape)) if i not in axes]
    if not shape or b.types[x].dtype != F32:
        raise b.unsupported("a reduction of this")
    if rest + axes != list(range(len(shape))):
        x = b.emit("transpose", x, perm=(*rest, *axes))
    lead = tuple(shape[i] for i in rest)
    x = b.reshape(x, (*lead, product(shape[i] for i in axes)))
    kept: Shape = tuple(1 if i in axes else d for i, d in enumerate(shape)) if keepdims else lead
    return b.reshape(b.emit(op, x), kept)


def _layer_norm(b: Builder, x: Value, scale: Value, bias: Value | None = None, axis: int = -1,
                epsilon: float = 1e-5) -> Value:  # fmt: skip
    shape = b.shape(x)
    axis = views.dimension(b, axis, len(shape))
    width = product(shape[axis:])
    if not isinstance(width, int):
        raise b.unsupported("a norm over the tokens")
    gamma = _row(b, scale, width, shape[axis:])
    beta = _row(b, bias if bias is not None else fill(0.0, (width,), F32), width, shape[axis:])
    flat = b.reshape(b.name(x), (*shape[:axis], width))
    return b.reshape(b.emit("layer_norm", flat, gamma, beta, eps=float(epsilon)), shape)


def _row(b: Builder, x: Value, width: int, shape: Sequence[Dim]) -> str:
    """x [..] as a row of `width` numbers."""
    x = b.spread(x, tuple(shape)) if b.shape(x) != (width,) else x
    if isinstance(x, Known):
        return b.name(known(np.ascontiguousarray(x.full()).reshape(width)))
    return b.reshape(b.name(x), (width,))


def _rms_norm(b: Builder, x: Value, scale: Value, axis: int = -1,
              epsilon: float = 1e-5) -> Value:  # fmt: skip
    name = b.name(x)
    axes = list(range(views.dimension(b, axis, len(b.shape(x))), len(b.shape(x))))
    mean = _reduced(b, "reduce_mean", b.emit("mul", name, name), axes, 1)
    root = b.pointwise("sqrt", b.pointwise("add", mean, number(epsilon)))
    return b.pointwise("mul", b.pointwise("div", name, root), scale)


def _cumsum(b: Builder, x: Value, axis: Value, exclusive: int = 0, reverse: int = 0) -> Value:
    place = views.dimension(b, b.numbers(axis, "an axis")[0], len(b.shape(x)))
    if isinstance(x, Known) and x.array.shape[place] == 1 and x.uniform and not reverse:
        step = int(x.item())
        return Ramp(x.shape, place, 0 if exclusive else step, step)
    shape = b.shape(x)
    if reverse or exclusive or b.dtype(x) == F32 or product(shape) != shape[place]:
        raise b.unsupported("a running sum, other than of whole numbers of all tokens,")
    line = b.emit("cumsum", b.reshape(b.name(x), (1, shape[place])))
    return b.reshape(line, shape)


def _trilu(b: Builder, x: Value, diagonal: Value | None = None, upper: int = 1) -> Value:
    """x on one side of a diagonal, 0 elsewhere: how causal masks are made."""
    shape = b.shape(x)
    k = b.numbers(diagonal, "a diagonal")[0] if diagonal is not None else 0
    k = max(-LONGEST, min(k, LONGEST))
    if isinstance(x, Known) and not has_length(x) and all(isinstance(d, int) for d in shape):
        full = np.ascontiguousarray(x.full())
        return known(np.triu(full, k) if upper else np.tril(full, k))
    rows, columns = (Ramp((d,), 0, 0, 1) for d in shape[-2:])
    column = b.name(views.as_shape(b, columns, (1, shape[-1])))
    row = b.name(views.as_shape(b, rows, (shape[-2], 1)))
    distance = b.emit("sub", column, row)
    bound = b.constant(np.array(k, np.int32))
    kept = b.emit("ge" if upper else "le", distance, bound)
    if b.dtype(x) == BOOL:
        return b.pointwise("logical_and", x, kept)
    kind = np.float32 if b.dtype(x) == F32 else np.int64
    return b.pointwise("where", kept, x, known(np.array(0, kind)))


RULES: dict[str, OnnxRule] = {
    **{name: _unary(op) for name, op in {
        "Neg": "neg", "Abs": "abs", "Exp": "exp", "Sqrt": "sqrt", "Reciprocal": "reciprocal",
        "Tanh": "tanh", "Erf": "erf", "Sigmoid": "sigmoid", "Relu": "relu", "Floor": "floor",
        "Ceil": "ceil", "Sign": "sign", "Log": "log", "Round": "round",
        "Cos": "cos", "Sin": "sin"}.items()},
    **{name: _binary(op) for name, op in {
        "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Mod": "mod",
        "Equal": "eq", "Greater": "gt", "GreaterOrEqual": "ge", "Less": "lt", "LessOrEqual": "le",
        "And": "logical_and", "Or": "logical_or", "Xor": "logical_xor"}.items()},
    "Max": _many("maximum"), "Min": _many("minimum"), "Sum": _many("add"), "Mean": _mean,
    "Not": _not, "IsNaN": _is_nan, "Where": _where, "Cast": _cast,
    "CastLike": lambda b, x, like: x if b.dtype(x) == b.dtype(like) else b.emit(
        "cast", b.name(x), dtype=b.dtype(like)),
    "Identity": _pass, "Dropout": _dropout,
    "Pow": _pow, "Clip": _clip, "Gelu": _gelu, "Swish": _swish, "LeakyRelu": _leaky,
    "PRelu": _prelu, "Elu": _elu, "Selu": _selu, "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish, "Softplus": _softplus, "Mish": _mish, "Softsign": _softsign,
    "Softmax": _softmax, "LayerNormalization": _layer_norm, "RMSNormalization": _rms_norm,
    "ReduceSum": _reduce("reduce_sum"), "ReduceMean": _reduce("reduce_mean"),
    "ReduceSumSquare": _reduce("reduce_sum", "square"), "ReduceL1": _reduce("reduce_sum", "abs"),
    "ReduceL2": _reduce("reduce_sum", "square", "sqrt"), "ReduceMax": _reduce("reduce_max"),
    "ReduceLogSum": _reduce("reduce_sum", after="log"), "ReduceLogSumExp": _log_sum_exp,
    "LogSoftmax": _log_softmax,
    "CumSum": _cumsum, "Trilu": _trilu,
    **views.RULES,
    **parts.RULES,
    **attention.RULES,
    **quantized.RULES,  # after those whose results it wraps
    **products.RULES,
}  # fmt: skip
