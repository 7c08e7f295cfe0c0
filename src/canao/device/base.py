"""What a device is, and what one measurement says."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Protocol

import numpy as np

from canao.artifact.directory import Artifact
from canao.artifact.measured import (
    CONFIDENCE,
    PERCENTILES,
    Clock,
    Others,
    percentile,
    summary,
    upper_bound,
)
from canao.defaults import DEVICE as LOCAL
from canao.device.state import State
from canao.errors import DeviceError, InputError
from canao.inference.library import THIS_MACHINE, require_runnable
from canao.isa.table import FLOAT
from canao.machine import Machine
from canao.target import CPU, Target

Statistic = Callable[[Sequence[float]], float]


@dataclass(frozen=True, slots=True)
class MeasureConfig:
    """The measurement protocol; it travels with every figure taken under it.

    length        tokens in the measured input
    threads       threads of the library's pool
    warmup        runs before the first sample
    samples       least number of samples; MLPerf Mobile asks for 1,024
    seconds       sample at least this long as well (0: the sample count alone decides)
    max_seconds   stop after this long even with fewer samples (0: never)
    cores         cores that the threads are pinned to; empty: the fastest allowed, in order
    """

    length: int = 128
    threads: int = 1
    warmup: int = 16
    samples: int = 1024
    seconds: float = 0.0
    max_seconds: float = 0.0
    cores: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, least in (("length", 1), ("threads", 1), ("warmup", 0), ("samples", 1)):
            if getattr(self, name) < least:
                raise InputError(f"measurement: {name} is {getattr(self, name)}, least is {least}")
        if self.cores and len(self.cores) != self.threads:
            raise InputError(
                f"measurement: {len(self.cores)} cores named for {self.threads} threads"
            )


@dataclass(frozen=True, slots=True)
class Timing:
    """A successful measurement. Times in milliseconds, memory in bytes.

    `samples_ms` are the raw steady-state samples in the order they were taken; `load_ms` is the
    time to open the library and map its weights, `cold_ms` the first inference after that; `others`
    is what else ran meanwhile, `clock` how fast the core was; None where the device does not tell.
    """

    samples_ms: tuple[float, ...]
    load_ms: float
    cold_ms: float
    peak_bytes: int
    config: MeasureConfig
    environment: Mapping[str, Any] = field(default_factory=dict)
    others: Others | None = None
    clock: Clock | None = None

    def percentile(self, q: float) -> float:
        """The smallest sample that at least q percent of the samples do not exceed."""
        return percentile(self.samples_ms, q)

    def upper_bound(self, q: float, confidence: float = CONFIDENCE) -> float:
        """What that is at most for all runs, with a confidence of 95 % or another one."""
        return upper_bound(self.samples_ms, q, confidence)

    def summary(self, percentiles: Sequence[float] = PERCENTILES) -> dict[str, float]:
        """n, min, mean, the asked percentiles, max, load and cold start, peak memory, which is that
        of a process that has read all weights."""
        more = {"load": self.load_ms, "cold": self.cold_ms, "peak_bytes": self.peak_bytes}
        return summary(self.samples_ms, percentiles) | more

    def to_dict(self, *, raw: bool = False) -> dict[str, Any]:
        """JSON form; the raw samples only with `raw`."""
        form = {
            "latency_ms": self.summary(),
            "config": asdict(self.config),
            "environment": dict(self.environment),
        }
        return form | {"samples_ms": list(self.samples_ms)} if raw else form


@dataclass(frozen=True, slots=True)
class Failure:
    """A measurement that did not come off: the stage that failed, and why."""

    stage: str
    message: str


Measurement = Timing | Failure


class Timer(Protocol):
    """Time as a device's measurements have it, in seconds."""

    def now(self) -> float: ...

    def wait(self, seconds: float) -> None: ...


class WallTimer:
    """The time of this machine's clock."""

    def now(self) -> float:
        return time.monotonic()

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)


