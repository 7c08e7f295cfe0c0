"""Rankers by name, in a trainer: what they say, what they depend on, and that it is kept."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_bert import save_tiny, write_task

from canao.errors import InputError
from canao.model.arch import Arch
from canao.train.data import TextData, load_data
from canao.train.options import RANKERS, TrainOptions
from canao.train.ranking.rankers import KEPT
from canao.train.records import digest, read_record
from canao.train.trainer import Trainer

# Of width 16 some processors' float32 learns the task whole.
SMALLEST = Arch.uniform(1, 4, 1, 4)
SMALL, LARGER = Arch.uniform(1, 16, 2, 16), Arch.uniform(3, 32, 4, 64)
OPTIONS = TrainOptions(
    max_length=32, batch=16, teacher_epochs=8, teacher_lr=2e-3, final_epochs=1, student_lr=1e-3,
    threads=1,
)  # fmt: skip


class Steps:
    """Counts the steps of each stage."""

    def __init__(self) -> None:
        self.of = Counter[str]()

    def __call__(self, stage: str, done: int, total: int, note: str) -> None:
        self.of[stage] += 1


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


STEPS = {"short": {"quick_steps": 5}, "supernet": {"supernet_steps": 12}}


def a_trainer(tiny: Path, task: TextData, work: Path, **changes: object) -> Trainer:
    few = STEPS.get(str(changes.get("ranker", "short")), {})
    return Trainer(tiny, task, work, replace(OPTIONS, **few | changes), Steps())


@pytest.mark.parametrize("name", RANKERS)
def test_a_larger_student_is_the_better_one(
    name: str, tiny: Path, task: TextData, work: Path
) -> None:
    trainer = a_trainer(tiny, task, work, ranker=name)
    small, large = trainer.proxy_score(SMALLEST), trainer.proxy_score(LARGER)
    assert 0.0 <= small.value < large.value <= 1.0
    assert (small.primary == KEPT) == (name == "pruning")


def test_the_teachers_shape_keeps_all_of_it(tiny: Path, task: TextData, work: Path) -> None:
    trainer = a_trainer(tiny, task, work, ranker="pruning")
    assert trainer.proxy_score(LARGER).value == pytest.approx(1.0)
    fitted = a_trainer(tiny, task, work, ranker="fitted")
    assert fitted.proxy_score(LARGER).value == fitted.teacher().score.value


def test_a_supernet_is_trained_once_and_kept(tiny: Path, task: TextData, work: Path) -> None:
    first = a_trainer(tiny, task, work, ranker="supernet", supernet_steps=7)
    score = first.proxy_score(SMALL)
    first.proxy_score(LARGER)
    assert first.progress.of["supernet"] >= 7
    assert not list((work / "checkpoints").glob("supernet*"))
    (work / "proxy" / f"{str(SMALL).replace(' ', '-')}.json").unlink()
    again = a_trainer(tiny, task, work, ranker="supernet", supernet_steps=7)
    assert again.proxy_score(SMALL) == score and not again.progress.of["supernet"]
    longer = a_trainer(tiny, task, work, ranker="supernet", supernet_steps=8)
    longer.proxy_score(SMALL)
    assert longer.progress.of["supernet"] >= 8


def test_a_killed_supernet_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    """With a table of words of which most rows are cut off while it trains; and where what is kept
    of the teacher has to be measured again."""
    wide = save_tiny(tmp_path / "wide", vocab_size=300)
    task = load_data(write_task(tmp_path / "task", train=96))

    class Killed(Steps):
        def __call__(self, stage: str, done: int, total: int, note: str) -> None:
            super().__call__(stage, done, total, note)
            if stage == "supernet" and "loss" in note and done == 9:
                raise KeyboardInterrupt

    def a_run(name: str, progress: Steps) -> Trainer:
        options = replace(OPTIONS, ranker="supernet", supernet_steps=12)
        return Trainer(wide, task, tmp_path / name, options, progress)

    score = a_run("whole", Steps()).proxy_score(SMALL)
    with pytest.raises(KeyboardInterrupt):
        a_run("killed", Killed()).proxy_score(SMALL)
    (tmp_path / "whole" / "importance.safetensors").unlink()
    assert a_run("killed", Steps()).proxy_score(SMALL) == score
    nets = [load_file(tmp_path / n / "supernet.safetensors") for n in ("whole", "killed")]
    assert nets[0].keys() == nets[1].keys()
    assert all(torch.equal(a, nets[1][name]) for name, a in nets[0].items())
    # The trial that was under way has a skeleton, and the importance is lost.
    (tmp_path / "whole" / "proxy" / f"{str(SMALL).replace(' ', '-')}.json").unlink()
    assert a_run("whole", Steps()).proxy_score(SMALL) == score


def test_scores_of_earlier_versions_are_found(tiny: Path, task: TextData, work: Path) -> None:
    """Their key had nothing of rankers."""
    trainer = a_trainer(tiny, task, work)
    trainer.proxy_score(SMALL)
    record = work / "proxy" / f"{str(SMALL).replace(' ', '-')}.json"
    key = digest(trainer._key, trainer.options.quick_steps, OPTIONS.student_lr)
    assert read_record(record, key) is not None


def test_what_is_no_ranker_is_refused() -> None:
    with pytest.raises(InputError, match="ranker is 'tau'; give short, supernet, fitted, pruning"):
        TrainOptions(ranker="tau")
    with pytest.raises(InputError, match="supernet_steps is 0, least is 1"):
        TrainOptions(supernet_steps=0)
    with pytest.raises(InputError, match="quick_steps is 7, which is of the ranker 'short', and"):
        TrainOptions(ranker="supernet", quick_steps=7)
    with pytest.raises(InputError, match="supernet_steps is 7, which is of the ranker 'supernet'"):
        TrainOptions(supernet_steps=7)
