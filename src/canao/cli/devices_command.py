"""`canao devices`: what can be measured on, and the facts of one of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from canao.api import get_device
from canao.cli.printing import out
from canao.device.base import Device
from canao.device.listing import Candidate, candidates
from canao.machine import Cluster, Machine


def list_and_print(*, as_json: bool) -> None:
    """Print what devices there are."""
    found = candidates()
    if as_json:
        sys.stdout.write(json.dumps([asdict(one) for one in found], indent=2) + "\n")
        return
    for line in _lines(found):
        out.print(line, soft_wrap=True, markup=False)


def show_and_print(name: str, *, as_json: bool) -> None:
    """Connect to a device and print its facts."""
    device = get_device(name)
    if as_json:
        sys.stdout.write(json.dumps(device_form(device), indent=2) + "\n")
        return
    for head, told in facts(device):
        out.print(f"{head:12} {told}", soft_wrap=True, markup=False)


def device_form(device: Device) -> dict[str, Any]:
    """What is printed for programs."""
    machine, target = device.machine, device.target
    return {
        "device": device.name,
        "stamp": machine.stamp,
        "machine": asdict(machine),
        "target": {"triple": target.triple, "isa": target.isa,
                   "extensions": list(target.extensions)},
        "emulated": device.emulated,
    }  # fmt: skip


def facts(device: Device) -> list[tuple[str, str]]:
    """What is printed for people: heads, and what stands behind them."""
    machine, target = device.machine, device.target
    cores = [("cores" if i == 0 else "", text) for i, text in enumerate(_clusters(machine))]
    return [
        ("device", device.name),
        ("cpu", machine.cpu),
        *cores,
        ("features", " ".join(machine.features) or "not told"),
        ("kernels", f"{', '.join((target.isa, *target.extensions))} for {target.triple}"),
        ("memory", f"{machine.memory_bytes / 1e9:.1f} GB" if machine.memory_bytes else "not told"),
        ("system", f"{machine.system} {machine.release}, {machine.arch}"),
        ("stamp", machine.stamp),
        *([("emulated", "times say nothing: nothing is measured there")] if device.emulated else []),
    ]


def _clusters(machine: Machine) -> list[str]:
    return [_cluster(cluster) for cluster in machine.clusters] or ["not told"]


def _cluster(cluster: Cluster) -> str:
    clock = f", at most {cluster.mhz} MHz" if cluster.mhz else ""
    capacity = f", capacity {cluster.capacity}" if cluster.capacity else ""
    return f"{', '.join(map(str, cluster.cores))}{clock}{capacity}"


def _lines(found: Sequence[Candidate]) -> list[str]:
    width = max(len(one.name) for one in found)
    return [
        f"{one.name:{width}}  {one.words}" + (f": {one.trouble}" if one.trouble else "")
        for one in found
    ]