class Device(Protocol):
    """Where a library runs.

    name      what `--device` takes ('local', 'ssh:board'); names.py knows which there are
    place     what is leased for a measurement: devices of one machine, as its CPU and its GPU, have
              the same
    machine   facts of the machine; its stamp is that of every figure taken on it
    target    what libraries for it are compiled for
    timer     the time in which measurements lie
    remote    whether it is another machine, which work on this one does not disturb
    emulated  whether it is an emulator, whose times say nothing: see `require_times`

    `tests/device/suite.py` says what every device must do.
    """

    name: str
    place: str
    machine: Machine
    target: Target
    timer: Timer
    remote: bool
    emulated: bool

    def run(self, artifact: Artifact, inputs: Sequence[np.ndarray], threads: int = 1) -> np.ndarray:
        """The library's first output for int inputs of shape [tokens]."""
        ...

    def run_batch(
        self, artifact: Artifact, sequences: Sequence[Sequence[np.ndarray]], threads: int = 1
    ) -> list[list[np.ndarray]]:
        """All outputs of the library for each sequence, without a batch dimension. A sequence is
        all inputs in the manifest's order, each of shape [tokens]."""
        ...

    def measure(self, artifact: Artifact, config: MeasureConfig) -> Measurement:
        """End-to-end latency of the library, the profiler off: of a sequence with all its outputs,
        or, for a library that continues sequences, with the outputs of its last token only."""
        ...

    def measure_next(self, artifact: Artifact, config: MeasureConfig) -> Measurement:
        """Latency of one more token after a sequence of the length, for a library that continues
        it."""
        ...

    def state(self) -> State:
        """What its speed depends on just now, as its system tells it."""
        ...

    def profile(
        self, artifact: Artifact, config: MeasureConfig, statistic: Statistic = median
    ) -> tuple[tuple[str, float], ...]:
        """(kernel name, ms) for each kernel in execution order, by default the median of its
        samples; raises DeviceError."""
        ...

    def peak_flops(self, threads: int = 1, product: str = FLOAT) -> float:
        """Measured peak of products of a type (a name of `Isa.tiles`), with the best instructions
        that the machine has for them: operations a second, two for a multiply-add."""
        ...


def require_times(device: Device) -> None:
    """InputError for a device whose times say nothing."""
    if device.emulated:
        raise InputError(
            f"device {device.name}: emulates a processor, of whose times it tells nothing; check "
            "libraries there with `canao verify`, and measure on a machine, as --device ssh:HOST"
        )


def check_length(artifact: Artifact, config: MeasureConfig) -> None:
    """InputError for more tokens than the model takes."""
    if config.length > artifact.max_length:
        raise InputError(
            f"length {config.length} is over the model's maximum, {artifact.max_length}; give a "
            "shorter --length"
        )


def require_kernels(artifact: Artifact, device: Device) -> None:
    """DeviceError unless a library's kernels are for what the device is: a CPU, or a GPU."""
    if artifact.on_gpu and device.target.backend == CPU:
        raise DeviceError(
            f"{artifact.path}: its kernels are for GPUs, and device {device.name} is a CPU; give "
            "--device opencl:N, of a number that `canao devices` shows"
        )
    if device.target.backend != CPU and not artifact.on_gpu:
        raise DeviceError(
            f"{artifact.path}: its kernels are for CPUs ({', '.join(artifact.isas)}); compile with "
            f"--backend opencl for device {device.name}"
        )


def require_measurable(
    artifact: Artifact, device: Device, config: MeasureConfig, *, follows: bool = False
) -> None:
    """DeviceError unless a library can run there at that length; `follows`: and one token more."""
    place = THIS_MACHINE if device.name == LOCAL else f"device {device.name}"
    require_runnable(artifact, device.target, place)
    require_kernels(artifact, device)
    if config.length > artifact.max_length:
        raise DeviceError(
            f"length {config.length} is over the model's maximum, {artifact.max_length}"
        )
    if follows and not artifact.resumes:
        raise DeviceError(f"{artifact.library}: the model does not continue a sequence")
    if follows and config.length == artifact.max_length:
        raise DeviceError(f"no token can follow {config.length}, the model's maximum")
