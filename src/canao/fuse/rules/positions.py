"""Values that depend on positions only: masks, rotations, relative biases. They become tables.

A model computes them anew for every text, from `arange`. Here each is computed once, for the
longest text, and read through a view: a slice, where it depends on one position, or `diagonals`,
where it depends on the distance of two. A table of distances has 2 n - 1 entries where the value
itself has n^2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from canao.errors import UnsupportedError
from canao.fuse.rewrite import Change, GraphView
from canao.graph.dtypes import I32
from canao.graph.ir import TOKENS, Node, Shape, node, product
from canao.graph.ops import OPS, VIEWS

_TABLE_LIMIT = 1 << 26  # elements; a table is stored in the weights file
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
    grid = []
    for axis, size in enumerate(shape):
        if isinstance(size, int):
            grid.append(np.arange(size))
        elif distance and axis == distance[1]:
            grid.append(np.arange(1 - longest, longest))
        elif not distance and any(axis in atom for atom in atoms):
            grid.append(np.arange(longest))
        else:
            grid.append(np.zeros(1, np.int64))
    sizes = [len(x) for x in grid]
    if np.prod(sizes, dtype=float) > _TABLE_LIMIT:
        return None
    try:
        table = _Table(g).at(n.output, np.ix_(*grid))
    except IndexError:
        raise UnsupportedError(
            f"operator {n.op} at {n.where or 'the top of the model'}: what it is computed from "
            f"reads outside of a table at {longest} tokens; compile with a smaller --max-length"
        ) from None
    table = np.broadcast_to(table, sizes).astype(g.types[n.output].dtype.numpy)
    table = _unrepeated(table, shape)
    return _distances(g, n, table, distance) if distance else _slices(g, n, table)


def _unrepeated(table: np.ndarray, shape: Shape) -> np.ndarray:
    """The table without what repeats along dimensions such as the heads."""
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
    """What `made` gives has `shape`: it is repeated along the tokens that it does not depend on."""
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
        for n in g.nodes:
            dims = g.shape(n.output)
            if all(i in found for i in n.inputs) and all(
                isinstance(d, int) or d == TOKENS for d in dims
            ):
                atoms = _atoms(g, n, found)
                if atoms is not None:
                    found[n.output] = atoms
        g.positions = {name: atoms for name, atoms in found.items() if name in g.producer}
    return g.positions


def _atoms(g: GraphView, n: Node, found: Mapping[str, Atoms]) -> Atoms | None:
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
        one, other = (_index(g, i, len(g.shape(n.output))) for i in n.inputs)
        if one is not None and other is not None and one != other:
            return frozenset({(min(one, other), max(one, other))})
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
    """Where a view puts each axis; None if it splits or joins axes other than of size 1."""
    if n.op == "transpose":
        return {p: i for i, p in enumerate(n.attribute("perm"))}
    if n.op == "reshape":
        kept = [[a for a, d in enumerate(dims) if d != 1] for dims in (before, after)]
        if [before[a] for a in kept[0]] != [after[a] for a in kept[1]]:
            return None
        return dict(zip(*kept, strict=True))
    return {a: a + len(after) - len(before) for a in range(len(before))}


def _index(g: GraphView, name: str, rank: int) -> int | None:
    """The axis, of a value of that rank, whose index plus a number is the value `name`."""
    n = g.producer.get(name)
    if n is None or g.types[name].dtype != I32:
        return None
    place: int | None = None
    if n.op == "arange":
        place = 0
    elif n.op in VIEWS:
        inner = _index(g, n.inputs[0], len(g.shape(n.inputs[0])))
        axes = _axes(g.shape(n.inputs[0]), n, g.shape(name))
        place = None if inner is None or axes is None else axes.get(inner)
    elif n.op in ("add", "sub") and product(g.shape(n.inputs[1])) == 1:
        if n.inputs[1] not in g.constants:
            return None
        place = _index(g, n.inputs[0], len(g.shape(name)))
    return None if place is None else place + rank - len(g.shape(name))


class _Table:
    """Values at any positions, computed in the precision in which a model computes them."""

    def __init__(self, g: GraphView) -> None:
        self.graph = g
        self.done: dict[tuple[str, ...], np.ndarray] = {}
        self.grids: list[Sequence[np.ndarray]] = []

    def at(self, name: str, grid: Sequence[np.ndarray]) -> np.ndarray:
        """Elements of `name` at the indices of `grid`, one array for each of its axes."""
        key = (name, *(str(id(x)) for x in grid))
        if key not in self.done:
            self.grids.append(grid)  # so that no id is used twice
            n = self.graph.producer.get(name)
            constant = self.graph.constants.get(name)
            made = self._made(n, grid) if n else constant[tuple(grid)]  # type: ignore[index]
            self.done[key] = np.asarray(made, self.graph.types[name].dtype.numpy)
        return self.done[key]

    def _made(self, n: Node, grid: Sequence[np.ndarray]) -> np.ndarray:
        if n.op == "arange":
            return grid[0]
        if n.op == "gather":
            return self.at(n.inputs[0], (self.at(n.inputs[1], grid[:-1]), grid[-1]))
        if n.op == "concat":
            return self._joined(n, grid)
        if n.op in VIEWS:
            return self.at(n.inputs[0], self._inner(n, grid))
        shapes = [self.graph.shape(i) for i in n.inputs]
        parts = [
            self.at(i, [x if d != 1 else np.zeros_like(x)
                        for x, d in zip(grid[len(grid) - len(shape):], shape, strict=True)])
            for i, shape in zip(n.inputs, shapes, strict=True)
        ]  # fmt: skip
        with np.errstate(all="ignore"):
            return OPS[n.op].meaning(parts, dict(n.attributes))

    def _inner(self, n: Node, grid: Sequence[np.ndarray]) -> list[np.ndarray]:
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

    def _joined(self, n: Node, grid: Sequence[np.ndarray]) -> np.ndarray:
        axis, start = n.attribute("axis"), 0
        out = np.zeros(1)
        for name in n.inputs:
            size = self.graph.shape(name)[axis]
            within = list(grid)
            within[axis] = np.clip(grid[axis] - start, 0, size - 1)
            out = np.where(grid[axis] >= start, self.at(name, within), out)
            start += size
        return out
