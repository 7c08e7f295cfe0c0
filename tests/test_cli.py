"""The command line as a user meets it: results, exit codes, one line for what is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from canao.artifact.directory import Artifact
from canao.cli.app import main
from canao.compiler import compile_model
from tests.compiler.models import classifier


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def canao(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """The command line, run in this process: its exit code and what it printed."""

    def run(*arguments: str, **environment: str) -> Done:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["canao", *arguments])
            for name, value in environment.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as left:
                main()
        captured = capfd.readouterr()
        return Done(left.value.code or 0, captured.out, captured.err)

    return run


def refused(done: Done, *words: str) -> None:
    """One clear line on standard error, no traceback, an exit code that is not 0."""
    assert done.returncode not in (0, 120), done
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("canao: error: "), done.stderr
    for word in words:
        assert word in lines[0], lines[0]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    classifier("small").save_pretrained(folder)
    _write_tokenizer(folder)
    return folder


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = {word: i for i, word in enumerate(["[UNK]", "wake", "me", "at", "seven"])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def artifact(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_model(model_dir, tmp_path_factory.mktemp("artifact") / "out").path


def test_compile_and_run(canao, model_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = canao("compile", str(model_dir), "-o", str(out))
    assert done.returncode == 0, done.stderr
    assert "before fusion" in done.stdout and "kernels after" in done.stdout
    said = canao("run", str(out), "wake me at seven")
    assert said.returncode == 0 and "LABEL_" in said.stdout
    pair = canao("run", str(out), "wake me", "at seven", "--threads", "2", "--top", "1")
    assert len(pair.stdout.strip().splitlines()) == 1
    assert not list(tmp_path.glob(".*")), "a temporary directory was left behind"


@pytest.mark.parametrize("stage", ("graph", "fused", "plan", "source"))
def test_emit(canao, stage: str, model_dir: Path) -> None:
    first, second = (canao("compile", str(model_dir), "--emit", stage) for _ in range(2))
    assert first.returncode == 0 and first.stdout and first.stdout == second.stdout


def test_bench_json(canao, artifact: Path) -> None:
    done = canao("bench", str(artifact), "--samples", "50", "--length", "17", "--json", "--profile",
                 "--percentile", "50,99.9")  # fmt: skip
    form = json.loads(done.stdout)
    row = form["latency_ms"]
    assert row["n"] == 50 and row["min"] <= row["p50"] <= row["p99.9"] <= row["max"]
    assert row["load"] > 0 and row["cold"] > 0 and 1e6 < row["peak_bytes"] < 1e9
    assert form["config"]["length"] == 17 and form["environment"]["cpu"]
    assert len(form["profile_ms"]) == 13
    raw = json.loads(canao("bench", str(artifact), "--samples", "9", "--raw").stdout)
    assert len(raw["samples_ms"]) == 9


def test_bench_stops_at_its_time(canao, artifact: Path) -> None:
    begun = time.monotonic()
    done = canao("bench", str(artifact), "--samples", "100000000", "--max-seconds", "0.3", "--json")
    assert time.monotonic() - begun < 60
    assert 0 < json.loads(done.stdout)["latency_ms"]["n"] < 100000000


def test_certify(canao, artifact: Path) -> None:
    held = canao("certify", str(artifact), "--budget-ms", "10000")
    assert held.returncode == 0, held.stderr
    certificate = json.loads((artifact / "certificate.json").read_text())
    assert certificate["holds"] is True
    assert certificate["digest"] == Artifact.load(artifact).digest
    missed = canao("certify", str(artifact), "--budget-ms", "0.00001")
    assert missed.returncode == 1 and "0.00001" in missed.stderr or "1e-05" in missed.stderr
    for budget in ("0", "-3", "nan", "inf"):
        refused(canao("certify", str(artifact), "--budget-ms", budget), "budget")
    few = canao("certify", str(artifact), "--budget-ms", "10000", "--samples", "64")
    refused(few, "at least 1024 samples, not 64")


def test_wrong_paths_and_options(canao, model_dir: Path, artifact: Path, tmp_path: Path) -> None:
    refused(canao("compile", "no/such/dir", "-o", str(tmp_path / "o")), "no/such/dir")
    (tmp_path / "empty").mkdir()
    refused(canao("compile", str(tmp_path / "empty"), "-o", str(tmp_path / "o")), "config.json")
    refused(canao("compile", str(model_dir)), "-o")
    refused(canao("compile", str(model_dir), "--emit", "assembly"), "assembly", "graph")
    refused(canao("compile", str(model_dir), "-o", str(tmp_path / "o"), "--target", "z80"), "z80")
    refused(canao("compile", str(model_dir), "-o", str(tmp_path / "o"), "--cc", "no-cc"), "no-cc")
    refused(canao("compile", str(model_dir), "-o", str(tmp_path / "o"), "--max-length", "9999"))
    refused(canao("run", str(model_dir), "hello"), "manifest.json", "canao compile")
    refused(canao("run", str(artifact), "  "), "empty")
    refused(canao("bench", str(artifact), "--lenght", "8"), "--lenght")
    refused(canao("bench", str(artifact), "--length", "513"), "513", "512")
    refused(canao("bench", str(artifact), "--device", "toaster"), "toaster", "local")
    refused(canao("bench", str(artifact), "--percentile", "50,x"), "50,x")
    refused(canao("report", str(tmp_path / "empty")))
    assert not (tmp_path / "o").exists()


def test_a_place_that_cannot_be_written_is_found_first(
    canao, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("canao.compiler.load_model", lambda *_: pytest.fail("the model was loaded"))
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "o", Path("/proc/canao/o")):
        refused(canao("compile", str(model_dir), "-o", str(place)), str(place), "directory")


def test_other_peoples_directories_are_left_alone(canao, model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("do not touch")
    refused(canao("compile", str(model_dir), "-o", str(tmp_path)), str(tmp_path), "not empty")
    assert (tmp_path / "thesis.txt").read_text() == "do not touch"


def test_damaged_models(canao, model_dir: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(model_dir, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    refused(canao("compile", str(broken), "-o", str(tmp_path / "o")), "broken")
    weights.unlink()
    (broken / "pytorch_model.bin").write_bytes(b"pickle")
    refused(canao("compile", str(broken), "-o", str(tmp_path / "o")), "safetensors", "pickle")
    (broken / "config.json").write_text("{")
    refused(canao("compile", str(broken), "-o", str(tmp_path / "o")), "config.json")


def test_damaged_artifacts(canao, artifact: Path, tmp_path: Path) -> None:
    for name, size in (("weights.bin", 100), ("model.so", 100), ("manifest.json", 10)):
        copy = tmp_path / name
        shutil.copytree(artifact, copy)
        (copy / name).write_bytes((copy / name).read_bytes()[:size])
        refused(canao("run", str(copy), "wake me"))
        refused(canao("bench", str(copy), "--samples", "4"))


def test_no_room_for_the_build(canao, model_dir: Path, tmp_path: Path) -> None:
    """A full disk: a tiny file system where this may mount one, else a directory not writable."""
    place = tmp_path / "full"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no permission to mount a small file system")
    try:
        cache = canao("compile", str(model_dir), "-o", str(tmp_path / "o"), CANAO_CACHE=str(place))
        refused(cache, "no space", "CANAO_CACHE")
        refused(canao("compile", str(model_dir), "-o", str(place / "o")), str(place))
        assert not list(place.glob("o*")) and not list(place.glob(".o*"))
    finally:
        subprocess.run(["umount", str(place)], check=True)
    assert not (tmp_path / "o").exists()


def test_an_operator_that_is_not_supported_is_named(tmp_path: Path) -> None:
    import torch

    from canao.errors import UnsupportedError

    class Sorted(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(9, 4)
            self.inner = torch.nn.Sequential(_Sort())

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return self.inner(self.table(input_ids))

    with pytest.raises(UnsupportedError, match=r"sort.* at inner\.0"):
        compile_model(Sorted(), tmp_path / "out", max_length=16)
    assert not (tmp_path / "out").exists()


def _Sort() -> object:
    import torch

    class Sort(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sort(-1).values

    return Sort()


def test_as_a_process(tmp_path: Path) -> None:
    """What a shell sees: the installed module, an exit code, one line."""
    done = subprocess.run(
        [sys.executable, "-m", "canao.cli.app", "bench", str(tmp_path / "none")],
        capture_output=True, text=True,
    )  # fmt: skip
    refused(Done(done.returncode, done.stdout, done.stderr), "none")
    usage = subprocess.run([sys.executable, "-m", "canao.cli.app"], capture_output=True, text=True)
    assert usage.returncode == 2 and "certify" in usage.stderr


def test_importing_canao_is_light() -> None:
    code = (
        "import sys, canao; heavy = {'torch', 'transformers', 'optuna', 'matplotlib'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_cross_compile_says_where_it_runs(canao, model_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "arm"
    assert (
        canao("compile", str(model_dir), "-o", str(out), "--target", "aarch64-linux").returncode
        == 0
    )
    refused(canao("run", str(out), "wake me"), "aarch64-linux", "--target host")
