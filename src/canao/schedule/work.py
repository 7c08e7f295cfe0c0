"""Work: how the threads share out a kernel."""

from __future__ import annotations

from dataclasses import dataclass

from canao.graph.ir import Dim

ROWS, TILES, HEADS, WHOLE = "rows", "tiles", "heads", "whole"


@dataclass(frozen=True, slots=True)
class Work:
    """Units of one kind, which threads take in equal shares, in their order.

    axis      rows; tiles: of rows, in each of several heads; heads; whole: one thread does all
    count     rows, those of one head for tiles, or heads
    heads     heads that have tiles
    tile      rows in a tile
    columns   where not 0: columns that threads may share out instead of rows, where there are few
              rows, in panels of `panel`
    """

    axis: str
    count: Dim = 1
    heads: Dim = 1
    tile: int = 1
    columns: int = 0
    panel: int = 1

    @property
    def rows(self) -> Dim | None:
        """The rows that threads share out; None where they share out something else."""
        return self.count if self.axis == ROWS else None
