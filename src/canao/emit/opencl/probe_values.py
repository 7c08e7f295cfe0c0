"""The probe of what a work-item computes by itself: one kernel, as each takes a driver its time.

What only few programs use, halves, bytes and functions, is asked of the driver where the program
uses it.
"""

from __future__ import annotations

import re

import numpy as np

from canao.emit.arguments import row_type
from canao.emit.opencl.probe import FIRST, PAST, TOKENS, Check, Probe, Words, blanks, floats
from canao.emit.writer import Writer, fill
from canao.graph.dtypes import QUANTIZED
from canao.graph.ops import OPS

# How far off a function may be.
_NEAR = 1e-5
_SAMPLES = 16
# The functions of vectors that an op of one operand is, by the name of the function.
_FUNCTIONS = {found[1]: op for op in OPS.values()
              if (found := re.fullmatch(r"(vf_\w+)\(\{0\}\)", op.vector))}  # fmt: skip


class _Values:
    """The kernel, which becomes longer with each of its checks."""

    def __init__(self, vector: int) -> None:
        self.vector, self.w = vector, Writer()
        self.w.depth = 1
        self.words: list[Words] = []
        self.checks: list[Check] = []

    def given(self, words: Words) -> str:
        """Where the kernel finds these."""
        place = sum(map(len, self.words))
        self.words.append(words)
        return f"in + {place}"

    def written(self, check: Check) -> str:
        """Where the kernel writes these."""
        place = sum(len(c.right) for c in self.checks)
        self.checks.append(check)
        return f"out + {place}"

    def lines(self, text: str, **words: object) -> None:
        self.w.raw(fill(text, V=self.vector, **words))

    def probe(self) -> Probe:
        return Probe("probe_values", self.w.text(), np.concatenate(self.words), tuple(self.checks))


def values(vector: int, needs: frozenset[str], used: frozenset[str]) -> Probe:
    v = _Values(vector)
    _arguments(v)
    _ends(v)
    _exponentials(v)
    _functions(v, used)
    _infinities(v)
    if needs & {"load_f16", "f16_row"}:
        _half_loads(v)
        _half_stores(v)
    kinds = [row_type(dtype) for dtype in QUANTIZED if row_type(dtype) in needs]
    if kinds or "load_i8" in needs:
        _bytes(v)
    if "dot4" in needs:
        _dots(v)
    if kinds:
        _levels(v, kinds[0])
    return v.probe()


def _arguments(v: _Values) -> None:
    numbers = np.arange(1, v.vector + 1)
    told = TOKENS + 100 * PAST + 10000 * FIRST
    read = v.given(floats(numbers))
    to = v.written(Check("arguments", floats(numbers + told)))
    v.lines("    vf_store($to, vf_add(vf_load($read), vf_set1((float)(s + 100 * past + 10000 * "
            "first))));", to=to, read=read)  # fmt: skip


def _ends(v: _Values) -> None:
    """For each n the sum of the last n numbers, of the first n, and these stored."""
    vector, count = v.vector, v.vector + 1
    numbers = 2.0 ** np.arange(vector)
    outside = np.full(vector, np.nan)
    read = v.given(floats([outside, numbers, outside]))
    last = v.written(Check("ends", floats([numbers[vector - n :].sum() for n in range(count)])))
    first = v.written(Check("ends", floats([numbers[:n].sum() for n in range(count)])))
    stored = blanks(count * vector).reshape(count, vector)
    for n in range(count):
        stored[n, :n] = floats(numbers[:n])
    to = v.written(Check("ends", stored.ravel()))
    v.lines("""\
    for (int n = 0; n <= VF; n++) {
        ($last)[n] = vf_sum(vf_load_n($read + 2 * VF - n, n));
        ($first)[n] = vf_sum(vf_from(vf_load($read + n), VF - n, 0.0f));
        vf_store_n($to + n * VF, vf_load($read + VF), n);
    }""", last=last, first=first, read=read, to=to)  # fmt: skip


