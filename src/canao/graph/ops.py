"""The op table: one row per op, read by verifier, interpreter, cost estimate, fusion and emitters.

Meanings are NumPy on concrete shapes; attributes that hold shapes are made concrete first.
Mapping types are those of DNNFusion (PLDI 2021, Table 2); a type describes the activation
edge, so that operands which are weights or scalars don't turn an op into One-to-Many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import erf

from canao.graph.dtypes import BOOL, F32, I32, DType
from canao.graph.ir import TOKENS, Dim, Shape, Type, dim_add, dim_at, dim_mul, product

Attributes = Mapping[str, Any]
Array = np.ndarray

ONE_TO_ONE = "one-to-one"
ONE_TO_MANY = "one-to-many"
MANY_TO_MANY = "many-to-many"
REORGANIZE = "reorganize"
SHUFFLE = "shuffle"


@dataclass(frozen=True, slots=True)
class Op:
    """One row. `flops` counts per output element unless the op has a rule of its own."""

    name: str
    arity: tuple[int, ...]
    shape: Callable[[Sequence[Type], Attributes], Type]
    meaning: Callable[[Sequence[Array], Attributes], Array]
    mapping: str
    flops: Callable[[Sequence[Type], Type, int], int]
    pointwise: bool = False
    view: bool = False


class ShapeError(ValueError):
    """The operands of an op don't fit together."""


def broadcast(shapes: Sequence[Shape]) -> Shape:
    """NumPy's broadcasting; a symbolic dimension goes with itself and with 1."""
    rank = max(len(s) for s in shapes)
    out: list[Dim] = []
    for column in zip(*[(1,) * (rank - len(s)) + tuple(s) for s in shapes], strict=True):
        sizes = {d for d in column if d != 1}
        if len(sizes) > 1:
            raise ShapeError(f"shapes {[str(s) for s in shapes]} do not broadcast")
        out.append(sizes.pop() if sizes else 1)
    return tuple(out)


def _same(types: Sequence[Type], _: Attributes) -> Type:
    return types[0]


def _broadcast(dtype: DType | None = None) -> Callable[[Sequence[Type], Attributes], Type]:
    def rule(types: Sequence[Type], _: Attributes) -> Type:
        return Type(dtype or types[-1].dtype, broadcast([t.shape for t in types]))

    return rule


def _linear_shape(types: Sequence[Type], _: Attributes) -> Type:
    x, w = types[0].shape, types[1].shape
    if len(w) != 2 or x[-1] != w[1] or (len(types) == 3 and types[2].shape != (w[0],)):
        raise ShapeError(f"linear of {types[0]} by {types[1]}")
    return Type(F32, (*x[:-1], w[0]))


def _matmul_shape(types: Sequence[Type], _: Attributes) -> Type:
    a, b = types[0].shape, types[1].shape
    if len(a) < 2 or len(b) < 2 or a[-1] != b[-2]:
        raise ShapeError(f"matmul of {types[0]} by {types[1]}")
    return Type(F32, (*broadcast([a[:-2], b[:-2]]), a[-2], b[-1]))


def _gather_shape(types: Sequence[Type], _: Attributes) -> Type:
    if len(types[0].shape) != 2 or types[1].dtype != I32:
        raise ShapeError(f"gather of {types[1]} from {types[0]}")
    return Type(types[0].dtype, (*types[1].shape, types[0].shape[1]))


def _reshape_shape(types: Sequence[Type], a: Attributes) -> Type:
    out = Type(types[0].dtype, tuple(a["shape"]))
    if out.elements != types[0].elements:
        raise ShapeError(f"reshape of {types[0]} to {out}")
    return out


def _transpose_shape(types: Sequence[Type], a: Attributes) -> Type:
    if sorted(a["perm"]) != list(range(len(types[0].shape))):
        raise ShapeError(f"transpose of {types[0]} by {a['perm']}")
    return Type(types[0].dtype, tuple(types[0].shape[i] for i in a["perm"]))


