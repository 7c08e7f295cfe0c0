"""The latency table: times of fused kernels, added up to predict a model of any depth.

For each layer shape, a model with one layer and a model with two are compiled and profiled. The
kernels that the second runs beyond the first are one more layer, so

    latency(L layers) = time of the one-layer model + (L - 1) * time of the added kernels

Times are kept by kernel name. The name encodes the kernel's shape, so layers with the same kernel
share its time. The sum leaves out the time between kernels; `lower_bound_factor` learns how far it
is off from the libraries that were measured end to end.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import msgspec

from canao.artifact.files import write_whole
from canao.artifact.reading import fits, read_json
from canao.device.base import Device, MeasureConfig
from canao.errors import DeviceError, InputError
from canao.lower.scheduling import target_in
from canao.model.arch import Arch
from canao.search.place import place_of
from canao.search.trial import Trial

FORMAT = 1
_KEPT = 15  # times kept for one kernel
_PRIOR_RATIO = 0.95  # measured over predicted, before anything was measured
_MARGIN = 0.95
_WINDOW = 8  # measured libraries that the factor is learnt from

Profile = Sequence[tuple[str, float]]
_REMEASURE = "delete it to measure again"
_Times = list[Annotated[float, msgspec.Meta(ge=0)]]  # milliseconds


class _Shape(msgspec.Struct):
    """The kernels of a model with one layer, and those that one more layer adds."""

    first: list[str]
    layer: list[str]


class _Table(msgspec.Struct):
    kernels: dict[str, _Times]
    shapes: dict[str, _Shape]


class _File(msgspec.Struct):
    format: int
    tables: dict[str, _Table]



class LatencyTable:
    """Kernel times of one machine, target, code, thread count, length and precision; kept in a JSON
    file.

    The file may hold the tables of several such keys. It is written after each new layer shape.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path = path
        self._key = key
        self._tables: dict[str, Any] = _read(path)
        mine = self._tables.setdefault(key, {"kernels": {}, "shapes": {}})
        self._kernels: dict[str, list[float]] = mine["kernels"]
        self._shapes: dict[str, dict[str, list[str]]] = mine["shapes"]

    def __contains__(self, arch: Arch) -> bool:
        """Whether the layer shape of `arch` is recorded; the number of layers does not matter."""
        return _shape(arch) in self._shapes

    def record(self, arch: Arch, one: Profile, two: Profile) -> None:
        """Record the layer shape of `arch`, from the profiles of models with one and two layers.

        one, two   (kernel name, median ms) in execution order, as `Device.profile` gives
        """
        first, both = (Counter(name for name, _ in profile) for profile in (one, two))
        added = both - first
        if not added:
            raise DeviceError(
                f"latency table: two layers of {_shape(arch)} run the same kernels as one; "
                "the device's profile cannot be used"
            )
        for name, ms in (*one, *two):
            times = self._kernels.setdefault(name, [])
            if len(times) < _KEPT:
                times.append(float(ms))
        self._shapes[_shape(arch)] = {
            "first": sorted(first.elements()),
            "layer": sorted(added.elements()),
        }
        write_whole(self._path, _text(self._tables))

    def predict(self, arch: Arch) -> float | None:
        """Sum of the kernel medians in milliseconds; None while the shape is not recorded."""
        names = self._shapes.get(_shape(arch))
        if names is None:
            return None
        first, layer = self._sum(names["first"]), self._sum(names["layer"])
        return first + (arch.layers - 1) * layer

    def _sum(self, names: Iterable[str]) -> float:
        return sum(median(self._kernels[name]) for name in names)


def table_key(device: Device, config: MeasureConfig, precision: str) -> str:
    """What kernel times depend on besides the kernel. Layers are added up within a precision, and
    the instruction set that its libraries are compiled for: in another one they have other
    kernels."""
    isa = target_in(device.target, precision).isa
    return (f"{device.name} {place_of(device)} {config.threads} threads {config.length} tokens "
            f"{precision} {isa}")  # fmt: skip


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
    ratios = [_PRIOR_RATIO] * _WINDOW
    ratios += [
        measured / predicted for predicted, measured in (*pairs, *misses) if predicted and measured
    ]
    return _MARGIN * min(ratios[-_WINDOW:])


def dominated(arch: Arch, trials: Iterable[Trial], budget_ms: float) -> Trial | None:
    """A trial that is no larger than `arch` in any dimension and was clearly over the budget.

    'Clearly' means by 10 %: an awkward width can be a little slower than the next larger one.
    """
    for trial in trials:
        small, ms = trial.arch, trial.latency_ms
        no_larger = (
            small.layers <= arch.layers
            and small.hidden <= arch.hidden
            and small.heads <= arch.heads
            and small.ffn <= arch.ffn
        )
        if no_larger and ms is not None and ms > 1.1 * budget_ms:
            return trial
    return None


def _shape(arch: Arch) -> str:
    return f"H{arch.hidden} A{arch.heads} F{arch.ffn}"


def _text(tables: dict[str, Any]) -> str:
    return json.dumps({"format": FORMAT, "tables": tables}, indent=1, sort_keys=True) + "\n"


def _read(path: Path) -> dict[str, Any]:
    if not os.path.lexists(path):
        return {}
    held = read_json(path, remedy=_REMEASURE)
    if held.get("format") != FORMAT:
        raise InputError(f"{path}: not a latency table of this version; {_REMEASURE}")
    wrong = fits(held, _File)
    if wrong is not None:
        raise InputError(f"{path}: {wrong}; {_REMEASURE}")
    for table in held["tables"].values():
        timed = {name for name, times in table["kernels"].items() if times}
        for shape in table["shapes"].values():
            lacking = {*shape["first"], *shape["layer"]} - timed
            if lacking:
                raise InputError(f"{path}: has no time of {min(lacking)[:80]!r}; {_REMEASURE}")
    return held["tables"]
