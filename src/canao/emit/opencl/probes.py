"""Small kernels that say whether a driver computes what CANAO's kernels rely on, with the words
that each has to write. They run when a model is opened (docs/gpu.md).

They are written with the prelude of the model's kernels and as these are, in a program of their
own: a driver compiles it once for all models. What needs no barriers is one kernel, as a driver
takes its time for each. What only few programs use, halves, bytes and
functions, is asked of the driver where the program uses it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from canao.emit.arguments import row_type
from canao.emit.c.interface import c_string
from canao.emit.c.unit import table
from canao.emit.opencl.kernel import BARRIER, in_pieces, only
from canao.emit.opencl.prelude import prelude
from canao.emit.vecmath import RARE
from canao.emit.writer import Writer, fill
from canao.graph.dtypes import QUANTIZED
from canao.graph.ops import OPS

Words = NDArray[np.uint32]

# What checks are about, by their names, as messages say it: it "gives 0 where 12 is right".
CHECKS: Mapping[str, str] = {
    "arguments": "adding a kernel's arguments to the numbers of a buffer",
    "ends": "a vector that is cut off where a row ends",
    "exp": "exp",
    "functions": "a function of a number",
    "infinities": "computing with infinities",
    "half_loads": "loading halves",
    "half_stores": "storing halves",
    "bytes": "a product of bytes",
    "dots": "a product of four bytes at once",
    "levels": "rounding numbers to bytes",
    "tile": "a product with the sums of its rows",
    "group": "a sum or maximum of a group of work-items",
    "branches": "a loop with barriers in which work-items part",
}
# What is in the buffer where results will be: a number that no probe gives.
BLANK = np.uint32(0xA5A5A5A5)
# s, past and first, of all probes. There are as many keys as the first two together.
_TOKENS, _PAST, _FIRST = 21, 9, 2
# How far off a function may be.
_NEAR = 1e-5
_SAMPLES = 16
# Of the prelude, what is asked about where a program needs it.
_ASKED = frozenset({
    "load_f16", "f16_row", "load_i8", "dot4", *map(row_type, QUANTIZED),
    *(name for names in RARE.values() for name in names),
})  # fmt: skip
# The functions of vectors that an op of one operand is, by the name of the function.
_FUNCTIONS = {found[1]: op for op in OPS.values()
              if (found := re.fullmatch(r"(vf_\w+)\(\{0\}\)", op.vector))}  # fmt: skip
_KERNEL = """\
/* Says whether the driver computes it right: $about. */
__kernel __attribute__((reqd_work_group_size($items, 1, 1)))
void $name(const int s, const int past, const int first, __global const uchar *b0, const ulong o0, \
__global uchar *b1, const ulong o1)
{
    __global const float *restrict in = (__global const float *)(b0 + o0);
    __global float *restrict out = (__global float *)(b1 + o1);
$body
}
"""


@dataclass(frozen=True, slots=True, eq=False)
class Check:
    """Some of the words that a kernel writes: floats, or bits that have to be the same. Floats may
    be off by `relative` of the right ones, or of `least` if that is more."""

    name: str
    right: Words
    bits: bool = False
    relative: float = 0.0
    least: float = 0.0
    what: str = ""

    @property
    def said(self) -> str:
        return self.what or CHECKS[self.name]


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """A kernel that reads `given` and writes the words of its checks, one after the other. It has
    groups of `items` work-items in a row, so many `groups` in each of two dimensions."""

    name: str
    body: str
    given: Words
    checks: tuple[Check, ...]
    items: int = 1
    groups: tuple[int, int] = (1, 1)

    @property
    def text(self) -> str:
        about = ", ".join(dict.fromkeys(c.name for c in self.checks))
        return fill(_KERNEL, about=about, items=self.items, name=self.name,
                    body=self.body.rstrip("\n"))  # fmt: skip

    @property
    def right(self) -> Words:
        return np.concatenate([c.right for c in self.checks])


@dataclass(frozen=True, slots=True, eq=False)
class Probes:
    """All probes of a model, with their source, and where in their buffer each reads and writes."""

    kernels: tuple[Probe, ...]
    vector: int = 4
    needs: frozenset[str] = frozenset()  # of the prelude

    @property
    def source(self) -> str:
        pieces = prelude(self.vector, self.needs & _ASKED | {"group"})
        pieces += [only(p.name, p.text) for p in self.kernels]
        return "\n".join(piece.rstrip("\n") + "\n" for piece in pieces)

    @property
    def given(self) -> Words:
        """A word comes first that no probe reads, so that each has to heed where it begins."""
        return np.concatenate([[BLANK], *(p.given for p in self.kernels)]).astype(np.uint32)

    @property
    def right(self) -> Words:
        return np.concatenate([p.right for p in self.kernels])

    def places(self) -> Iterator[tuple[Probe, int, int]]:
        """Each with the bytes from which on it reads and writes."""
        read, written = 1, len(self.given)
        for probe in self.kernels:
            yield probe, 4 * read, 4 * written
            read, written = read + len(probe.given), written + len(probe.right)

    def checks(self) -> Iterator[tuple[Check, int]]:
        """Each with the first of its words among those that are right."""
        first = 0
        for probe in self.kernels:
            for check in probe.checks:
                yield check, first
                first += len(check.right)

    def tables(self, w: Writer) -> str:
        """C of what the runtime has to know of them, and how `canao_gpu` names it."""
        if not self.kernels:
            return ""
        count = in_pieces(w, "probe_source", self.source)
        for name, words in (("probe_given", self.given), ("probe_right", self.right)):
            with table(w, f"static const uint32_t {name}[] ="):
                for at in range(0, len(words), 8):
                    w.line(" ".join(f"0x{word:x}," for word in words[at : at + 8]))
        with table(w, "static const struct canao_argument probe_arguments[][2] ="):
            for _, *places in self.places():
                w.line(f"{{{', '.join(f'{{CANAO_PROBED, {place}}}' for place in places)}}},")
        with table(w, "static const struct canao_launch probe_launches[] ="):
            for i, p in enumerate(self.kernels):
                groups = ", ".join(f"{{{{{n}, 0, 0}}, 1}}" for n in p.groups)
                w.line(f"{{{c_string(p.name)}, probe_arguments[{i}], 2, {{{p.items}, 1}}, "
                       f"{{{groups}}}}},")  # fmt: skip
        with table(w, "static const struct canao_check probe_checks[] ="):
            for c, first in self.checks():
                w.line(f"{{{c_string(c.name)}, {c_string(c.said)}, {first}, {len(c.right)}, "
                       f"{int(c.bits)}, {c.relative!r}f, {c.least!r}f}},")  # fmt: skip
        launches, checks = len(self.kernels), sum(1 for _ in self.checks())
        return (f".probes = {{probe_source, {count}, probe_launches, {launches}, "
                f"{{{_TOKENS}, {_PAST}, {_FIRST}}}, 0x{BLANK:x}, probe_given, probe_right, "
                f"{len(self.given)}, {len(self.right)}, probe_checks, {checks}}},")  # fmt: skip


def probes_of(vector: int, needs: frozenset[str], kernels: Iterable[str], items: int) -> Probes:
    """Those of a program with vectors of so many floats, by what its kernels need of the prelude,
    by their text, and by how many work-items the largest of its groups has."""
    used = frozenset(name for text in kernels for name in re.findall(r"\bvf_\w+(?=\()", text))
    # Few sizes, so that models share them, and none that a device may not take.
    shared = 1 << (max(2, items).bit_length() - 1)
    probes = (_values(vector, needs, used), _tile(vector), _group(shared), _branches(vector))
    return Probes(probes, vector, needs)


def floats(values: ArrayLike) -> Words:
    """Numbers as words, with one NaN for all."""
    numbers = np.array(values, np.float32).ravel()
    numbers[np.isnan(numbers)] = np.nan
    return numbers.view(np.uint32)


def _blanks(count: int) -> Words:
    return np.full(count, BLANK, np.uint32)


# What one work-item computes by itself.


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


def _values(vector: int, needs: frozenset[str], used: frozenset[str]) -> Probe:
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
    told = _TOKENS + 100 * _PAST + 10000 * _FIRST
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
    stored = _blanks(count * vector).reshape(count, vector)
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
    some = _blanks(2).view(np.float16).copy()
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
    some = _blanks(1).view(np.int8).copy()
    some[:3] = levels[:3]
    read = v.given(floats(x))
    whole = v.written(Check("levels", levels.view(np.uint32), bits=True))
    part = v.written(Check("levels", some.view(np.uint32), bits=True))
    v.lines("""\
    for (int j = 0; j < $count; j += VF)
        ${kind}_store((__global char *)($whole) + j, vf_load($read + j));
    ${kind}_store_n((__global char *)($part), vf_load($read), 3);""",
            count=_SAMPLES, kind=kind, whole=whole, part=part, read=read)  # fmt: skip


# What work-items compute together.


def _tile(vector: int) -> Probe:
    """As packed_gemm.py has it: tiles of eight rows, of which the last is not full, by one panel of
    columns for each of three items; then the sums of rows, which are added to the products."""
    rows, depth, deep, panels, tile = _PAST, 10, 8, 3, 8
    a = np.arange(rows * depth).reshape(rows, depth) * 5 % 7 - 3
    b = np.arange(panels * depth * vector).reshape(panels, depth, vector) * 3 % 11 - 5
    product = a @ np.concatenate(list(b), axis=1)
    right = product + product.sum(axis=1, keepdims=True)
    w = Writer()
    w.depth = 1
    w.line(f"__local float part[{tile * panels}];")
    w.line("const int lane = get_local_id(0), rows = past;")
    w.line(f"const int panel = get_group_id(0) * {panels} + lane;")
    w.line(f"const int row = get_global_id(1) * {tile};")
    w.line(f"__global const float *w = in + rows * {depth} + panel * {depth * vector};")
    for i in range(tile):
        w.line(f"__global const float *a{i} = in + min(row + {i}, rows - 1) * {depth};")
        w.line(f"vf c{i} = vf_set1(0.0f);")
    with w.block(f"for (int k = 0; k < {deep}; k += 4)"):
        for i in range(tile):
            w.line(f"const float4 x{i} = vload4(0, a{i} + k);")
        for kk in range(4):
            _tile_step(w, tile, f"(k + {kk})", f".s{kk}")
    with w.block(f"for (int k = {deep}; k < {depth}; k++)"):
        for i in range(tile):
            w.line(f"const float x{i} = a{i}[k];")
        _tile_step(w, tile, "k", "")
    w.line(BARRIER)
    for i in range(tile):
        w.line(f"part[{i * panels} + lane] = vf_sum(c{i});")
    w.line(BARRIER)
    with w.block(f"for (int m = {panels}; m > 1; m = (m + 1) / 2)"):
        w.line("const int half_way = (m + 1) / 2;")
        with w.block("if (lane + half_way < m)"):
            for i in range(tile):
                w.line(f"part[{i * panels} + lane] += part[{i * panels} + lane + half_way];")
        w.line(BARRIER)
    for i in range(tile):
        with w.block(f"if (row + {i} < rows)"):
            w.line(f"vf_store(out + (row + {i}) * {panels * vector} + panel * VF, "
                   f"vf_add(c{i}, vf_set1(part[{i * panels}])));")  # fmt: skip
    given = floats(np.concatenate([a.ravel(), b.ravel()]))
    return Probe("probe_tile", w.text(), given, (Check("tile", floats(right)),), panels,
                 (1, -(-rows // tile)))  # fmt: skip


def _tile_step(w: Writer, tile: int, k: str, element: str) -> None:
    with w.block(""):
        w.line(f"const vf y = vf_load(w + {k} * VF);")
        for i in range(tile):
            w.line(f"c{i} = vf_fma(vf_set1(x{i}{element}), y, c{i});")


def _group(items: int) -> Probe:
    """The sum of all items of a group, and the maximum of all but one; the last says what it got.
    No more: each is a loop with barriers, which compilers unroll."""
    x = -((np.arange(items) * 37 + 50) % 101) - 1
    few = max(1, items - 1)
    body = f"""\
    __local float part[{items}];
    const float x = in[get_local_id(0)];
    const float sum = group_sum(x, part, {items}), top = group_top(x, part, {few});
    if (get_local_id(0) == {items - 1}) {{
        out[0] = sum;
        out[1] = top;
    }}
