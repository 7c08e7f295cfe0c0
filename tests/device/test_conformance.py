"""Every device does what the suite says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from canao.device.base import Device
from canao.device.bench import connect, local_device
from canao.device.null import NullDevice
from canao.machine import local_machine
from tests.device.echo import EchoTransport
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


class TestNull(DeviceSuite):
    runs = False
    crash_words = "no latency left"

    @pytest.fixture
    def device(self) -> Device:
        return NullDevice()

    @pytest.fixture
    def failing(self) -> Device:
        return NullDevice([])
