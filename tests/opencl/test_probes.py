"""Models on a device whose driver is asked first: what that costs, and what Python says of one that
is wrong; and on one that is given a program for each kernel."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from canao.artifact.directory import Artifact
from canao.compiler.pipeline import compile_model
from canao.emit.opencl.defects import DEFECTS
from canao.emit.opencl.probe import Probes
from canao.errors import CanaoError
from canao.inference.compiled_model import CompiledModel
from canao.target import get_target
from tests.compiler.models import classifier, reference
from tests.oracle import assert_close

GPU = get_target().on_opencl(4)


def opened_in(artifact: Artifact) -> float:
    """Seconds that a model takes to open when all is there."""
    with CompiledModel(artifact):
        pass
    times = []
    for _ in range(7):
        start = time.perf_counter()
        with CompiledModel(artifact):
            times.append(time.perf_counter() - start)
    return min(times)


def test_what_it_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Well under 5 ms; the bound is for a machine that does something else as well."""
    asked = opened_in(compile_model(classifier("small"), tmp_path / "asked", target=GPU))
    monkeypatch.setattr("canao.emit.opencl.unit.probes_of", lambda *_: Probes(()))
    plain = opened_in(compile_model(classifier("small"), tmp_path / "plain", target=GPU))
    assert asked - plain < 0.025, f"{1e3 * (asked - plain):.1f} ms"


def test_a_program_for_each_kernel(
    tmp_path: Path, sentences, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device that the table says so of, here by a text that all devices have."""
    row = replace(DEFECTS[0], met=("OpenCL",))
    monkeypatch.setattr("canao.emit.opencl.unit.DEFECTS", (row,))
    monkeypatch.setenv("CANAO_OPENCL_CACHE", str(tmp_path / "kept"))
    artifact = compile_model(classifier("small"), tmp_path / "out", target=GPU)
    for _ in range(2):
        with CompiledModel(artifact) as compiled:
            ids = sentences(33, 99)
            (want,) = reference(classifier("small"), *ids)
            assert_close(compiled(*ids)[None], want)
        kernels = {k["name"] for k in artifact.manifest["kernels"]}
        assert len(list((tmp_path / "kept").iterdir())) >= len(kernels) + 4


def test_a_driver_that_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Python says of it: one line, which a command prints."""
    monkeypatch.setattr("canao.emit.opencl.probe_values._NEAR", -1.0)  # no function is near enough
    artifact = compile_model(classifier("small"), tmp_path / "wrong", target=GPU)
    with pytest.raises(CanaoError, match=r"computes wrong: exp gives .* is right; update") as error:
        CompiledModel(artifact)
    assert "\n" not in str(error.value) and "--backend cpu" in str(error.value)
