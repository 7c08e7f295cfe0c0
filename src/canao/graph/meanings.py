"""What each op of graph/ops.py computes, in NumPy on concrete shapes.

A meaning takes the operands and the node's attributes, with the token count as `s` among them.
It computes in the precision that its operands have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import erf

from canao.graph.dtypes import F16, F32, I8, Q8, DType
from canao.graph.ir import Dim, dim_at

Attributes = Mapping[str, Any]
Array = np.ndarray
Meaning = Callable[[Sequence[Array], Attributes], Array]


def elementwise(function: Callable[..., Array]) -> Meaning:
    """Of a function of the operands alone."""
    return lambda x, _: function(*x)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


def gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def softplus(x: Array) -> Array:
    return np.logaddexp(x, 0)


def select(x: Array, positive: Array, other: Array) -> Array:
    return np.where(x > 0, positive, other)


def levels(x: Array, scale: Array, zero: Array, low: Array, high: Array) -> Array:
    """x / scale + zero as the nearest whole numbers, half to even, from `low` to `high`: ONNX's
    QuantizeLinear. All are floats; zero, low and high are whole."""
    return np.rint(np.clip(x / scale, low - zero, high - zero)) + zero


def cast(x: Sequence[Array], a: Attributes) -> Array:
    """Floats keep the precision that the graph is run in; whole numbers don't wrap around."""
    floats = x[0].dtype if x[0].dtype.kind == "f" else np.float64
    return x[0].astype({"float": floats, "int": np.int64, "bool": np.bool_}[a["dtype"].kind])


def arange(_: Sequence[Array], a: Attributes) -> Array:
    return np.arange(dim_at(a["stop"], a["s"]))


def linear(x: Sequence[Array], a: Attributes) -> Array:
    """x0 by x1, and the bias x2. Sums are of the operands' type; of halves in blocks of
    `half_block`, which only the comparison of precisions asks for."""
    block = a.get("half_block")
    rows, weights = widened(x[0]), widened(x[1])
    product = rows @ weights.T if block is None else half_sums(rows, weights, block)
    return product + (x[2] if len(x) == 3 else 0)


def half_sums(rows: Array, weights: Array, block: int) -> Array:
    """[..., k] by [n, k], both of halves, as instructions add them up that multiply and add in half
    precision: each of the sums of `block` products is rounded to it step by step, and these sums
    are added in float32."""
    depth = rows.shape[-1]
    flat, columns = rows.reshape(-1, depth), np.ascontiguousarray(weights.T)
    sums = np.zeros((len(flat), len(weights)), np.float32)
    for begin in range(0, depth, block):
        part = np.zeros(sums.shape, np.float16)
        for p in range(begin, min(begin + block, depth)):
            # A product of halves is exact in float32. Its sum is rounded there first, which now and
            # then moves the last bit of a half.
            step = flat[:, p : p + 1] * columns[p]
            step += part
            part = step.astype(np.float16)
        sums += part
    return sums.reshape(*rows.shape[:-1], len(weights))


def narrow(x: Sequence[Array], a: Attributes) -> Array:
    return narrowed(x[0], a["dtype"])


def narrowed(x: Array, dtype: DType) -> Array:
    """Numbers as bf16 or f16, rounded half to even; those beyond f16's largest become that."""
    if dtype == F16:
        return np.clip(np.asarray(x, np.float32), -HALF_MOST, HALF_MOST).astype(np.float16)
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    with np.errstate(over="ignore"):
        rounded = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    return (rounded >> np.uint32(16)).astype(np.uint16)


