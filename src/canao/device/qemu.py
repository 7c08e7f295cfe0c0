"""`--device qemu[:CPU]`: programs of 64-bit ARM on this machine, emulated by qemu-user.

It shows that results are right where there is no such machine (`canao verify`). Files are used
where they are. Its times say nothing, so that nothing is measured there. /proc tells of this
machine's processor; a small program asks what the emulated one has.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from canao.build import build_program
from canao.device.bench import BenchDevice
from canao.device.transport import Completed, LocalTransport
from canao.errors import DeviceError, InputError
from canao.isa.features import FEATURES
from canao.machine import Cluster, Machine, local_machine
from canao.target import get_target

USUAL_CPU = "max"  # all that qemu can emulate
_ARCH, _TARGET = "aarch64", "aarch64-linux"
_EMULATORS = ("qemu-aarch64", "qemu-aarch64-static")
_LOADER = "lib/ld-linux-aarch64.so.1"  # of the C library that programs are linked with
_ROOTS = ("/usr/aarch64-linux-gnu", "/")
_ELF, _ARM_CODE = b"\x7fELF", 183  # how a program begins, and e_machine of 64-bit ARM
_SHORT_S = 60
# AT_HWCAP and AT_HWCAP2, whose numbers are those of `Feature.source`.
_HWCAPS = """#include <stdio.h>
#include <sys/auxv.h>

int main(void)
{
    printf("16 %lu\\n26 %lu\\n", getauxval(16), getauxval(26));
    return 0;
}
"""


class QemuTransport(LocalTransport):
    """This machine, but what is built for 64-bit ARM is emulated."""

    emulated = True

    def __init__(self, cpu: str) -> None:
        super().__init__()
        self.name = f"qemu:{cpu}"
        self._emulator = (emulator(), "-cpu", cpu, "-L", library_root())

    def run(self, command: Sequence[str], timeout: float) -> Completed:
        program = Path(command[0])
        if program.is_absolute() and is_arm(program):
            command = [*self._emulator, *command]
        return super().run(command, timeout)


def qemu_device(cpu: str | None) -> BenchDevice:
    """An emulated processor, as `-cpu` of qemu names it. DeviceError where qemu or the C library
    for it is not installed, InputError for a processor that qemu does not know."""
    transport = QemuTransport(cpu or USUAL_CPU)
    return BenchDevice(emulated_machine(cpu or USUAL_CPU, transport), transport)


def emulated_machine(cpu: str, transport: QemuTransport) -> Machine:
    """This machine's cores and memory, with the processor that is emulated."""
    here = local_machine()
    return Machine(
        cpu=f"qemu {cpu}", arch=_ARCH, system="Linux", release=here.release,
        features=_features(cpu, transport), clusters=(Cluster(tuple(sorted(here.cores))),),
        allowed=here.allowed, memory_bytes=here.memory_bytes,
    )  # fmt: skip


def _features(cpu: str, transport: QemuTransport) -> tuple[str, ...]:
    """What the emulated processor says of itself."""
    least = replace(get_target(_TARGET).least, machine="")
    program = build_program({"hwcaps.c": _HWCAPS}, least)
    try:
        done = transport.run([str(program)], _SHORT_S)
    except OSError as error:
        raise DeviceError(f"{transport.name}: qemu does not start ({error.strerror or error}); "
                          "install it anew") from None  # fmt: skip
    if done.code and "CPU model" in done.stderr:
        raise InputError(f"--device {transport.name}: qemu knows no processor '{cpu}'; look at: "
                         f"{emulator()} -cpu help")  # fmt: skip
    if done.code:
        first = (done.stderr.strip().splitlines() or [f"code {done.code}"])[0]
        raise DeviceError(f"{transport.name}: programs do not run ({first}); install it anew")
    words = {int(entry): int(word) for entry, word in map(str.split, done.stdout.splitlines())}
    rows = FEATURES[_ARCH].items()
    return tuple(sorted(name for name, row in rows if words[row.source] >> row.bit & 1))


def emulator() -> str:
    """Path of qemu-user."""
    for name in _EMULATORS:
        if found := shutil.which(name):
            return found
    raise DeviceError("qemu-aarch64 is not installed; on Debian and Ubuntu run: apt-get install "
                      "qemu-user")  # fmt: skip


def library_root() -> str:
    """The folder below which the C library of 64-bit ARM is."""
    named = os.environ.get("QEMU_LD_PREFIX")
    for root in (named,) if named else _ROOTS:
        if (Path(root) / _LOADER).exists():
            return root
    raise DeviceError(
        f"--device qemu: {named or _ROOTS[0]} has no {_LOADER}; on Debian and Ubuntu run: apt-get "
        "install libc6-arm64-cross, or name the folder of another C library in QEMU_LD_PREFIX"
    )


@cache
def version() -> str:
    """What qemu says of its version, in a line."""
    told = subprocess.run([emulator(), "--version"], capture_output=True, text=True)
    return (told.stdout.splitlines() or ["qemu"])[0]


def is_arm(program: Path) -> bool:
    """Whether a file is code for 64-bit ARM."""
    with open(program, "rb") as stream:
        head = stream.read(20)
    return head[:4] == _ELF and int.from_bytes(head[18:20], "little") == _ARM_CODE
