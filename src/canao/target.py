"""Target: the machine that code is generated for."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from pathlib import Path

from canao.defaults import TARGET
from canao.errors import InputError


@dataclass(frozen=True, slots=True)
class Target:
    """What the emitter and the toolchain must know of a machine.

    name      what `--target` takes
    isa       row of the vector table: scalar, avx2, avx512, neon
    triple    target triple for the compiler driver
    cpu       value for -mcpu in that driver; '' leaves its default
    l2_bytes  data cache of one core, which bounds the cache blocks
    """

    name: str
    isa: str
    triple: str
    cpu: str = ""
    l2_bytes: int = 512 * 1024

    def with_isa(self, isa: str) -> Target:
        """The same machine with another vector table; the CPU follows where x86 needs it."""
        if self.triple.startswith("x86_64"):
            if isa not in _X86_CPU:
                raise InputError(f"ISA '{isa}' is not one of {', '.join(_X86_CPU)} for {self.name}")
            return replace(self, isa=isa, cpu=_X86_CPU[isa])
        if isa not in ("scalar", "neon"):
            raise InputError(f"ISA '{isa}' is not one of scalar, neon for {self.name}")
        return replace(self, isa=isa)


_X86_CPU = {"scalar": "x86_64", "avx2": "x86_64_v3", "avx512": "x86_64_v4"}
# glibc 2.28 is old enough for every Linux still supported, and has what the runtime calls.
_X86_LINUX = "x86_64-linux-gnu.2.28"
_ARM_LINUX = "aarch64-linux-gnu.2.28"

_CROSS = {
    "x86_64-linux": Target("x86_64-linux", "avx2", _X86_LINUX, _X86_CPU["avx2"]),
    "aarch64-linux": Target("aarch64-linux", "neon", _ARM_LINUX, "cortex_a76", 64 * 1024),
}
NAMES = ("host", *_CROSS)


def get_target(name: str = TARGET) -> Target:
    """The target called `name`; 'host' is the machine that this runs on."""
    if name == "host":
        return _host()
    if name not in _CROSS:
        raise InputError(f"target '{name}' is not one of {', '.join(NAMES)}")
    return _CROSS[name]


def _host() -> Target:
    system, machine = platform.system(), platform.machine().lower()
    if system == "Linux" and machine in ("x86_64", "amd64"):
        base = Target("host", "scalar", _X86_LINUX, l2_bytes=_l2_cache())
        return base.with_isa(_x86_isa())
    if system == "Linux" and machine in ("aarch64", "arm64"):
        return Target("host", "neon", _ARM_LINUX, l2_bytes=_l2_cache())
    raise InputError(
        f"this machine ({system} {machine}) cannot run compiled libraries yet; "
        f"cross-compile with --target {' or '.join(_CROSS)}"
    )


def _x86_isa() -> str:
    flags = set(_read("/proc/cpuinfo").partition("flags")[2].partition("\n")[0].split())
    if {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"} <= flags:
        return "avx512"
    return "avx2" if {"avx2", "fma"} <= flags else "scalar"


def _l2_cache() -> int:
    """Bytes of core 0's second cache; a common size where it is not told."""
    for index in range(4):
        folder = f"/sys/devices/system/cpu/cpu0/cache/index{index}"
        told = _read(f"{folder}/level").strip() == "2"
        if told and _read(f"{folder}/type").strip() != "Instruction":
            size = _read(f"{folder}/size").strip()
            if size.endswith("K"):
                return int(size[:-1]) * 1024
    return 512 * 1024


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
