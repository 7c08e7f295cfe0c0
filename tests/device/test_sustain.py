"""Runs without a pause: minute by minute, and a budget that the worst one must keep."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from canao.artifact.certificate import require_budget
from canao.artifact.certificate_file import load_certificate
from canao.artifact.directory import Artifact
from canao.artifact.manifest import sealed
from canao.artifact.measured import Clock
from canao.artifact.sustained import Minute, sustained_text, throttled, worst
from canao.cli.parsing.options import minutes_of
from canao.device.base import MeasureConfig, Measurement, Timing
from canao.device.certify import certify
from canao.device.null import NullDevice
from canao.device.state import State
from canao.errors import BudgetError, InputError
from tests.search.landscape import TEACHER, FormulaTrainer, compile_by_formula

CONFIG = MeasureConfig(samples=1024)


class Phone(NullDevice):
    """One that is slower in each minute of a list, and warmer; its processes take 1 ms."""

    def __init__(self, minutes: Sequence[float]) -> None:
        super().__init__(1.0)
        self.minutes, self.past = minutes, 0

    def measure(self, artifact: Artifact, config: MeasureConfig) -> Measurement:
        found = super().measure(artifact, config)
        assert isinstance(found, Timing)
        if not config.seconds:
            return found
        self.timer.wait(config.seconds)
        factor = self.minutes[self.past]
        self.past += 1
        clock = Clock((50_000, round(50_000 * factor)), (2_800_000, 2_800_000), "walt")
        return replace(found, samples_ms=(factor,) * 600, clock=clock)

    def state(self) -> State:
        return State({"BIG": 30.0 + 5 * self.past}, {7: 2_800_000 - 100_000 * self.past},
                     battery=90 - self.past, charging=False, screen_on=False)  # fmt: skip


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return compile_by_formula(FormulaTrainer(tmp_path).skeleton(TEACHER), tmp_path / "out")


def test_each_minute_is_in_the_certificate(artifact: Artifact) -> None:
    lines: list[str] = []
    made = certify(artifact, Phone([1.0, 1.02, 1.3]), 2.0, CONFIG, sustain=3, say=lines.append)
    assert made.holds and load_certificate(artifact) == made
    assert [m.measured_ms for m in made.sustained] == [1.0, 1.02, 1.3]
    assert [m.at_s for m in made.sustained] == [0, 60, 120]
    assert [m.celsius for m in made.sustained] == [35, 40, 45]
    assert [m.khz for m in made.sustained] == [2_700_000, 2_600_000, 2_500_000]
    assert [m.battery for m in made.sustained] == [89, 88, 87]
    assert made.environment["state_before"]["celsius"] == {"BIG": 30.0}
    assert made.environment["state_after"]["screen_on"] is False
    assert any("minute 3 of 3: 1.3 ms, 2.50 GHz, 45 °C, battery 87 %" in line for line in lines)
    told = " ".join(made.told)
    assert "in the worst, minute 3 (1.3 ms" in told and "throttled in minute 3:" in told


def test_the_worst_minute_decides(artifact: Artifact) -> None:
    """A budget that every process keeps, and the second minute does not."""
    made = certify(artifact, Phone([1.0, 1.6, 1.1]), 1.5, CONFIG, sustain=3)
    assert made.bound_ms <= 1.5 and not made.holds
    with pytest.raises(BudgetError, match=r"p90 of 1\.6 ms in the worst of 3 minutes"):
        require_budget(made)


def test_without_it_nothing_is_there(artifact: Artifact) -> None:
    made = certify(artifact, NullDevice(1.0), 2.0, CONFIG)
    assert made.sustained == () and "sustained" not in made.to_dict()
    assert sustained_text((), 90) == [] and worst(()) == 0


def test_edited_minutes_are_refused(artifact: Artifact) -> None:
    certify(artifact, Phone([1.0, 3.0]), 2.0, CONFIG, sustain=2)
    path = artifact.path / "certificate.json"
    row = json.loads(path.read_text())
    row["sustained"][1]["measured_ms"] = 1.0
    path.write_text(json.dumps(row))
    with pytest.raises(InputError, match="holds"):
        load_certificate(artifact)
    path.write_text(json.dumps(sealed(row | {"holds": True, "sustained": [{"at_s": 0}]})))
    with pytest.raises(InputError, match="sustained"):
        load_certificate(artifact)


def test_what_says_that_a_device_throttles() -> None:
    first = Minute(0, 10, 1.0, 1.0, loop_ns=100)
    slower, told = replace(first, loop_ns=106), replace(first, throttling=1)
    assert throttled([first, replace(first, loop_ns=104, throttling=0)]) == ()
    assert throttled([first, slower, told]) == (2, 3)
    assert throttled([replace(first, loop_ns=None), replace(slower, loop_ns=None)]) == ()


@pytest.mark.parametrize(("text", "minutes"), [("10m", 10), ("600s", 10), ("3", 3), ("0m", 0)])
def test_how_long(text: str, minutes: int) -> None:
    assert minutes_of(text) == minutes


@pytest.mark.parametrize("text", ["", "m", "90s", "1.5m", "-1m", "1h", "9999999m"])
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match=r"--sustain .* give whole minutes, as 10m"):
        minutes_of(text)


@pytest.mark.parametrize("minutes", [-1, 1441])
def test_too_long(artifact: Artifact, minutes: int) -> None:
    with pytest.raises(InputError, match="--sustain"):
        certify(artifact, NullDevice(1.0), 2.0, CONFIG, sustain=minutes)
