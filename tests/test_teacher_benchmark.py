"""The study of fine-tuned teachers, on a small model and made-up data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import teacher  # noqa: E402
from peers.records import Records  # noqa: E402
from peers.results import PUBLISHED  # noqa: E402
from peers.source import Source  # noqa: E402

from canao.errors import InputError  # noqa: E402
from tests.train.tiny_bert import save_tiny, write_task  # noqa: E402


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(Source, "read", staticmethod(lambda: Source("c0ffee", ())))
    monkeypatch.setattr(teacher, "LENGTH", 32)
    write_task(tmp_path / "data" / "glue" / "RTE", train=40, dev=20)
    return [
        "--data", str(tmp_path / "data"), "--work", str(tmp_path / "work"), "--tasks", "RTE",
        "--seeds", "3", "--teacher", str(save_tiny(tmp_path / "tiny")),
        "--out", str(tmp_path / "rows.jsonl"), "--variants", "bert",
    ]  # fmt: skip


def test_a_case_is_recorded_once(
    study: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert teacher.main(study) == 0
    (row,) = Records(tmp_path / "rows.jsonl", teacher.IDENTITY).read()
    assert (row["dataset"], row["seed"], row["variant"]) == ("RTE", 3, "bert")
    assert (row["train_examples"], row["examples"]) == (40, 20)
    assert (row["recipe"]["rate"], row["recipe"]["epochs"]) == (5e-5, 3)
    assert set(row["metrics"]) == {"accuracy", "f1", "matthews_correlation"}
    monkeypatch.setattr(teacher, "Trainer", None)  # nothing is trained again
    assert teacher.main(study) == 0


def test_fewer_examples_are_another_case(study: list[str], tmp_path: Path) -> None:
    assert teacher.main([*study, "--most", "24"]) == 0
    (row,) = Records(tmp_path / "rows.jsonl", teacher.IDENTITY).read()
    assert (row["most"], row["train_examples"]) == (24, 24)


@pytest.mark.parametrize(
    "changes", [("--tasks", "RTE,CoLA2"), ("--seeds", "one"), ("--variants", "best")]
)
def test_what_there_is_not_is_refused(study: list[str], changes: tuple[str, str]) -> None:
    assert teacher.main([*study, *changes]) == InputError.exit_code


def row(seed: int, value: float) -> dict[str, Any]:
    return {
        "dataset": "MRPC", "seed": seed, "variant": "recipe", "most": 0, "kind": "accuracy",
        "metric": "accuracy", "metrics": {"accuracy": value, "f1": value + 0.05},
        "train_examples": 3668, "examples": 408, "source": {"commit": "c0ffee", "changed": []},
        "recipe": {"rate": 1e-4, "epochs": 5, "best_epoch": 3 + seed},
    }  # fmt: skip


def test_a_table_has_a_row_for_task_and_recipe() -> None:
    text = teacher.rows_of([row(0, 0.82), row(1, 0.84)])
    assert text.splitlines()[2:] == [
        "| MRPC | recipe | 3,668 | 408 | 2 | accuracy | 83.00 ± 1.41 | 88.00 ± 1.41 | 0.0001 | "
        "3, 5; 4, 5 |"
    ]
    assert teacher.rows_of([]) == "No records yet.\n"


def test_the_published_page_is_that_of_the_records() -> None:
    held = Records(PUBLISHED / "teacher.jsonl", teacher.IDENTITY).read()
    page = teacher.PAGE.read_text(encoding="utf-8")
    assert f"begin -->\n{teacher.rows_of(held)}" in page
