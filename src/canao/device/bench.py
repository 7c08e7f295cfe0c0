"""A machine that a transport leads to. Timing is done by a C program there, so that Python is not
in it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from canao.artifact.directory import Artifact
from canao.artifact.temporary import WorkingDirectory
from canao.build import build_program, runtime_files
from canao.device.base import (
    Failure,
    MeasureConfig,
    Measurement,
    Statistic,
    Timer,
    Timing,
    WallTimer,
    require_measurable,
)
from canao.device.benchmark_report import read_steps, read_times
from canao.device.others import others_of
from canao.device.transport import Completed, LocalTransport, Transport
from canao.emit.c.peak import peak_source
from canao.errors import CanaoError, DeviceError
from canao.inference.binding import Binding, output_shape
from canao.isa.table import FLOAT
from canao.machine import PROBE, Machine, local_machine, read_machine
from canao.target import Target, target_of

_PROFILE_SAMPLES = 50
# A library that takes this long for all its samples is reported as failed, not waited for.
_TIMEOUT_S = 3600
_SHORT_TIMEOUT_S = 60  # for what takes a second
_OUTPUTS = "outputs.bin"


class BenchDevice:
    """The CPU of a machine: libraries, weights and the benchmark go there over the transport."""

    def __init__(self, machine: Machine, transport: Transport) -> None:
        self.machine, self.transport = machine, transport
        self.name = transport.name
        self.target: Target = target_of(machine)
        self.timer: Timer = WallTimer()
        self._peaks: dict[str, float] = {}

    def run(self, artifact: Artifact, inputs: Sequence[np.ndarray], threads: int = 1) -> np.ndarray:
        """The library's first output for int inputs of shape [tokens]."""
        binding = Binding(artifact)
        ids = binding.checked(binding.bind(inputs, {}))
        config = MeasureConfig(length=len(ids[0]), threads=threads)
        there = f"{self.transport.folder}/{_OUTPUTS}"
        with WorkingDirectory("canao-run") as folder:
            np.concatenate(ids).tofile(folder / "inputs.bin")
            given = self._push(folder / "inputs.bin", "inputs.bin")
            self._bench(artifact, config, "run", given, there)
            try:
                self.transport.pull(there, folder / _OUTPUTS)
            except OSError as error:
                raise self._lost(error) from None
            values = np.fromfile(folder / _OUTPUTS, np.float32)
        shape = output_shape(artifact.manifest["outputs"][0], config.length)
        if values.size < np.prod(shape):
            raise DeviceError(f"{self.name}: the library gave fewer numbers than outputs have")
        return values[: int(np.prod(shape))].reshape(shape)[0]

    def measure(self, artifact: Artifact, config: MeasureConfig) -> Measurement:
        return self._measure(artifact, config, "time")

    def measure_next(self, artifact: Artifact, config: MeasureConfig) -> Measurement:
        return self._measure(artifact, config, "next")

    def _measure(self, artifact: Artifact, config: MeasureConfig, mode: str) -> Measurement:
        try:
            rows = self._bench(artifact, config, mode)
            times = read_times(rows, config, artifact.isas)
            environment = self.environment(self.pinned(config)) | {"library_isa": times.isa}
        except CanaoError as error:
            return Failure("measure", str(error))
        return Timing(
            times.samples_ms, times.load_ms, times.cold_ms, times.peak_bytes, config, environment,
            others_of(rows, self.pinned(config), self.machine.cores), times.clock,
        )  # fmt: skip

    def profile(
        self, artifact: Artifact, config: MeasureConfig, statistic: Statistic = median
    ) -> tuple[tuple[str, float], ...]:
        rows = self._bench(artifact, config, "profile")
        steps = read_steps(rows, min(config.samples, _PROFILE_SAMPLES))
        return tuple((name, statistic(samples)) for name, samples in steps)

    def peak_flops(self, threads: int = 1, product: str = FLOAT) -> float:
        if product not in self._peaks:
            target = self.target.for_products(product)
            source = peak_source(target, product)
            files = {"peak.c": source, **runtime_files("canao_runtime.h")}
            there = self._push(build_program(files, target), "canao_peak")
            self._peaks[product] = max(self._rate(there) for _ in range(3))
        return self._peaks[product] * threads

    def _rate(self, program: str) -> float:
        done = self._ran([program], "the peak measurement", _SHORT_TIMEOUT_S)
        if done.code:
            raise DeviceError("the peak measurement failed; this CPU lacks the target's ISA")
        return float(done.stdout.split()[0])

    def pinned(self, config: MeasureConfig) -> tuple[int, ...]:
        """The cores that threads are pinned to; none where there are fewer cores than threads."""
        cores = config.cores or self.machine.cores[: config.threads]
        return cores if len(cores) == config.threads else ()

    def environment(self, pinned: Sequence[int] = ()) -> dict[str, Any]:
        """What a figure that was taken now must be read with."""
        machine = self.machine
        done = self._ran(["cat", "/proc/loadavg"], "reading the load", _SHORT_TIMEOUT_S)
        load = done.stdout.split()
        return {
            "device": self.name,
            "cpu": machine.cpu,
            "machine": machine.stamp,
            "cores": machine.core_count,
            "pinned": list(pinned),
            "isa": self.target.isa,
            "system": f"{machine.system} {'.'.join(machine.release.split('.')[:2])}",
            "load_average": float(load[0]) if load and not done.code else None,
            "canao": version("canao"),
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }

    def close(self) -> None:
        """Remove what lies on the machine."""
        self.transport.close()

    def _bench(
        self, artifact: Artifact, config: MeasureConfig, mode: str, *more: str
    ) -> dict[str, list[list[str]]]:
        """The benchmark's report: name -> rows of words."""
        require_measurable(artifact, self, config, follows=mode == "next")
        program = bench_program(self.target)
        here = (program, artifact.library, artifact.weights)
        names = ("canao_bench", artifact.library.name, artifact.weights.name)
        there = [self._push(path, name) for path, name in zip(here, names, strict=True)]
        samples = min(config.samples, _PROFILE_SAMPLES) if mode == "profile" else config.samples
        arguments = [config.length, config.threads, ",".join(map(str, self.pinned(config))) or "-",
                     config.warmup, samples, round(config.seconds * 1000),
                     round(config.max_seconds * 1000), mode, *more]  # fmt: skip
        done = self._ran([*there, *map(str, arguments)], "the benchmark", _TIMEOUT_S)
        if done.code < 0:
            raise DeviceError(f"the library ended with signal {-done.code}; compile it again")
        if done.code:
            message = done.stderr.strip().splitlines()[0] if done.stderr.strip() else "no message"
            for path, name in zip(here, there, strict=True):
                message = message.replace(name, str(path))
            raise DeviceError(message)
        return _rows(done.stdout)

    def _push(self, path: Path, name: str) -> str:
        try:
            return self.transport.push(path, name)
        except OSError as error:
            raise DeviceError(
                f"{path}: cannot be sent to {self.name} ({error.strerror or error}); "
                "compile it again, or look after the connection"
            ) from None

    def _ran(self, command: Sequence[str], what: str, timeout: float) -> Completed:
        try:
            return self.transport.run(command, timeout)
        except TimeoutError:
            raise DeviceError(f"{what} did not end within {timeout:g} s") from None
        except OSError as error:
            raise DeviceError(f"{what} cannot run ({error.strerror or error})") from None

    def _lost(self, error: OSError) -> DeviceError:
        return DeviceError(f"{self.name}: outputs cannot be fetched ({error.strerror or error})")


def local_device() -> BenchDevice:
    """The machine that this runs on, as the calling thread may use it."""
    return BenchDevice(local_machine(), LocalTransport())


def connect(transport: Transport) -> BenchDevice:
    """The machine that a transport leads to; DeviceError if it does not answer."""
    try:
        told = transport.run(PROBE, _SHORT_TIMEOUT_S)
    except OSError as error:
        raise DeviceError(
            f"{transport.name}: does not answer ({error.strerror or error}); look after the "
            "connection"
        ) from None
    return BenchDevice(read_machine(told.stdout), transport)


def bench_program(target: Target) -> Path:
    """The benchmark executable for the triple of a target: it runs on all processors, so that a
    library can say what it lacks on one."""
    files = runtime_files("bench_main.c", "bench_others.h", "canao_runtime.h")
    return build_program(files, target.least)


def _rows(report: str) -> dict[str, list[list[str]]]:
    rows: dict[str, list[list[str]]] = {}
    for line in report.splitlines():
        name, *words = line.split() or [""]
        rows.setdefault(name, []).append(words)
    return rows
