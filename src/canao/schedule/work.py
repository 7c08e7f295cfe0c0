"""Work: how the threads share out a kernel."""

from __future__ import annotations

from dataclasses import dataclass

from canao.graph.ir import Dim

ROWS, TILES, HEADS, WHOLE = "rows", "tiles", "heads", "whole"


@dataclass(frozen=True, slots=True)
class Work:
    """Units of one kind. Each thread takes one range of them, all ranges of about equal length.

    axis      rows; tiles: of rows, in each of several heads; heads; whole: one thread does all
    count     rows, those of one head for tiles, or heads
    heads     heads that have tiles
    tile      rows in a tile
    columns   if not 0, threads may share out so many columns instead of rows when there are few
              rows; each takes whole panels of `panel` columns
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
