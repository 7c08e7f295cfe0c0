"""Rules of ATen operators that compute, and of those that do nothing at inference."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from canao.graph.dtypes import BOOL, F32, I32, widest
from canao.graph.from_torch.aten_rules import (
    AtenRule,
    Builder,
    as_dtype,
    matrix_transpose,
    transpose,
)
from canao.graph.ir import Dim, Poly, product


def _pass(b: Builder, x: str, *_: Any, **__: Any) -> str:
    return x


def _unary(op: str) -> AtenRule:
    return lambda b, x: b.emit(op, x)


def _binary(op: str) -> Callable[..., str]:
    def rule(b: Builder, x: Any, y: Any, alpha: float = 1) -> str:
        if alpha != 1:
            y = b.emit("mul", b.value(y), b.value(float(alpha)))
        x, y = (_same_dtype(b, v, x, y) for v in (x, y))
        return b.emit(op, x, y)

    return rule


def _logical(op: str) -> AtenRule:
    def rule(b: Builder, *operands: str) -> str:
        if any(b.type(x).dtype != BOOL for x in operands):
            raise b.unsupported("bits of integers")
        return b.emit(op, *operands)

    return rule


def _same_dtype(b: Builder, operand: Any, *both: Any) -> str:
    """`operand` as a value, cast to the wider of the operands' types."""
    return as_dtype(b, b.value(operand), widest(b.type(b.value(v)).dtype for v in both))


def _div(b: Builder, x: Any, y: Any, rounding_mode: str | None = None) -> str:
    if rounding_mode is not None:
        raise b.unsupported(f"division that rounds to {rounding_mode}")
    return b.emit("div", *(as_dtype(b, b.value(v), F32) for v in (x, y)))


def _reverse_sub(b: Builder, x: str, y: Any, alpha: float = 1) -> str:
    return _binary("sub")(b, y, x, alpha)


def _clamp(b: Builder, x: str, low: Any = None, high: Any = None) -> str:
    kind = float if b.type(x).dtype == F32 else int
    for op, bound in (("maximum", low), ("minimum", high)):
        if bound is not None:
            x = b.emit(op, x, b.value(bound if isinstance(bound, Poly) else kind(bound)))
    return x


def _two_operands(op: str) -> AtenRule:
    """max and min are also names of reductions."""

    def rule(b: Builder, *operands: Any) -> str:
        if len(operands) != 2 or not isinstance(operands[1], str):
            raise b.unsupported("a reduction to the largest or smallest element")
        return _binary(op)(b, *operands)

    return rule


def _linear(b: Builder, x: str, w: str, bias: str | None = None) -> str:
    return b.emit("linear", x, w, *([bias] if bias else []))


def _addmm(b: Builder, bias: str, x: str, w: str) -> str:
    return b.emit("add", b.emit("matmul", x, w), bias)


def _layer_norm(
    b: Builder,
    x: str,
    shape: Any,
    gamma: str | None = None,
    beta: str | None = None,
    eps: float = 1e-5,
    _cudnn: bool = True,
) -> str:
    if len(shape) != 1:
        raise b.unsupported(f"layer_norm over the last {len(shape)} dimensions")
    gamma = gamma or b.constant(np.ones(shape[0], np.float32))
    beta = beta or b.constant(np.zeros(shape[0], np.float32))
    return b.emit("layer_norm", x, gamma, beta, eps=float(eps))


def _gelu(b: Builder, x: str, approximate: str = "none") -> str:
    return b.emit("gelu" if approximate == "none" else "gelu_tanh", x)


def _square(b: Builder, x: str) -> str:
    return b.emit("mul", x, x)


def _mish(b: Builder, x: str) -> str:
    return b.emit("mul", x, b.emit("tanh", b.emit("softplus", x)))


def _softplus(b: Builder, x: str, beta: float = 1, _threshold: float = 20) -> str:
    if beta != 1:
        raise b.unsupported(f"softplus with beta {beta}")
    return b.emit("softplus", x)


def _leaky(b: Builder, x: str, slope: Any = 0.01) -> str:
    """x where it is positive, else x * slope; the slope of prelu is a weight."""
    if isinstance(slope, str) and product(b.type(slope).shape) != 1:
        raise b.unsupported("prelu with a slope for each channel")
    slope = b.emit("reshape", slope, shape=()) if isinstance(slope, str) else b.value(float(slope))
    below = b.emit("mul", b.emit("minimum", x, b.value(0.0)), slope)
    return b.emit("add", b.emit("relu", x), below)