def _slice_shape(types: Sequence[Type], a: Attributes) -> Type:
    shape = list(types[0].shape)
    shape[a["axis"]] = dim_add(a["stop"], dim_mul(a["start"], -1))
    return Type(types[0].dtype, tuple(shape))


def _expand_shape(types: Sequence[Type], a: Attributes) -> Type:
    shape = tuple(a["shape"])
    if broadcast([types[0].shape, shape]) != shape:
        raise ShapeError(f"expand of {types[0]} to {shape}")
    return Type(types[0].dtype, shape)


def _concat_shape(types: Sequence[Type], a: Attributes) -> Type:
    axis, shape = a["axis"], list(types[0].shape)
    for other in types[1:]:
        same = zip(other.shape, types[0].shape, strict=False)
        fits = all(a == b for i, (a, b) in enumerate(same) if i != axis)
        if len(other.shape) != len(shape) or other.dtype != types[0].dtype or not fits:
            raise ShapeError(f"concat of {types[0]} and {other} along dimension {axis}")
        shape[axis] = dim_add(shape[axis], other.shape[axis])
    return Type(types[0].dtype, tuple(shape))


def _reduce_shape(types: Sequence[Type], _: Attributes) -> Type:
    return Type(types[0].dtype, (*types[0].shape[:-1], 1))


def _diagonals_shape(types: Sequence[Type], a: Attributes) -> Type:
    if types[0].shape[-1] != 2 * a["longest"] - 1:
        raise ShapeError(f"diagonals of {types[0]} for {a['longest']} tokens at most")
    return Type(types[0].dtype, (*types[0].shape[:-1], TOKENS, TOKENS))


def _pick_shape(types: Sequence[Type], _: Attributes) -> Type:
    x, places = types[0].shape, types[1].shape
    if types[1].dtype != I32 or len(x) < 2 or broadcast([x[:-1], places[:-1]]) != x[:-1]:
        raise ShapeError(f"pick of {types[1]} from {types[0]}")
    return Type(types[0].dtype, (*x[:-1], places[-1]))


def _distance_matmul_shape(types: Sequence[Type], a: Attributes) -> Type:
    if types[2] != Type(I32, (2 * a["longest"] - 1,)):
        raise ShapeError(f"columns of {types[2]} for {a['longest']} tokens at most")
    return _matmul_shape(types[:2], a)


def _distance_matmul(x: Sequence[Array], a: Attributes) -> Array:
    """x0 @ x1; of the columns only those from the first to the last that x2 names for distances
    within the text, zeros in place of the others (which a kernel leaves as they are)."""
    named = x[2][a["longest"] - a["s"] : a["longest"] - 1 + a["s"]]
    out = x[0] @ x[1]
    out[..., : named.min()] = 0
    out[..., named.max() + 1 :] = 0
    return out


def _concrete(values: Sequence[Dim], a: Attributes) -> tuple[int, ...]:
    return tuple(dim_at(v, a["s"]) for v in values)


def _slice_meaning(x: Sequence[Array], a: Attributes) -> Array:
    start, stop = _concrete((a["start"], a["stop"]), a)
    index = [slice(None)] * x[0].ndim
    index[a["axis"]] = slice(start, stop)
    return x[0][tuple(index)]


def _diagonals(x: Sequence[Array], a: Attributes) -> Array:
    """Element [..., i, j] is x[..., longest - 1 + j - i]: it depends on the distance only."""
    index = np.arange(a["s"])
    return x[0][..., a["longest"] - 1 + index - index[:, None]]


def _pick(x: Sequence[Array], _: Attributes) -> Array:
    places = np.broadcast_to(x[1], (*x[0].shape[:-1], x[1].shape[-1]))
    return np.take_along_axis(x[0], places, -1)


def _cast(x: Sequence[Array], a: Attributes) -> Array:
    """Floats keep the precision that the graph is run in; whole numbers don't wrap around."""
    floats = x[0].dtype if x[0].dtype.kind == "f" else np.float64
    return x[0].astype({"float": floats, "int": np.int64, "bool": np.bool_}[a["dtype"].kind])


