"""The yellow cells of the fusion table: decided by measurement.

`benchmarks/profile_fusion.py` compiles a model with and without the merges of each yellow
cell, times both in one interleaved run, and writes the ratios to profile.json beside this file.
Fusing wins ties, within the spread of repeated measurements: fewer regions are fewer barriers.
A cell that has not come up in any measured model is not fused: nothing is known in its favour.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources

# Two measurements of one library differ by up to this ratio on the machines measured so far.
_TIE = 1.02


@cache
def measured() -> dict[str, float]:
    """'producer -> consumer' -> time when fused over time when not, from profile.json."""
    text = resources.files("canao.fuse").joinpath("yellow_cells.json").read_text(encoding="utf-8")
    return {cell: float(row["fused_over_separate"]) for cell, row in json.loads(text).items()}


def decided(producer: str, consumer: str) -> bool:
    """Whether blocks of these mapping types were measured to be no slower as one kernel."""
    return measured().get(f"{producer} -> {consumer}", float("inf")) <= _TIE


def always(producer: str, consumer: str) -> bool:
    """Fuse every yellow cell: what the benchmark compares with."""
    return True
