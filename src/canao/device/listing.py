"""What devices there are to choose from, without connecting to any of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from canao.defaults import DEVICE as LOCAL
from canao.device import adb, qemu, ssh
from canao.errors import DeviceError, InputError
from canao.machine import local_machine


@dataclass(frozen=True, slots=True)
class Candidate:
    """A device that could be used: what `--device` takes, what it is, and what keeps it from being
    used now, with the remedy; '' if nothing is known to."""

    name: str
    words: str
    trouble: str = ""


def candidates() -> list[Candidate]:
    """This machine, phones that the adb server knows, hosts of ~/.ssh/config, and qemu."""
    return [Candidate(LOCAL, local_machine().cpu), *_phones(), *_hosts(), *_emulated()]


def _phones() -> Iterator[Candidate]:
    try:
        found = adb.attached()
    except (DeviceError, InputError) as error:
        yield Candidate("adb", "a phone", _plain(error, "adb"))
        return
    if not found:
        yield Candidate("adb", "a phone", "none is connected; switch USB debugging on, and plug one "
                                          "in")  # fmt: skip
    for one in found:
        yield Candidate(f"adb:{one.serial}", one.model or "a phone", one.trouble)


def _hosts() -> Iterator[Candidate]:
    try:
        ssh.require_asyncssh()
    except InputError as error:
        yield Candidate("ssh:HOST", "a host", _plain(error, "ssh"))
        return
    for name in dict.fromkeys(ssh.configured_hosts()):
        yield Candidate(f"ssh:{name}", "a host of ~/.ssh/config, not looked at")


def _emulated() -> Iterator[Candidate]:
    words = "an emulated ARM, for results only"
    try:
        qemu.library_root()
        yield Candidate("qemu", f"{words}: {qemu.version()}")
    except DeviceError as error:
        yield Candidate("qemu", words, _plain(error, "qemu"))


def _plain(error: Exception, kind: str) -> str:
    """An error without the name of the device, which stands before it."""
    return str(error).removeprefix("--device ").removeprefix(f"{kind}: ")