def _exponentials(v: _Values) -> None:
    """That of vectors ends at the least normal number, that of OpenCL's at zero."""
    x = np.array([-np.inf, -1000, -30, -9.5, -3, -1, -0.5, -0.1, 0, 0.1, 0.5, 1, 3, 9.5, 30, 80],
                 np.float32)  # fmt: skip
    bounded = np.maximum(x, np.float32(-87.3)).astype(np.float64)
    read = v.given(floats(x))
    own = v.written(Check("exp", floats(np.exp(bounded)), relative=_NEAR))
    scalar = v.written(Check("exp", floats(np.exp(x.astype(np.float64))), relative=_NEAR))
    v.lines("""\
    for (int j = 0; j < $count; j += VF)
        vf_store($own + j, vf_exp(vf_load($read + j)));
    for (int j = 0; j < $count; j++)
        ($scalar)[j] = exp(($read)[j]);""", count=_SAMPLES, own=own, scalar=scalar, read=read)


def _functions(v: _Values, used: frozenset[str]) -> None:
    """Of numbers below zero some give NaN."""
    x = np.linspace(-6, 6, _SAMPLES, dtype=np.float32)
    wide, read = x.astype(np.float64), v.given(floats(x))
    calls = {"vf_div(vf_set1(1.0f), vf_sqrt(vf_abs(x)))": ("1 / sqrt", 1 / np.sqrt(np.abs(wide)))}
    with np.errstate(invalid="ignore"):
        for name in sorted(used & _FUNCTIONS.keys() - {"vf_exp"}):
            op = _FUNCTIONS[name]
            calls[f"{name}(x)"] = (op.name, op.meaning([wide], {}))
        if "vf_exp2" in used:
            calls["vf_exp2(x)"] = ("exp2", 2.0**wide)
    with v.w.block(f"for (int j = 0; j < {_SAMPLES}; j += VF)"):
        v.w.line(f"const vf x = vf_load({read} + j);")
        for call, (name, right) in calls.items():
            to = v.written(Check("functions", floats(right), False, _NEAR, 1.0, name))
            v.w.line(f"vf_store({to} + j, {call});")


def _infinities(v: _Values) -> None:
    infinite, nan = np.inf, np.nan
    read = v.given(floats([-infinite, 3, infinite, nan]))
    calls = {
        "fmax(low, three)": 3, "fmax(low, low)": -infinite, "low + three": -infinite,
        "exp(low - three)": 0, "high - high": nan, "none * three": nan, "three / high": 0,
        "vf_top(vf_keep(vf_set1(three), 0, -INFINITY))": -infinite,
        "vf_top(vf_max(vf_set1(low), vf_set1(three)))": 3,
        "vf_sum(vf_from(vf_set1(three), 1, -INFINITY))": -infinite,
    }  # fmt: skip
    to = v.written(Check("infinities", floats(list(calls.values()))))
    with v.w.block(""):
        names = ("low", "three", "high", "none")
        parts = (f"{name} = ({read})[{i}]" for i, name in enumerate(names))
        v.w.line(f"const float {', '.join(parts)};")
        for i, call in enumerate(calls):
            v.w.line(f"({to})[{i}] = {call};")


_HALVES = np.array([0x3C00, 0xC100, 0x7BFF, 0x0001, 0x83FF, 0x0400, 0x7C00, 0xFC00, 0x0000, 0x3555,
                    0x03FF, 0x8001, 0x0200, 0xFBFF, 0x1400, 0x5640], np.uint16)  # fmt: skip
# Normal and denormal halves, halfway between two halves, and beyond the largest.
_ROUNDED = [1, -2.5, 65504, 2**-24, 1.5 * 2**-24, 2**-25, -1.25 * 2**-24, 6.1005354e-5,
            1 + 2**-11, 1 + 3 * 2**-11, -1 - 2**-10 - 2**-12, np.inf, -np.inf, 1e6, 65519,
            0.1]  # fmt: skip


def _half_loads(v: _Values) -> None:
    read = v.given(_HALVES.view(np.uint32))
    right = floats(_HALVES.view(np.float16))
    vectors, scalars = v.written(Check("half_loads", right)), v.written(Check("half_loads", right))
    v.lines("""\
    {
        __global const half *h = (__global const half *)($read);
        for (int j = 0; j < $count; j += VF)
            vf_store($vectors + j, load_f16(h + j));
        for (int j = 0; j < $count; j++)
            ($scalars)[j] = vload_half(j, h);
    }""", count=_SAMPLES, read=read, vectors=vectors, scalars=scalars)  # fmt: skip


