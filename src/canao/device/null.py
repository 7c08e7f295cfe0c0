"""The null device: libraries are compiled for it and never run; its latencies are scripted.

`--device null` takes one millisecond for everything. Searches and their tests use it to go
through every step where no measurement is wanted, or none could be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median

import numpy as np

from canao.artifact.directory import Artifact
from canao.artifact.measured import Others
from canao.device.base import (
    Failure,
    MeasureConfig,
    Measurement,
    Statistic,
    Timer,
    Timing,
    require_measurable,
)
from canao.device.state import UNTOLD, State
from canao.errors import DeviceError, InputError
from canao.isa.table import FLOAT
from canao.machine import Machine
from canao.target import Target, get_target

NOWHERE = "null"  # the device's name
Script = float | Sequence[float] | Callable[[Artifact], float]
KernelScript = Callable[[Artifact], Sequence[tuple[str, float]]]
_NOWHERE = Machine(cpu="none")
_NOTHING = "the null device runs nothing; choose another one, as --device local"


class ScriptedTimer:
    """A time that passes only while something waits."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        return self._now

    def wait(self, seconds: float) -> None:
        self._now += seconds


class NullDevice:
    """A device that answers from a script.

    latency_ms   median for every library; or one after the other for each measurement, and a
                 Failure when they are used up; or a function of the artifact
    noise        standard deviation of the samples as a fraction of the latency; 0: all equal
    seed         of the noise
    kernels      function of the artifact that gives its profile; without it the scripted
                 latency is divided among the manifest's kernels in proportion to their flops
    peak         operations a second of one thread, in products of float32; or for each type of
                 products, by its name
    target       what libraries are compiled for; None: this machine
    machine      whose times the script stands in for; by default of none that there is
    others       what else runs during each measurement, the last of them during all later ones;
                 by default it is not told
    """

    name = place = NOWHERE
    remote = False
    emulated = False  # its times are what it is for

    def __init__(
        self,
        latency_ms: Script = 1.0,
        *,
        noise: float = 0.0,
        seed: int = 0,
        kernels: KernelScript | None = None,
        peak: float | Mapping[str, float] = 1e10,
        target: Target | None = None,
        machine: Machine = _NOWHERE,
        others: Sequence[Others] = (),
    ) -> None:
        peaks = peak if isinstance(peak, Mapping) else {FLOAT: peak}
        if noise < 0 or FLOAT not in peaks or min(peaks.values()) <= 0:
            raise InputError(f"null device: noise {noise:g} or peak {peak} is out of range")
        self.target = get_target("host") if target is None else target
        self.machine = machine
        self.timer: Timer = ScriptedTimer()
        self._script = latency_ms
        self._noise = noise
        self._random = np.random.default_rng(seed)
        self._kernels = kernels
        self._peaks = peaks
        self._others = others
        self._measured = 0

    def run(self, artifact: Artifact, inputs: Sequence[np.ndarray], threads: int = 1) -> np.ndarray:
        """Always DeviceError: there is nothing to run on."""
        raise DeviceError(_NOTHING)

    def run_batch(
        self, artifact: Artifact, sequences: Sequence[Sequence[np.ndarray]], threads: int = 1
    ) -> list[list[np.ndarray]]:
        """Always DeviceError, as `run`."""
        raise DeviceError(_NOTHING)

    def measure(self, artifact: Artifact, config: MeasureConfig) -> Measurement:
        """The scripted latency; Failure when a list of latencies is used up."""
        return self._measure(artifact, config)

    def measure_next(self, artifact: Artifact, config: MeasureConfig) -> Measurement:
        """As `measure`, of libraries that continue a sequence: the script knows libraries only."""
        return self._measure(artifact, config, follows=True)

    def _measure(
        self, artifact: Artifact, config: MeasureConfig, follows: bool = False
    ) -> Measurement:
        try:
            require_measurable(artifact, self, config, follows=follows)
        except DeviceError as error:
            return Failure("measure", str(error))
        value = self._next(artifact)
        if value is None:
            return Failure("script", f"no latency left after {self._measured} measurements")
        others = self._others[: self._measured + 1]
        self._measured += 1
        spread = self._random.standard_normal(config.samples) * self._noise
        # Centred, so that the script gives the median; a time cannot be negative.
        factors = np.maximum(1.0 + spread - np.median(spread), 0.01)
        samples = tuple(float(value * factor) for factor in factors)
        return Timing(
            samples_ms=samples,
            load_ms=0.0,
            cold_ms=samples[0],
            peak_bytes=0,
            config=config,
            environment={
                "device": self.name,
                "cpu": self.machine.cpu,
                "machine": self.machine.stamp,
                "note": "scripted latencies: nothing was run",
            },
            others=others[-1] if others else None,
        )

    def state(self) -> State:
        """Nothing is told."""
        return UNTOLD

    def profile(
        self, artifact: Artifact, config: MeasureConfig, statistic: Statistic = median
    ) -> tuple[tuple[str, float], ...]:
        """The scripted kernel times, of one sample; uses up no entry of a list of latencies."""
        require_measurable(artifact, self, config)
        if self._kernels is not None:
            return tuple((name, float(ms)) for name, ms in self._kernels(artifact))
        total = self._next(artifact)
        if total is None:
            raise DeviceError(f"null device: no latency left after {self._measured} measurements")
        kernels = [k for k in artifact.manifest["kernels"] if k["name"] != "alias"]
        weights = [float(kernel.get("flops", 0)) + 1.0 for kernel in kernels]
        return tuple(
            (kernel["name"], total * weight / sum(weights))
            for kernel, weight in zip(kernels, weights, strict=True)
        )

    def peak_flops(self, threads: int = 1, product: str = FLOAT) -> float:
        """The scripted peak; that of float32 for products of which nothing is scripted."""
        return self._peaks.get(product, self._peaks[FLOAT]) * threads

    def _next(self, artifact: Artifact) -> float | None:
        if callable(self._script):
            return float(self._script(artifact))
        if isinstance(self._script, Sequence):
            left = self._script[self._measured :]
            return float(left[0]) if left else None
        return float(self._script)