def _expm1(b: Builder, x: str) -> str:
    """Near 0 not as exact as its name promises: the error is that of exp, absolute."""
    return b.emit("sub", b.emit("exp", x), b.value(1.0))


def _hardswish(b: Builder, x: str) -> str:
    gate = _clamp(b, b.emit("add", x, b.value(3.0)), 0, 6)
    return b.emit("mul", b.emit("mul", x, gate), b.value(1 / 6))


def _softmax(b: Builder, x: str, axis: int, *_: Any, **__: Any) -> str:
    rank = len(b.type(x).shape)
    if axis % rank == rank - 1:
        return b.emit("softmax", x)
    return transpose(b, b.emit("softmax", transpose(b, x, axis, -1)), axis, -1)


def _log_softmax(b: Builder, x: str, axis: int, *_: Any, **__: Any) -> str:
    last = len(b.type(x).shape) - 1
    x = x if axis % (last + 1) == last else transpose(b, x, axis, -1)
    shifted = b.emit("sub", x, b.emit("reduce_max", x))
    total = b.emit("log", b.emit("reduce_sum", b.emit("exp", shifted)))
    out = b.emit("sub", shifted, total)
    return out if axis % (last + 1) == last else transpose(b, out, axis, -1)


def _log_sum_exp(b: Builder, x: str, axes: Any, keepdim: bool = False) -> str:
    most = str(_reduce("reduce_max")(b, x, axes, True))
    powers = b.emit("exp", b.emit("sub", x, most))
    logs = b.emit("log", str(_reduce("reduce_sum")(b, powers, axes, True)))
    total = b.emit("add", most, logs)
    return total if keepdim else b.emit("reshape", total, shape=b.result_shape())


def _log_sigmoid(b: Builder, x: str) -> str:
    return b.emit("neg", b.emit("softplus", b.emit("neg", x)))


def _reduce(op: str) -> AtenRule:
    def rule(b: Builder, x: str, axes: Any = None, keepdim: bool = False, **_: Any) -> str:
        last = len(b.type(x).shape) - 1
        if axes is None or len(axes) != 1:
            raise b.unsupported(f"{op} over {'all' if axes is None else len(axes)} dimensions")
        axis = axes[0] % (last + 1)
        x = x if axis == last else transpose(b, x, axis, last)
        kept = b.emit(op, x)
        kept = kept if axis == last else transpose(b, kept, axis, last)
        return kept if keepdim else b.emit("reshape", kept, shape=b.result_shape())

    return rule


def _pow(b: Builder, x: str, exponent: float) -> str:
    whole = {0.5: "sqrt", -1.0: "reciprocal"}
    if exponent in whole:
        return b.emit(whole[exponent], x)
    if exponent not in (2, 3):
        raise b.unsupported(f"power {exponent}")
    square = b.emit("mul", x, x)
    return square if exponent == 2 else b.emit("mul", square, x)


def _rsqrt(b: Builder, x: str) -> str:
    return b.emit("reciprocal", b.emit("sqrt", x))


def _where(b: Builder, condition: str, x: Any, y: Any) -> str:
    return b.emit("where", condition, _same_dtype(b, x, x, y), _same_dtype(b, y, x, y))


def _masked_fill(b: Builder, x: str, mask: str, value: Any) -> str:
    return b.emit("where", mask, _same_dtype(b, value, x), x)


def _cumsum(b: Builder, x: str, axis: int) -> str:
    shape, same = b.type(x).shape, b.uniform(x)
    if same is not None and len(shape) == 2 and shape[0] == 1 and axis % 2 == 1:
        # A mask of ones, say: the sums are multiples of its one number.
        count = b.emit("add", b.emit("arange", stop=shape[1]), b.constant(np.array(1, np.int32)))
        row = b.emit("reshape", as_dtype(b, count, b.type(same).dtype), shape=shape)
        return b.emit("mul", row, same)
    if b.type(x).dtype == F32 or axis % len(shape) != len(shape) - 1:
        raise b.unsupported("a running sum, other than of integers along the last dimension,")
    return b.emit("cumsum", as_dtype(b, x, I32))


