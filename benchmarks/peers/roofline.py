"""CANAO's kernels against what the machine can do."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from canao.artifact.directory import Artifact
from canao.device.base import MeasureConfig
from canao.device.bench import local_device
from canao.errors import DeviceError
from peers.machine import Machine
from peers.store import Store

_ROUNDS = 3


def measure_kernels(store: Store, length: int, cores: Sequence[int]) -> dict[str, Any]:
    """Kernels of one name together: calls, FLOPs, bytes, milliseconds; the machine's rates.

    Each call's time is the median of the profiles; a kernel is timed between two barriers, so
    that the sum is not a latency.
    """
    counted = store.kernels(length)
    artifact, device = Artifact.load(store.folder / "canao"), local_device()
    config = MeasureConfig(length=length, threads=len(cores), cores=tuple(cores))
    machine, profiles = Machine(cores), []
    flops, bandwidth = [], []
    for _ in range(_ROUNDS):
        flops.append(machine.peak_flops())
        bandwidth.append(machine.bandwidth())
        profiles.append(device.profile(artifact, config))
    names = [name for name, _ in profiles[0]]
    if names != [name for name, _, _ in counted]:
        raise DeviceError(f"{store.model}: the profile's kernels are not those of the plan")
    rows: dict[str, dict[str, float]] = {}
    for i, (name, kernel_flops, kernel_bytes) in enumerate(counted):
        row = rows.setdefault(name, {"calls": 0, "flops": 0, "bytes": 0, "ms": 0.0})
        row["calls"] += 1
        row["flops"] += kernel_flops
        row["bytes"] += kernel_bytes
        row["ms"] += statistics.median(profile[i][1] for profile in profiles)
    return {
        "kernels": {name: row | {"ms": round(row["ms"], 5)} for name, row in rows.items()},
        "peak_flops": [round(x) for x in flops],
        "bandwidth": [round(x) for x in bandwidth],
    }
