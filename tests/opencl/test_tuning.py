"""`canao tune` on an OpenCL device: plans are measured and checked there, and belong to the device
and its driver."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
from msgspec import structs

from canao.api import get_device
from canao.compiler.loading import load_model
from canao.compiler.pipeline import compile_graph, compile_model
from canao.compiler.plans import tuning_database
from canao.device.base import MeasureConfig
from canao.device.opencl import OpenClDevice
from canao.inference.compiled_model import CompiledModel
from canao.lower.scheduling import default_plans, space
from canao.target import Target
from canao.tuning import measure, trial_library, tune_model, tuner
from tests.compiler.models import classifier, reference
from tests.oracle import assert_close


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database of its own for each test, and few trials."""
    monkeypatch.setattr("canao.compiler.plans.cache_directory", lambda: tmp_path / "cache")
    for name, value in (("_SCOUTED", 1), ("_STEPS", 1), ("_SMALL", 0.3)):
        monkeypatch.setattr(tuner, name, value)
    monkeypatch.setattr(measure, "_QUICK", (1, 2))
    monkeypatch.setattr(measure, "_FINAL", (2, 2))
    monkeypatch.setattr(measure, "_FOOTPRINT", 0)


@pytest.fixture(scope="module")
def device(opencl_device: str) -> OpenClDevice:
    found = get_device(opencl_device)
    assert isinstance(found, OpenClDevice)
    return found


@pytest.mark.thorough  # a driver compiles for a minute
def test_a_real_tune(device: OpenClDevice, tmp_path: Path, sentences) -> None:
    """Whatever wins, the library is right and says by which plans it runs."""
    model = classifier("small", layers=1, max_length=64)
    report = tune_model(model, device=device, length=17, budget_s=3600)
    assert report.plans_measured > 0
    assert all(k.default_ms > 0 and k.tuned_ms <= k.default_ms for k in report.kernels)
    artifact = compile_model(model, tmp_path / "out", target=device.target)
    assert {k.plan for k in report.kernels} <= {k["plan"] for k in artifact.manifest["kernels"]}
    with CompiledModel(artifact) as compiled:
        for length in (1, 17, 33, 64):
            ids, types = sentences(length, 99, 2)
            assert_close(compiled.run(ids[None], types[None])["logits"],
                         reference(model, ids, types)[0], f"length {length}")  # fmt: skip
    plain = compile_model(model, tmp_path / "plain", target=device.target, tuned=False)
    assert not any(k["tuned"] for k in plain.manifest["kernels"])


def test_plans_belong_to_a_device_and_its_driver(device: OpenClDevice) -> None:
    updated = structs.replace(device.gpu, driver="99.9")
    other = OpenClDevice(get_device("local"), updated)
    places = {tuning_database(t).place for t in (device.target, other.target)}
    places.add(tuning_database(get_device("local").target).place)
    assert len(places) == 3


def timer(device: OpenClDevice, folder: Path) -> measure.PlanTimer:
    target = device.target
    graph = load_model(classifier("small", layers=1, max_length=64))[1]
    program = compile_graph(graph, target, planner=default_plans).program
    return measure.PlanTimer(
        tuner.find_subjects(program, target), target, device, tuning_database(target),
        MeasureConfig(17), folder, None, math.inf, lambda text: None,
    )  # fmt: skip


@pytest.mark.parametrize(("old", "new"), [
    ("reqd_work_group_size(", "reqd_work_group_size(100000 + "),  # more than any device has
    ("vf_fma(vf_set1(", "no_such_function(vf_set1("),  # its compiler refuses
    ("vf_fma(vf_set1(", "vf_fma(vf_set1(2.0f * "),  # wrong numbers
])  # fmt: skip
def test_a_plan_that_the_device_gets_wrong_does_not_count(
    device: OpenClDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    plans = timer(device, tmp_path / "w")
    subject = next(s for s in plans.subjects if hasattr(s.region.form, "k"))
    sound, broken = space(subject.region, device.target)[:2]
    emit = trial_library.emit

    def spoilt(schedule, target: Target):
        source = emit(schedule, target)
        if all(step.plan != broken for step in schedule.steps):
            return source
        kernels = source.code.split("__kernel ")
        changed = [k.replace(old, new) if f"_{broken.name}(" in k else k for k in kernels]
        assert changed != kernels
        return dataclasses.replace(source, code="__kernel ".join(changed))

    monkeypatch.setattr(trial_library, "emit", spoilt)
    admitted = plans.admitted([(subject, broken), (subject, sound)])
    assert (subject, sound) in [p for t in admitted for p in t.pairs]
    assert [m.plan for m in plans.database.read(subject.text) if m.ms is None] == [broken]