def _softmax(x: Sequence[Array], _: Attributes) -> Array:
    e = np.exp(x[0] - x[0].max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _layer_norm(x: Sequence[Array], a: Attributes) -> Array:
    mean = x[0].mean(-1, keepdims=True)
    centred = x[0] - mean
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + a["eps"])
    return scaled * x[1] + x[2]


def _causal_shape(types: Sequence[Type], _: Attributes) -> Type:
    q, k, v = (t.shape for t in types)
    if q != k or q[:-1] != v[:-1] or len(q) < 2:
        raise ShapeError(f"causal attention of {types[0]}, {types[1]}, {types[2]}")
    return types[2]


def _causal_attention(x: Sequence[Array], a: Attributes) -> Array:
    """The queries are those of the last tokens; each sees its own key and all before it."""
    q, k, v = x
    scores = q @ k.swapaxes(-1, -2) * a["scale"]
    queries, keys = scores.shape[-2:]
    seen = np.tri(queries, keys, keys - queries, dtype=bool)
    return _softmax([np.where(seen, scores, -np.inf)], a) @ v


def _causal_flops(types: Sequence[Type], out: Type, s: int) -> int:
    """Two products over the pairs of a query and a key that it sees."""
    elements = dim_at(types[1].elements, s) + dim_at(out.elements, s)
    return elements * (s + 1)


def _gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _per_element(count: int) -> Callable[[Sequence[Type], Type, int], int]:
    return lambda _, out, s: count * dim_at(out.elements, s)


def _product_flops(types: Sequence[Type], out: Type, s: int) -> int:
    return 2 * dim_at(dim_mul(out.elements, types[0].shape[-1]), s)


def _distance_flops(types: Sequence[Type], out: Type, s: int) -> int:
    columns = dim_at(out.shape[-1], s)
    return _product_flops(types, out, s) // columns * min(columns, 2 * s - 1)


def _unary(name: str, meaning: Callable[[Array], Array], flops: int = 1) -> Op:
    return Op(name, (1,), _same, lambda x, _: meaning(x[0]), ONE_TO_ONE, _per_element(flops), True)


def _binary(name: str, meaning: Callable[[Array, Array], Array], dtype: DType | None = None) -> Op:
    return Op(
        name, (2,), _broadcast(dtype), lambda x, _: meaning(*x), ONE_TO_ONE, _per_element(1), True
    )


def _compare(name: str, meaning: Callable[[Array, Array], Array]) -> Op:
    return _binary(name, meaning, BOOL)


