"""Shape rules: the type of an op's result from those of its operands, one rule for each row of
graph/ops.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from canao.graph.dtypes import BF16, F16, F32, I8, I32, NARROW, Q8, QUANTIZED, DType
from canao.graph.ir import TOKENS, Dim, Shape, Type, dim_add, dim_mul

Attributes = Mapping[str, Any]
ShapeRule = Callable[[Sequence[Type], Attributes], Type]


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


def same(types: Sequence[Type], _: Attributes) -> Type:
    return types[0]


def broadcasting(dtype: DType | None = None) -> ShapeRule:
    """All operands broadcast; elements are of `dtype`, or as in the last operand."""

    def rule(types: Sequence[Type], _: Attributes) -> Type:
        return Type(dtype or types[-1].dtype, broadcast([t.shape for t in types]))

    return rule


def cast(types: Sequence[Type], a: Attributes) -> Type:
    return Type(a["dtype"], types[0].shape)


def arange(_: Sequence[Type], a: Attributes) -> Type:
    return Type(I32, (a["stop"],))


def linear(types: Sequence[Type], _: Attributes) -> Type:
    x, w = types[0].shape, types[1].shape
    narrow = {types[0].dtype, types[1].dtype}.intersection(NARROW)
    if narrow and types[0].dtype != types[1].dtype:
        raise ShapeError(f"linear of {types[0]} by {types[1]}")
    if len(w) != 2 or x[-1] != w[1] or (len(types) == 3 and types[2].shape != (w[0],)):
        raise ShapeError(f"linear of {types[0]} by {types[1]}")
    return Type(F32, (*x[:-1], w[0]))


def quantize(types: Sequence[Type], a: Attributes) -> Type:
    made = a.get("dtype", Q8)
    if types[0].dtype != F32 or not types[0].shape or made not in QUANTIZED:
        raise ShapeError(f"quantize of {types[0]} to {made}")
    return Type(made, types[0].shape)


def rows_of_levels(types: Sequence[Type], _: Attributes) -> Type:
    if types[0].dtype != F32 or not types[0].shape:
        raise ShapeError(f"rows_of_levels of {types[0]}")
    return Type(Q8, types[0].shape)


def narrow(types: Sequence[Type], a: Attributes) -> Type:
    if types[0].dtype != F32 or not types[0].shape or a["dtype"] not in (BF16, F16):
        raise ShapeError(f"narrow of {types[0]} to {a['dtype']}")
    return Type(a["dtype"], types[0].shape)


def quantized_linear(types: Sequence[Type], _: Attributes) -> Type:
    x, w = types[0].shape, types[1].shape
    vectors = [Type(F32, w[:1])] * (len(types) - 2)
    fits = types[0].dtype in (*QUANTIZED, F32) and types[1].dtype == I8
    if not fits or len(w) != 2 or x[-1] != w[1] or list(types[2:]) != vectors:
        raise ShapeError(f"quantized_linear of {types[0]} by {types[1]}")
    return Type(F32, (*x[:-1], w[0]))


def quantized_gather(types: Sequence[Type], _: Attributes) -> Type:
    table, scales, ids = types
    fits = table.dtype == I8 and scales == Type(F32, (*table.shape[:1], 1)) and ids.dtype == I32
    if len(table.shape) != 2 or not fits:
        raise ShapeError(f"quantized_gather of {ids} from {table} with scales {scales}")
    return Type(F32, (*ids.shape, table.shape[1]))


def matmul(types: Sequence[Type], _: Attributes) -> Type:
    a, b = types[0].shape, types[1].shape
    if len(a) < 2 or len(b) < 2 or a[-1] != b[-2]:
        raise ShapeError(f"matmul of {types[0]} by {types[1]}")
    return Type(F32, (*broadcast([a[:-2], b[:-2]]), a[-2], b[-1]))


def distance_matmul(types: Sequence[Type], a: Attributes) -> Type:
    if types[2] != Type(I32, (2 * a["longest"] - 1,)):
        raise ShapeError(f"columns of {types[2]} for {a['longest']} tokens at most")
    return matmul(types[:2], a)


def causal_attention(types: Sequence[Type], a: Attributes) -> Type:
    q, k, v = (t.shape for t in types)
    if a.get("cache", F32) not in (F32, F16, I8):
        raise ShapeError(f"causal attention that keeps keys and values in {a['cache']}")
    if q != k or q[:-1] != v[:-1] or len(q) < 2:
        raise ShapeError(f"causal attention of {types[0]}, {types[1]}, {types[2]}")
    return types[2]


def reduction(types: Sequence[Type], _: Attributes) -> Type:
    return Type(types[0].dtype, (*types[0].shape[:-1], 1))


def gather(types: Sequence[Type], _: Attributes) -> Type:
    if len(types[0].shape) != 2 or types[1].dtype != I32:
        raise ShapeError(f"gather of {types[1]} from {types[0]}")
    dtype = F32 if types[0].dtype in NARROW else types[0].dtype
    return Type(dtype, (*types[1].shape, types[0].shape[1]))


def take_along_axis(types: Sequence[Type], _: Attributes) -> Type:
    x, indices = types[0].shape, types[1].shape
    if types[1].dtype != I32 or len(x) < 2 or broadcast([x[:-1], indices[:-1]]) != x[:-1]:
        raise ShapeError(f"take_along_axis of {types[1]} from {types[0]}")
    return Type(types[0].dtype, (*x[:-1], indices[-1]))


def concat(types: Sequence[Type], a: Attributes) -> Type:
    axis, shape = a["axis"], list(types[0].shape)
    for other in types[1:]:
        alike = zip(other.shape, types[0].shape, strict=False)
        fits = all(a == b for i, (a, b) in enumerate(alike) if i != axis)
        if len(other.shape) != len(shape) or other.dtype != types[0].dtype or not fits:
            raise ShapeError(f"concat of {types[0]} and {other} along dimension {axis}")
        shape[axis] = dim_add(shape[axis], other.shape[axis])
    return Type(types[0].dtype, tuple(shape))


# Views.


def reshape(types: Sequence[Type], a: Attributes) -> Type:
    out = Type(types[0].dtype, tuple(a["shape"]))
    if out.elements != types[0].elements:
        raise ShapeError(f"reshape of {types[0]} to {out}")
    return out


def transpose(types: Sequence[Type], a: Attributes) -> Type:
    if sorted(a["perm"]) != list(range(len(types[0].shape))):
        raise ShapeError(f"transpose of {types[0]} by {a['perm']}")
    return Type(types[0].dtype, tuple(types[0].shape[i] for i in a["perm"]))


def slice_of(types: Sequence[Type], a: Attributes) -> Type:
    shape = list(types[0].shape)
    shape[a["axis"]] = dim_add(a["stop"], dim_mul(a["start"], -1))
    return Type(types[0].dtype, tuple(shape))


def expand(types: Sequence[Type], a: Attributes) -> Type:
    shape = tuple(a["shape"])
    if broadcast([types[0].shape, shape]) != shape:
        raise ShapeError(f"expand of {types[0]} to {shape}")
    return Type(types[0].dtype, shape)


def diagonals(types: Sequence[Type], a: Attributes) -> Type:
    if types[0].shape[-1] != 2 * a["longest"] - 1:
        raise ShapeError(f"diagonals of {types[0]} for {a['longest']} tokens at most")
    return Type(types[0].dtype, (*types[0].shape[:-1], TOKENS, TOKENS))
