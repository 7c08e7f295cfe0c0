"""`--backend opencl` on the command line, and a search on an OpenCL device."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import canao
from canao.api import get_device
from canao.artifact.certificate_file import load_certificate
from canao.artifact.directory import Artifact
from canao.cli.app import main
from canao.device.null import ScriptedTimer
from tests.compiler.models import classifier
from tests.train.tiny_bert import save_tiny, write_task


def called(*arguments: str) -> int:
    """The exit code of a command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["canao", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
    return int(left.value.code or 0)


@pytest.mark.parametrize(("options", "message"), [
    (["--backend", "vulkan"], "--backend 'vulkan' is not one of cpu, opencl"),
    (["--vector", "4"], "--vector belongs to --backend opencl"),
    (["--backend", "opencl", "--isa", "avx2"], "--cpu and --isa belong to --backend cpu"),
    (["--backend", "opencl", "--vector", "5"], "vectors of 5 floats are not among 4, 8, 16"),
    (["--allow-cpu"], "--allow-cpu belongs to libraries for GPUs"),
    (["--device", "null", "--precision", "auto"], "run libraries on this machine, not on null"),
    (["--device", "local", "--isa", "avx2", "--vector", "4"], "leave out --isa, --vector"),
    (["--device", "nowhere"], "device 'nowhere' is not one of"),
])  # fmt: skip
def test_options_that_exclude_each_other(
    options: list[str], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert called("compile", str(tmp_path), "-o", str(tmp_path / "out"), *options) == 2
    said = capfd.readouterr().err
    assert message in said and said.count("\n") == 1


def test_stages_are_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    classifier("small").save_pretrained(tmp_path / "model")
    options = ("compile", str(tmp_path / "model"), "--backend", "opencl", "--emit")
    for stage, text in (("source", "__kernel"), ("plan", "attention_4x16_cl4")):
        assert called(*options, stage) == 0
        assert text in capfd.readouterr().out


def test_compiling_for_a_device(
    opencl_device: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A device says by itself what kernels it wants."""
    classifier("small").save_pretrained(tmp_path / "model")
    model, out = str(tmp_path / "model"), tmp_path / "out"
    assert called("compile", model, "--device", opencl_device, "-o", str(out)) == 0
    assert "target    host, opencl" in capfd.readouterr().out
    names = [k["name"] for k in Artifact.load(out).manifest["kernels"]]
    vector = get_device(opencl_device).target.vector
    assert any(f"_cl{vector}_" in name for name in names)


def test_a_search(
    opencl_device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the teacher to a certificate of the device, whose half minute passes at once."""
    monkeypatch.setattr("canao.device.bench.WallTimer", ScriptedTimer)
    monkeypatch.setattr("canao.accuracy.verified.LOADS", 2)
    save_tiny(tmp_path / "teacher", num_hidden_layers=1)
    write_task(tmp_path / "task", train=64)
    result = canao.search(
        teacher=tmp_path / "teacher", data=tmp_path / "task", budget_ms=1000.0,
        device=opencl_device, trials=1, quick_steps=2, epochs=1, teacher_epochs=1, length=16,
        controller="random", run_dir=tmp_path / "run", others_limit=1.0,
    )  # fmt: skip
    artifact = Artifact.load(tmp_path / "run" / "artifact")
    certificate = load_certificate(artifact)
    assert certificate is not None and certificate.holds and artifact.on_gpu
    assert certificate.machine == get_device(opencl_device).machine.stamp
    assert result.certificate.holds
