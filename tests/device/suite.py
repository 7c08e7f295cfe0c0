"""What every device must do. A new one subclasses DeviceSuite and gives the fixture `device`."""

from __future__ import annotations

import json

import pytest

from canao.artifact.directory import Artifact
from canao.device.base import Device, Failure, MeasureConfig, Timing
from canao.errors import DeviceError
from canao.isa.registry import ISAS
from tests.compiler.models import classifier, reference
from tests.oracle import assert_close

CONFIG = MeasureConfig(length=33, threads=2, warmup=1, samples=20)
LONGEST = 512  # tokens of `encoder`


def kernels(artifact: Artifact) -> list[str]:
    return [k["name"] for k in artifact.manifest["kernels"] if k["name"] != "alias"]


def failure(measured: Timing | Failure) -> str:
    assert isinstance(measured, Failure)
    assert measured.stage and "\n" not in measured.message
    return measured.message


class DeviceSuite:
    """`runs`: whether libraries run there at all; `crash_words`: what is said of one that dies."""

    runs = True
    crash_words = "signal"

    @pytest.fixture
    def device(self) -> Device:
        raise NotImplementedError("the device under test")

    @pytest.fixture
    def failing(self, device: Device) -> Device:
        """The device on which `crashing` crashes."""
        return device

    def test_what_it_is(self, device: Device) -> None:
        assert device.name and device.machine.stamp and device.target.triple

    def test_measure(self, device: Device, encoder: Artifact) -> None:
        got = device.measure(encoder, CONFIG)
        assert isinstance(got, Timing)
        assert len(got.samples_ms) == CONFIG.samples and min(got.samples_ms) > 0
        assert got.config == CONFIG
        assert got.cold_ms > 0 and got.load_ms >= 0 and got.peak_bytes >= 0

    def test_the_record_says_where_it_was_taken(self, device: Device, encoder: Artifact) -> None:
        got = device.measure(encoder, CONFIG)
        assert isinstance(got, Timing)
        told = json.loads(json.dumps(got.to_dict()))["environment"]
        assert told["device"] == device.name
        assert (told["cpu"], told["machine"]) == (device.machine.cpu, device.machine.stamp)

    def test_profile_names_the_kernels_in_order(self, device: Device, encoder: Artifact) -> None:
        got = device.profile(encoder, CONFIG)
        assert [name for name, _ in got] == kernels(encoder)
        assert all(ms >= 0 for _, ms in got) and sum(ms for _, ms in got) > 0
        assert len(device.profile(encoder, CONFIG, min)) == len(got)

    def test_too_long(self, device: Device, encoder: Artifact) -> None:
        config = MeasureConfig(length=LONGEST + 1, samples=1)
        assert str(LONGEST) in failure(device.measure(encoder, config))
        with pytest.raises(DeviceError, match=str(LONGEST)):
            device.profile(encoder, config)

    def test_built_for_another_machine(self, device: Device, foreign: Artifact) -> None:
        built = foreign.manifest["target"]["name"]
        message = failure(device.measure(foreign, CONFIG))
        assert built in message
        if device.name == "local":
            assert "this machine is" in message and message.endswith("compile with --target host")
        else:
            assert f"device {device.name} is" in message and "this machine" not in message
        with pytest.raises(DeviceError, match=built):
            device.profile(foreign, CONFIG)

    def test_a_crash_is_a_failure(self, failing: Device, crashing: Artifact) -> None:
        assert self.crash_words in failure(failing.measure(crashing, CONFIG))
        with pytest.raises(DeviceError, match=self.crash_words):
            failing.profile(crashing, CONFIG)

    def test_next_token(self, device: Device, continuing: Artifact, encoder: Artifact) -> None:
        got = device.measure_next(continuing, CONFIG)
        assert isinstance(got, Timing) and len(got.samples_ms) == CONFIG.samples
        assert isinstance(device.measure(continuing, CONFIG), Timing)
        full = MeasureConfig(length=continuing.max_length, samples=1)
        assert "maximum" in failure(device.measure_next(continuing, full))
        assert "does not continue" in failure(device.measure_next(encoder, CONFIG))

    def test_peak(self, device: Device) -> None:
        rate = device.peak_flops()
        assert 1e8 < rate < 1e13
        assert device.peak_flops(2) == pytest.approx(2 * rate, rel=0.3)
        for product in ISAS["scalar"].tiles:  # every instruction set has these
            assert 1e8 < device.peak_flops(1, product) < 1e14

    def test_run(self, device: Device, encoder: Artifact, sentences) -> None:
        ids, types = sentences(17, 99, 2)
        if not self.runs:
            with pytest.raises(DeviceError, match="runs nothing"):
                device.run(encoder, [ids, types])
            return
        want = reference(classifier("small"), ids, types)[0][0]
        got = device.run(encoder, [ids, types], threads=2)
        assert_close(got, want)
