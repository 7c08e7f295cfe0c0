"""`canao tune` as a user meets it."""

from __future__ import annotations

from pathlib import Path

import pytest

from canao.compiler.loading import load_model
from canao.compiler.pipeline import compile_graph
from canao.compiler.plans import tuning_database
from canao.fuse.group import Program
from canao.lower.scheduling import default_plans, space, target_in
from canao.schedule.database import VERSION, Measured
from canao.target import get_target
from canao.tuning import tuner
from canao.tuning.tuner import find_subjects
from tests.compiler.models import classifier
from tests.test_cli import canao, refused

pytestmark = pytest.mark.as_shipped

__all__ = ["canao"]
HOST = get_target()


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    classifier("small", layers=1, max_length=32).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("canao.compiler.plans.cache_directory", lambda: tmp_path)
    monkeypatch.setattr(tuner, "_SCOUTED", 1)
    return tmp_path / f"tuning-{VERSION}.sqlite"


def test_tune_then_compile(canao, model_dir: Path, tmp_path: Path, database: Path) -> None:
    done = canao("tune", str(model_dir), "--length", "17", "--budget-s", "5")
    assert done.returncode == 0, done.stderr
    assert "default ms" in done.stdout and "gemm_64x192" in done.stdout
    assert "ms a sequence with default plans" in done.stdout and database.is_file()
    assert canao("compile", str(model_dir), "-o", str(tmp_path / "out")).returncode == 0
    plans = default_plans(_program(model_dir), HOST)
    subjects = find_subjects(_program(model_dir), HOST)
    known = tuning_database(HOST).read_all([s.text for s in subjects])
    assert len(known) == 7 and all(known.values()), "a kernel of which nothing was measured"
    assert {m.length for rows in known.values() for m in rows} == {17} and len(plans) == 8


def test_tune_in_int8(canao, model_dir: Path) -> None:
    done = canao("tune", str(model_dir), "--length", "17", "--budget-s", "1", "--precision", "int8")
    assert done.returncode == 0, done.stderr
    assert "gemm_64x192_i8" in done.stdout
    subjects = find_subjects(_program(model_dir, "int8"), HOST)
    known = tuning_database(target_in(HOST, "int8")).read_all([s.text for s in subjects])
    assert sum("q8" in text for text in known) == 4 and all(known.values())


def _program(model_dir: Path, precision: str = "float32") -> Program:
    graph = load_model(model_dir)[1]
    return compile_graph(graph, HOST, planner=default_plans, precision=precision).program


def test_compile_takes_what_was_tuned(canao, model_dir: Path) -> None:
    """Another plan than the default, measured as faster: for one kernel, unless not wanted."""
    subjects = find_subjects(_program(model_dir), HOST)
    deep = next(s for s in subjects if s.region.ops == ("linear", "gelu"))
    plan = space(deep.region, HOST)[1]
    tuning_database(HOST).add({deep.text: [Measured(plan, 17, 1, 1.0, 2.0, final=True)]})
    tuned = canao("compile", str(model_dir), "--emit", "plan").stdout
    plain = canao("compile", str(model_dir), "--emit", "plan", "--no-tuned").stdout
    assert tuned.count(" tuned -> ") == 1 and f"plan {plan.name} tuned -> " in tuned
    assert plain.count(" plan ") == tuned.count(" plan ") == 8 and " tuned " not in plain


def test_wrong_options_are_one_line(canao, model_dir: Path, tmp_path: Path) -> None:
    refused(canao("tune", str(tmp_path / "nothing")), "nothing")
    other = canao("tune", str(model_dir), "--target", "aarch64-linux")
    refused(other, "aarch64-linux", "--device ssh:HOST")
    refused(canao("tune", str(model_dir), "--target", "toaster"), "toaster")
    refused(canao("tune", str(model_dir), "--length", "33"), "length 33", "1..32")
    refused(canao("tune", str(model_dir), "--budget-s", "nan"), "budget nan")
    refused(canao("tune", str(model_dir), "--cc", "no-such-cc"), "no-such-cc")
    refused(canao("tune", str(model_dir), "--precision", "int7"), "int7", "int8")


def test_a_damaged_database(canao, model_dir: Path, tmp_path: Path, database: Path) -> None:
    database.write_bytes(b"not a database" * 1000)
    for command in (("tune", "--length", "17"), ("compile", "-o", str(tmp_path / "out"))):
        refused(canao(*command, str(model_dir)), str(database), "delete it and tune again")
    out = str(tmp_path / "out")
    assert canao("compile", str(model_dir), "-o", out, "--no-tuned").returncode == 0
