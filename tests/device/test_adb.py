"""What phones add to the suite: servers, several phones, such as cannot be used, cables that are
pulled out, full disks, and another processor than this machine's."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from canao.artifact.directory import Artifact
from canao.compiler.pipeline import compile_model
from canao.device.base import Failure, MeasureConfig
from canao.device.bench import connect
from canao.device.transports.adb import AdbTransport, phones
from canao.device.transports.qemu import library_root
from canao.errors import DeviceError, InputError
from canao.inference.compiled_model import CompiledModel
from tests.compiler.models import classifier
from tests.device.phone import Phone
from tests.device.servers import AdbServer, adb_server
from tests.device.test_ssh import running
from tests.test_machine import BOARD

ONCE = MeasureConfig(length=8, samples=1, warmup=0)


@pytest.fixture(scope="module")
def adb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdbServer]:
    with adb_server(tmp_path_factory.mktemp("home")) as server:
        yield server


@pytest.fixture
def server(adb: AdbServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[AdbServer]:
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(adb.port))
    yield adb
    adb.call("disconnect")


@pytest.fixture
def phone(server: AdbServer, tmp_path: Path) -> Iterator[Phone]:
    phone = Phone(tmp_path / "phone")
    server.connect(phone)
    yield phone
    phone.vanish()


def test_what_a_command_says(phone: Phone) -> None:
    way = AdbTransport(phone.address)
    done = way.run(["sh", "-c", "echo out; echo err >&2; exit 3"], 20)
    assert (done.code, done.stdout, done.stderr) == (3, "out\n", "err\n")
    assert way.run(["sh", "-c", "kill -11 $$"], 20).code == -11
    odd = "a b'c\"$HOME;|&*\\n\nd"
    assert way.run(["printf", "%s", odd], 20).stdout == odd
    assert phones()[0].model == "Paper 1"
    way.close()


def test_a_command_that_takes_too_long_is_stopped(phone: Phone) -> None:
    seconds = str(os.getpid() + 30_000)
    with pytest.raises(TimeoutError, match=r"sleep did not end within 0\.5 s"):
        AdbTransport().run(["sleep", seconds], 0.5)
    assert not running(seconds)


def test_files_are_sent_once(phone: Phone, tmp_path: Path) -> None:
    way, file = AdbTransport(), tmp_path / "file"
    file.write_bytes(os.urandom(300_000))
    there = way.push(file, "name")
    assert way.push(file, "name") == there and len(phone.sent) == 1
    place = phone.here(there)
    assert place.read_bytes() == file.read_bytes() and place.stat().st_mode & 0o777 == 0o700
    way.pull(there, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == file.read_bytes()
    with pytest.raises(OSError, match=r"No such file"):
        way.pull(f"{way.folder}/none", tmp_path / "none")
    way.close()
    assert not list(phone.root.iterdir())


def test_no_room(phone: Phone, encoder: Artifact) -> None:
    device = connect(AdbTransport())
    phone.full = True
    got = device.measure(encoder, ONCE)
    assert isinstance(got, Failure)
    assert f"cannot be sent to adb:{phone.address} (no space left on the phone" in got.message
    assert got.message.endswith("free some space there")
    phone.full = False
    assert not list(Path(phone.here(device.transport.folder)).glob("*.new"))


def test_a_phone_that_is_unplugged(server: AdbServer, phone: Phone, encoder: Artifact) -> None:
    device = connect(AdbTransport())
    threading.Timer(0.5, phone.vanish).start()
    with pytest.raises(OSError, match=r"the phone is gone; plug it in again"):
        device.transport.run(["sleep", "30"], 20)
    got = device.measure(encoder, ONCE)
    assert isinstance(got, Failure) and "is gone" in got.message and "\n" not in got.message


def test_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "1")
    with pytest.raises(DeviceError, match=r"no server answers at 127\.0\.0\.1:1; .*start-server"):
        AdbTransport()
    monkeypatch.setenv("ANDROID_ADB_SERVER_ADDRESS", "127.0.0.2")
    with pytest.raises(DeviceError, match=r"at 127\.0\.0\.2:1"):
        AdbTransport()
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "many")
    with pytest.raises(InputError, match=r"ANDROID_ADB_SERVER_PORT=many"):
        AdbTransport()


def test_which_phone(server: AdbServer, phone: Phone, tmp_path: Path) -> None:
    other = Phone(tmp_path / "other", "Paper 2")
    server.connect(other)
    with pytest.raises(DeviceError, match=r"several phones") as caught:
        AdbTransport()
    assert all(one.address in str(caught.value) for one in (phone, other))
    with pytest.raises(DeviceError, match=f"adb:nope: no such phone; there are: .*{other.address}"):
        AdbTransport("nope")
    assert AdbTransport(other.address).run(["echo", "me"], 20).stdout == "me\n"
    other.vanish()


def test_no_phone(server: AdbServer) -> None:
    with pytest.raises(DeviceError, match=r"adb: no phone; plug one in"):
        AdbTransport()


def test_a_phone_that_lets_nobody_in(server: AdbServer, tmp_path: Path) -> None:
    shy = Phone(tmp_path / "shy", accepts=False)
    server.connect(shy)
    with pytest.raises(DeviceError, match=r"is (unauthorized|authorizing); confirm this"):
        AdbTransport()
    shy.vanish()


@pytest.mark.parametrize("serial", ["a b", "a;b", "a,b"])
def test_no_serial_number(serial: str) -> None:
    with pytest.raises(InputError, match=r"is no serial number"):
        AdbTransport(serial)


def test_the_package_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "adbutils", None)
    with pytest.raises(InputError, match=r"pip install 'canao\[adb\]'"):
        AdbTransport()


@pytest.mark.cross
def test_a_phone_of_another_kind(
    server: AdbServer, qemu: str, tmp_path: Path, sentences
) -> None:
    """A library that cannot run here goes to where it can, with all that it needs."""
    try:
        emulator = (qemu, "-cpu", "max", "-L", library_root())
    except DeviceError as error:
        pytest.skip(str(error))
    arm = Phone(tmp_path / "arm", machine=BOARD, emulator=emulator)
    server.connect(arm)
    device = connect(AdbTransport())
    assert device.target.arch == "aarch64" and device.machine.core_count == 8
    model = classifier("small")
    far = compile_model(model, tmp_path / "far", target=device.target)
    near = compile_model(model, tmp_path / "near")
    batch = [list(sentences(length, 99, 2)) for length in (1, 7, 33)]
    with CompiledModel(near) as here:
        for inputs, outputs in zip(batch, device.run_batch(far, batch), strict=True):
            for got, want in zip(outputs, here.run(*inputs).values(), strict=True):
                assert np.allclose(got, want, atol=1e-4)
    device.close()
    arm.vanish()
