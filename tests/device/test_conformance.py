"""Every device does what the suite says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from canao.device.base import Device
from canao.device.bench import connect, local_device
from canao.device.null import NullDevice
from canao.device.transports.adb import AdbTransport
from canao.device.transports.ssh import SshTransport
from canao.machine import local_machine
from tests.device.echo import EchoTransport
from tests.device.phone import Phone
from tests.device.servers import AdbServer, SshServer, adb_server, at_home, ssh_server
from tests.device.suite import DeviceSuite


class TestLocal(DeviceSuite):
    @pytest.fixture
    def device(self) -> Device:
        return local_device()

    def test_its_name(self, device: Device) -> None:
        assert device.name == "local"


class TestEcho(DeviceSuite):
    """All that a BenchDevice does, it does over its transport."""

    @pytest.fixture
    def device(self, tmp_path: Path) -> Iterator[Device]:
        transport = EchoTransport(tmp_path / "there")
        device = connect(transport)
        yield device
        device.close()
        assert not transport.root.exists()

    def test_it_has_the_facts_of_the_other_machine(self, device: Device) -> None:
        assert device.machine == local_machine() and device.name == "echo"


class TestSsh(DeviceSuite):
    @pytest.fixture(scope="class")
    def server(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
        with ssh_server(tmp_path_factory.mktemp("sshd")) as server:
            yield server

    @pytest.fixture
    def device(self, server: SshServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
        at_home(server.home, monkeypatch)
        device = connect(SshTransport(server.address))
        yield device
        device.close()

    def test_it_has_the_facts_of_the_other_machine(self, device: Device) -> None:
        assert device.machine == local_machine() and device.remote and not device.emulated


class TestAdb(DeviceSuite):
    @pytest.fixture(scope="class")
    def server(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdbServer]:
        with adb_server(tmp_path_factory.mktemp("home")) as server:
            yield server

    @pytest.fixture(scope="class")
    def phone(
        self, server: AdbServer, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[Phone]:
        phone = Phone(tmp_path_factory.mktemp("phone") / "tmp")
        server.connect(phone)
        yield phone
        phone.vanish()

    @pytest.fixture
    def device(
        self, server: AdbServer, phone: Phone, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[Device]:
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(server.port))
        device = connect(AdbTransport())
        yield device
        device.close()
        assert not list(phone.root.iterdir())

    def test_it_has_the_facts_of_the_other_machine(self, device: Device, phone: Phone) -> None:
        assert device.machine == local_machine() and device.name == f"adb:{phone.address}"


class TestNull(DeviceSuite):
    runs = False
    crash_words = "no latency left"

    @pytest.fixture
    def device(self) -> Device:
        return NullDevice()

    @pytest.fixture
    def failing(self) -> Device:
        return NullDevice([])
