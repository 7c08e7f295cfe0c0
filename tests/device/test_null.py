from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from canao.artifact.directory import Artifact
from canao.device.base import Device, Failure, MeasureConfig, Timing
from canao.device.null import NullDevice
from canao.errors import DeviceError, InputError
from canao.target import get_target
from tests.search.landscape import TEACHER, FormulaTrainer, compile_by_formula

pytestmark = pytest.mark.as_shipped

CONFIG = MeasureConfig(samples=64)


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    model_dir = FormulaTrainer(tmp_path / "work").skeleton(TEACHER)
    return compile_by_formula(model_dir, tmp_path / "out")


def timing(device: Device, artifact: Artifact) -> Timing:
    measured = device.measure(artifact, CONFIG)
    assert isinstance(measured, Timing)
    return measured


def test_one_millisecond_by_default(artifact: Artifact) -> None:
    measured = timing(NullDevice(), artifact)
    assert measured.samples_ms == (1.0,) * 64
    assert measured.config == CONFIG
    assert "nothing was run" in measured.environment["note"]


def test_a_list_of_latencies_ends_in_failure(artifact: Artifact) -> None:
    device = NullDevice([3.0, 5.0])
    assert [timing(device, artifact).percentile(50) for _ in range(2)] == [3.0, 5.0]
    failure = device.measure(artifact, CONFIG)
    assert failure == Failure("script", "no latency left after 2 measurements")
    with pytest.raises(DeviceError, match="no latency left"):
        device.profile(artifact, CONFIG)


def test_latency_by_function_of_the_artifact(artifact: Artifact) -> None:
    device = NullDevice(lambda given: float(given.kernels))
    assert timing(device, artifact).percentile(90) == 5 * TEACHER.layers + 2


def test_noise_repeats_with_its_seed_and_keeps_the_median(artifact: Artifact) -> None:
    one, two, other = (
        timing(NullDevice(2.0, noise=0.1, seed=seed), artifact).samples_ms for seed in (1, 1, 2)
    )
    assert one == two != other
    assert np.median(one) == pytest.approx(2.0)
    assert 0.05 < np.std(one) / 2.0 < 0.2
    assert min(timing(NullDevice(2.0, noise=50.0), artifact).samples_ms) > 0


def test_profile_divides_the_latency_among_the_kernels(artifact: Artifact) -> None:
    profile = NullDevice(4.0).profile(artifact, CONFIG)
    assert [name for name, _ in profile] == [k["name"] for k in artifact.manifest["kernels"]]
    assert sum(ms for _, ms in profile) == pytest.approx(4.0)
    scripted = NullDevice(kernels=lambda given: [("a", 1), ("b", 2)])
    assert scripted.profile(artifact, CONFIG) == (("a", 1.0), ("b", 2.0))


def test_it_never_runs(artifact: Artifact) -> None:
    with pytest.raises(DeviceError, match="null device runs nothing"):
        NullDevice().run(artifact, [np.zeros(4, np.int32)])


def test_target_and_peak() -> None:
    arm = get_target("aarch64-linux")
    assert NullDevice(target=arm).target == arm
    assert NullDevice().target == get_target("host")
    assert NullDevice(peak=2e9).peak_flops(4) == 8e9
    of_types = NullDevice(peak={"f32": 2e9, "i8": 7e9})
    assert [of_types.peak_flops(2, p) for p in ("f32", "i8", "bf16")] == [4e9, 14e9, 4e9]


@pytest.mark.parametrize(
    "bad",
    [{"noise": -0.1}, {"peak": 0.0}, {"peak": {"f32": 1.0, "i8": 0.0}}, {"peak": {"i8": 1.0}}],
)
def test_scripts_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(InputError, match="null device"):
        NullDevice(**bad)