def _causal_mask(b: Builder, queries: Dim, keys: Dim) -> str:
    """True where key <= query, [queries, keys]."""
    query = b.emit("reshape", b.emit("arange", stop=queries), shape=(queries, 1))
    return b.emit("le", b.emit("arange", stop=keys), query)


def _attention(
    b: Builder,
    q: str,
    k: str,
    v: str,
    mask: str | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    **_: Any,
) -> str:
    """softmax(q k^T * scale + mask) v, taken apart, so that fusion decides what to join."""
    if is_causal:
        if mask is not None:
            raise b.unsupported("is_causal together with a mask")
        mask = _causal_mask(b, b.type(q).shape[-2], b.type(k).shape[-2])
    width = b.type(q).shape[-1]
    assert isinstance(width, int)
    factor = 1 / math.sqrt(width) if scale is None else float(scale)
    scores = b.emit("matmul", q, matrix_transpose(b, k))
    scores = b.emit("mul", scores, b.value(factor))
    if mask is not None and b.type(mask).dtype == BOOL:
        scores = b.emit("where", mask, scores, b.value(-math.inf))
    elif mask is not None:
        scores = b.emit("add", scores, mask)
    return b.emit("matmul", b.emit("softmax", scores), v)


RULES: dict[str, AtenRule] = {
    **dict.fromkeys(
        (
            "dropout",
            "contiguous",
            "clone",
            "alias",
            "detach",
            "detach_",
            "lift_fresh",
            "lift_fresh_copy",
        ),
        _pass,
    ),
    **{
        op: _unary(op)
        for op in (
            "neg",
            "abs",
            "exp",
            "sqrt",
            "reciprocal",
            "tanh",
            "erf",
            "sigmoid",
            "relu",
            "silu",
            "log",
            "cos",
            "sin",
            "sign",
            "ceil",
            "floor",
        )
    },
    **{
        op: _binary(op)
        for op in (
            "add",
            "sub",
            "mul",
            "maximum",
            "minimum",
            "eq",
            "ne",
            "ge",
            "gt",
            "le",
            "lt",
        )
    },
    "div": _div,
    "multiply": _binary("mul"),
    "rsub": _reverse_sub,
    "max": _two_operands("maximum"),
    "min": _two_operands("minimum"),
    **dict.fromkeys(("clamp", "clip", "hardtanh"), _clamp),
    "relu6": lambda b, x: _clamp(b, x, 0, 6),
    "clamp_min": lambda b, x, low: _clamp(b, x, low),
    "clamp_max": lambda b, x, high: _clamp(b, x, None, high),
    **dict.fromkeys(("logical_and", "bitwise_and", "__and__"), _logical("logical_and")),
    **dict.fromkeys(("logical_or", "bitwise_or", "__or__"), _logical("logical_or")),
    **dict.fromkeys(("logical_not", "bitwise_not"), _logical("logical_not")),
    "square": _square,
    "mish": _mish,
    "softplus": _softplus,
    "hardswish": _hardswish,
    "expm1": _expm1,
    **dict.fromkeys(("leaky_relu", "prelu"), _leaky),
    "rsqrt": _rsqrt,
    "pow": _pow,
    "gelu": _gelu,
    "linear": _linear,
    "addmm": _addmm,
    "layer_norm": _layer_norm,
    "softmax": _softmax,
    "_softmax": _softmax,
    **dict.fromkeys(("log_softmax", "_log_softmax"), _log_softmax),
    "logsumexp": _log_sum_exp,
    "log_sigmoid": _log_sigmoid,
    "amax": _reduce("reduce_max"),
    "mean": _reduce("reduce_mean"),
    "sum": _reduce("reduce_sum"),
    "where": _where,
    "masked_fill": _masked_fill,
    "cumsum": _cumsum,
    **dict.fromkeys(("matmul", "bmm", "mm"), lambda b, x, y: b.emit("matmul", x, y)),
    "embedding": lambda b, table, ids, *_: b.emit("gather", table, ids),
    "scaled_dot_product_attention": _attention,
}
IGNORED = (
    "sym_size",
    "sym_numel",
    "_assert_tensor_metadata",
    "_assert_scalar",
    "sym_constrain_range_for_size",
)
