"""The bench: what an architecture's library takes on the device, before any training.

Latency depends on the shapes, not on the weights, so untrained skeletons are compiled.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from canao.artifact.directory import Artifact
from canao.device.base import Device, Failure, MeasureConfig, Measurement, Timing
from canao.errors import DeviceError
from canao.model.arch import Arch
from canao.search.options import Compile, SearchOptions, Trainer
from canao.search.table import LatencyTable, dominated, optimism, table_key
from canao.search.trial import (
    DOMINATED,
    FAILED,
    MEASURED_OVER,
    PREDICTED_OVER,
    TRAINED,
    Trial,
)

TRIES = 3  # measurements of a candidate that should be within the budget

Measured = tuple[Mapping[str, Any], Measurement]


@dataclass(frozen=True)
class Bench:
    """The trainer, the compiler and the device, held to one budget."""

    options: SearchOptions
    trainer: Trainer
    compile: Compile
    device: Device

    @cached_property
    def table(self) -> LatencyTable:
        path = self.options.run_dir / "latency.json"
        return LatencyTable(path, table_key(self.device, self.options.measure))

    @cached_property
    def _peak_flops(self) -> float:
        return self.device.peak_flops(self.options.measure.threads)

    @contextmanager
    def skeleton(self, arch: Arch) -> Iterator[Artifact]:
        """The compiled untrained model, while the context lasts."""
        with workspace(self.options.run_dir) as folder:
            yield self.compile(self.trainer.skeleton(arch), folder / "artifact")

    def measure(self, arch: Arch, config: MeasureConfig, tries: int = 1) -> Measured:
        """The manifest of the library of `arch`, and how long it took.

        With more `tries` a library over the budget is measured again, and the fastest of its
        measurements counts: something else may have been running. This is for the search, which
        has to find candidates; a certificate rests on one measurement only.
        """
        with self.skeleton(arch) as artifact:
            best = self.device.measure(artifact, config)
            for _ in range(tries - 1):
                if isinstance(best, Failure) or self._excess(best) <= 0:
                    break
                again = self.device.measure(artifact, config)
                if isinstance(again, Timing) and self._excess(again) < self._excess(best):
                    best = again
            return artifact.manifest, best

    def latency(self, arch: Arch, config: MeasureConfig, tries: int = 1) -> float:
        """Milliseconds at the budget's percentile; DeviceError if it cannot be measured."""
        _, measured = self.measure(arch, config, tries)
        if isinstance(measured, Failure):
            raise DeviceError(
                f"{self.device.name}: {arch} could not be measured "
                f"({measured.stage}: {measured.message})"
            )
        return measured.percentile(self.options.percentile)

    def _excess(self, timing: Timing) -> float:
        return timing.percentile(self.options.percentile) / self.options.budget_ms - 1.0

    def predict(self, arch: Arch) -> float:
        """The table's latency; measures the layer shape first if the table lacks it."""
        if arch not in self.table:
            profiles = []
            for layers in (1, 2):
                with self.skeleton(replace(arch, layers=layers)) as artifact:
                    profiles.append(self.device.profile(artifact, self.options.search_measure))
            self.table.record(arch, *profiles)
        predicted = self.table.predict(arch)
        if predicted is None:
            raise DeviceError(f"latency table: {arch} is missing after it was recorded")
        return predicted

    def judge(
        self, arch: Arch, trials: Sequence[Trial], misses: Sequence[tuple[float, float]]
    ) -> Trial:
        """What becomes of `arch`: rejected as cheaply as possible, or trained quickly."""
        start = time.monotonic()
        trial = self._reject(arch, trials, misses) or self._measured(arch)
        if trial.verdict == TRAINED:
            score = self.trainer.quick(arch)
            trial = replace(trial, accuracy=score.value, metrics=dict(score.metrics))
        return replace(trial, seconds=time.monotonic() - start)

    def _reject(
        self, arch: Arch, trials: Sequence[Trial], misses: Sequence[tuple[float, float]]
    ) -> Trial | None:
        slower = dominated(arch, trials, self.options.budget_ms)
        if slower is not None:
            reason = f"no smaller than {slower.arch}, measured at {slower.latency_ms:.4g} ms"
            return Trial(arch, DOMINATED, slower.excess, reason=reason)
        predicted, factor = self.predict(arch), optimism(trials, misses)
        excess = factor * predicted / self.options.budget_ms - 1.0
        if excess <= 0:
            return None
        reason = f"at least {factor * predicted:.4g} ms by the table"
        return Trial(arch, PREDICTED_OVER, excess, predicted_ms=predicted, reason=reason)

    def _measured(self, arch: Arch) -> Trial:
        config = self.options.search_measure
        predicted = self.table.predict(arch)
        # A measurement that the table contradicts is worth a second one.
        doubtful = predicted is not None and predicted <= self.options.budget_ms
        manifest, measured = self.measure(arch, config, TRIES if doubtful else 1)
        if isinstance(measured, Failure):
            reason = f"{measured.stage}: {measured.message}"
            return Trial(arch, FAILED, 1.0, predicted_ms=predicted, reason=reason)
        latency, median = measured.percentile(self.options.percentile), measured.percentile(50)
        excess, flops = self._excess(measured), arch.flops(config.length)
        layers = manifest["layers"]
        return Trial(
            arch,
            MEASURED_OVER if excess > 0 else TRAINED,
            excess,
            latency_ms=latency,
            median_ms=median,
            predicted_ms=predicted,
            layers_before=layers["before"],
            layers_after=layers["after"],
            flops=flops,
            utilisation=flops / (median / 1000 * self._peak_flops),
            peak_bytes=measured.peak_bytes,
            reason=f"p{self.options.percentile:g} {latency:.4g} ms" if excess > 0 else "",
        )


@contextmanager
def workspace(run_dir: Path) -> Iterator[Path]:
    """A folder inside the run directory that is gone afterwards."""
    with tempfile.TemporaryDirectory(dir=run_dir, prefix=".work-") as folder:
        yield Path(folder)
