"""`--device opencl:N`: facts, figures and results of an OpenCL device, and what it refuses."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from canao.accuracy.fastest import candidates as candidates_of
from canao.accuracy.fastest import compile_fastest
from canao.accuracy.verified import (
    Compared,
    Verdict,
    differing_loads,
    examined,
    keep_verdict,
    require_right,
    verified,
)
from canao.api import get_device
from canao.artifact.directory import Artifact
from canao.artifact.verification import VERIFIED_FILE, verification_on
from canao.cli.devices_command import device_form, facts
from canao.compiler.pipeline import compile_model
from canao.device.base import Failure, MeasureConfig, Timing
from canao.device.certify import judge
from canao.device.device_model import DeviceModel, opened_on
from canao.device.names import candidates
from canao.device.opencl import OpenClDevice, local_gpus
from canao.errors import CanaoError, DeviceError, InputError
from canao.inference.compiled_model import CompiledModel
from canao.machine import local_machine
from canao.target import get_target
from tests.compiler.models import classifier, reference
from tests.oracle import assert_close

ONCE = MeasureConfig(length=8, samples=3, warmup=1)


@pytest.fixture(scope="module")
def device(opencl_device: str) -> OpenClDevice:
    found = get_device(opencl_device)
    assert isinstance(found, OpenClDevice)
    return found


@pytest.fixture(scope="module")
def artifact(device: OpenClDevice, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("gpu") / "out"
    return compile_model(classifier("small"), folder, target=device.target)


def test_what_it_is(device: OpenClDevice) -> None:
    gpu = local_gpus()[0]
    assert device.machine.gpu == gpu.shown and gpu.name in device.machine.stamp
    assert device.machine.stamp != local_machine().stamp
    assert device_form(device)["target"]["isa"] == "opencl"
    assert dict(facts(device))["gpu"] == gpu.shown
    assert json.dumps(device_form(device))
    assert any(c.device == "opencl:0" and gpu.name in c.about for c in candidates()[0])


def test_results_and_times(device: OpenClDevice, artifact: Artifact, sentences) -> None:
    batch = [list(sentences(length, 99, 2)) for length in (1, 7, 33)]
    for inputs, outputs in zip(batch, device.run_batch(artifact, batch), strict=True):
        want = reference(classifier("small"), *inputs)
        assert_close(outputs[0], np.asarray(want[0][0]))
    timing = device.measure(artifact, ONCE)
    assert isinstance(timing, Timing) and len(timing.samples_ms) >= 3
    assert timing.environment["isa"] == "opencl" and timing.environment["gpu"]
    assert timing.environment["pinned"] == [] and timing.environment["library_isa"] == "opencl"


def test_a_profile_has_every_kernel(device: OpenClDevice, artifact: Artifact) -> None:
    names = [name for name, ms in device.profile(artifact, ONCE) if ms >= 0.0]
    assert [k["name"] for k in artifact.manifest["kernels"] if k["name"] != "alias"] == names


def test_its_peak(device: OpenClDevice) -> None:
    rate = device.peak_flops()
    assert rate == device.peak_flops(product="f16") > 1e8


def test_texts_run_on_the_device(device: OpenClDevice, artifact: Artifact, sentences) -> None:
    """In processes of their own, which know the number of the device."""
    model = opened_on(device)(artifact)
    assert isinstance(model, DeviceModel)
    assert np.isfinite(model.run_batch([sentences(7, 99)])[0]).all()


def test_verify(device: OpenClDevice, artifact: Artifact) -> None:
    found = verified(artifact, classifier("small"), device, longest=33)
    assert [one.length for one in found] == [1, 7, 8, 17, 31, 33]
    assert all(one.holds for one in found)


def test_loads_that_differ(
    device: OpenClDevice, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert differing_loads(artifact, device, longest=8, loads=2) == 0
    given = iter(range(3))
    right = device.run_batch

    def now_and_then(artifact: Artifact, texts: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
        found = right(artifact, texts)
        found[-1][0][..., 0] += np.float32(1e-6) * (next(given) == 1)
        return found

    monkeypatch.setattr(device, "run_batch", now_and_then)
    assert differing_loads(artifact, device, longest=8, loads=3) == 1


def test_kernels_for_the_other(device: OpenClDevice, artifact: Artifact, tmp_path: Path) -> None:
    """Libraries for a CPU do not run on a GPU, nor those for a GPU as if they were a CPU's."""
    told = get_device("local").measure(artifact, ONCE)
    assert isinstance(told, Failure) and "give --device opencl:N" in told.message
    other = compile_model(classifier("small"), tmp_path / "out")
    told = device.measure(other, ONCE)
    assert isinstance(told, Failure) and "compile with --backend opencl" in told.message


def test_a_model_on_a_gpu_has_one_thread(artifact: Artifact) -> None:
    with pytest.raises(InputError, match=r"run on a GPU; give one thread and no cores"):
        CompiledModel(artifact, threads=2)


@pytest.mark.parametrize("config", [
    MeasureConfig(length=8, samples=1, threads=2), MeasureConfig(length=8, samples=1, cores=(0,)),
])  # fmt: skip
def test_threads_and_cores_are_a_cpus(
    device: OpenClDevice, artifact: Artifact, config: MeasureConfig
) -> None:
    told = device.measure(artifact, config)
    assert isinstance(told, Failure) and "are a CPU's; leave them out" in told.message


