"""Programs of 64-bit ARM on this machine, emulated by qemu-user. Files are used where they are."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from canao.device.transports.transport import Completed, LocalTransport
from canao.errors import DeviceError

_EMULATORS = ("qemu-aarch64", "qemu-aarch64-static")
_LOADER = "lib/ld-linux-aarch64.so.1"  # of the C library that programs are linked with
_ROOTS = ("/usr/aarch64-linux-gnu", "/")
_ELF, _ARM_CODE = b"\x7fELF", 183  # how a program begins, and e_machine of 64-bit ARM


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
