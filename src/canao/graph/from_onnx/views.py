"""Rules of ONNX operators that make elements or give them another shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from canao.graph.dtypes import F32, I32
from canao.graph.from_onnx.values import (
    LIMIT,
    Known,
    Ramp,
    Value,
    fill,
    known,
    reshaped,
    sizes,
    transposed,
)
from canao.graph.ir import Poly, Shape, dim_add, dim_div, product
from canao.graph.shapes import broadcast

if TYPE_CHECKING:
    from canao.graph.from_onnx.builder import Builder

OnnxRule = Callable[..., Any]


def dimension(b: Builder, index: int, rank: int) -> int:
    if not -rank <= index < rank:
        raise b.unsupported(f"dimension {index} of {rank}")
    return index % rank


def common(b: Builder, operands: Sequence[Value]) -> Shape:
    """The shape that operands are repeated to."""
    return broadcast([b.shape(x) for x in operands])


def as_shape(b: Builder, x: Value, shape: Shape) -> Value:
    """x under another shape of as many elements."""
    if b.shape(x) == shape:
        return x
    if not isinstance(x, str):
        if product(x.shape) != product(shape):
            raise b.unsupported(f"a reshape of {_shown(x.shape)} to {_shown(shape)}")
        found = reshaped(x, shape)
        if found is not None:
            return found
    return b.reshape(b.name(x), shape)


def _shown(shape: Shape) -> str:
    return f"[{', '.join(str(d) for d in shape)}]"


# Shapes.


def _shape(b: Builder, x: Value, start: int = 0, end: int | None = None) -> Value:
    return sizes(b.shape(x)[slice(start, end)])


def _size(b: Builder, x: Value) -> Value:
    return fill(product(b.shape(x)), (), I32)


def _reshape(b: Builder, x: Value, target: Value, allowzero: int = 0) -> Value:
    before, shape = b.shape(x), b.whole(target, "a shape")
    if not allowzero:
        shape = [before[i] if d == 0 and i < len(before) else d for i, d in enumerate(shape)]
    if shape.count(-1) > 1:
        raise b.unsupported(f"a reshape to {_shown(tuple(shape))}")
    if -1 in shape:
        rest = product(d for d in shape if d != -1)
        missing = dim_div(product(before), rest)
        if missing is None:
            raise b.unsupported(f"a reshape of {_shown(before)} to {_shown(tuple(shape))}")
        shape[shape.index(-1)] = missing
    return as_shape(b, x, tuple(shape))


def _unsqueeze(b: Builder, x: Value, axes: Value) -> Value:
    wanted = b.numbers(axes, "axes")
    rank = len(b.shape(x)) + len(wanted)
    places = {dimension(b, a, rank) for a in wanted}
    rest = iter(b.shape(x))
    return as_shape(b, x, tuple(1 if i in places else next(rest) for i in range(rank)))


def _squeeze(b: Builder, x: Value, axes: Value | None = None) -> Value:
    shape = b.shape(x)
    places = (
        {i for i, d in enumerate(shape) if d == 1}
        if axes is None
        else {dimension(b, a, len(shape)) for a in b.numbers(axes, "axes")}
    )
    if any(shape[i] != 1 for i in places):
        raise b.unsupported(f"dropping dimensions {sorted(places)} of {_shown(shape)}")
    return as_shape(b, x, tuple(d for i, d in enumerate(shape) if i not in places))


def _flatten(b: Builder, x: Value, axis: int = 1) -> Value:
    shape = b.shape(x)
    at = axis + len(shape) if axis < 0 else axis
    return as_shape(b, x, (product(shape[:at]), product(shape[at:])))


def transpose(b: Builder, x: Value, perm: Sequence[int] | None = None) -> Value:
    rank = len(b.shape(x))
    order = tuple(perm) if perm is not None else tuple(reversed(range(rank)))
    if order == tuple(range(rank)):
        return x
    if not isinstance(x, str):
        return transposed(x, order)
    return b.emit("transpose", x, perm=order)


def _expand(b: Builder, x: Value, target: Value) -> Value:
    return b.spread(x, broadcast([b.shape(x), tuple(b.whole(target, "a shape"))]))


# Constants.


def _constant(b: Builder, **attributes: Any) -> Value:
    for name, value in attributes.items():
        if name in ("value", "value_float", "value_floats", "value_int", "value_ints"):
            kind = np.float32 if "float" in name else np.int64
            return known(value if name == "value" else np.array(value, kind))
    raise b.unsupported(f"a constant of {', '.join(attributes) or 'nothing'}")


def _constant_of_shape(b: Builder, shape: Value, value: Any = None) -> Value:
    cell = known(np.zeros(1, np.float32) if value is None else value)
    return fill(cell.item(), b.whole(shape, "a shape"), cell.dtype)


def _range(b: Builder, start: Value, limit: Value, step: Value) -> Value:
    bounds = [x.item() if isinstance(x, Known) else None for x in (start, limit, step)]
    first, end, by = bounds
    if first is not None and end is not None and by and not any(
        isinstance(v, Poly) for v in bounds
    ):
        count = max(0, -(-(end - first) // by))
        if count > LIMIT:
            raise b.unsupported(f"a range of {count} numbers")
        kind = np.float32 if b.dtype(start) == F32 else np.int64
        return known(np.arange(first, end, by).astype(kind))
    if by != 1 or not isinstance(first, int) or end is None:
        raise b.unsupported("a range that is not of whole numbers, one by one,")
    return Ramp((dim_add(end, -first),), 0, first, 1)


RULES: dict[str, OnnxRule] = {
    "Shape": _shape, "Size": _size, "Reshape": _reshape, "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze, "Flatten": _flatten, "Transpose": transpose, "Expand": _expand,
    "Constant": _constant, "ConstantOfShape": _constant_of_shape, "Range": _range,
}  # fmt: skip
