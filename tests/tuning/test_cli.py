"""`canao tune` as a user meets it."""

from __future__ import annotations

from pathlib import Path

import pytest

from canao.tuning import tuner
from tests.compiler.models import classifier
from tests.test_cli import canao, refused

__all__ = ["canao"]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    classifier("small", layers=1, max_length=32).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("canao.compiler.cache_directory", lambda: tmp_path)
    monkeypatch.setattr(tuner, "_SCOUTED", 1)
    return tmp_path / "tuning.sqlite"


def test_tune_then_compile(canao, model_dir: Path, tmp_path: Path, database: Path) -> None:
    done = canao("tune", str(model_dir), "--length", "17", "--budget-s", "5")
    assert done.returncode == 0, done.stderr
    assert "default ms" in done.stdout and "product_64x192" in done.stdout
    assert "ms a sequence with default plans" in done.stdout and database.is_file()
    assert canao("compile", str(model_dir), "-o", str(tmp_path / "out")).returncode == 0
    again = canao("compile", str(model_dir), "--emit", "plan")
    plain = canao("compile", str(model_dir), "--emit", "plan", "--no-tuned")
    assert again.returncode == plain.returncode == 0
    assert " tuned ->" not in plain.stdout


def test_wrong_options_are_one_line(canao, model_dir: Path, tmp_path: Path) -> None:
    refused(canao("tune", str(tmp_path / "nothing")), "nothing")
    refused(canao("tune", str(model_dir), "--target", "aarch64-linux"), "aarch64-linux", "host")
    refused(canao("tune", str(model_dir), "--target", "toaster"), "toaster")
    refused(canao("tune", str(model_dir), "--length", "33"), "length 33", "1..32")
    refused(canao("tune", str(model_dir), "--budget-s", "nan"), "budget nan")
    refused(canao("tune", str(model_dir), "--cc", "no-such-cc"), "no-such-cc")


def test_a_damaged_database(canao, model_dir: Path, tmp_path: Path, database: Path) -> None:
    database.write_bytes(b"not a database" * 1000)
    for command in (("tune", "--length", "17"), ("compile", "-o", str(tmp_path / "out"))):
        refused(canao(*command, str(model_dir)), str(database), "delete it and tune again")
    out = str(tmp_path / "out")
    assert canao("compile", str(model_dir), "-o", out, "--no-tuned").returncode == 0
