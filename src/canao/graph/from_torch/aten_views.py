"""Rules of ATen operators that make elements, rearrange them or look them up."""

from __future__ import annotations

from typing import Any

import numpy as np

from canao.graph.from_torch.aten_rules import (
    AtenRule,
    Builder,
    as_dtype,
    matrix_transpose,
    transpose,
)
from canao.graph.ir import dim_add


def _reshape(b: Builder, x: str, *_: Any, **__: Any) -> str:
    shape = b.result_shape()
    return x if b.type(x).shape == shape else b.emit("reshape", x, shape=shape)


def _permute(b: Builder, x: str, perm: Any) -> str:
    rank = len(b.type(x).shape)
    return b.emit("transpose", x, perm=tuple(int(p) % rank for p in perm))


def _slice(
    b: Builder, x: str, axis: int = 0, start: Any = None, _stop: Any = None, step: int = 1
) -> str:
    shape, axis = b.type(x).shape, axis % len(b.type(x).shape)
    if step != 1 or (isinstance(start, int) and start < 0) or not isinstance(start or 0, int):
        raise b.unsupported(f"a slice from {start} with step {step}")
    out = b.result_shape()
    if out == shape:
        return x
    first = start or 0
    return b.emit("slice", x, axis=axis, start=first, stop=dim_add(first, out[axis]))


def _select(b: Builder, x: str, axis: int, index: int) -> str:
    shape, axis = b.type(x).shape, axis % len(b.type(x).shape)
    if index < -1 and not isinstance(shape[axis], int):
        raise b.unsupported(f"a selection of position {index} from the end")
    first = dim_add(shape[axis], index) if index < 0 else index
    cut = b.emit("slice", x, axis=axis, start=first, stop=dim_add(first, 1))
    return b.emit("reshape", cut, shape=b.result_shape())


def _split(b: Builder, x: str, size: Any, axis: int = 0) -> list[str]:
    """Pieces of x of one size, the last of what is left, or of a list of sizes."""
    axis %= len(b.type(x).shape)
    total = b.type(x).shape[axis]
    if not isinstance(total, int):
        raise b.unsupported("a split of the tokens")
    sizes = size if isinstance(size, list) else [size] * -(-total // size)
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [b.emit("slice", x, axis=axis, start=start, stop=min(start + length, total))
            for start, length in zip(starts, sizes, strict=True)]  # fmt: skip


def _expand(b: Builder, x: str, *_: Any, **__: Any) -> str:
    shape = b.result_shape()
    return x if b.type(x).shape == shape else b.emit("expand", x, shape=shape)


def _arange(b: Builder, *bounds: Any, **_: Any) -> str:
    if len(bounds) == 2 and bounds[0] == 0:
        bounds = bounds[1:]
    if len(bounds) != 1:
        raise b.unsupported(f"arange{bounds}")
    return b.emit("arange", stop=bounds[0])


def _full(b: Builder, _: Any, value: float = 0.0, **__: Any) -> str:
    scalar = b.constant(np.array(value, b.result_dtype().numpy))
    return b.emit("expand", scalar, shape=b.result_shape()) if b.result_shape() else scalar


def _filled(value: float) -> AtenRule:
    return lambda b, *_, **__: _full(b, None, value)


def _repeat(b: Builder, x: str, counts: Any) -> str:
    if any(count != 1 for count in counts):
        raise b.unsupported(f"repetition by {counts}")
    return _reshape(b, x)


def _unbind(b: Builder, x: str, axis: int = 0) -> list[str]:
    """Each element along one dimension."""
    shape, axis = b.type(x).shape, axis % len(b.type(x).shape)
    count = shape[axis]
    if not isinstance(count, int):
        raise b.unsupported("taking the tokens apart")
    rest = (*shape[:axis], *shape[axis + 1 :])
    cuts = [b.emit("slice", x, axis=axis, start=i, stop=i + 1) for i in range(count)]
    return [b.emit("reshape", cut, shape=rest) for cut in cuts]


def _chunk(b: Builder, x: str, count: int, axis: int = 0) -> list[str]:
    total = b.type(x).shape[axis]
    if not isinstance(total, int):
        raise b.unsupported("a split of the tokens")
    return _split(b, x, -(-total // count), axis)


def _index(b: Builder, x: str, _places: Any) -> str:
    """Elements at places given by tensors: of what is the same everywhere, as masks are."""
    scalar = b.uniform(x)
    if scalar is None:
        raise b.unsupported("indexing by tensors")
    return b.emit("expand", as_dtype(b, scalar, b.result_dtype()), shape=b.result_shape())


def _take_along_axis(b: Builder, x: str, axis: int, indices: str) -> str:
    if axis % len(b.type(x).shape) != len(b.type(x).shape) - 1:
        raise b.unsupported(f"gather along dimension {axis}, which is not the last,")
    return b.emit("take_along_axis", x, indices)


def _cat(b: Builder, parts: list[str], axis: int = 0) -> str:
    """A cache of keys that is empty yet has no elements, and perhaps another rank."""
    parts = [p for p in parts if 0 not in b.type(p).shape] or parts[:1]
    if len(parts) == 1:
        return parts[0]
    return b.emit("concat", *parts, axis=axis % len(b.type(parts[0]).shape))


def _pad(b: Builder, x: str, widths: Any, mode: str = "constant", value: Any = None) -> str:
    """x between constants: `widths` are (before, after) pairs, of the last dimension first."""
    if mode != "constant" or any(not isinstance(w, int) or w < 0 for w in widths):
        raise b.unsupported(f"padding by {widths} in mode '{mode}'")
    number = float if b.type(x).dtype.kind == "float" else int
    fill, axis = b.value(number(value or 0)), len(b.type(x).shape)
    for before, after in zip(widths[::2], widths[1::2], strict=True):
        axis -= 1
        shape = b.type(x).shape
        parts = [
            b.emit("expand", fill, shape=(*shape[:axis], width, *shape[axis + 1 :]))
            if width
            else ""
            for width in (before, after)
        ]
        x = _cat(b, [p for p in (parts[0], x, parts[1]) if p], axis)
    return x


def _cast(b: Builder, x: str, *_: Any, **__: Any) -> str:
    return as_dtype(b, x, b.result_dtype())


RULES: dict[str, AtenRule] = {
    **dict.fromkeys(
        ("view", "reshape", "_unsafe_view", "unsqueeze", "squeeze", "flatten", "unflatten"),
        _reshape,
    ),
    "permute": _permute,
    "transpose": transpose,
    "t": matrix_transpose,
    "slice": _slice,
    "select": _select,
    **dict.fromkeys(("split", "split_with_sizes"), _split),
    "expand": _expand,
    "arange": _arange,
    **dict.fromkeys(("full", "full_like", "new_full"), _full),
    **dict.fromkeys(("zeros", "zeros_like", "new_zeros"), _filled(0)),
    **dict.fromkeys(("ones", "ones_like", "new_ones"), _filled(1)),
    "repeat": _repeat,
    "unbind": _unbind,
    "chunk": _chunk,
    "gather": _take_along_axis,
    "index": _index,
    "cat": _cat,
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    **dict.fromkeys(("to", "_to_copy", "type_as"), _cast),
}
# Results that share memory with their operand: writing to one would write to the other.
VIEWS = ("view", "reshape", "unsqueeze", "squeeze", "flatten", "unflatten", "permute", "transpose",
         "t", "slice", "select", "split", "split_with_sizes", "chunk", "unbind", "expand",
         "detach", "alias", "to", "type_as", "contiguous", "dropout")  # fmt: skip
