"""`--device qemu[:CPU]`: programs of 64-bit ARM on this machine, emulated by qemu-user.

It shows that results are right where there is no such machine (`canao verify`). Its times say
nothing, so that nothing is measured there. /proc tells of this machine's processor; a small program
asks what the emulated one has.
"""

from __future__ import annotations

from dataclasses import replace

from canao.build import build_program
from canao.device.bench import BenchDevice
from canao.device.transports.qemu import QemuTransport, emulator
from canao.errors import DeviceError, InputError
from canao.isa.features import FEATURES
from canao.machine import Cluster, Machine, local_machine
from canao.target import get_target

USUAL_CPU = "max"  # all that qemu can emulate
_ARCH, _TARGET = "aarch64", "aarch64-linux"
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
