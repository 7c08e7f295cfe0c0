"""The yellow cells of the fusion table: a policy for each backend and machine, from measurements.

`benchmarks/profile_fusion.py` compiles models with and without the merges of each yellow cell,
times both in one interleaved run, and writes the ratios to yellow_cells.json beside this file:

    {backend: [{"machine": stamp, "isa": ..., "cells": {"producer -> consumer": {...}}, ...}]}

Fusing wins ties, within the spread of repeated measurements: fewer regions are fewer barriers.
A cell that was measured on no machine is not fused: nothing is known in its favour.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from canao.errors import InputError

# (mapping type of the producer, that of the consumer) -> whether to fuse them.
YellowCellPolicy = Callable[[str, str], bool]

# Two measurements of one library differ by up to this ratio on the machines measured so far.
_TIE = 1.02
_NAME = "yellow_cells.json"


@dataclass(frozen=True, slots=True)
class MachineCells:
    """What one machine measured: 'producer -> consumer' -> time fused over time separate."""

    machine: str
    isa: str
    cells: Mapping[str, float]


Measurements = Mapping[str, tuple[MachineCells, ...]]


def policy(
    backend: str, machine: str | None = None, measurements: Measurements | None = None
) -> YellowCellPolicy:
    """Which yellow cells a backend fuses on the machine of this stamp, by the shipped measurements
    unless others are given.

    A cell is decided by what this very machine measured; where it did not, or is not known, by the
    median over the backend's machines.
    """
    known = (shipped() if measurements is None else measurements).get(backend, ())
    own = {cell: ratio for m in known if m.machine == machine for cell, ratio in m.cells.items()}

    def fused(producer: str, consumer: str) -> bool:
        cell = f"{producer} -> {consumer}"
        ratios = [own[cell]] if cell in own else [m.cells[cell] for m in known if cell in m.cells]
        return bool(ratios) and statistics.median(ratios) <= _TIE

    return fused


def always(producer: str, consumer: str) -> bool:
    """Fuse every yellow cell: what the benchmark compares with."""
    return True


@cache
def shipped() -> Measurements:
    """The measurements that come with CANAO, by backend."""
    text = resources.files("canao.fuse").joinpath(_NAME).read_text(encoding="utf-8")
    return parse(text, _NAME)


def parse(text: str, name: str) -> Measurements:
    """The measurements of a file; InputError names the entry that has another shape."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise _unknown(name, f"is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise _unknown(name, "is not an object of backends")
    return {
        backend: _machines(entries, f"{name}: '{backend}'") for backend, entries in content.items()
    }


def _machines(entries: Any, what: str) -> tuple[MachineCells, ...]:
    if not isinstance(entries, list):
        raise _unknown(what, "is not a list of machines")
    found = tuple(_machine(entry, f"{what}[{i}]") for i, entry in enumerate(entries))
    stamps = [m.machine for m in found]
    twice = [stamp for stamp in stamps if stamps.count(stamp) > 1]
    if twice:
        raise _unknown(what, f"has machine '{twice[0]}' twice")
    return found


def _machine(entry: Any, what: str) -> MachineCells:
    if not isinstance(entry, dict):
        raise _unknown(what, "is not an object")
    for key, kind in (("machine", str), ("isa", str), ("cells", dict)):
        if not isinstance(entry.get(key), kind):
            raise _unknown(f"{what}: '{key}'", "is missing or of another type")
    cells = {cell: _ratio(row, f"{what}: '{cell}'") for cell, row in entry["cells"].items()}
    return MachineCells(entry["machine"], entry["isa"], cells)


def _ratio(row: Any, what: str) -> float:
    ratio = row.get("fused_over_separate") if isinstance(row, dict) else None
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not ratio > 0:
        raise _unknown(what, "has no ratio 'fused_over_separate' above 0")
    return float(ratio)


def _unknown(what: str, why: str) -> InputError:
    return InputError(f"{what} {why}; measure it again: python benchmarks/profile_fusion.py")
