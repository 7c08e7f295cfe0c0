"""Rules of ONNX operators that take values apart, put them together or look elements up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from canao.graph.dtypes import F32, I32
from canao.graph.from_onnx.values import (
    LIMIT,
    Known,
    Ramp,
    Undecided,
    Value,
    fill,
    known,
    progression,
)
from canao.graph.from_onnx.views import OnnxRule, as_shape, dimension
from canao.graph.ir import Dim, Poly, Shape, dim_add, dim_mul, product

if TYPE_CHECKING:
    from canao.graph.from_onnx.builder import Builder

_MOST = 16  # operands of one concat


def _slice(b: Builder, x: Value, starts: Value, ends: Value, axes: Value | None = None,
           steps: Value | None = None) -> Value:  # fmt: skip
    first, last = b.whole(starts, "a bound"), b.whole(ends, "a bound")
    rank = len(b.shape(x))
    along = b.numbers(axes, "axes") if axes is not None else list(range(len(first)))
    by = b.numbers(steps, "steps") if steps is not None else [1] * len(first)
    for a, start, end, step in zip(along, first, last, by, strict=True):
        x = _cut(b, x, dimension(b, a, rank), start, end, step)
    return x


def _cut(b: Builder, x: Value, at: int, start: Dim, end: Dim, step: int) -> Value:
    size = b.shape(x)[at]
    if step != 1:
        return _stepped(b, x, at, (start, end, step))
    start, end = (_bound(bound, size) for bound in (start, end))
    b.fits(end, size)
    length = dim_add(end, dim_mul(start, -1))
    return part(b, x, at, start, max(0, length) if isinstance(length, int) else length)


def _stepped(b: Builder, x: Value, at: int, bounds: tuple[Dim, Dim, int]) -> Value:
    start, end, step = bounds
    size = b.shape(x)[at]
    if not all(isinstance(v, int) for v in (start, end, size)):
        raise b.unsupported(f"a slice in steps of {step}")
    picked = list(range(*slice(start, end if end > -(1 << 62) else None, step).indices(size)))  # type: ignore[arg-type, operator]
    return _take(b, x, known(np.array(picked, np.int64)), at)


def _bound(bound: Dim, size: Dim) -> Dim:
    """A bound of a slice as ONNX reads it: negative from the end, and cut to the size."""
    if isinstance(bound, int):
        if bound < 0:
            bound = dim_add(size, bound)
            if isinstance(bound, int):
                return max(0, bound)
            if abs(bound.coefficients[0]) >= 1 << 31:
                return 0
        elif not isinstance(size, int):
            return size if bound >= 1 << 31 else bound
        else:
            return min(bound, size)
    # A text so long that a table ends before it is refused by `fits`.
    return bound


def part(b: Builder, x: Value, at: int, start: Dim, size: Dim) -> Value:
    """`size` elements of x along `at`, from `start` on."""
    shape = b.shape(x)
    out = (*shape[:at], size, *shape[at + 1 :])
    if start == 0 and out == shape:
        return x
    b.inside(start, size, shape[at])
    if isinstance(x, Ramp):
        if at != x.axis:
            return Ramp(out, x.axis, x.start, x.step)
        if isinstance(start, int):
            return Ramp(out, at, x.start + start * x.step, x.step)
    elif isinstance(x, Known):
        found = _known_part(x, at, start, size, out)
        if found is not None:
            return found
    return b.emit("slice", b.name(x), axis=at, start=start, stop=dim_add(start, size))


def _known_part(x: Known, at: int, start: Dim, size: Dim, out: Shape) -> Known | Ramp | None:
    if x.array.shape[at] == 1:
        array = x.array if size != 0 else x.array.take([], axis=at)
        return Known(array, out, x.dtype)
    if isinstance(start, int) and isinstance(size, int):
        index = [slice(None)] * len(out)
        index[at] = slice(start, start + size)
        return Known(x.array[tuple(index)], out, x.dtype)
    steps = progression(x, at)
    if steps is not None and isinstance(start, int):
        first, step = steps
        if step == 0:
            return fill(first, out, x.dtype)
        return Ramp(out, at, first + start * step, step)
    if x.array.size and (x.array == x.array.flat[0]).all():
        return fill(x.item(), out, x.dtype)
    return None


def _split(b: Builder, x: Value, split: Value | None = None, axis: int = 0,
           num_outputs: int | None = None) -> list[Value]:  # fmt: skip
    shape = b.shape(x)
    at = dimension(b, axis, len(shape))
    total = shape[at]
    if split is not None:
        lengths: list[Dim] = b.whole(split, "a size")
    else:
        count = num_outputs or len(b.current.output)
        if not isinstance(total, int):
            raise b.unsupported("a split of the tokens")
        each = -(-total // count)
        lengths = [min(each, total - i * each) for i in range(count)]
    out, start = [], 0
    for size in lengths:
        out.append(part(b, x, at, start, size))
        start = dim_add(start, size)  # type: ignore[assignment]
    return out


def concat(b: Builder, *parts: Value, axis: int) -> Value:
    at = dimension(b, axis, len(b.shape(parts[0])))
    kept = [x for x in parts if b.shape(x)[at] != 0] or [parts[0]]
    if len(kept) == 1:
        return kept[0]
    size: Dim = 0
    for x in kept:
        size = dim_add(size, b.shape(x)[at])
    first = b.shape(kept[0])
    shape = (*first[:at], size, *first[at + 1 :])
    if all(isinstance(x, Known) for x in kept):
        joined = _known_concat(kept, at, shape)  # type: ignore[arg-type]
        if joined is not None:
            return joined
    names = [b.name(x) for x in kept]
    while len(names) > 1:
        groups = [names[i : i + _MOST] for i in range(0, len(names), _MOST)]
        names = [b.emit("concat", *g, axis=at) if len(g) > 1 else g[0] for g in groups]
    return names[0]


def _known_concat(parts: Sequence[Known], at: int, shape: Shape) -> Known | None:
    if all(p.uniform for p in parts):
        items = [p.item() for p in parts]
        if all(i == items[0] for i in items):
            return fill(items[0], shape, parts[0].dtype)
    elements = product(shape)
    if not isinstance(elements, int) or elements > LIMIT:
        return None
    try:
        arrays = [p.full() for p in parts]
    except Undecided:
        return None
    return Known(np.concatenate(arrays, at), shape, parts[0].dtype)


def _tile(b: Builder, x: Value, repeats: Value) -> Value:
    for i, count in enumerate(b.whole(repeats, "a count")):
        shape = b.shape(x)
        if count == 1:
            continue
        if shape[i] == 1:
            x = b.spread(x, (*shape[:i], count, *shape[i + 1 :]))
        elif not isinstance(count, int) or not 0 < count <= 1024:
            raise b.unsupported(f"{count} copies")
        else:
            x = concat(b, *[x] * count, axis=i)
    return x


def _pad(b: Builder, x: Value, pads: Value, value: Value | None = None, axes: Value | None = None,
         mode: str = "constant") -> Value:  # fmt: skip
    widths, rank = b.numbers(pads, "a width"), len(b.shape(x))
    along = b.numbers(axes, "axes") if axes is not None else list(range(rank))
    if mode != "constant" or any(w < 0 for w in widths):
        raise b.unsupported(f"padding by {widths} in mode '{mode}'")
    if value is not None and not (isinstance(value, Known) and value.uniform):
        raise b.unsupported("padding with what is computed from the text")
    number = value.item() if isinstance(value, Known) else 0
    for i, a in enumerate(along):
        at = dimension(b, a, rank)
        sides = []
        for width in (widths[i], widths[i + len(along)]):
            shape = b.shape(x)
            sides.append(fill(number, (*shape[:at], width, *shape[at + 1 :]), b.dtype(x)))
        x = concat(b, sides[0], x, sides[1], axis=at)
    return x


# Look-ups.


def gather(b: Builder, x: Value, ids: Value, axis: int = 0) -> Value:
    shape = b.shape(x)
    at = dimension(b, axis, len(shape))
    out = (*shape[:at], *b.shape(ids), *shape[at + 1 :])
    if isinstance(x, Known) and x.uniform:
        return fill(x.item(), out, x.dtype)
    if isinstance(ids, Known) and not any(isinstance(d, Poly) for d in ids.shape):
        return as_shape(b, _take(b, x, ids, at), out)
    if isinstance(ids, Known) and ids.uniform:
        row = _take(b, x, known(ids.array.reshape(1)), at)
        ones = (*shape[:at], *[1] * len(ids.shape), *shape[at + 1 :])
        return b.spread(as_shape(b, row, ones), out)
    if isinstance(ids, Ramp) and ids.step == 1:
        count = ids.shape[ids.axis]
        if product(ids.shape) == count:
            b.fits(dim_add(ids.start, count), shape[at])
            return as_shape(b, part(b, x, at, ids.start, count), out)
    if isinstance(x, Known) and at == 0 and x.dtype == F32 and isinstance(ids, str):
        table = x if len(shape) == 2 else as_shape(b, x, (shape[0], product(shape[1:])))
        return b.reshape(b.emit("gather", b.name(table), b.name(ids)), out)
    raise b.unsupported("looking up what is computed from the text")


def _take(b: Builder, x: Value, ids: Known, at: int) -> Value:
    """Elements of x along `at`, in a row, by indices that are known."""
    shape = b.shape(x)
    wanted = [dim_add(shape[at], i) if isinstance(i, int) and i < 0 else i
              for i in b.whole(ids, "an index")]  # fmt: skip
    size = shape[at]
    if isinstance(size, int) and not all(isinstance(i, int) and 0 <= i < size for i in wanted):
        raise b.unsupported(f"an index outside of {size}")
    out = (*shape[:at], len(wanted), *shape[at + 1 :])
    if isinstance(x, Known) and x.array.shape[at] == 1:
        return Known(x.array, out, x.dtype)
    if isinstance(x, Known) and all(isinstance(i, int) for i in wanted):
        if x.array.size // max(1, x.array.shape[at]) * len(wanted) > LIMIT:
            raise b.unsupported(f"a constant of more than {LIMIT} elements")
        return Known(x.array.take(np.array(wanted, np.int64), at), out, x.dtype)
    if not wanted or len(wanted) > 1024:
        raise b.unsupported(f"{len(wanted)} indices")
    runs: list[list[Any]] = []
    for i in wanted:
        if runs and dim_add(runs[-1][0], runs[-1][1]) == i:
            runs[-1][1] += 1
        else:
            runs.append([i, 1])
    return concat(b, *(part(b, x, at, start, count) for start, count in runs), axis=at)


def _gather_elements(b: Builder, x: Value, ids: Value, axis: int = 0) -> Value:
    shape = b.shape(x)
    at = dimension(b, axis, len(shape))
    if isinstance(x, Known) and x.uniform:
        return fill(x.item(), b.shape(ids), x.dtype)
    if isinstance(x, Known) and (x.array == x.array.flat[0]).all():
        return fill(x.item(), b.shape(ids), x.dtype)
    if isinstance(ids, Ramp) and ids.axis == at and ids.step == 1:
        count = ids.shape[at]
        b.fits(dim_add(ids.start, count), shape[at])
        cut = part(b, x, at, ids.start, count)
        if b.shape(cut) == ids.shape:
            return cut
    if isinstance(x, Known) and isinstance(ids, Known):
        index = np.ascontiguousarray(ids.full()).astype(np.int64)
        return known(np.take_along_axis(np.ascontiguousarray(x.full()), index, at))
    if at == len(shape) - 1 and b.shape(ids)[:-1] == shape[:-1] and b.dtype(ids) == I32:
        return b.emit("take_along_axis", b.name(x), b.name(ids))
    raise b.unsupported("looking up element by element, other than along the last dimension,")


def _gather_nd(b: Builder, x: Value, ids: Value, batch_dims: int = 0) -> Value:
    depth = b.shape(ids)[-1]
    if isinstance(x, Known) and x.uniform and isinstance(depth, int):
        return fill(x.item(), (*b.shape(ids)[:-1], *x.shape[batch_dims + depth :]), x.dtype)
    raise b.unsupported("looking up by several indices")


RULES: dict[str, OnnxRule] = {
    "Tile": _tile, "Slice": _slice, "Split": _split, "Concat": concat, "Pad": _pad,
    "Gather": gather, "GatherElements": _gather_elements, "GatherND": _gather_nd,
}  # fmt: skip
