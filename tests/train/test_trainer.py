from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_bert import write_task
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from canao.errors import InputError
from canao.model import hf
from canao.model.arch import Arch
from canao.train.data import TextData, load_data
from canao.train.engine import loop
from canao.train.options import TrainOptions
from canao.train.trainer import Trainer

SMALL = Arch.uniform(2, 24, 3, 32)
OPTIONS = TrainOptions(
    max_length=32, batch=16, teacher_epochs=8, teacher_lr=2e-3, quick_steps=5,
    final_epochs=3, student_lr=1e-3, threads=1,
)  # fmt: skip


class Watch:
    """Counts the steps of each stage; raises KeyboardInterrupt at one of them."""

    def __init__(self, stage: str = "", step: int = 0) -> None:
        self.stop, self.steps = (stage, step), Counter[str]()

    def __call__(self, stage: str, done: int, total: int, note: str) -> None:
        assert 1 <= done <= total
        self.steps[stage] += 1
        if (stage, done) == self.stop:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture
def trainer(tiny: Path, task: TextData, work: Path) -> Trainer:
    return Trainer(tiny, task, work, OPTIONS, Watch())


def test_teacher_learns_and_is_kept(trainer: Trainer) -> None:
    first = trainer.teacher()
    assert first.score.value > 0.9 and trainer.teacher_arch() == Arch.uniform(3, 32, 4, 64)
    steps = trainer.progress.steps["teacher"]
    assert trainer.teacher() == first
    assert trainer.progress.steps["teacher"] == steps


def test_a_tuned_teacher_is_taken_as_it_is(
    trainer: Trainer, task: TextData, tmp_path: Path
) -> None:
    tuned = trainer.teacher()
    watch = Watch()
    again = Trainer(tuned.model_dir, task, tmp_path, OPTIONS, watch).teacher()
    assert again.score == tuned.score and not watch.steps


def test_proxy_score_is_kept_by_architecture(trainer: Trainer, task: TextData) -> None:
    found = trainer.proxy_score(SMALL)
    assert found.value > 0.6
    watch = Watch()
    again = Trainer(trainer.source, task, trainer.work, OPTIONS, watch)
    assert again.proxy_score(SMALL) == found and not watch.steps
    longer = Trainer(trainer.source, task, trainer.work, replace(OPTIONS, quick_steps=6), watch)
    longer.proxy_score(SMALL)
    assert watch.steps[f"proxy score {SMALL}"] == 6 and not watch.steps["teacher"]


def test_skeleton_is_a_model_of_that_shape(trainer: Trainer) -> None:
    folder = trainer.skeleton(SMALL)
    assert hf.arch_of(hf.load_config(folder)) == SMALL
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert trainer.skeleton(SMALL) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp


def test_finished_student_is_a_standard_directory(trainer: Trainer, task: TextData) -> None:
    student = trainer.finish(SMALL)
    assert student.score.value > 0.85
    model = AutoModelForSequenceClassification.from_pretrained(
        student.model_dir, local_files_only=True
    )
    tokenizer = AutoTokenizer.from_pretrained(student.model_dir, local_files_only=True)
    right = 0
    for example in task.dev:
        with torch.no_grad():
            logits = model(**tokenizer(example.text, return_tensors="pt")).logits
        right += model.config.id2label[int(logits.argmax())] == task.labels[example.label]
    assert right / len(task.dev) == pytest.approx(student.score.metrics["accuracy"])
    assert not list((trainer.work / "checkpoints").glob("*.safetensors"))
    assert trainer.finish(SMALL) == student


@pytest.mark.parametrize(("stage", "step"), [("teacher", 55), (f"distil {SMALL}", 30)])
def test_a_killed_run_gives_the_same_student(
    stage: str,
    step: int,
    trainer: Trainer,
    tiny: Path,
    task: TextData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = trainer.finish(SMALL)
    monkeypatch.setattr(loop, "_CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        Trainer(tiny, task, tmp_path, OPTIONS, Watch(stage, step)).finish(SMALL)
    watch = Watch()
    again = Trainer(tiny, task, tmp_path, OPTIONS, watch).finish(SMALL)
    assert 0 < watch.steps[stage] < (160 if stage == "teacher" else 60) - step + 2
    assert again.score == whole.score
    one, two = (hf.load_classifier(s.model_dir, task.labels) for s in (whole, again))
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, two.state_dict()[name]), name


def test_values_are_learnt_too(tiny: Path, tmp_path: Path) -> None:
    data = load_data(write_task(tmp_path / "data", "values"), "text-regression")
    student = Trainer(tiny, data, tmp_path / "work", OPTIONS, Watch()).finish(SMALL)
    assert data.regression and student.score.primary == "pearson_spearman"
    assert student.score.value > 0.7
    assert hf.load_config(student.model_dir).problem_type == "regression"


def test_other_data_or_damaged_records_are_not_mixed_up(
    trainer: Trainer, tiny: Path, task: TextData
) -> None:
    trainer.proxy_score(SMALL)
    record = trainer.work / "proxy" / f"{str(SMALL).replace(' ', '-')}.json"
    record.write_text("{", encoding="utf-8")
    watch = Watch()
    Trainer(tiny, task, trainer.work, OPTIONS, watch).proxy_score(SMALL)
    assert watch.steps[f"proxy score {SMALL}"] == 5
    assert set(json.loads(record.read_text())) == {"key", "metrics", "primary"}
    other = Trainer(tiny, replace(task, dev=task.dev[:30]), trainer.work, OPTIONS, Watch())
    assert other._key != trainer._key


def test_a_student_larger_than_the_teacher(trainer: Trainer) -> None:
    for ask in (trainer.proxy_score, trainer.skeleton, trainer.finish):
        with pytest.raises(InputError, match="layers 4, the teacher has 3"):
            ask(Arch.uniform(4, 24, 3, 32))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainOptions(batch=0), "batch is 0, least is 1"),
        (lambda: TrainOptions(max_length=4), "max_length is 4, least is 8"),
        (lambda: TrainOptions(student_lr=float("nan")), "student_lr is nan"),
        (lambda: TrainOptions(threads=0), "threads is 0"),
    ],
)
def test_odd_options(make: Callable[[], TrainOptions], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_teacher_and_options_must_agree(tiny: Path, task: TextData, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at most 64 tokens, max_length is 128"):
        Trainer(tiny, task, tmp_path, TrainOptions(), Watch())
    with pytest.raises(InputError, match="metric 'pearson' is not one of"):
        Trainer(tiny, task, tmp_path, replace(OPTIONS, metric="pearson"), Watch())
