"""Rules of operators that slide over the tokens: convolutions as products and shifted sums."""

from __future__ import annotations

from typing import Any

from canao.graph.from_torch.aten_rules import AtenRule, Builder
from canao.graph.ir import TOKENS, dim_add, dim_mul, fixed


def conv1d(
    b: Builder, x: str, w: str, bias: str | None = None, stride: Any = (1,), padding: Any = (0,),
    dilation: Any = (1,), groups: int = 1,
) -> str:  # fmt: skip
    """[1, channels, s] -> [1, outputs, s], as many tokens as before."""
    outputs, of_group, width = _weights(b, w)
    same = list(stride) == [1] and list(dilation) == [1] and list(padding) == [(width - 1) // 2]
    if not same or width % 2 == 0 or b.type(x).shape[-1] != TOKENS:
        raise b.unsupported("a convolution that changes the number of tokens")
    x = b.emit("transpose", x, perm=(0, 2, 1))
    shifts = _shifts(b, x, width)
    if groups == outputs and of_group == 1 and width > 1:
        y = _by_channel(b, shifts, w)
        y = b.emit("add", y, bias) if bias else y
    else:
        y = _by_groups(b, shifts, w, bias, groups)
    return b.emit("transpose", y, perm=(0, 2, 1))


def _weights(b: Builder, w: str) -> tuple[int, int, int]:
    """Output channels, input channels of each group, and taps."""
    shape = fixed(b.type(w).shape)
    if shape is None or len(shape) != 3:
        raise b.unsupported("a convolution by weights that are not [outputs, channels, taps]")
    return shape[0], shape[1], shape[2]


def _shifts(b: Builder, x: str, width: int) -> list[str]:
    """x moved by -(width - 1) / 2 tokens up to +(width - 1) / 2, zeros beyond its ends."""
    if width == 1:
        return [x]
    shape = b.type(x).shape
    edge = b.emit("expand", b.value(0.0), shape=(1, (width - 1) // 2, *shape[2:]))
    wide = b.emit("concat", edge, x, edge, axis=1)
    return [b.emit("slice", wide, axis=1, start=i, stop=dim_add(TOKENS, i)) for i in range(width)]


def _by_channel(b: Builder, shifts: list[str], w: str) -> str:
    """Each channel by itself: a sum of shifted rows times numbers of their columns."""
    total, channels = "", b.type(w).shape[0]
    for i, x in enumerate(shifts):
        tap = b.emit("reshape", b.emit("slice", w, axis=2, start=i, stop=i + 1), shape=(channels,))
        part = b.emit("mul", x, tap)
        total = b.emit("add", total, part) if total else part
    return total


def _by_groups(b: Builder, shifts: list[str], w: str, bias: str | None, groups: int) -> str:
    """A product for each group of channels, of its rows side by side with their neighbours."""
    outputs, channels, width = _weights(b, w)
    size, parts = outputs // groups, []
    for g in range(groups):
        start, stop = g * channels, (g + 1) * channels
        inputs = [x if groups == 1 else b.emit("slice", x, axis=2, start=start, stop=stop)
                  for x in shifts]  # fmt: skip
        rows = inputs[0] if width == 1 else b.emit("concat", *inputs, axis=2)
        own, own_bias = w, bias
        if groups > 1:
            own = b.emit("slice", w, axis=0, start=g * size, stop=(g + 1) * size)
            own_bias = bias and b.emit("slice", bias, axis=0, start=g * size, stop=(g + 1) * size)
        turned = b.emit("transpose", own, perm=(0, 2, 1))
        weight = b.emit("reshape", turned, shape=(size, width * channels))
        parts.append(b.emit("linear", rows, weight, *([own_bias] if own_bias else [])))
    return parts[0] if groups == 1 else b.emit("concat", *parts, axis=2)


def im2col(
    b: Builder, x: str, kernel: Any, dilation: Any, padding: Any, stride: Any
) -> str:
    """[1, channels, s, 1] -> [1, channels * width, s]: each channel with its neighbours."""
    _, channels, tokens, last = b.type(x).shape
    width = kernel[0]
    wanted = ([width, 1], [1, 1], [(width - 1) // 2, 0], [1, 1])
    given = tuple(list(v) for v in (kernel, dilation, padding, stride))
    if given != wanted or width % 2 == 0 or last != 1 or tokens != TOKENS:
        raise b.unsupported("unfolding that changes the number of tokens")
    rows = b.emit("transpose", b.emit("reshape", x, shape=(1, channels, tokens)), perm=(0, 2, 1))
    shifts = [b.emit("reshape", r, shape=(1, tokens, channels, 1))
              for r in _shifts(b, rows, width)]  # fmt: skip
    beside = b.emit("concat", *shifts, axis=3)
    flat = b.emit("reshape", beside, shape=(1, tokens, dim_mul(channels, width)))
    return b.emit("transpose", flat, perm=(0, 2, 1))


RULES: dict[str, AtenRule] = {"conv1d": conv1d, "im2col": im2col}
