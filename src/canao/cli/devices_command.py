"""`canao devices`: what can be measured on, and the facts of one of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from canao.api import get_device
from canao.cli.printing import out
from canao.device.base import Device
from canao.device.cores import described
from canao.device.names import candidates


def list_and_print(*, as_json: bool) -> None:
    """Print what devices there are, and why those of a kind are not told."""
    found, notes = candidates()
    if as_json:
        form = {"devices": [asdict(one) for one in found], "notes": notes}
        sys.stdout.write(json.dumps(form, indent=2) + "\n")
        return
    width = max(len(one.device) for one in found)
    for one in found:
        out.print(f"{one.device:{width}}  {one.about}", soft_wrap=True, markup=False)
    for note in notes:
        out.print(f"note: {note}", soft_wrap=True, markup=False)


def show_and_print(name: str, *, as_json: bool) -> None:
    """Connect to a device and print its facts."""
    device = get_device(name)
    if as_json:
        sys.stdout.write(json.dumps(device_form(device), indent=2) + "\n")
        return
    for head, told in facts(device):
        out.print(f"{head:9} {told}", soft_wrap=True, markup=False)


def device_form(device: Device) -> dict[str, Any]:
    """What is printed for programs."""
    target = device.target
    return {
        "device": device.name,
        "stamp": device.machine.stamp,
        "machine": asdict(device.machine),
        "target": {"triple": target.triple, "isa": target.kernels_for,
                   "extensions": list(target.extensions)},
        "emulated": device.emulated,
    }  # fmt: skip


def facts(device: Device) -> Iterator[tuple[str, str]]:
    """What is printed for people: heads, and what stands behind them."""
    machine, target = device.machine, device.target
    yield "device", device.name
    yield "cpu", machine.cpu
    if machine.gpu:
        yield "gpu", machine.gpu
    yield "cores", described(machine) or "not told"
    yield "features", " ".join(machine.features) or "not told"
    yield "kernels", f"{', '.join((target.kernels_for, *target.extensions))} for {target.triple}"
    size = machine.memory_bytes
    yield "memory", f"{size / 1e9:.1f} GB" if size else "not told"
    yield "system", f"{machine.system} {machine.release}, {machine.arch}"
    yield "stamp", machine.stamp
    if device.emulated:
        yield "emulated", "its times say nothing; check libraries there with `canao verify`"
