"""Concatenations as copies: which piece of an output row comes from where.

Rows are put together in one pass, however concatenations nest: padding is a concatenation with
a constant, and shifting the tokens is a slice of it. Each piece is a range of columns, in those
rows where its bounds hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from canao.fuse.access import Access, producers, resolve
from canao.graph.dtypes import F32
from canao.graph.ir import Dim, Graph, Node, Shape, dim_add, dim_mul, product

_MOST_PIECES = 1024


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
    """Where a value lies in the output.

    column   its first column there
    bounds   the rows that it covers, as in Piece
    shifts   for each leading dimension, the value's index less that of the output
    """

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
    """The Concat form, if every node is a concatenation, a slice, a view or a gather of floats."""
    shape, width = graph.shape(output), graph.shape(output)[-1]
    if graph.types[output].dtype != F32 or not isinstance(width, int):
        return None
    pieces = _pieces(graph, producers(nodes), output)
    return None if pieces is None else Concat(shape[:-1], width, tuple(pieces))


def _pieces(graph: Graph, made: Mapping[str, Node], output: str) -> list[Piece] | None:
    """The pieces of `output` from left to right; None where a value is no piece, or where there are
    more than a kernel could be written for: what is joined may be joined again without end."""
    found = list[Piece]()
    waiting = [(output, _Place(0, (), (0,) * (len(graph.shape(output)) - 1)))]
    while waiting:
        name, at = waiting.pop()
        n = made.get(name)
        piece = None if n is not None and n.op == "concat" else _piece(graph, made, name, at)
        if piece is not None:
            found.append(piece)
        elif n is not None and n.op == "concat":
            parts = _parts(graph, n, at)
            if parts is None:
                return None
            waiting += reversed(parts)
        elif n is not None and n.op == "slice" and n.attribute("axis") < len(at.shifts):
            waiting.append((n.inputs[0], at.moved(n.attribute("axis"), n.attribute("start"))))
        else:
            return None
        if len(found) + len(waiting) > _MOST_PIECES:
            return None
    return found


def _piece(graph: Graph, made: Mapping[str, Node], name: str, at: _Place) -> Piece | None:
    """A value that is one piece: read by strides, or rows of a table."""
    n, width = made.get(name), graph.shape(name)[-1]
    if not isinstance(width, int):
        return None
    if n is not None and n.op == "gather":
        table, ids = n.inputs[0], resolve(graph, made, n.inputs[1])
        if table not in graph.constants or ids is None or ids.base in graph.constants:
            return None
        if graph.types[table].dtype != F32:  # copies convert nothing
            return None
        return Piece(at.column, width, at.bounds, ids.shifted(at.shifts), table)
    access = resolve(graph, made, name)
    if access is None:
        return None
    return Piece(at.column, width, at.bounds, access.shifted(at.shifts))


def _parts(graph: Graph, n: Node, at: _Place) -> list[tuple[str, _Place]] | None:
    """The operands of a concatenation, each with its place in the output."""
    axis, found = n.attribute("axis"), list[tuple[str, _Place]]()
    start: Dim = 0
    for name in n.inputs:
        size = graph.shape(name)[axis]
        place = at.part(axis, start, size)
        if place is None:
            return None
        found.append((name, place))
        start = dim_add(start, size)
    return found
