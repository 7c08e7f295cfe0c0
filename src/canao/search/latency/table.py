"""The latency table: times of kernels, added up to predict an architecture.

A library that has been compiled is profiled once, and the times of its kernels are kept by their
names, which say what they compute and how. Libraries with the same kernel share its time, so the
prediction for any sequence of blocks is a sum over its kernels (`kernels.py` says which these are).
The sum leaves out the time between kernels; `lower_bound_factor` learns how far it is off from the
libraries that were measured end to end.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated

import msgspec

from canao.artifact.files import write_whole
from canao.artifact.reading import fits, read_json
from canao.device.base import Device, MeasureConfig
from canao.errors import DeviceError, InputError
from canao.lower.scheduling import target_in
from canao.model.arch import Arch
from canao.search.candidates.trial import Trial
from canao.search.latency.kernels import KernelNames, Kernels, Known
from canao.search.latency.place import place_of

FORMAT = 2
_BY_LAYER = 1  # the format of versions that kept kernels by layer
_KEPT = 15  # times kept for one kernel
_PRIOR_RATIO = 0.95  # measured over predicted, before anything was measured
_MARGIN = 0.95
_CLEARLY = 0.1  # of a budget: by less, an awkward width may be slower than the next larger one
LEARNT_FROM = 8  # measured libraries that tell how far predictions are off

KernelTimes = Sequence[tuple[str, float]]
_REMEASURE = "delete it to measure again"
_Times = list[Annotated[float, msgspec.Meta(ge=0)]]  # milliseconds


class _Table(msgspec.Struct):
    """Times of each kernel in milliseconds, and which kernels architectures run."""

    kernels: dict[str, _Times] = {}
    known: Known = msgspec.field(default_factory=Known)


class _File(msgspec.Struct):
    format: int
    tables: dict[str, _Table]


class LatencyTable:
    """Kernel times of one machine, target, code, thread count, length and precision; kept in a JSON
    file, which may hold the tables of several such keys. `kernels` says which kernels the library
    of an architecture runs."""

    def __init__(self, path: Path, key: str, kernels: Kernels) -> None:
        self._path = path
        self._tables = _read(path)
        mine = self._tables.setdefault(key, _Table())
        self._times = mine.kernels
        self.names = KernelNames(kernels, mine.known)

    def __contains__(self, arch: Arch) -> bool:
        """Whether all kernels of `arch` are known and have times."""
        names = self.names.recalled(arch)
        return names is not None and not self._lacking(names)

    def record(self, arch: Arch, profile: KernelTimes) -> None:
        """Record the times of the kernels that the library of `arch` runs.

        profile   (kernel name, median ms) in execution order, as `Device.profile` gives
        """
        if not profile:
            raise DeviceError(f"latency table: the profile of {arch} is empty; it cannot be used")
        for name, ms in profile:
            times = self._times.setdefault(name, [])
            if len(times) < _KEPT:
                times.append(float(ms))
        self.names.learn(arch, [name for name, _ in profile])
        self._write()

    def predict(self, arch: Arch) -> float | None:
        """Sum of the medians of its kernels in milliseconds; None while one of them has no time.
        A model is imported if it has a half of which no kernels are known."""
        known = self.names.recalled(arch)
        names = known or self.names.of(arch)
        if known is None:
            self._write()
        return self._sum(names)

    def recalled(self, arch: Arch) -> float | None:
        """The same, but None as well where a model would have to be imported."""
        names = self.names.recalled(arch)
        return None if names is None else self._sum(names)

    def outside(self, arch: Arch) -> float:
        """The milliseconds of the kernels outside of the layers in libraries as wide as `arch`,
        which have to be timed already."""
        names = self.names.outside(arch)
        found = None if names is None else self._sum(names)
        if found is None:
            raise DeviceError(f"latency table: no times of what is beside the layers of {arch}")
        return found

    def _sum(self, names: Counter[str]) -> float | None:
        if self._lacking(names):
            return None
        return sum(count * median(self._times[name]) for name, count in names.items())

    def _lacking(self, names: Counter[str]) -> list[str]:
        return [name for name in names if name not in self._times]

    def _write(self) -> None:
        held = msgspec.to_builtins(_File(FORMAT, self._tables))
        write_whole(self._path, json.dumps(held, indent=1, sort_keys=True) + "\n")


def table_key(device: Device, config: MeasureConfig, precision: str) -> str:
    """What kernel times depend on besides the kernel. Layers are added up within a precision, and
    the instruction set that its libraries are compiled for: in another one they have other
    kernels."""
    isa = target_in(device.target, precision).kernels_for
    cores = f" cores {','.join(map(str, config.cores))}" if config.cores else ""
    return (f"{device.name} {place_of(device)} {config.threads} threads{cores} {config.length} "
            f"tokens {precision} {isa}")  # fmt: skip


def prediction_errors(trials: Iterable[Trial]) -> tuple[float, ...]:
    """By how much of the measured median the prediction of each measured trial was off, in the
    order of the trials: after it was multiplied by the median ratio of the libraries before it."""
    ratios: list[float] = []
    found = []
    for trial in trials:
        if trial.predicted_ms and trial.median_ms:
            off = median(ratios[-LEARNT_FROM:]) if ratios else 1.0
            found.append(abs(off * trial.predicted_ms / trial.median_ms - 1.0))
            ratios.append(trial.median_ms / trial.predicted_ms)
    return tuple(found)


def usual_ratio(trials: Iterable[Trial]) -> float:
    """What a prediction is usually multiplied by to come to the measured latency: the median of the
    last libraries; 1 before there are any."""
    ratios = [t.latency_ms / t.predicted_ms for t in trials if t.latency_ms and t.predicted_ms]
    return median(ratios[-LEARNT_FROM:]) if ratios else 1.0


def lower_bound_factor(
    trials: Iterable[Trial], misses: Iterable[tuple[float, float]] = ()
) -> float:
    """The factor that makes a prediction a cautious lower bound of the latency.

    A candidate is rejected untrained if `factor * prediction` is over the budget. The factor is
    0.95 times the smallest measured/predicted ratio among the last eight libraries. As long as
    there are fewer, 0.95 stands in for the missing ratios, so the factor starts at about 0.9.

    `misses` are the (predicted, measured) pairs of finished libraries that missed the budget. They
    count as the latest ones, so that a miss tightens the bound.
    """
    pairs = [(trial.predicted_ms, trial.latency_ms) for trial in trials]
    ratios = [_PRIOR_RATIO] * LEARNT_FROM
    ratios += [
        measured / predicted for predicted, measured in (*pairs, *misses) if predicted and measured
    ]
    return _MARGIN * min(ratios[-LEARNT_FROM:])


def dominated(arch: Arch, trials: Iterable[Trial]) -> Trial | None:
    """A trial that is no larger than `arch` in any block and was clearly over a budget."""
    for trial in trials:
        measured = trial.latency_ms is not None
        if measured and trial.excess > _CLEARLY and trial.arch.no_larger_than(arch):
            return trial
    return None


def _read(path: Path) -> dict[str, _Table]:
    if not os.path.lexists(path):
        return {}
    held = read_json(path, remedy=_REMEASURE)
    if held.get("format") == _BY_LAYER:
        # What earlier versions held of whole layers is left out; their kernels are the same.
        tables = held.get("tables")
        for table in tables.values() if isinstance(tables, dict) else ():
            if isinstance(table, dict):
                table.pop("shapes", None)
        held["format"] = FORMAT
    if held.get("format") != FORMAT:
        raise InputError(f"{path}: not a latency table of this version; {_REMEASURE}")
    wrong = fits(held, _File)
    if wrong is not None:
        raise InputError(f"{path}: {wrong}; {_REMEASURE}")
    tables = msgspec.convert(held, _File).tables
    for table in tables.values():
        # A kernel without a time is one that was not measured.
        for name in [name for name, times in table.kernels.items() if not times]:
            del table.kernels[name]
    return tables
