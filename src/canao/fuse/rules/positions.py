"""Values that depend on positions only: masks, rotations, relative biases. They become tables.

A model computes them anew for every text, from `arange`. Here each is computed once, for the
longest text, and read through a view: a slice, where it depends on one position, or `diagonals`,
where it depends on the distance of two. A table of distances has 2 n - 1 entries where the value
itself has n^2.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from hashlib import blake2b

import numpy as np

from canao.errors import UnsupportedError
from canao.fuse.rewrite import Change, GraphView
from canao.graph.dtypes import I32
from canao.graph.ir import TOKENS, Node, Shape, node, product
from canao.graph.ops import OPS, VIEWS

_TABLE_LIMIT = 1 << 26  # elements; a table is stored in the weights file
# Elements that are computed for one table at most; a node costs as much as some of them.
_MOST_WORK, _WORK_OF_A_NODE = 1 << 32, 1 << 12
# What a value depends on: the index along an axis (a,), or that along b minus that along a (a, b).
Atoms = frozenset[tuple[int, ...]]
_OF_DISTANCE = ("sub", "eq", "ne", "ge", "gt", "le", "lt")


def tabulate(g: GraphView, n: Node) -> Change | None:
    """f(positions)  ->  view of a table"""
    known = _known(g)
    if n.output not in known or is_table(g, n.output):
        return None
    if n.output not in g.kept and all(u.output in known for u in g.users[n.output]):
        return None
    atoms, shape, longest = known[n.output], g.shape(n.output), g.max_length
    distance = next(iter(atoms)) if len(atoms) == 1 and len(next(iter(atoms))) == 2 else ()
    ranges = []
    for axis, size in enumerate(shape):
        if isinstance(size, int):
            ranges.append((0, size))
        elif distance and axis == distance[1]:
            ranges.append((1 - longest, longest))
        elif not distance and any(axis in atom for atom in atoms):
            ranges.append((0, longest))
        else:
            ranges.append((0, 1))
    sizes = [stop - start for start, stop in ranges]
    elements = math.prod(sizes)
    if elements > _TABLE_LIMIT or not g.room_for(elements):
        return None
    grid = np.ix_(*(np.arange(start, stop) for start, stop in ranges))
    try:
        table = _Table(g).at(n.output, grid)
    except _TooMuch:
        raise UnsupportedError(
            f"operator {n.op} at {n.where or 'the top of the model'}: a table of what it computes "
            f"for {longest} tokens takes too much; compile with a smaller --max-length, or give a "
            "larger --max-memory"
        ) from None
    except IndexError:
        raise UnsupportedError(
            f"operator {n.op} at {n.where or 'the top of the model'}: what it is computed from "
            f"reads outside of a table at {longest} tokens; compile with a smaller --max-length"
        ) from None
    table = np.broadcast_to(table, sizes).astype(g.types[n.output].dtype.numpy)
    table = _unrepeated(table, shape)
    return _distances(g, n, table, distance) if distance else _slices(g, n, table)


def _unrepeated(table: np.ndarray, shape: Shape) -> np.ndarray:
    """The table, of size 1 along dimensions in which it repeats itself, such as the heads."""
    for axis, size in enumerate(shape):
        first = table.take([0], axis)
        if isinstance(size, int) and size > 1 and (table == first).all():
            table = first
    return table


def _slices(g: GraphView, n: Node, table: np.ndarray) -> Change:
    made, name = [], g.fresh("table")
    constants, sizes = {name: np.ascontiguousarray(table)}, list(table.shape)
    for axis, size in enumerate(g.shape(n.output)):
        if not isinstance(size, int) and table.shape[axis] > 1:
            sizes[axis] = size
            made.append(node("slice", (name,), g.fresh("v"), where=n.where, axis=axis, start=0,
                             stop=TOKENS))  # fmt: skip
            name = made[-1].output
    return _spread(g, n, tuple(sizes), made, constants)


def _distances(g: GraphView, n: Node, table: np.ndarray, axes: Sequence[int]) -> Change:
    rank, longest, name = table.ndim, g.max_length, g.fresh("table")
    others = [a for a in range(rank) if a not in axes]
    constants = {name: np.ascontiguousarray(np.take(table.transpose(*others, *axes), 0, -2))}
    made = [node("diagonals", (name,), g.fresh("v"), where=n.where, longest=longest)]
    perm = tuple([*others, *axes].index(a) for a in range(rank))
    if perm != tuple(range(rank)):
        made.append(
            node("transpose", (made[-1].output,), g.fresh("v"), where=n.where, perm=perm)
        )
    sizes = tuple(TOKENS if a in axes else size for a, size in enumerate(table.shape))
    return _spread(g, n, sizes, made, constants)


def _spread(
    g: GraphView, n: Node, shape: Shape, made: list[Node], constants: Mapping[str, np.ndarray]
) -> Change:
    """The change to `made`, whose result has `shape`, repeated along the axes that it does not
    depend on."""
    name = made[-1].output if made else next(iter(constants))
    if shape != g.shape(n.output):
        made.append(node("expand", (name,), g.fresh("v"), where=n.where,
                         shape=g.shape(n.output)))  # fmt: skip
        name = made[-1].output
    return Change({n.output: name}, made, constants)


def is_table(g: GraphView, name: str) -> bool:
    """Whether it is a constant, or one seen through views."""
    while name in g.producer and g.producer[name].op in (*VIEWS, "diagonals"):
        name = g.producer[name].inputs[0]
    return name in g.constants


def positional(g: GraphView, name: str) -> bool:
    """Whether a computed value depends on positions only."""
    return name in _known(g)


def _known(g: GraphView) -> Mapping[str, Atoms]:
    """The computed values that depend on positions only, and on which."""
    if g.positions is None:
        found: dict[str, Atoms] = {name: frozenset() for name in g.constants}
        indices: dict[str, int] = {}
        for n in g.nodes:
            place = _index(g, n, indices)
            if place is not None:
                indices[n.output] = place
            dims = g.shape(n.output)
            if all(i in found for i in n.inputs) and all(
                isinstance(d, int) or d == TOKENS for d in dims
            ):
                atoms = _atoms(g, n, found, indices)
                if atoms is not None:
                    found[n.output] = atoms
        g.positions = {name: atoms for name, atoms in found.items() if name in g.producer}
    return g.positions


def _atoms(
    g: GraphView, n: Node, found: Mapping[str, Atoms], indices: Mapping[str, int]
) -> Atoms | None:
    if n.op == "arange":
        return frozenset() if isinstance(n.attribute("stop"), int) else frozenset({(0,)})
    if n.op in VIEWS:
        axes = _axes(g.shape(n.inputs[0]), n, g.shape(n.output))
        if axes is None:
            return None
        atoms = _moved(found[n.inputs[0]], axes)
        if n.op == "slice" and not isinstance(g.shape(n.output)[n.attribute("axis")], int):
            longest = n.attribute("start") + g.max_length
            size = g.shape(n.inputs[0])[n.attribute("axis")]
            if not isinstance(size, int) or size < longest:
                return None
            atoms |= {(n.attribute("axis"),)}
        return atoms
    if n.op in _OF_DISTANCE:
        rank = len(g.shape(n.output))
        places = {indices[i] + rank - len(g.shape(i)) for i in n.inputs if i in indices}
        if len(places) == 2:
            return frozenset({(min(places), max(places))})
    if n.op == "gather":
        return found[n.inputs[1]] if not found[n.inputs[0]] else None
    if n.op == "concat" and not isinstance(g.shape(n.output)[n.attribute("axis")], int):
        return None
    if not OPS[n.op].pointwise and n.op != "concat":
        return None
    rank, atoms = len(g.shape(n.output)), frozenset[tuple[int, ...]]()
    for name in n.inputs:
        lead = rank - len(g.shape(name))
        atoms |= _moved(found[name], {a: a + lead for a in range(rank - lead)})
    return atoms


def _moved(atoms: Atoms, axes: Mapping[int, int]) -> Atoms:
    return frozenset(tuple(sorted(axes[a] for a in atom)) for atom in atoms)


def _axes(before: Shape, n: Node, after: Shape) -> dict[int, int] | None:
    """Axis before the view -> axis after it; None if it splits or merges axes other than of size
    1."""
    if n.op == "transpose":
        return {p: i for i, p in enumerate(n.attribute("perm"))}
    if n.op == "reshape":
        kept = [[a for a, d in enumerate(dims) if d != 1] for dims in (before, after)]
        if [before[a] for a in kept[0]] != [after[a] for a in kept[1]]:
            return None
        return dict(zip(*kept, strict=True))
    return {a: a + len(after) - len(before) for a in range(len(before))}


def _index(g: GraphView, n: Node, indices: Mapping[str, int]) -> int | None:
    """Where the result of n holds, as positions do, the index along one axis, or that plus a
    constant: this axis. None where it holds anything else. `indices` has those of earlier nodes."""
    if n.op == "arange":
        return 0
    if not n.inputs or n.inputs[0] not in indices or g.types[n.output].dtype != I32:
        return None
    inner, before, after = indices[n.inputs[0]], g.shape(n.inputs[0]), g.shape(n.output)
    if n.op in VIEWS:
        axes = _axes(before, n, after)
        return None if axes is None else axes.get(inner)
    if n.op in ("add", "sub") and n.inputs[1] in g.constants and (
        product(g.shape(n.inputs[1])) == 1
    ):
        return inner + len(after) - len(before)
    return None


# Indices of elements, an array for each dimension.
_Grid = Sequence[np.ndarray]
# A computation that asks for elements of other values, and is sent them.
_Asking = Generator[tuple[str, _Grid], np.ndarray, np.ndarray]


class _TooMuch(Exception):
    """A table takes more memory or time than there may be."""


class _Table:
    """Values at any positions, computed in the precision in which a model computes them.

    What several nodes read is computed once for each grid, and kept; a chain of any length keeps
    nothing on the way. Nothing recurses.
    """

    def __init__(self, g: GraphView) -> None:
        self.graph = g
        self.done: dict[tuple[str | bytes, ...], np.ndarray] = {}
        self.kept = self.worked = 0  # elements in `done`, and computed in all

    def at(self, name: str, grid: _Grid) -> np.ndarray:
        """Elements of `name` at the indices of `grid`."""
        waiting = [(name, grid, self._asking(name, grid))]
        sent: np.ndarray | None = None
        while True:
            name, grid, running = waiting[-1]
            try:
                asked = running.send(sent)  # type: ignore[arg-type]
            except StopIteration as finished:
                sent = np.asarray(finished.value, self.graph.types[name].dtype.numpy)
                self._keep(name, grid, sent)
                waiting.pop()
                if not waiting:
                    return sent
                continue
            sent = self.done.get(_key(*asked))
            if sent is None:
                waiting.append((*asked, self._asking(*asked)))

    def _keep(self, name: str, grid: _Grid, made: np.ndarray) -> None:
        self.worked += made.size + _WORK_OF_A_NODE
        if len(self.graph.users[name]) > 1:
            self.done[_key(name, grid)] = made
            self.kept += made.size
        if self.worked > _MOST_WORK or not self.graph.room_for(self.kept):
            raise _TooMuch

    def _asking(self, name: str, grid: _Grid) -> _Asking:
        n = self.graph.producer.get(name)
        if n is None:
            return self.graph.constants[name][tuple(grid)]
        if n.op == "arange":
            return grid[0]
        if n.op == "gather":
            ids = yield n.inputs[1], grid[:-1]
            return (yield n.inputs[0], (ids, grid[-1]))
        if n.op == "concat":
            return (yield from self._joined(n, grid))
        if n.op in VIEWS:
            return (yield n.inputs[0], self._inner(n, grid))
        parts = {}
        for i in dict.fromkeys(n.inputs):
            shape = self.graph.shape(i)
            last = grid[len(grid) - len(shape) :]
            inner = [x if d != 1 else np.zeros_like(x) for x, d in zip(last, shape, strict=True)]
            parts[i] = yield i, inner
        with np.errstate(all="ignore"):
            return OPS[n.op].meaning([parts[i] for i in n.inputs], dict(n.attributes))

    def _inner(self, n: Node, grid: _Grid) -> list[np.ndarray]:
        """The indices of a view's operand."""
        before, after = self.graph.shape(n.inputs[0]), self.graph.shape(n.output)
        axes = _axes(before, n, after)
        assert axes is not None
        inner = [np.zeros(1, np.int64)] * len(before)
        for source, place in axes.items():
            if before[source] != 1:
                inner[source] = grid[place]
        if n.op == "slice":
            axis = n.attribute("axis")
            inner[axis] = grid[axis] + n.attribute("start")
        return inner

    def _joined(self, n: Node, grid: _Grid) -> _Asking:
        axis, start = n.attribute("axis"), 0
        out = np.zeros(1)
        for name in n.inputs:
            size = self.graph.shape(name)[axis]
            within = list(grid)
            within[axis] = np.clip(grid[axis] - start, 0, size - 1)
            out = np.where(grid[axis] >= start, (yield name, within), out)
            start += size
        return out


def _key(name: str, grid: _Grid) -> tuple[str | bytes, ...]:
    """What tells elements of values apart: grids of equal indices are equal."""
    indices = (blake2b(np.ascontiguousarray(x).data, digest_size=16).digest() for x in grid)
    return name, *(str(x.shape) for x in grid), *indices