"""
    right = floats([x.sum(), x[:few].max()])
    return Probe("probe_group", body, floats(x), (Check("group", right),), items)


def _branches(vector: int) -> Probe:
    """As attention.py has it: blocks of keys in the group's memory, of which each item sees others,
    and some see none; the maximum and the sum of a query's products with its keys."""
    items, keys = 8, _TOKENS + _PAST
    q = np.arange(_TOKENS) * 5 % 9 - 4
    k = np.arange(keys) * 7 % 13 - 8
    right = _blanks(2 * _TOKENS).reshape(_TOKENS, 2)
    for t in range(_FIRST, _TOKENS):
        seen = q[t] * k[: _PAST + t + 1]
        right[t] = floats([seen.max(), seen.sum()])
    body = f"""\
    __local float kt[VF];
    const int lane = get_local_id(0), start = get_group_id(0) * {items}, t = start + lane;
    const int mine = t < s && t >= first, query = min(t, s - 1);
    const int last = min(start + {items}, s) - 1, idle = last < first;
    const int high = past + t + 1, to = idle ? 0 : past + last + 1, end = past + s;
    __global const float *k = in + s;
    const vf q = vf_set1(in[query]);
    float top = -INFINITY, sum = 0.0f;
    for (int key = 0; key < to; key += VF) {{
        {BARRIER}
        for (int i = lane; i < VF; i += {items})
            kt[i] = k[min(key + i, end - 1)];
        {BARRIER}
        if (mine && key < high) {{
            const vf y = vf_mul(vf_load(kt), q);
            top = fmax(top, vf_top(vf_keep(y, high - key, -INFINITY)));
            sum = sum + vf_sum(vf_keep(y, high - key, 0.0f));
        }}
    }}
    if (mine) {{
        out[2 * t] = top;
        out[2 * t + 1] = sum;
    }}
"""
    given = floats(np.concatenate([q, k]))
    return Probe("probe_branches", body, given, (Check("branches", right.ravel()),), items,
                 (-(-_TOKENS // items), 1))  # fmt: skip
