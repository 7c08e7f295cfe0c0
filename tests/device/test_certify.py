from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from canao.artifact.certificate import load_certificate, require_budget
from canao.artifact.directory import Artifact
from canao.device.base import MeasureConfig, Measurement, Timing
from canao.device.certify import certify
from canao.device.null import NullDevice
from canao.errors import BudgetError, DeviceError, InputError
from tests.search.landscape import TEACHER, FormulaTrainer, compile_by_formula

CONFIG = MeasureConfig(samples=1024)


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return compile_by_formula(FormulaTrainer(tmp_path).skeleton(TEACHER), tmp_path / "out")


def test_certificate_holds_what_was_measured(artifact: Artifact) -> None:
    device = NullDevice(7.0, noise=0.05)
    made = certify(artifact, device, 8.0, CONFIG, predicted_ms=6.5)
    assert made.holds
    assert made.latency_ms["p90"] == made.measured_ms > made.latency_ms["p50"]
    assert made.error == pytest.approx(made.measured_ms / 6.5 - 1)
    assert made.digest == artifact.digest
    assert made.config["samples"] == 1024 and made.environment["device"] == "null"
    require_budget(made)
    assert load_certificate(Artifact.load(artifact.path)) == made


def test_the_percentile_decides(artifact: Artifact) -> None:
    def at(percentile: float) -> bool:
        device = NullDevice(8.0, noise=0.05)
        return certify(artifact, device, 8.3, CONFIG, percentile=percentile).holds

    assert at(50) and not at(99)


def test_exactly_the_budget_is_within_it(artifact: Artifact) -> None:
    assert certify(artifact, NullDevice(8.0), 8.0, CONFIG).holds


def test_fewer_samples_than_mlperf_asks_for_are_refused(artifact: Artifact) -> None:
    with pytest.raises(InputError, match=r"at least 1024 samples, not 64; .* `canao bench"):
        certify(artifact, NullDevice(8.0), 8.0, MeasureConfig(samples=64))

    class Hasty(NullDevice):
        def measure(self, artifact: Artifact, config: MeasureConfig) -> Measurement:
            """As a device that runs into `max_seconds`."""
            timing = super().measure(artifact, config)
            assert isinstance(timing, Timing)
            return replace(timing, samples_ms=timing.samples_ms[:1000])

    with pytest.raises(InputError, match="at least 1024 samples, not 1000"):
        certify(artifact, Hasty(8.0), 8.0, CONFIG)
    assert not (artifact.path / "certificate.json").exists()


def test_a_miss_is_recorded_and_refused(artifact: Artifact) -> None:
    made = certify(artifact, NullDevice(9.0), 8.0, CONFIG)
    assert not made.holds
    assert load_certificate(artifact) == made
    with pytest.raises(BudgetError, match=r"p90 9 ms on null .* budget 8 ms") as raised:
        require_budget(made)
    assert raised.value.exit_code == 1 and "\n" not in str(raised.value)


def test_changed_library_is_not_measured(artifact: Artifact) -> None:
    (artifact.path / "model.so").write_text("something else")
    with pytest.raises(InputError, match="content differs"):
        certify(artifact, NullDevice([]), 8.0, CONFIG)


def test_certificate_of_another_library_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    certify(artifact, NullDevice(), 8.0, CONFIG)
    path = artifact.path / "certificate.json"
    row = json.loads(path.read_text()) | {"digest": "0" * 64}
    path.write_text(json.dumps(row))
    with pytest.raises(InputError, match="is for another library"):
        load_certificate(artifact)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": 9}', '{"format": 1}'])
def test_damaged_certificate_is_refused(artifact: Artifact, text: str) -> None:
    (artifact.path / "certificate.json").write_text(text)
    with pytest.raises(InputError, match="run `canao certify` again"):
        load_certificate(artifact)


def test_missing_certificate(artifact: Artifact) -> None:
    with pytest.raises(InputError, match=r"no certificate\.json; run `canao certify`"):
        load_certificate(artifact)


def test_device_that_fails(artifact: Artifact) -> None:
    with pytest.raises(DeviceError, match="could not be measured on null"):
        certify(artifact, NullDevice([]), 8.0, CONFIG)
    assert not (artifact.path / "certificate.json").exists()


@pytest.mark.parametrize("budget", [0, -3.0, float("nan"), float("inf"), "8"])
def test_budgets_that_are_none(artifact: Artifact, budget: float) -> None:
    with pytest.raises(InputError, match="budget"):
        certify(artifact, NullDevice(), budget, CONFIG)
