"""Concatenations as copies: which piece of an output row comes from where.

Rows are put together in one pass, however concatenations nest: padding is a concatenation with
a constant, and shifting the tokens is a slice of it. Each piece is a range of columns, in those
rows where its bounds hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from canao.fuse.access import Access, resolve
from canao.graph.dtypes import F32
from canao.graph.ir import Dim, Graph, Node, Shape, dim_add, dim_mul, product


@dataclass(frozen=True, slots=True)
class Piece:
    """Columns from `column` on, `width` of them, of the rows within `bounds`.

    bounds   (axis, first, end): first <= index < end, in leading dimensions of the output
    source   read at the output's leading indices; of ids, where there is a table
    table    the constant whose rows those ids name, or ''
    """

    column: int
    width: int
    bounds: tuple[tuple[int, Dim, Dim], ...]
    source: Access
    table: str = ""


@dataclass(frozen=True, slots=True)
class Concat:
    """Rows `lead` x `width`, put together from pieces."""

    lead: Shape
    width: int
    pieces: tuple[Piece, ...]

    @property
    def rows(self) -> Dim:
        return product(self.lead)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a value lands: its first column, the rows it covers, and how far its leading
    indices are ahead of those of the output."""

    column: int
    bounds: tuple[tuple[int, Dim, Dim], ...]
    shifts: tuple[Dim, ...]

    def moved(self, axis: int, by: Dim) -> _Place:
        shifts = list(self.shifts)
        shifts[axis] = dim_add(shifts[axis], by)
        return replace(self, shifts=tuple(shifts))

    def part(self, axis: int, start: Dim, size: Dim) -> _Place | None:
        """The place of a part of size `size` that begins at `start` of the value along `axis`."""
        if axis == len(self.shifts):
            return replace(self, column=self.column + start) if isinstance(start, int) else None
        first = dim_add(start, dim_mul(self.shifts[axis], -1))
        inner = replace(self, bounds=(*self.bounds, (axis, first, dim_add(first, size))))
        return inner.moved(axis, dim_mul(start, -1))


def concat_form(graph: Graph, nodes: Sequence[Node], output: str) -> Concat | None:
    """The Concat form, if every node only places values of floats."""
    shape, width = graph.shape(output), graph.shape(output)[-1]
    if graph.types[output].dtype != F32 or not isinstance(width, int):
        return None
    pieces = _pieces(graph, nodes, output, _Place(0, (), (0,) * (len(shape) - 1)))
    return None if pieces is None else Concat(shape[:-1], width, tuple(pieces))


def _pieces(graph: Graph, nodes: Sequence[Node], name: str, at: _Place) -> list[Piece] | None:
    made = next((n for n in nodes if n.output == name), None)
    if made is not None and made.op == "concat":
        return _parts(graph, nodes, made, at)
    width = graph.shape(name)[-1]
    if not isinstance(width, int):
        return None
    if made is not None and made.op == "gather":
        table, ids = made.inputs[0], resolve(graph, nodes, made.inputs[1])
        if table not in graph.constants or ids is None or ids.base in graph.constants:
            return None
        return [Piece(at.column, width, at.bounds, ids.shifted(at.shifts), table)]
    access = resolve(graph, nodes, name)
    if access is not None:
        return [Piece(at.column, width, at.bounds, access.shifted(at.shifts))]
    if made is not None and made.op == "slice" and made.attribute("axis") < len(at.shifts):
        inner = at.moved(made.attribute("axis"), made.attribute("start"))
        return _pieces(graph, nodes, made.inputs[0], inner)
    return None


def _parts(graph: Graph, nodes: Sequence[Node], n: Node, at: _Place) -> list[Piece] | None:
    """The pieces of each operand of a concatenation."""
    axis, found = n.attribute("axis"), list[Piece]()
    start: Dim = 0
    for name in n.inputs:
        size = graph.shape(name)[axis]
        place = at.part(axis, start, size)
        pieces = _pieces(graph, nodes, name, place) if place else None
        if pieces is None:
            return None
        found += pieces
        start = dim_add(start, size)
    return found
