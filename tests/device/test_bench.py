"""A device that measures over a transport, and the measured values."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from canao.compiler import compile_model
from canao.device.base import Failure, MeasureConfig, Timing
from canao.device.bench import local_device
from canao.errors import DeviceError, InputError
from tests.compiler.models import classifier, reference


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory):
    return compile_model(classifier("small"), tmp_path_factory.mktemp("a") / "out")


def timing(*samples: float) -> Timing:
    return Timing(samples, 1.0, 1.0, 1, MeasureConfig())


def test_percentiles_are_samples() -> None:
    t = timing(*map(float, range(10, 0, -1)))
    assert [t.percentile(q) for q in (1, 10, 11, 50, 90, 99, 100)] == [1, 1, 2, 5, 9, 10, 10]
    assert timing(3.0).percentile(90) == 3.0
    for q in (0, -1, 101):
        with pytest.raises(InputError):
            t.percentile(q)


def test_measure(artifact) -> None:
    got = local_device().measure(artifact, MeasureConfig(length=33, threads=2, samples=40))
    assert isinstance(got, Timing)
    assert len(got.samples_ms) == 40 and min(got.samples_ms) > 0
    assert got.cold_ms > 0 and got.load_ms > 0
    # The library's own weights and arena, not what the test process holds.
    assert 1e6 < got.peak_bytes < 2e8
    assert got.environment["isa"] and got.environment["date"]
    longer = local_device().measure(artifact, MeasureConfig(samples=1, seconds=0.2, length=33))
    assert sum(longer.samples_ms) > 150


def test_longer_texts_take_longer(artifact) -> None:
    device = local_device()
    short, long = (device.measure(artifact, MeasureConfig(length=n, samples=60)) for n in (8, 512))
    assert long.percentile(50) > 5 * short.percentile(50)


def test_profile_names_the_kernels_in_order(artifact) -> None:
    names = [k["name"] for k in artifact.manifest["kernels"] if k["name"] != "alias"]
    got = local_device().profile(artifact, MeasureConfig(length=32, samples=5))
    assert [name for name, _ in got] == names and all(ms >= 0 for _, ms in got)


def test_run(artifact, sentences) -> None:
    ids, types = sentences(17, 99, 2)
    want = reference(classifier("small"), ids, types)[0][0]
    got = local_device().run(artifact, [ids, types], threads=2)
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_peak_is_plausible() -> None:
    device = local_device()
    rate = device.peak_flops()
    assert 1e9 < rate < 1e12 and math.isclose(device.peak_flops(2), 2 * rate, rel_tol=0.3)


def test_what_cannot_be_measured(artifact, tmp_path: Path) -> None:
    too_long = local_device().measure(artifact, MeasureConfig(length=513))
    assert isinstance(too_long, Failure) and "512" in too_long.message
    with pytest.raises(DeviceError, match="512"):
        local_device().profile(artifact, MeasureConfig(length=513))
    no_core = local_device().measure(artifact, MeasureConfig(samples=1, cores=(999,)))
    assert isinstance(no_core, Failure) and "pinned" in no_core.message
    for wrong in ({"length": 0}, {"threads": 0}, {"samples": 0}, {"cores": (0, 1)}):
        with pytest.raises(InputError):
            MeasureConfig(**wrong)
