"""Several budgets: a student for each, trained once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import canao
from canao.artifact.certificate_file import load_certificate
from canao.artifact.directory import Artifact
from canao.artifact.students import read_students
from canao.errors import BudgetError, InputError
from tests.train.tiny_bert import save_tiny, write_task


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    save_tiny(folder / "teacher", num_hidden_layers=2)
    write_task(folder / "task", train=160)
    return folder


def search(place: Path, budgets: list[float], run: str = "runs", **changes: Any) -> Any:
    steps = Counter[str]()

    def train(stage: str, done: int, total: int, note: str) -> None:
        steps[stage.split()[0]] += 1

    given = {
        "teacher": place / "teacher", "data": place / "task", "trials": 1, "device": "null",
        "quick_steps": 2, "epochs": 1, "teacher_epochs": 2, "teacher_lr": 2e-3, "length": 16,
        "controller": "random", "run_dir": place / run, "train_progress": train,
    }  # fmt: skip
    return canao.search_budgets(budgets, **given | changes), steps


def test_a_student_for_each(place: Path) -> None:
    found, steps = search(place, [1.5, 3.0])
    assert list(found) == [3.0, 1.5] and steps["teacher"]
    for budget, result in found.items():
        assert result.run_dir == place / "runs" / f"{budget:g}ms"
        certificate = load_certificate(Artifact.load(result.run_dir / "artifact"))
        assert certificate.holds and certificate.budget_ms == budget
    assert not (place / "runs" / "1.5ms" / "train").exists()  # all of it is the first one's
    students = read_students(place / "runs")
    assert {one.budget_ms for one in students} == {3.0, 1.5}
    scores = [one.score for one in students]
    assert scores == sorted(scores, reverse=True)
    assert students[0].artifact.endswith("ms/artifact")
    again, steps = search(place, [1.5, 3.0])
    assert not steps and list(again) == list(found)


def test_a_budget_that_none_keeps(place: Path) -> None:
    """Is named in the end; the others are there. The null device takes 1 ms for everything."""
    said = r"keeps 0.5 ms .*--budgets .*has 1 of 2 students"
    with pytest.raises(BudgetError, match=said) as raised:
        search(place, [0.5, 4.0], "some", from_run=place / "runs" / "3ms")
    assert raised.value.exit_code == 1 and "\n" not in str(raised.value)
    rows = json.loads((place / "some" / "students.json").read_text())["students"]
    assert [(row["budget_ms"], row["artifact"]) for row in rows] == [
        (4.0, "4ms/artifact"), (0.5, "")]  # fmt: skip
    assert "0.5 ms" in rows[1]["why"]


@pytest.mark.parametrize("budgets", [[], [2.0], [2.0, 2.0], [2.0, -1.0], [2.0, float("inf")]])
def test_budgets_that_are_none(place: Path, budgets: list[float]) -> None:
    with pytest.raises(InputError, match="--budgets"):
        search(place, budgets, "none")
    assert not (place / "none").exists()
