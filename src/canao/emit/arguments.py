"""The pointers of a kernel by the names that its code has for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from canao.emit.language import C11, Language
from canao.graph.dtypes import F32, I32, QUANTIZED, DType
from canao.schedule.operands import NARROW_ROWS, ROW_MAJOR, Operand, Packed

# Kernels read integers and booleans as the same type.
IDS = I32


class Arguments:
    """Names for operands, by their place: in0, ids1, w2."""

    def __init__(self, reads: Sequence[Operand], language: Language = C11) -> None:
        self.language = language
        self.names = {x: f"{_prefix(x)}{i}" for i, x in enumerate(reads)}
        self.used: set[Operand] = set()

    def of(self, value: str, dtype: DType = F32) -> str:
        """The name of a value that lies row by row."""
        return self._name(Operand(value, ROW_MAJOR, dtype))

    def rows(self, operand: Operand) -> str:
        """The name of an operand that kernels have written."""
        return self._name(operand)

    def weights(self, value: str) -> tuple[str, Packed]:
        """The name of packed weights, and how they are packed."""
        found = next(x for x in self.names if x.value == value and isinstance(x.storage, Packed))
        assert isinstance(found.storage, Packed)
        return self._name(found), found.storage

    def is_packed(self, value: str) -> bool:
        """Whether a table is there in panels only."""
        return all(isinstance(x.storage, Packed) for x in self.names if x.value == value)

    def _name(self, operand: Operand) -> str:
        self.used.add(operand)
        return self.names[operand]

    def taken(self) -> frozenset[Operand]:
        """What was asked for since this was called last."""
        used, self.used = frozenset(self.used), set()
        return used

    def declarations(self, of: Iterable[Operand] | None = None) -> list[str]:
        """Parameters for all operands, or for some, in their order."""
        chosen = set(self.names if of is None else of)
        return [self.declaration(x) for x in self.names if x in chosen]

    def declaration(self, operand: Operand) -> str:
        kind, language = c_type(operand, self.language), self.language
        pointer = f"{language.pointer}const {kind} *{language.restrict}"
        return f"{pointer} {self.names[operand]}"

    def passed(self, of: Iterable[Operand]) -> list[str]:
        """Names of some operands, in the order of all."""
        chosen = set(of)
        return [name for x, name in self.names.items() if x in chosen]


def c_type(operand: Operand, language: Language = C11) -> str:
    """The type of an operand's elements in a language."""
    if operand.storage == NARROW_ROWS:
        return row_type(operand.dtype)
    return language.type_of(operand.dtype)


def row_type(dtype: DType) -> str:
    """What code calls the elements of narrow rows."""
    return dtype.c if dtype in QUANTIZED else f"{dtype}_row"


def _prefix(operand: Operand) -> str:
    if isinstance(operand.storage, Packed):
        return "w"
    return "ids" if operand.dtype == IDS else "in"
