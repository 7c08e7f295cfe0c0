"""Layout of the weights file: which constant lies where, and how.

    header    64 bytes: magic, layout id, size of the file
    sections  each on a 64-byte boundary; float32, or int32 for ids; little-endian

A packed GEMM's weights lie in panels of nr output columns, so that its inner loop reads them front
to back; missing columns of the last panel are zero.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from canao.graph.dtypes import DType
from canao.graph.ir import Graph
from canao.schedule.operands import Operand, Packed, Storage, aligned

MAGIC = b"CANAOW02"
HEADER = 64


@dataclass(frozen=True, slots=True)
class Section:
    """A constant's place: bytes after the header, and how many. `dtype` is the constant's own; a
    kernel that only moves elements may read them as another of the same size."""

    value: str
    storage: Storage
    dtype: DType
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class WeightLayout:
    """Where each constant lies in the weights file."""

    sections: tuple[Section, ...]
    size: int
    _places: Mapping[tuple[str, Storage], int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        places = {(s.value, s.storage): s.offset for s in self.sections}
        object.__setattr__(self, "_places", MappingProxyType(places))

    @property
    def identity(self) -> int:
        """64 bits that tell this layout from others; the library checks them in the file."""
        rows = [(s.storage.name, s.dtype.name, s.offset, s.size) for s in self.sections]
        return int.from_bytes(hashlib.sha256(repr(rows).encode()).digest()[:8], "little")

    @property
    def file_size(self) -> int:
        return HEADER + self.size

    def offset(self, operand: Operand) -> int:
        return self._places[operand.value, operand.storage]


def lay_out(graph: Graph, operands: Iterable[Operand]) -> WeightLayout:
    """A layout of the constants among `operands`, in their order."""
    sections, offset = list[Section](), 0
    read = dict.fromkeys((o.value, o.storage) for o in operands if o.value in graph.constants)
    for value, storage in read:
        dtype = graph.types[value].dtype
        size = _elements(graph.constants[value], storage) * dtype.bytes
        sections.append(Section(value, storage, dtype, offset, size))
        offset = aligned(offset + size)
    return WeightLayout(tuple(sections), offset)


def united(graph: Graph, layouts: Iterable[WeightLayout]) -> WeightLayout:
    """One layout with the sections of all: what lies alike in several is there once."""
    return lay_out(graph, (Operand(s.value, s.storage) for lay in layouts for s in lay.sections))


def _elements(array: np.ndarray, storage: Storage) -> int:
    if not isinstance(storage, Packed):
        return array.size
    n, k = array.shape
    return storage.elements(n, k)


def pack(weight: np.ndarray, storage: Packed) -> np.ndarray:
    """[n, k] -> [ceil(n/nr), ceil(k/kr), nr, kr]."""
    n, k = weight.shape
    nr, kr = storage.nr, storage.kr
    panels, steps = -(-n // nr), -(-k // kr)
    padded = np.zeros((panels * nr, steps * kr), weight.dtype)
    padded[:n, :k] = weight
    if storage.offset:
        padded = (padded.astype(np.int16) + storage.offset).astype(np.uint8).view(np.int8)
    return np.ascontiguousarray(padded.reshape(panels, nr, steps, kr).transpose(0, 2, 1, 3))


def file_parts(graph: Graph, layout: WeightLayout) -> Iterator[bytes]:
    """The weights file, piece by piece."""
    head = struct.pack("<8sQQ", MAGIC, layout.identity, layout.file_size)
    yield head.ljust(HEADER, b"\0")
    at = 0
    for s in layout.sections:
        yield bytes(s.offset - at)
        array = graph.constants[s.value]
        if isinstance(s.storage, Packed):
            array = pack(array, s.storage)
        yield np.ascontiguousarray(array, s.dtype.stored).tobytes()
        at = s.offset + s.size
    yield bytes(layout.size - at)
