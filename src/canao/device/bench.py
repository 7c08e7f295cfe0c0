"""A machine that a transport leads to. Timing is done by a C program there, so that Python is not
in it."""

from __future__ import annotations

import atexit
import errno
import math
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from canao.artifact.directory import Artifact
from canao.artifact.temporary import WorkingDirectory
from canao.artifact.weights_file import parts_of
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
from canao.device.state import PROBE as PROBE_STATE
from canao.device.state import State, read_state
from canao.device.transports.transport import Completed, LocalTransport, Transport
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
# Names of files there.
_PROGRAM, _INPUTS, _OUTPUTS = "canao_bench", "inputs.bin", "outputs.bin"
_PARTS, _MADE = "parts.bin", "made-weights.bin"


class BenchDevice:
    """The CPU of a machine: libraries, weights and the benchmark go there over the transport."""

    def __init__(self, machine: Machine, transport: Transport) -> None:
        self.machine, self.transport = machine, transport
        self.name, self.remote, self.emulated = transport.name, transport.remote, transport.emulated
        self.place = transport.name
        self.target: Target = target_of(machine)
        self.timer: Timer = WallTimer()
        self._peaks: dict[str, float] = {}
        self._made_of: bytes | None = None  # of the weights that were made there last
        # Nothing stays on another machine when Python ends. Not when the device is collected: that
        # may be in any thread, also in one that the transport waits for.
        if transport.remote:
            atexit.register(transport.close)

    def run(self, artifact: Artifact, inputs: Sequence[np.ndarray], threads: int = 1) -> np.ndarray:
        binding = Binding(artifact)
        (outputs,) = self.run_batch(artifact, [binding.bind(inputs, {})], threads)
        return outputs[0]

    def run_batch(
        self, artifact: Artifact, sequences: Sequence[Sequence[np.ndarray]], threads: int = 1
    ) -> list[list[np.ndarray]]:
        binding = Binding(artifact)
        checked = [binding.checked(sequence) for sequence in sequences]
        if not checked:
            return []
        lengths = [len(sequence[0]) for sequence in checked]
        config = MeasureConfig(length=max(lengths), threads=threads)
        with WorkingDirectory("canao-run") as folder:
            _write_sequences(folder / _INPUTS, checked)
            given, there = self.pushed(folder / _INPUTS, _INPUTS), self._there(_OUTPUTS)
            self._bench(artifact, config, "run", given, there)
            try:
                self.transport.pull(there, folder / _OUTPUTS)
            except OSError as error:
                raise self._lost("outputs cannot be fetched", error) from None
            values = np.fromfile(folder / _OUTPUTS, np.float32)
        return self._outputs(artifact, lengths, values)

    def _outputs(
        self, artifact: Artifact, lengths: Sequence[int], values: np.ndarray
    ) -> list[list[np.ndarray]]:
        """What the benchmark wrote, as the outputs of each sequence."""
        shapes = [[output_shape(output, length)[1:] for output in artifact.manifest["outputs"]]
                  for length in lengths]  # fmt: skip
        sizes = [math.prod(shape) for own in shapes for shape in own]
        if values.size != sum(sizes):
            raise DeviceError(
                f"{self.name}: the library gave {values.size} numbers where outputs have "
                f"{sum(sizes)}; compile it again"
            )
        flat = iter(np.split(values, np.cumsum(sizes)[:-1]))
        return [[next(flat).reshape(shape) for shape in own] for own in shapes]

    def measure(self, artifact: Artifact, config: MeasureConfig) -> Measurement:
        return self._measure(artifact, config, "time")

    def measure_next(self, artifact: Artifact, config: MeasureConfig) -> Measurement:
        return self._measure(artifact, config, "next")

    def _measure(self, artifact: Artifact, config: MeasureConfig, mode: str) -> Measurement:
        try:
            rows = self._bench(artifact, config, mode)
            times = read_times(rows, config, artifact.isas)
            # The system may have refused; then the figure says so.
            pinned = () if "unpinned" in rows else self.pinned(config)
            environment = self.environment(pinned) | {"library_isa": times.isa}
        except CanaoError as error:
            return Failure("measure", str(error))
        return Timing(
            times.samples_ms, times.load_ms, times.cold_ms, times.peak_bytes, config, environment,
            others_of(rows, pinned, self.machine.cores), times.clock,
        )  # fmt: skip

    def state(self) -> State:
        return read_state(self.ran(PROBE_STATE, "reading clocks", _SHORT_TIMEOUT_S).stdout)

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
            there = self.pushed(build_program(files, target), "canao_peak")
            self._peaks[product] = max(self._rate(there) for _ in range(3))
        return self._peaks[product] * threads

    def _rate(self, program: str) -> float:
        done = self.ran([program], "the peak measurement", _SHORT_TIMEOUT_S)
        if done.code:
            raise DeviceError("the peak measurement failed; this CPU lacks the target's ISA")
        return float(done.stdout.split()[0])

    def pinned(self, config: MeasureConfig) -> tuple[int, ...]:
        """The cores that threads are pinned to; none where there are fewer cores than threads.
        DeviceError for one that the machine has not."""
        running = [core for cluster in self.machine.clusters for core in cluster.cores]
        for core in config.cores:
            if running and core not in running:
                raise DeviceError(
                    f"{self.name}: no thread can be pinned to core {core}; the cores are "
                    f"{', '.join(map(str, sorted(running)))}"
                )
        cores = config.cores or self.machine.cores[: config.threads]
        return cores if len(cores) == config.threads else ()

    def environment(self, pinned: Sequence[int] = ()) -> dict[str, Any]:
        """What a figure that was taken now must be read with."""
        machine = self.machine
        done = self.ran(["cat", "/proc/loadavg"], "reading the load", _SHORT_TIMEOUT_S)
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
        """Remove what lies on the machine, at the latest when Python ends."""
        atexit.unregister(self.transport.close)
        self.transport.close()

    def _bench(
        self, artifact: Artifact, config: MeasureConfig, mode: str, *more: str
    ) -> dict[str, list[list[str]]]:
        """The benchmark's report: name -> rows of words."""
        require_measurable(artifact, self, config, follows=mode == "next")
        program = bench_program(self.target)
        here = (program, artifact.library, artifact.weights)
        library = self.pushed(artifact.library, artifact.library.name)
        there = [self.pushed(program, _PROGRAM), library]
        there.append(self._weights(artifact, there[0]))
        samples = min(config.samples, _PROFILE_SAMPLES) if mode == "profile" else config.samples
        arguments = [config.length, config.threads, ",".join(map(str, self.pinned(config))) or "-",
                     config.warmup, samples, round(config.seconds * 1000),
                     round(config.max_seconds * 1000), mode, *more]  # fmt: skip
        done = self.ran([*there, *map(str, arguments)], "the benchmark", _TIMEOUT_S)
        if done.code:
            self._made_of = None  # the machine may have lost what was made there
        if done.code < 0:
            raise DeviceError(f"the library ended with signal {-done.code}; compile it again")
        if done.code:
            message = _message(done)
            for path, name in zip(here, there, strict=True):
                message = message.replace(name, str(path))
            raise DeviceError(message)
        return _rows(done.stdout)

    def _weights(self, artifact: Artifact, program: str) -> str:
        """Where the weights of a library are on the machine. For one that is only timed they are
        made there: they may be a hundred times as large as all else."""
        if not (artifact.timed_only and self.transport.remote):
            return self.pushed(artifact.weights, artifact.weights.name)
        there, parts = self._there(_MADE), parts_of(artifact)
        if parts != self._made_of:
            with WorkingDirectory("canao-weights") as folder:
                (folder / _PARTS).write_bytes(parts)
                command = [program, "weights", self.pushed(folder / _PARTS, _PARTS), there]
                done = self.ran(command, "making weights", _TIMEOUT_S)
            if done.code:
                raise DeviceError(f"{self.name}: no weights can be made there ({_message(done)})")
            self._made_of = parts
        return there

    def _there(self, name: str) -> str:
        return f"{self.transport.folder}/{name}"

    def pushed(self, path: Path, name: str) -> str:
        """Have a file there under a name; its path there. DeviceError if that cannot be."""
        try:
            return self.transport.push(path, name)
        except OSError as error:
            remedy = "compile it again, or look after the connection"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                remedy = "free some space there"
            raise DeviceError(
                f"{path}: cannot be sent to {self.name} ({error.strerror or error}); {remedy}"
            ) from None

    def ran(self, command: Sequence[str], what: str, timeout: float) -> Completed:
        """How a command ended there, which does `what`; DeviceError if it does not, or not in time.
        """
        try:
            return self.transport.run(command, timeout)
        except TimeoutError:
            raise DeviceError(f"{self.name}: {what} did not end within {timeout:g} s") from None
        except OSError as error:
            raise self._lost(f"{what} cannot run", error) from None

    def _lost(self, what: str, error: OSError) -> DeviceError:
        remedy = "; look after the connection, and give the same command again"
        return DeviceError(
            f"{self.name}: {what} ({error.strerror or error}){remedy if self.remote else ''}"
        )


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


def _message(done: Completed) -> str:
    """The first line of what a program said that failed."""
    return done.stderr.strip().splitlines()[0] if done.stderr.strip() else "no message"


def _write_sequences(path: Path, sequences: Sequence[Sequence[np.ndarray]]) -> None:
    """Sequences as the benchmark reads them: the length of each, then one input after the other."""
    with open(path, "wb") as stream:
        for inputs in sequences:
            stream.write(np.concatenate([[len(inputs[0])], *inputs]).astype(np.int32).tobytes())


def _rows(report: str) -> dict[str, list[list[str]]]:
    rows: dict[str, list[list[str]]] = {}
    for line in report.splitlines():
        name, *words = line.split() or [""]
        rows.setdefault(name, []).append(words)
    return rows
