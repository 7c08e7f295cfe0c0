"""How a kernel is shared out: by Work among threads, by a Grid among the work-items of a GPU."""

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


@dataclass(frozen=True, slots=True)
class Grid:
    """Groups of work-items in two dimensions. The items of a group can wait for each other.

    local    items of a group, in each dimension
    groups   (n, tile) of each dimension: there are n / tile groups, rounded up
    """

    local: tuple[int, int]
    groups: tuple[tuple[Dim, int], tuple[Dim, int]]