@pytest.mark.parametrize(("name", "message"), [
    ("opencl:99", r"no device of the number 99; it has opencl:0 is .* \(\w+\)"),
    ("opencl:x", r"give a number that `canao devices` shows"),
    ("opencl:-1", r"give a number that `canao devices` shows"),
    ("opencl:0@null", r"behind @ give an ssh or adb device"),
    ("opencl:0@opencl:0", r"behind @ give an ssh or adb device"),
    ("opencl:0@nothing", r"device 'nothing' is not one of"),
])  # fmt: skip
def test_names_of_none(name: str, message: str) -> None:
    with pytest.raises(CanaoError, match=message):
        get_device(name)


def test_no_gpu_but_a_cpu() -> None:
    """A CPU's runtime is taken if it is named, and not otherwise."""
    if any(gpu.type != "cpu" for gpu in local_gpus()):
        pytest.skip("there is a GPU here")
    with pytest.raises(DeviceError, match=r"OpenCL has no GPU; it has opencl:0 is .* \(cpu\)"):
        get_device("opencl")


def test_no_opencl(monkeypatch: pytest.MonkeyPatch) -> None:
    from canao.device.bench import local_device
    from canao.device.opencl import gpus

    monkeypatch.setitem(os.environ, "CANAO_OPENCL_LIBRARY", "/nowhere/libOpenCL.so")
    with pytest.raises(DeviceError, match=r"local: .*CANAO_OPENCL_LIBRARY"):
        gpus(local_device())


def test_vectors_that_there_are_not() -> None:
    with pytest.raises(InputError, match=r"vectors of 3 floats are not among 4, 8, 16"):
        get_target().on_opencl(3)


@pytest.mark.thorough
def test_the_fastest_precision(device: OpenClDevice, tmp_path: Path) -> None:
    """Among those that there are kernels for, by times on the device that libraries choose."""
    assert candidates_of(device.target) == ("float32", "fp16", "int8")
    found = compile_fastest(classifier("small"), tmp_path / "out", target=device.target)
    assert found.artifact.on_gpu and {t.precision for t in found.tried} >= {"float32", "fp16"}


def test_no_certificate_without_verifying(
    device: OpenClDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drivers get kernels wrong: what was not compared on this device, or was compared before the
    files or the driver changed, is not certified."""
    made = compile_model(classifier("small"), tmp_path / "out", target=device.target)
    with pytest.raises(InputError, match=r"was not verified on opencl:0.* run `canao verify"):
        judge(made, device, 1000.0, ONCE)
    monkeypatch.setattr("canao.accuracy.verified.LOADS", 2)
    verdict = examined(made, classifier("small"), device, longest=8)
    require_right(made, device, verdict)
    keep_verdict(made, device, verdict)
    there = verification_on(made, device.name, device.machine.stamp, 8)
    assert there.loads == 2 and [row[0] for row in there.compared] == [1, 7, 8]

    with pytest.raises(InputError, match=r"is of texts up to 8 tokens, .* --length 9"):
        judge(made, device, 1000.0, replace(ONCE, length=9))
    monkeypatch.setattr("canao.device.certify.measure_runs", stopped)
    with pytest.raises(Reached):
        judge(made, device, 1000.0, ONCE)
    updated = OpenClDevice(get_device("local"), structs.replace(device.gpu, driver="99.9"))
    with pytest.raises(InputError, match=r"verified.json: is of another device or driver"):
        judge(made, updated, 1000.0, ONCE)
    path = made.path / VERIFIED_FILE
    said = path.read_text()
    for text, message in (
        (said.replace('"loads": 2', '"loads": 99'), "was changed after it was written"),
        (said.replace('"format": 1', '"format": 7'), "format 7, this CANAO reads 1"),
        (said.replace('"loads": 2', '"loads": "2"'), "loads"),
        ("{}", "format null"), ("", "verified.json"),
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            judge(made, device, 1000.0, ONCE)
    other = compile_model(classifier("odd"), tmp_path / "other", target=device.target)
    (other.path / VERIFIED_FILE).write_text(said)
    with pytest.raises(InputError, match=r"is of other files than are there now"):
        judge(other, device, 1000.0, ONCE)


class Reached(Exception):
    """The measurement would begin."""


def stopped(*arguments: object) -> None:
    raise Reached


@pytest.mark.parametrize(("wrong", "message"), [
    ({"differing": 3}, r"3 of 16 loads on opencl:0 gave other bits"),
    ({"compared": (Compared(7, 0.5, 2.0, False),)}, r"not near float32's at 7 tokens"),
])  # fmt: skip
def test_what_is_wrong_is_not_kept(
    device: OpenClDevice, tmp_path: Path, wrong: dict[str, object], message: str
) -> None:
    made = compile_model(classifier("small"), tmp_path / "out", target=device.target)
    verdict = Verdict((Compared(7, 1.0, 0.0, True),), 0)
    with pytest.raises(DeviceError, match=message):
        require_right(made, device, replace(verdict, **wrong))
    assert not (made.path / VERIFIED_FILE).exists()
