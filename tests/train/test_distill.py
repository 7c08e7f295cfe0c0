from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from canao.defaults import silent
from canao.model import hf
from canao.model.arch import Arch
from canao.train.batches import Encoded, collate, encode
from canao.train.data import TextData
from canao.train.distill import Recipe, TeacherTargets, distill, outputs
from canao.train.finetune import finetune, predict_logits
from canao.train.importance import measure_importance
from canao.train.inherit import keep
from canao.train.loop import TrainingSchedule

SMALL = Arch.uniform(2, 24, 3, 32)


@pytest.fixture(scope="module")
def data(tiny: Path, task: TextData) -> Encoded:
    return encode(hf.load_tokenizer(tiny), task.train, 32)


@pytest.fixture(scope="module")
def teacher(tiny: Path, task: TextData, data: Encoded) -> PreTrainedModel:
    torch.manual_seed(0)
    model = hf.load_classifier(tiny, task.labels)
    finetune(model, data, TrainingSchedule(epochs=8, batch=16, lr=2e-3), silent)
    return model


def test_teacher_targets_are_the_same_kept_or_computed_again(
    teacher: PreTrainedModel, data: Encoded
) -> None:
    kept = TeacherTargets(teacher, data, silent)
    again = TeacherTargets(teacher, data, silent, limit=0)
    assert kept.states is not None and again.states is None
    batch = collate(data, [5, 3, 60])
    real = batch.padding_mask.bool()
    assert torch.equal(kept.of(batch)[0], again.of(batch)[0])
    states = [targets.of(batch)[1][real] for targets in (kept, again)]
    torch.testing.assert_close(*states, rtol=1e-2, atol=1e-2)


@pytest.fixture
def student(teacher: PreTrainedModel) -> PreTrainedModel:
    """Of random weights: one that inherits is next to the teacher already."""
    torch.manual_seed(1)
    return hf.build_classifier(hf.student_config(teacher.config, SMALL)).eval()


@pytest.fixture(scope="module")
def hidden(teacher: PreTrainedModel, data: Encoded) -> Tensor:
    return keep(hf.arch_of(teacher.config), SMALL, measure_importance(teacher, data)).hidden


SCHEDULE = TrainingSchedule(epochs=6, batch=16, lr=2e-3)


@pytest.mark.parametrize("recipe", [Recipe(labels=0, hidden=0), Recipe()])
def test_distilling_brings_the_classes_to_the_teachers(
    recipe: Recipe,
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    data: Encoded,
    hidden: Tensor,
) -> None:
    wanted = torch.from_numpy(predict_logits(teacher, data)).softmax(1)

    def distance() -> float:
        own = torch.from_numpy(predict_logits(student, data)).softmax(1)
        return float((own - wanted).abs().mean())

    before = distance()
    targets = TeacherTargets(teacher, data, silent)
    distill(student, targets, hidden, data, SCHEDULE, silent, recipe=recipe)
    assert distance() < 0.5 * before
    assert not any(module._forward_hooks for module in student.modules())


def test_distilling_brings_the_states_to_the_teachers(
    student: PreTrainedModel, teacher: PreTrainedModel, data: Encoded, hidden: Tensor
) -> None:
    batch = collate(data, range(64))
    real = batch.padding_mask.bool()

    def distance() -> float:
        with torch.no_grad():
            own, wanted = outputs(student, batch)[1], outputs(teacher, batch)[1]
        return float((own[real] - wanted[..., hidden][real]).square().mean())

    before = distance()
    recipe = Recipe(logits=0, labels=0)
    targets = TeacherTargets(teacher, data, silent)
    distill(student, targets, hidden, data, SCHEDULE, silent, recipe=recipe)
    assert distance() < 0.5 * before
