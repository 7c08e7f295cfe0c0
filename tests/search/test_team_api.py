"""`canao.search` and `canao.worker` on real models: a teacher that is fine-tuned once and taken
from the search, libraries that are compiled, on a device that never runs them; and a local Ray."""

from __future__ import annotations

import inspect
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from canao import api
from canao.errors import InputError
from canao.search.joining import Joined
from canao.search.options import Event
from canao.search.study.journal import read_trials
from canao.search.study.team import Team
from canao.search.study.url import parse_study
from tests.train.tiny_bert import save_tiny, write_task


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The arguments of a search that takes seconds."""
    folder = tmp_path_factory.mktemp("given")
    save_tiny(folder / "teacher")
    return {
        "teacher": folder / "teacher", "data": write_task(folder / "task", train=64, dev=16),
        "budget_ms": 50.0, "device": "null", "length": 16, "trials": 2, "controller": "random",
        "teacher_epochs": 1, "teacher_lr": 2e-3, "quick_steps": 2, "epochs": 1, "samples": 1024,
        "train_device": "cpu",
    }  # fmt: skip


def test_a_worker_needs_the_study_alone(given: dict[str, Any], tmp_path: Path) -> None:
    """Where it sees the files of the search: the teacher comes from there, to the bit."""
    study, begun, judged = f"sqlite:///{tmp_path}/study.db#mine", threading.Event(), list[int]()
    said: list[str] = []

    def joins() -> None:
        assert begun.wait(120)
        judged.append(api.worker(
            study=study, run_dir=tmp_path / "worker", train_device="cpu",
            progress=lambda event: said.append(event.text),
        ))  # fmt: skip

    worker = threading.Thread(target=joins)

    def first(event: Event) -> None:
        if event.done and not begun.is_set():
            begun.set()
            worker.join(60)  # the search goes on once the worker has judged what is left

    worker.start()
    result = api.search(**given, run_dir=tmp_path / "run", study=study, progress=first)
    worker.join()
    assert judged and judged[0] >= 1, said
    assert sum(trial.trained for trial in read_trials(tmp_path / "run")) == 2
    assert result.certificate.holds
    assert json.loads((tmp_path / "run" / "run.json").read_text())["study"] == study
    name = "teacher/model.safetensors"
    there, here = tmp_path / "run" / "train" / name, tmp_path / "worker" / "train" / name
    assert there.read_bytes() == here.read_bytes()


def test_a_worker_that_lacks_the_teacher_says_what_to_copy(
    given: dict[str, Any], tmp_path: Path
) -> None:
    study = f"sqlite:///{tmp_path}/study.db"
    api.search(**given | {"trials": 1}, run_dir=tmp_path / "run", study=study)
    Team(parse_study(study)).set_phase("searching")
    (tmp_path / "run").rename(tmp_path / "moved")
    with pytest.raises(InputError, match=r"train: no fine-tuned teacher of the search is there; "
                       r"copy .* or name the directory of the search as it is seen from here"):
        api.worker(study=study, run_dir=tmp_path / "w", train_device="cpu")
    again = api.worker(study=study, run_dir=tmp_path / "w", train_device="cpu",
                       shared=tmp_path / "moved")  # fmt: skip
    assert again == 0  # nothing was left to judge
    with pytest.raises(InputError, match="is the run directory of a search; give the worker"):
        api.worker(study=study, run_dir=tmp_path / "moved")
    other = write_task(tmp_path / "other", train=32, dev=16)
    with pytest.raises(InputError, match="the text of this worker is not that of the search"):
        api.worker(study=study, run_dir=tmp_path / "w", data=other)


@pytest.mark.parametrize(("name", "value"), [
    ("teacher", 7), ("trials", "many"), ("ignored", "all"), ("run_dir", "/"), ("budget_ms", True),
])  # fmt: skip
def test_options_in_a_study_are_not_trusted(
    given: dict[str, Any], tmp_path: Path, name: str, value: object
) -> None:
    from canao.search.study.team import Offer
    from tests.search.test_workers import HERE

    team = Team(parse_study(f"sqlite:///{tmp_path}/study.db"), new=True)
    (tmp_path / "run").mkdir()
    with team.present(tmp_path / "run"):
        team.publish({}, HERE, Offer({name: value}, {}, ""), tmp_path / "run")
    with pytest.raises(InputError, match=f"its option {name} is .*; use the same version"):
        Joined(team, tmp_path).arguments(api.search.__annotations__)


def test_every_argument_of_a_search_may_be_in_a_study() -> None:
    """Those that have a type of their own would be refused."""
    from canao.search.joining import _KINDS, _OWN

    for name in inspect.signature(api.search).parameters.keys() - _OWN:
        kinds = {part.strip() for part in api.search.__annotations__[name].split("|")}
        assert kinds & _KINDS.keys(), name


def test_an_executor_that_is_not_known(given: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--executor 'spark' is not one of ray"):
        api.search(**given, run_dir=tmp_path, executor="spark")


def test_proxy_scores_on_a_local_ray(given: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    alone = api.search(**given, run_dir=tmp_path / "alone")
    found = api.search(**given, run_dir=tmp_path / "ray", executor="ray")
    scores = {trial.arch: trial.accuracy for trial in alone.trials if trial.trained}
    assert {t.arch: t.accuracy for t in found.trials if t.trained} == scores
    assert len(list((tmp_path / "ray" / "train" / "proxy").glob("*.json"))) == 2
