"""Layout of the weights file: which constant lies where, and in which packing.

    header    64 bytes: magic, layout id, size of the file
    sections  each on a 64-byte boundary; float32, or int32 for ids; little-endian

A product's weights are packed into panels of nr output columns, [n/nr][k][nr], so that its
inner loop reads them front to back; missing columns of the last panel are zero.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from canao.fuse.forms.form import Product
from canao.fuse.forms.rows import Rows
from canao.fuse.group import Program
from canao.graph.ir import Graph
from canao.schedule.plan import Plan

MAGIC = b"CANAOW01"
HEADER = 64
_ALIGN = 16  # floats


@dataclass(frozen=True, slots=True)
class Section:
    """A constant's place: `offset` and `size` in floats after the header; nr 0 is row-major."""

    name: str
    nr: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class WeightLayout:
    sections: tuple[Section, ...]
    floats: int

    @property
    def identity(self) -> int:
        """64 bits that tell this layout from others; the library checks them in the file."""
        text = repr([(s.nr, s.offset, s.size) for s in self.sections])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")

    @property
    def file_size(self) -> int:
        return HEADER + 4 * self.floats

    def offset(self, name: str, nr: int) -> int:
        return next(s.offset for s in self.sections if (s.name, s.nr) == (name, nr))


def lay_out(graph: Graph, used: Iterable[tuple[str, int]]) -> WeightLayout:
    """A layout of the constants `used`, (name, nr) pairs, in their order."""
    sections, offset = [], 0
    for name, nr in dict.fromkeys(used):
        array = graph.constants[name]
        size = -(-array.shape[0] // nr) * nr * array.shape[1] if nr else array.size
        sections.append(Section(name, nr, offset, size))
        offset = -(-(offset + size) // _ALIGN) * _ALIGN
    return WeightLayout(tuple(sections), offset)


def shared_panels(program: Program, plans: Sequence[Plan]) -> dict[str, int]:
    """Tables that are a product's weights as well, as embeddings tied to a language head are: the
    columns of their panels. They are stored once, and look-ups read them from the panels.

    Not those that are read in another way too, which need the table row by row.
    """
    panels: dict[str, int] = {}
    plain: set[str] = set()
    for region, plan in zip(program.regions, plans, strict=True):
        form = region.form
        if isinstance(form, Product):
            panels.setdefault(form.weight, plan.nr)
        for n in region.nodes:
            looked_up = n.op == "gather" and isinstance(form, Rows)
            weight = form.weight if isinstance(form, Product) else ""
            plain.update(n.inputs[1:] if looked_up else (i for i in n.inputs if i != weight))
    return {name: nr for name, nr in panels.items() if name not in plain}


def pack(weight: np.ndarray, nr: int) -> np.ndarray:
    """[n, k] -> [ceil(n/nr), k, nr]."""
    n, k = weight.shape
    panels = -(-n // nr)
    padded = np.zeros((panels * nr, k), np.float32)
    padded[:n] = weight
    return np.ascontiguousarray(padded.reshape(panels, nr, k).transpose(0, 2, 1))


def file_parts(graph: Graph, layout: WeightLayout) -> Iterator[bytes]:
    """The weights file, piece by piece."""
    head = struct.pack("<8sQQ", MAGIC, layout.identity, layout.file_size)
    yield head.ljust(HEADER, b"\0")
    at = 0
    for s in layout.sections:
        yield bytes(4 * (s.offset - at))
        array = graph.constants[s.name]
        kind = graph.types[s.name].dtype.stored
        yield (pack(array, s.nr) if s.nr else np.ascontiguousarray(array, kind)).tobytes()
        at = s.offset + s.size
    yield bytes(4 * (layout.floats - at))
