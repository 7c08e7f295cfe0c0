"""What a probe of a driver is: a small kernel, and the words that it has to write (docs/gpu.md).

Probes run when a model is opened. They are written with the prelude of the model's kernels and as
these are, in a program of their own: a driver compiles it once for all models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from canao.emit.arguments import row_type
from canao.emit.c.interface import c_string
from canao.emit.c.unit import table
from canao.emit.opencl.kernel import in_pieces, only
from canao.emit.opencl.prelude import prelude
from canao.emit.vecmath import RARE
from canao.emit.writer import Writer, fill
from canao.graph.dtypes import QUANTIZED

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
TOKENS, PAST, FIRST = 21, 9, 2
# Of the prelude, what is asked about where a program needs it.
_ASKED = frozenset({
    "load_f16", "f16_row", "load_i8", "dot4", *map(row_type, QUANTIZED),
    *(name for names in RARE.values() for name in names),
})  # fmt: skip
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
                f"{{{TOKENS}, {PAST}, {FIRST}}}, 0x{BLANK:x}, probe_given, probe_right, "
                f"{len(self.given)}, {len(self.right)}, probe_checks, {checks}}},")  # fmt: skip


def floats(values: ArrayLike) -> Words:
    """Numbers as words, with one NaN for all."""
    numbers = np.array(values, np.float32).ravel()
    numbers[np.isnan(numbers)] = np.nan
    return numbers.view(np.uint32)


def blanks(count: int) -> Words:
    return np.full(count, BLANK, np.uint32)
