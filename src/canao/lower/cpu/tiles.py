"""Register tiles: which fit into the registers of an instruction set, and which are good."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from canao.graph.ir import Dim
from canao.isa.registry import ISAS
from canao.isa.table import Isa
from canao.target import Target


def tiles(target: Target) -> Iterator[tuple[int, int]]:
    """Register tiles (mr, nr in floats) that leave room for the operands, widest last."""
    isa = ISAS[target.isa]
    for mr in range(2, 15):
        for vectors in range(1, 5):
            if _fits(isa, mr, vectors) and mr * vectors >= 8:
                yield mr, vectors * isa.width


def default_tile(target: Target, columns: int = 0) -> tuple[int, int]:
    """mr and nr for a result of so many columns: few columns of padding, then the widest."""
    isa = ISAS[target.isa]
    if not columns:
        return isa.mr, isa.vectors * isa.width
    fitting = [v for v in range(1, 5) if _fits(isa, isa.mr, v)]
    # A row's broadcasts and the tile's start and end weigh less the more columns share them.
    cost = {v: -(-columns // (v * isa.width)) * (v + 0.1) for v in fitting}
    return isa.mr, min(reversed(fitting), key=cost.__getitem__) * isa.width


def _fits(isa: Isa, mr: int, vectors: int) -> bool:
    """Accumulators, the weights of a step and one broadcast."""
    return mr * vectors + vectors + 1 <= isa.registers


def rough_cost(
    tile: tuple[int, int], columns: Sequence[int], rows: int, target: Target, together: int = 1
) -> float:
    """Instructions of the inner loop for a row.

    A tile issues a multiply-add for each vector, with fewer than eight chains waits for them, and
    loads its operands, mostly meanwhile; rows are shared out evenly, columns padded to whole tiles.
    Instructions take so many rows `together`, with none in the place of those that lack.
    """
    mr, nr = tile
    vectors = nr // ISAS[target.isa].width
    m = rows / -(-rows // mr)
    panels = sum(-(-n // nr) / n for n in columns)
    loads = m + vectors
    return panels * (max((m + -mr % together) * vectors, loads, 8) + 0.1 * loads) / m


def rounded(value: int, step: int) -> int:
    """The least multiple of `step` from `value` on."""
    return -(-value // step) * step


def batch_of(shape: Sequence[Dim], strides: Sequence[Dim]) -> tuple[Dim, Dim]:
    """Size and stride of the one batch dimension that is not 1."""
    for size, stride in zip(shape[:-2], strides[:-2], strict=True):
        if size != 1:
            return size, stride
    return 1, 0


def one_batch(batch: Sequence[Dim]) -> bool:
    """Whether at most one batch dimension (the heads) is not 1: what `batch_of` can say."""
    return sum(d != 1 for d in batch) <= 1
