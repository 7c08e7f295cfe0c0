"""CANAO's kernels against what the machine can do."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from canao.artifact.directory import Artifact
from canao.device.base import MeasureConfig
from canao.device.bench import local_device
from canao.errors import DeviceError
from canao.isa.table import FLOAT
from canao.precision.quantize import FLOAT32
from peers.catalog import own_label
from peers.machine import Machine
from peers.store import Store

_ROUNDS = 3


def measure_kernels(
    store: Store, length: int, cores: Sequence[int], precision: str = FLOAT32
) -> dict[str, Any]:
    """Kernels of one name together: calls, FLOPs, bytes, milliseconds, what their products are of
    if not float32; the machine's rates: of float32, and in `peaks` of other types.

    Each call's time is the median of the profiles; a kernel is timed between two barriers, so
    that the sum is not a latency.
    """
    counted = store.kernels(length, precision)
    artifact, device = Artifact.load(store.folder / own_label(precision)), local_device()
    config = MeasureConfig(length=length, threads=len(cores), cores=tuple(cores))
    products = dict.fromkeys((FLOAT, *(kernel[3] for kernel in counted)))
    peaks: dict[str, list[float]] = {product: [] for product in products}
    machine, profiles, bandwidth = Machine(cores, tuple(peaks)), [], []
    for _ in range(_ROUNDS):
        for product, rates in peaks.items():
            rates.append(machine.peak_flops(product))
        bandwidth.append(machine.bandwidth())
        profiles.append(device.profile(artifact, config))
    names = [name for name, _ in profiles[0]]
    if names != [kernel[0] for kernel in counted]:
        raise DeviceError(f"{store.model}: the profile's kernels are not those of the plan")
    rows: dict[str, dict[str, Any]] = {}
    for i, (name, kernel_flops, kernel_bytes, product) in enumerate(counted):
        row = rows.setdefault(name, {"calls": 0, "flops": 0, "bytes": 0, "ms": 0.0})
        if product != FLOAT:
            row["product"] = product
        row["calls"] += 1
        row["flops"] += kernel_flops
        row["bytes"] += kernel_bytes
        row["ms"] += statistics.median(profile[i][1] for profile in profiles)
    rates = {product: [round(x) for x in of] for product, of in peaks.items()}
    return {
        "kernels": {name: row | {"ms": round(row["ms"], 5)} for name, row in rows.items()},
        "peak_flops": rates.pop(FLOAT),
        "peaks": rates,
        "bandwidth": [round(x) for x in bandwidth],
    }
