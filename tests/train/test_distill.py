from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from canao.model import hf
from canao.model.arch import Arch
from canao.train.batches import Encoded, collate, encode
from canao.train.data import TextData
from canao.train.distill import Recipe, Signals, distill, relation_loss
from canao.train.finetune import finetune, predict_logits
from canao.train.importance import measure_importance
from canao.train.inherit import keep
from canao.train.loop import Schedule

SMALL = Arch(2, 24, 3, 32)


def silent(done: int, total: int, note: str) -> None:
    pass


@pytest.fixture(scope="module")
def data(tiny: Path, task: TextData) -> Encoded:
    return encode(hf.load_tokenizer(tiny), task.train, 32)


@pytest.fixture(scope="module")
def teacher(tiny: Path, task: TextData, data: Encoded) -> PreTrainedModel:
    torch.manual_seed(0)
    model = hf.load_classifier(tiny, task.labels)
    finetune(model, data, Schedule(epochs=8, batch=16, lr=2e-3), silent)
    return model


def test_relations_are_blind_to_rotation_and_padding() -> None:
    torch.manual_seed(0)
    x, real = torch.randn(2, 5, 8), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
    turn = torch.linalg.qr(torch.randn(1, 1)).Q
    assert relation_loss(x, x * turn, real).item() == pytest.approx(0, abs=1e-6)
    assert relation_loss(x, torch.randn(2, 5, 8), real) > 0.01
    other = x.clone()
    other[1, 3:] = 99.0
    assert relation_loss(x, other, real).item() == pytest.approx(0, abs=1e-6)
    wide = torch.cat([x, x], dim=-1)
    assert torch.isfinite(relation_loss(x[..., :6], wide, real))


def test_signals_are_the_same_kept_or_computed_again(
    teacher: PreTrainedModel, data: Encoded
) -> None:
    kept = Signals(teacher, data, silent, relations=True)
    again = Signals(teacher, data, silent, relations=True, limit=0)
    assert kept.states is not None and again.states is None
    batch = collate(data, [5, 3, 60])
    real = batch.mask.bool()
    assert torch.equal(kept.of(batch)[0], again.of(batch)[0])
    for a, b in zip(kept.of(batch)[1], again.of(batch)[1], strict=True):
        torch.testing.assert_close(a[real], b[real], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    "recipe", [Recipe(labels=0, hidden=0), Recipe(), Recipe(hidden=0, relations=1.0)]
)
def test_distilling_brings_the_student_to_the_teacher(
    recipe: Recipe, teacher: PreTrainedModel, data: Encoded
) -> None:
    kept = keep(hf.arch_of(teacher.config), SMALL, measure_importance(teacher, data))
    torch.manual_seed(1)
    student = hf.build_classifier(hf.student_config(teacher.config, SMALL))
    wanted = torch.from_numpy(predict_logits(teacher, data)).softmax(1)

    def distance() -> float:
        own = torch.from_numpy(predict_logits(student, data)).softmax(1)
        return float((own - wanted).abs().mean())

    before = distance()
    signals = Signals(teacher, data, silent, relations=recipe.relations > 0)
    schedule = Schedule(epochs=6, batch=16, lr=2e-3)
    distill(student, signals, kept.hidden, data, schedule, recipe, silent)
    assert distance() < 0.5 * before
    assert not any(m._forward_hooks for m in student.modules())