def widened(x: Array) -> Array:
    """Numbers of bf16 and f16 in float32; others as they are."""
    if x.dtype == np.uint16:
        return (x.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return x.astype(np.float32) if x.dtype == np.float16 else x


HALF_MOST = np.float32(65504)  # the largest f16


def rows_of(width: int) -> np.dtype[Any]:
    """How a value of Q8 or Q7 is held here: for each row `width` whole numbers, and what they are
    multiples of."""
    return np.dtype([("levels", np.int8, (width,)), ("scale", np.float32)])


def quantize(x: Sequence[Array], a: Attributes) -> Array:
    """Each row over its largest magnitude / levels, rounded half to even; all in float32. `dtype`
    is what has so many levels, Q8 where it is not named."""
    rows, most = np.asarray(x[0], np.float32), np.float32(a.get("dtype", Q8).levels)
    top = np.abs(rows).max(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        inverse = np.where(top > 0, most / top, np.float32(0))
    out = np.empty(rows.shape[:-1], rows_of(rows.shape[-1]))
    out["levels"] = np.rint(rows * inverse)
    out["scale"] = top[..., 0] / most
    return out


def rows_of_levels(x: Sequence[Array], _: Attributes) -> Array:
    """Whole numbers from -128 to 127, given as floats, as levels of rows whose scale is 1."""
    out = np.empty(x[0].shape[:-1], rows_of(x[0].shape[-1]))
    out["levels"] = np.rint(x[0])
    out["scale"] = 1
    return out


def accumulators(x: Array, weights: Array) -> Array:
    """Of a quantised product: whole numbers, as kernels have them in int32. Float64 holds them
    exactly, and is multiplied much faster."""
    product: Array = x["levels"].astype(np.float64) @ weights.T.astype(np.float64)
    return product


def quantized_linear(x: Sequence[Array], _: Attributes) -> Array:
    """x0, of Q8, Q7 or float32, by x1 of int8; x2 is what each column of these is a multiple of, x3
    the bias."""
    if x[0].dtype.names is None:
        return x[0] @ x[1].T.astype(x[0].dtype) * x[2] + (x[3] if len(x) == 4 else 0)
    scale = x[0]["scale"][..., None].astype(x[2].dtype) * x[2]
    return accumulators(x[0], x[1]) * scale + (x[3] if len(x) == 4 else 0)


def quantized_gather(x: Sequence[Array], _: Attributes) -> Array:
    """Rows x2 of a table x0 of int8, times the scale of each in x1."""
    return x[0][x[2]] * x[1][x[2]]


def matmul(x: Sequence[Array], a: Attributes) -> Array:
    """x0 @ x1, both of which are first rounded to `rounded`, where that is given; with `of_largest`
    rows of x0, none of them negative, relative to their largest element."""
    dtype = a.get("rounded")
    if dtype is None:
        return x[0] @ x[1]
    top = x[0].max(-1, keepdims=True) if a.get("of_largest") else x[0].dtype.type(1)
    left, right = (widened(narrowed(v, dtype)).astype(v.dtype) for v in (x[0] / top, x[1]))
    return left @ right * top


def distance_matmul(x: Sequence[Array], a: Attributes) -> Array:
    """x0 @ x1 in the columns from the first to the last that x2 names for a distance within the
    text. The others are 0 here; a kernel leaves them as they are."""
    named = x[2][a["longest"] - a["s"] : a["longest"] - 1 + a["s"]]
    out = x[0] @ x[1]
    out[..., : named.min()] = 0
    out[..., named.max() + 1 :] = 0
    return out


def softmax(x: Sequence[Array], _: Attributes) -> Array:
    e = np.exp(x[0] - x[0].max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kept(rows: Array, dtype: DType) -> Array:
    """Keys or values [..., tokens, width] as a cache of f32, f16 or i8 gives them back. Those of i8
    are levels of `quantize`, so that each token and head has a scale."""
    if dtype == F16:
        return widened(narrowed(rows, F16)).astype(rows.dtype)
    if dtype == I8:
        stored = quantize([rows], {})
        levels: Array = stored["levels"].astype(rows.dtype)
        return levels * stored["scale"][..., None].astype(rows.dtype)
    return rows


def causal_attention(x: Sequence[Array], a: Attributes) -> Array:
    """The queries are those of the last tokens; each sees its own key and all before it. Keys and
    values are read as a cache of the type `cache` holds them, float32 where none is named."""
    q, k, v = x[0], *(kept(rows, a.get("cache", F32)) for rows in x[1:])
    scores = q @ k.swapaxes(-1, -2) * a["scale"]
    queries, keys = scores.shape[-2:]
    seen = np.tri(queries, keys, keys - queries, dtype=bool)
    return softmax([np.where(seen, scores, -np.inf)], a) @ v


def layer_norm(x: Sequence[Array], a: Attributes) -> Array:
    mean = x[0].mean(-1, keepdims=True)
    centred = x[0] - mean
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + a["eps"])
    return scaled * x[1] + x[2]


def reduce_sum(x: Sequence[Array], _: Attributes) -> Array:
    return x[0].sum(-1, keepdims=True)


def reduce_mean(x: Sequence[Array], _: Attributes) -> Array:
    return x[0].mean(-1, keepdims=True)


def reduce_max(x: Sequence[Array], _: Attributes) -> Array:
    return x[0].max(-1, keepdims=True)


def cumsum(x: Sequence[Array], _: Attributes) -> Array:
    return x[0].cumsum(-1)


def gather(x: Sequence[Array], _: Attributes) -> Array:
    return widened(x[0][x[1]])


def take_along_axis(x: Sequence[Array], _: Attributes) -> Array:
    indices = np.broadcast_to(x[1], (*x[0].shape[:-1], x[1].shape[-1]))
    return np.take_along_axis(x[0], indices, -1)


def concat(x: Sequence[Array], a: Attributes) -> Array:
    return np.concatenate(x, a["axis"])


# Views.


def _concrete(values: Sequence[Dim], a: Attributes) -> tuple[int, ...]:
    return tuple(dim_at(v, a["s"]) for v in values)


def reshape(x: Sequence[Array], a: Attributes) -> Array:
    return x[0].reshape(_concrete(a["shape"], a))


def transpose(x: Sequence[Array], a: Attributes) -> Array:
    return x[0].transpose(a["perm"])


def slice_of(x: Sequence[Array], a: Attributes) -> Array:
    start, stop = _concrete((a["start"], a["stop"]), a)
    index = [slice(None)] * x[0].ndim
    index[a["axis"]] = slice(start, stop)
    return x[0][tuple(index)]


def flip(x: Sequence[Array], a: Attributes) -> Array:
    return np.flip(x[0], a["axis"])


def expand(x: Sequence[Array], a: Attributes) -> Array:
    return np.broadcast_to(x[0], _concrete(a["shape"], a))


def diagonals(x: Sequence[Array], a: Attributes) -> Array:
    """Element [..., i, j] is x[..., longest - 1 + j - i]: it depends on the distance only."""
    index = np.arange(a["s"])
    return x[0][..., a["longest"] - 1 + index - index[:, None]]
