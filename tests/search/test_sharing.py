"""A run that uses what another one trained and timed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import canao
from canao.errors import InputError
from canao.search import SearchResult
from canao.search.study.run_file import locked
from tests.train.tiny_bert import save_tiny, write_task


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    save_tiny(folder / "teacher", num_hidden_layers=2)
    write_task(folder / "task", train=160)
    search(folder, "first", 2.0)
    return folder


def search(place: Path, name: str, budget: float, **changes: Any) -> tuple[SearchResult, Counter]:
    steps = Counter[str]()

    def train(stage: str, done: int, total: int, note: str) -> None:
        steps[stage] += 1

    given = {
        "teacher": place / "teacher", "data": place / "task", "budget_ms": budget, "trials": 2,
        "run_dir": place / name, "device": "null", "quick_steps": 2, "epochs": 1,
        "teacher_epochs": 2, "teacher_lr": 2e-3, "length": 16, "controller": "random",
        "train_progress": train,
    }  # fmt: skip
    return canao.search(**given | changes), steps


def test_nothing_is_trained_twice(place: Path) -> None:
    first, _ = search(place, "first", 2.0)
    result, steps = search(place, "second", 1.5, from_run=place / "first")
    assert not steps["teacher"] and not any(stage.startswith("distil") for stage in steps)
    assert result.arch == first.arch and result.certificate.budget_ms == 1.5
    assert not (place / "second" / "train").exists()
    times = json.loads((place / "first" / "latency.json").read_text())
    assert json.loads((place / "second" / "latency.json").read_text()) == times
    # Resumed, it is what it was; and the first run is untouched.
    again, steps = search(place, "second", 1.5, from_run=place / "first")
    assert again.certificate.digest == result.certificate.digest and not steps
    assert search(place, "first", 2.0)[1] == Counter()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": 2}, r"--from .*first: was trained with other options \(training.final_epochs"),
        ({"precision": "int8"}, r"precision was 'float32', now 'int8'"),
        ({"length": 24}, r"training.max_length was '16', now '24'"),
    ],
)
def test_another_training_is_refused_by_name(
    place: Path, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        search(place, "other", 1.5, from_run=place / "first", **change)
    assert not (place / "other" / "study.db").exists()


def test_what_is_no_run_is_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no run\.json; give a directory written by"):
        search(place, "other", 1.5, from_run=tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="is the run itself, or uses its training; leave it out"):
        search(place, "first", 2.0, from_run=place / "first")
    with locked(place / "first"), pytest.raises(InputError, match="another search is running"):
        search(place, "other", 1.5, from_run=place / "first")


def test_a_run_says_where_it_trains(place: Path) -> None:
    """Resumed without the other run, or with a third, it would mix two teachers' students."""
    search(place, "tells", 1.5, from_run=place / "first")
    with pytest.raises(InputError, match=r"from was '.*first', now None"):
        search(place, "tells", 1.5)
    # Of a run that trains in the first one, so does the next.
    result, steps = search(place, "third", 1.25, from_run=place / "tells", min_accuracy=0.1)
    assert not steps["teacher"] and str(place / "first") in str(result.model_dir)
    with pytest.raises(InputError, match="uses its training"):
        search(place, "first", 2.0, from_run=place / "tells")


def test_what_only_the_other_run_had_is_compared(place: Path) -> None:
    texts = place / "more.txt"
    texts.write_text("a good film\n" * 8)
    search(place, "more", 2.0, unlabelled_text=texts)
    with pytest.raises(InputError, match=r"unlabelled_text was '.*more\.txt', now None"):
        search(place, "without", 2.0, from_run=place / "more")


def test_another_runs_directory_is_left_as_it_is(place: Path) -> None:
    search(place, "alone", 2.0, epochs=2)
    (place / "alone" / "latency.json").unlink()
    with pytest.raises(InputError, match="was started with other options"):
        search(place, "alone", 1.5, from_run=place / "first")
    assert not (place / "alone" / "latency.json").exists()
