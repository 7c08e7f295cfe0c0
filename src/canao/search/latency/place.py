"""Place: what timings depend on besides the library that is timed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from canao.build import code_stamp, get_toolchain
from canao.device.base import Device


@dataclass(frozen=True, slots=True)
class Place:
    """Where timings come from. Those of different places are kept apart, and never compared.

    machine   stamp of the machine that measured
    target    name and ISA that libraries were compiled for
    code      stamp of the code and the compiler that made the kernels
    """

    machine: str
    target: str
    code: str

    def __str__(self) -> str:
        return f"{self.machine} {self.target} code {self.code}"

    def to_dict(self) -> dict[str, str]:
        return asdict(self)

    def instead_of(self, held: Mapping[str, Any] | None) -> str:
        """In words, how this place differs from one in JSON form; '' if it does not. None: runs of
        earlier versions do not say where they were measured."""
        if held is None:
            return "after an earlier version of CANAO"
        if held.get("machine") != self.machine:
            return f"on another machine, {self.machine} instead of {held.get('machine')}"
        if held.get("target") != self.target:
            return f"for another target, {self.target} instead of {held.get('target')}"
        return "" if held.get("code") == self.code else "with other code for kernels"


def place_of(device: Device) -> Place:
    """Where a device's timings come from, with the code as it is now."""
    target = f"{device.target.name}-{device.target.kernels_for}"
    return Place(device.machine.stamp, target, code_stamp(get_toolchain()))
