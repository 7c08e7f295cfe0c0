"""Register tiles: which fit into the registers of an instruction set, and which are good."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from canao.isa.registry import ISAS
from canao.isa.table import FLOAT, Isa, TileOps
from canao.target import Target

# Rows of float32 that are packed into a panel at a time; inner loops take whole parts of them.
PACKED_ROWS = 16


def tiles(target: Target, product: str = FLOAT) -> Iterator[tuple[int, int]]:
    """Register tiles (mr, nr in floats) of a product, a name of `Isa.tiles`, that leave room for
    the operands, widest last."""
    isa = ISAS[target.isa]
    ops = isa.tiles[product]
    for mr in range(ops.rows if ops.blocks else 2, ops.rows + 1):
        for vectors in _vectors(ops):
            if ops.held(mr, vectors) <= isa.registers and mr * vectors >= 8:
                yield mr, vectors * ops.wide * isa.width


def default_tile(target: Target, columns: int = 0, product: str = FLOAT) -> tuple[int, int]:
    """mr and nr for a result of so many columns: few columns of padding, then the widest."""
    isa = ISAS[target.isa]
    ops = isa.tiles[product]
    width = ops.wide * isa.width
    if not columns:
        mr, vectors = ops.shape or (isa.mr, isa.vectors)
        return mr, vectors * width
    rows = {v: most for v in _vectors(ops) if (most := _rows(isa, ops, v))}
    # What is loaded, and the tile's start and end, weigh less the more columns share them.
    cost = {v: -(-columns // (v * width)) * (v + _loading(ops, mr, v)) for v, mr in rows.items()}
    if ops.shape and ops.shape[1] in cost:  # chosen by its loop, not by such an estimate
        cost[ops.shape[1]] *= 0.99
    best = min(reversed(rows), key=cost.__getitem__)
    return rows[best], best * width


def _vectors(ops: TileOps) -> range:
    """How many vectors of sums a row of a tile may have."""
    return range(1, max(4, ops.shape[1] if ops.shape else 0) + 1)


def _rows(isa: Isa, ops: TileOps, vectors: int) -> int:
    """Rows of the default tile with so many vectors in a row: the instruction set's, or where a
    product has a tile of its own as many as fit; 0 if there is none."""
    most = range(ops.rows, 1, -1) if ops.shape else (isa.mr,)
    return next((mr for mr in most if ops.held(mr, vectors) <= isa.registers), 0)


def _loading(ops: TileOps, mr: int, vectors: int) -> float:
    """A tenth of the loads for a row in a step; or what brings two rows together, which takes the
    units that multiply."""
    if ops.pairs:
        return 0.5
    return 0.1 * (mr / ops.steps + vectors) / mr if ops.lanes else 0.1


def rough_cost(
    tile: tuple[int, int], columns: Sequence[int], rows: int, target: Target, product: str = FLOAT
) -> float:
    """Instructions of the inner loop for a row.

    A tile issues a multiply-add for each vector, with fewer than eight chains waits for them, and
    loads its operands, mostly meanwhile; rows are shared out evenly, columns padded to whole tiles.
    Where instructions take several rows together, there are none in the place of those that lack.
    """
    mr, nr = tile
    isa = ISAS[target.isa]
    ops = isa.tiles[product]
    vectors = nr // (ops.wide * isa.width)
    m = rows / -(-rows // mr)
    panels = sum(-(-n // nr) / n for n in columns)
    loads = m / ops.steps + vectors
    return panels * (max((m + -mr % ops.together) * vectors, loads, 8) + 0.1 * loads) / m


def rounded(value: int, step: int) -> int:
    """The least multiple of `step` from `value` on."""
    return -(-value // step) * step
