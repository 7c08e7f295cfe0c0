"""The device that this runs on. Timing is done by a C program, so that Python is not in it."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import datetime, timezone
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from canao.artifact.directory import Artifact
from canao.build import build_program, runtime_files
from canao.device.base import Failure, MeasureConfig, Measurement, Statistic, Timing
from canao.emit.c.peak import peak_source
from canao.errors import CanaoError, DeviceError
from canao.inference.compiled_model import CompiledModel
from canao.inference.library import require_runnable
from canao.target import Target, get_target

_PROFILE_SAMPLES = 50
# A library that takes this long for all its samples is reported as failed, not waited for.
_TIMEOUT_S = 3600


class LocalDevice:
    """This machine's CPU."""

    name = "local"

    def __init__(self) -> None:
        self.target: Target = get_target("host")

    def run(self, artifact: Artifact, inputs: Sequence[np.ndarray], threads: int = 1) -> np.ndarray:
        with CompiledModel(artifact, threads) as model:
            return model(*inputs)

    def measure(self, artifact: Artifact, config: MeasureConfig) -> Measurement:
        return self._measure(artifact, config, "time")

    def measure_next(self, artifact: Artifact, config: MeasureConfig) -> Measurement:
        return self._measure(artifact, config, "next")

    def _measure(self, artifact: Artifact, config: MeasureConfig, mode: str) -> Measurement:
        try:
            rows = self._bench(artifact, config, mode)
        except CanaoError as error:
            return Failure("measure", str(error))
        samples = tuple(int(x) / 1e6 for x in rows["samples"][0])
        return Timing(
            samples, int(rows["load"][0][0]) / 1e6, int(rows["cold"][0][0]) / 1e6,
            int(rows["peak"][0][0]), config, environment(self.target, cores(config)),
        )  # fmt: skip

    def profile(
        self, artifact: Artifact, config: MeasureConfig, statistic: Statistic = median
    ) -> tuple[tuple[str, float], ...]:
        rows = self._bench(artifact, config, "profile")
        names = [row[0] for row in rows["step"]]
        columns = zip(*([int(x) / 1e6 for x in row] for row in rows["profile"]), strict=True)
        return tuple(zip(names, (statistic(c) for c in columns), strict=True))

    def peak_flops(self, threads: int = 1) -> float:
        return _peak(self.target) * threads

    def _bench(
        self, artifact: Artifact, config: MeasureConfig, mode: str
    ) -> dict[str, list[list[str]]]:
        require_runnable(artifact, self.target)
        if config.length > artifact.max_length:
            raise DeviceError(
                f"length {config.length} is over the model's maximum, {artifact.max_length}"
            )
        if mode == "next" and config.length == artifact.max_length:
            raise DeviceError(f"no token can follow {config.length}, the model's maximum")
        program = bench_program(self.target)
        samples = min(config.samples, _PROFILE_SAMPLES) if mode == "profile" else config.samples
        arguments = [config.length, config.threads, ",".join(map(str, cores(config))) or "-",
                     config.warmup, samples, round(config.seconds * 1000),
                     round(config.max_seconds * 1000), mode]  # fmt: skip
        command = [str(program), str(artifact.library), str(artifact.weights)]
        return _report([*command, *map(str, arguments)])


def cores(config: MeasureConfig) -> tuple[int, ...]:
    """The cores that the team is pinned to; none where there are fewer cores than threads."""
    if config.cores:
        return config.cores
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return tuple(allowed[: config.threads]) if len(allowed) >= config.threads else ()


def bench_program(target: Target) -> Path:
    """The benchmark executable for a target."""
    return build_program(runtime_files("bench_main.c", "canao_runtime.h"), target)


def _report(command: Sequence[str]) -> dict[str, list[list[str]]]:
    """Run the benchmark and read its report: name -> rows of words."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise DeviceError(f"the benchmark did not end within {_TIMEOUT_S} s") from None
    except OSError as error:
        raise DeviceError(f"the benchmark cannot run ({error.strerror})") from None
    if done.returncode < 0:
        raise DeviceError(f"the library ended with signal {-done.returncode}; compile it again")
    if done.returncode:
        raise DeviceError(done.stderr.strip().splitlines()[0] if done.stderr else "no message")
    rows: dict[str, list[list[str]]] = {}
    for line in done.stdout.splitlines():
        name, *words = line.split()
        rows.setdefault(name, []).append(words)
    return rows


@lru_cache(maxsize=4)
def _peak(target: Target) -> float:
    program = build_program(
        {"peak.c": peak_source(target), **runtime_files("canao_runtime.h")}, target
    )
    rates = []
    for _ in range(3):
        done = subprocess.run([str(program)], capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise DeviceError("the peak measurement failed; this CPU lacks the target's ISA")
        rates.append(float(done.stdout.split()[0]))
    return max(rates)


def environment(target: Target, pinned: Sequence[int]) -> dict[str, Any]:
    """What a figure must be read with."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return {
        "device": "local",
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "pinned": list(pinned),
        "isa": target.isa,
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "load_average": round(load, 2),
        "canao": version("canao"),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def cpu_stamp() -> str:
    """The processor, as exactly as it says: virtual machines often name no more than a vendor."""
    facts = _cpu_facts("model name", "cpu family", "model", "stepping")
    return " ".join([_cpu_name(), *(f"{k} {v}" for k, v in facts.items() if k != "model name")])


def _cpu_name() -> str:
    known = _cpu_facts("model name").get("model name")
    return known or platform.processor() or platform.machine()


def _cpu_facts(*wanted: str) -> dict[str, str]:
    """What the system tells of its first core."""
    facts: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in wanted:
                facts.setdefault(name.strip(), value.strip())
    except OSError:
        pass
    return facts