def _half_stores(v: _Values) -> None:
    """Whole vectors, which end at the largest half, the first three, and one at a time."""
    read = v.given(floats(_ROUNDED))
    with np.errstate(over="ignore"):
        halves = np.array(_ROUNDED, np.float32).astype(np.float16)
    within = np.clip(halves, *(np.finfo(np.float16).max * np.array([-1, 1], np.float16)))
    some = blanks(2).view(np.float16).copy()
    some[:3] = halves[:3]
    whole = v.written(Check("half_stores", within.view(np.uint32), bits=True))
    part = v.written(Check("half_stores", some.view(np.uint32), bits=True))
    scalars = v.written(Check("half_stores", halves.view(np.uint32), bits=True))
    v.lines("""\
    {
        __global half *h = (__global half *)($whole), *g = (__global half *)($scalars);
        for (int j = 0; j < $count; j += VF)
            f16_row_store(h + j, vf_load($read + j));
        f16_row_store_n((__global half *)($part), vf_load($read), 3);
        for (int j = 0; j < $count; j++)
            vstore_half(($read)[j], j, g);
    }""", count=_SAMPLES, whole=whole, scalars=scalars, part=part, read=read)  # fmt: skip


def _bytes(v: _Values) -> None:
    """Sums of four products, of each a byte by a vector of bytes."""
    rows = (np.arange(4 * v.vector, dtype=np.int64) * 67 % 256 - 128).reshape(4, v.vector)
    row = np.array([-128, 127, -1, 77])
    right = floats(row @ rows)
    read = v.given(np.concatenate([rows.ravel(), row]).astype(np.int8).view(np.uint32))
    to = v.written(Check("bytes", right))
    v.lines("""\
    {
        __global const char *c = (__global const char *)($read);
        vi sums = (vi)(0);
        for (int k = 0; k < 4; k++)
            sums = mad24(convert_int$V(vload$V(0, c + k * VF)), (vi)((int)c[4 * VF + k]), sums);
        vf_store($to, convert_float$V(sums));
    }""", read=read, to=to)  # fmt: skip


def _dots(v: _Values) -> None:
    """Products of four bytes at once, of a word by a vector of words, added to sums."""
    words = (np.arange(4 * v.vector, dtype=np.int64) * 91 % 255 - 127).reshape(v.vector, 4)
    word, sums = np.array([-127, 127, -1, 78]), 1000 * np.arange(v.vector)
    given = np.concatenate([words.ravel(), word]).astype(np.int8).view(np.uint32)
    read = v.given(given)
    to = v.written(Check("dots", floats(words @ word + sums)))
    add = ", ".join(map(str, sums))
    v.lines("""\
    {
        __global const int *c = (__global const int *)($read);
        vf_store($to, convert_float$V(vi_dot4(vload$V(0, c), c[VF], (vi)($add))));
    }""", read=read, to=to, add=add)  # fmt: skip


def _levels(v: _Values, kind: str) -> None:
    """To the nearest, to the even one of two, and no further than bytes go."""
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 127.5, 200, -127.5, -128.5, -1000, 3.49, -3.51,
                  0, 1e9, 63], np.float32)  # fmt: skip
    levels = np.clip(np.rint(x), -128, 127).astype(np.int8)
    some = blanks(1).view(np.int8).copy()
    some[:3] = levels[:3]
    read = v.given(floats(x))
    whole = v.written(Check("levels", levels.view(np.uint32), bits=True))
    part = v.written(Check("levels", some.view(np.uint32), bits=True))
    v.lines("""\
    for (int j = 0; j < $count; j += VF)
        ${kind}_store((__global char *)($whole) + j, vf_load($read + j));
    ${kind}_store_n((__global char *)($part), vf_load($read), 3);""",
            count=_SAMPLES, kind=kind, whole=whole, part=part, read=read)  # fmt: skip