_ROWS = (
    _unary("neg", np.negative), _unary("abs", np.abs), _unary("exp", np.exp, 8),
    _unary("sqrt", np.sqrt), _unary("reciprocal", np.reciprocal),
    _unary("tanh", np.tanh, 10), _unary("erf", lambda x: erf(x), 12),
    _unary("sigmoid", _sigmoid, 10), _unary("relu", lambda x: np.maximum(x, 0)),
    _unary("gelu", lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2))), 14),
    _unary("gelu_tanh", _gelu_tanh, 16), _unary("silu", lambda x: x * _sigmoid(x), 11),
    _unary("softplus", lambda x: np.logaddexp(x, 0), 14),
    _unary("log", np.log, 10), _unary("cos", np.cos, 10), _unary("sin", np.sin, 10),
    _unary("sign", np.sign), _unary("ceil", np.ceil), _unary("floor", np.floor),
    _unary("logical_not", np.logical_not),
    _binary("add", np.add), _binary("sub", np.subtract), _binary("mul", np.multiply),
    _binary("div", np.divide), _binary("maximum", np.maximum), _binary("minimum", np.minimum),
    _compare("eq", np.equal), _compare("ne", np.not_equal), _compare("ge", np.greater_equal),
    _compare("gt", np.greater), _compare("le", np.less_equal), _compare("lt", np.less),
    _compare("logical_and", np.logical_and), _compare("logical_or", np.logical_or),
    Op("where", (3,), _broadcast(), lambda x, _: np.where(*x), ONE_TO_ONE, _per_element(1), True),
    Op("select", (3,), _broadcast(), lambda x, _: np.where(x[0] > 0, x[1], x[2]), ONE_TO_ONE,
       _per_element(1), True),
    Op("linear", (2, 3), _linear_shape,
       lambda x, _: x[0] @ x[1].T + (x[2] if len(x) == 3 else 0), MANY_TO_MANY, _product_flops),
    Op("matmul", (2,), _matmul_shape, lambda x, _: x[0] @ x[1], MANY_TO_MANY, _product_flops),
    Op("distance_matmul", (3,), _distance_matmul_shape, _distance_matmul, MANY_TO_MANY,
       _distance_flops),
    Op("causal_attention", (3,), _causal_shape, _causal_attention, MANY_TO_MANY, _causal_flops),
    Op("softmax", (1,), _same, _softmax, MANY_TO_MANY, _per_element(12)),
    Op("layer_norm", (3,), _same, _layer_norm, MANY_TO_MANY, _per_element(8)),
    Op("reduce_sum", (1,), _reduce_shape, lambda x, _: x[0].sum(-1, keepdims=True), MANY_TO_MANY,
       lambda t, _, s: dim_at(t[0].elements, s)),
    Op("reduce_mean", (1,), _reduce_shape, lambda x, _: x[0].mean(-1, keepdims=True), MANY_TO_MANY,
       lambda t, _, s: dim_at(t[0].elements, s)),
    Op("reduce_max", (1,), _reduce_shape, lambda x, _: x[0].max(-1, keepdims=True), MANY_TO_MANY,
       lambda t, _, s: dim_at(t[0].elements, s)),
    Op("cumsum", (1,), _same, lambda x, _: x[0].cumsum(-1), MANY_TO_MANY, _per_element(1)),
    Op("pick", (2,), _pick_shape, _pick, SHUFFLE, _per_element(0)),
    Op("gather", (2,), _gather_shape, lambda x, _: x[0][x[1]], ONE_TO_MANY, _per_element(0)),
    Op("arange", (0,), lambda _, a: Type(I32, (a["stop"],)),
       lambda _, a: np.arange(dim_at(a["stop"], a["s"])), ONE_TO_ONE, _per_element(0)),
    Op("cast", (1,), lambda t, a: Type(a["dtype"], t[0].shape),
       _cast, ONE_TO_ONE, _per_element(0), True),
    Op("reshape", (1,), _reshape_shape,
       lambda x, a: x[0].reshape(_concrete(a["shape"], a)), REORGANIZE, _per_element(0), view=True),
    Op("transpose", (1,), _transpose_shape, lambda x, a: x[0].transpose(a["perm"]), SHUFFLE,
       _per_element(0), view=True),
    Op("slice", (1,), _slice_shape, _slice_meaning, ONE_TO_ONE, _per_element(0), view=True),
    Op("flip", (1,), _same, lambda x, a: np.flip(x[0], a["axis"]), SHUFFLE, _per_element(0),
       view=True),
    Op("expand", (1,), _expand_shape,
       lambda x, a: np.broadcast_to(x[0], _concrete(a["shape"], a)), ONE_TO_MANY, _per_element(0),
       view=True),
    Op("diagonals", (1,), _diagonals_shape, _diagonals, ONE_TO_MANY, _per_element(0), view=True),
    Op("concat", tuple(range(1, 65)), _concat_shape,
       lambda x, a: np.concatenate(x, a["axis"]), ONE_TO_ONE, _per_element(0)),
)  # fmt: skip

OPS: Mapping[str, Op] = {row.name: row for row in _ROWS}


def mapping_type(op: str, inputs: Sequence[Type], weights: Sequence[bool], output: Type) -> str:
    """DNNFusion's type of an op at a call site: element-wise ops that spread an activation
    over more elements are One-to-Many; weights and scalars that broadcast don't count."""
    row = OPS[op]
    if row.mapping == ONE_TO_MANY and all(weights):
        return ONE_TO_ONE
    if row.pointwise:
        for t, weight in zip(inputs, weights, strict=True):
            if not weight and t.elements not in (1, product(output.shape)):
                return ONE_TO_MANY
    return row.mapping
