"""What `--device` takes: a kind of device, and behind a colon which one. The only table of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from canao.defaults import DEVICE
from canao.device.base import Device
from canao.errors import CanaoError, InputError
from canao.target import CPU


@dataclass(frozen=True, slots=True)
class Candidate:
    """A device that could be named: `about` says what is known of it without asking it."""

    device: str
    about: str


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of device.

    form   how it is written, as 'adb[:SERIAL]'
    what   what it is, in a few words for help
    make   makes one of what stands behind the colon, '' if nothing does
    found  those that are known of here; DeviceError or InputError if that cannot be told
    """

    form: str
    what: str
    make: Callable[[str], Device]
    found: Callable[[], Iterator[Candidate]]

    @property
    def name(self) -> str:
        return self.form.partition("[")[0].partition(":")[0]


def _local(rest: str) -> Device:
    from canao.device.bench import local_device

    return local_device()


def _null(rest: str) -> Device:
    from canao.device.null import NullDevice

    return NullDevice()


def _ssh(rest: str) -> Device:
    from canao.device.bench import connect
    from canao.device.transports.ssh import SshTransport

    return connect(SshTransport(rest))


def _adb(rest: str) -> Device:
    from canao.device.bench import connect
    from canao.device.transports.adb import AdbTransport

    return connect(AdbTransport(rest))


def _qemu(rest: str) -> Device:
    from canao.device.emulated import qemu_device

    return qemu_device(rest or None)


def _opencl(rest: str) -> Device:
    from canao.device.bench import BenchDevice, local_device
    from canao.device.opencl import opencl_device

    number, at, other = rest.partition("@")
    base = device_of(other) if at else local_device()
    if not isinstance(base, BenchDevice) or base.emulated or base.target.backend != CPU:
        raise InputError(f"device 'opencl:{rest:.100}': behind @ give an ssh or adb device")
    return opencl_device(number, base)


def _here() -> Iterator[Candidate]:
    yield Candidate(DEVICE, "this machine")


def _nothing() -> Iterator[Candidate]:
    yield Candidate("null", "never runs a library; its times are made up")


def _hosts() -> Iterator[Candidate]:
    from canao.device.transports.ssh import hosts

    for host in hosts():
        yield Candidate(f"ssh:{host}", "named in ~/.ssh/config")


def _phones() -> Iterator[Candidate]:
    from canao.device.transports.adb import READY, phones

    for phone in phones():
        state = "ready" if phone.state == READY else phone.state
        yield Candidate(f"adb:{phone.serial}", ", ".join(filter(None, (phone.model, state))))


def _gpus() -> Iterator[Candidate]:
    from canao.device.opencl import local_gpus

    for gpu in local_gpus():
        yield Candidate(f"opencl:{gpu.number}", f"{gpu.shown} ({gpu.type})")


def _emulators() -> Iterator[Candidate]:
    from canao.device.transports.qemu import library_root, version

    library_root()
    yield Candidate("qemu", f"{version()}; for `canao verify` only")


KINDS = (
    Kind("local", "this machine", _local, _here),
    Kind("ssh:[USER@]HOST[:PORT]", "by SSH", _ssh, _hosts),
    Kind("adb[:SERIAL]", "a phone", _adb, _phones),
    Kind("opencl[:N[@DEVICE]]", "its GPU", _opencl, _gpus),
    Kind("qemu[:CPU]", "aarch64 emulated, for verify", _qemu, _emulators),
    Kind("null", "never runs", _null, _nothing),
)
FORMS = tuple(kind.form for kind in KINDS)
HELP = ", ".join(f"{kind.form} ({kind.what})" for kind in KINDS)
_BY_NAME = {kind.name: kind for kind in KINDS}


def device_of(text: str) -> Device:
    """The device that a text names; InputError if it names none, DeviceError if it cannot be used.
    """
    if "," in text:
        raise InputError(f"device '{text:.100}': names several, and one is taken; name one")
    name, colon, rest = text.partition(":")
    kind = _BY_NAME.get(name)
    if kind is None:
        raise InputError(f"device '{text:.100}' is not one of {', '.join(FORMS)}")
    takes, needs = ":" in kind.form, kind.form.startswith(f"{name}:")
    if (colon and not (takes and rest)) or (needs and not rest):
        raise InputError(f"device '{text:.100}': give {kind.form}")
    return kind.make(rest)


def candidates() -> tuple[list[Candidate], list[str]]:
    """All devices that are known of here, and why those of a kind are not."""
    found, notes = list[Candidate](), list[str]()
    for kind in KINDS:
        try:
            found += kind.found()
        except CanaoError as error:
            notes.append(str(error))
    return found, notes
