from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from canao.defaults import silent
from canao.model import hf
from canao.model.arch import Arch
from canao.train.data import TextData
from canao.train.distillation.distill import Objective, distill, needed
from canao.train.distillation.losses import LOSSES
from canao.train.distillation.signals import Pairing, Signal, observe
from canao.train.distillation.targets import TeacherTargets
from canao.train.engine import loop
from canao.train.engine.batches import Encoded, collate, encode
from canao.train.engine.fake_quantization import FakeQuantization
from canao.train.engine.loop import TrainingSchedule
from canao.train.inheritance.importance import measure_importance
from canao.train.inheritance.inherit import Kept, keep
from canao.train.options import TrainOptions
from canao.train.teacher.finetune import finetune, predict_logits

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


@pytest.fixture
def student(teacher: PreTrainedModel) -> PreTrainedModel:
    """Of random weights: one that inherits is next to the teacher already."""
    torch.manual_seed(1)
    return hf.build_classifier(hf.student_config(teacher.config, SMALL)).eval()


@pytest.fixture(scope="module")
def kept(teacher: PreTrainedModel, data: Encoded) -> Kept:
    return keep(hf.arch_of(teacher.config), SMALL, measure_importance(teacher, data))


@pytest.fixture
def pairing(student: PreTrainedModel, teacher: PreTrainedModel, kept: Kept) -> Pairing:
    return Pairing.of(student, teacher, kept.layers, kept.hidden, relation_heads=8)


SCHEDULE = TrainingSchedule(epochs=6, batch=16, lr=2e-3)
DEFAULT = TrainOptions().weights


def targets_of(
    teacher: PreTrainedModel, data: Encoded, losses: dict[str, float], pairing: Pairing
) -> TeacherTargets:
    targets = TeacherTargets(teacher, data)
    targets.prepare(needed(losses, pairing)[1], silent)
    return targets


@pytest.mark.parametrize("losses", [{"logits": 1.0}, DEFAULT])
def test_distilling_brings_the_classes_to_the_teachers(
    losses: dict[str, float],
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    data: Encoded,
    pairing: Pairing,
) -> None:
    wanted = torch.from_numpy(predict_logits(teacher, data)).softmax(1)

    def distance() -> float:
        own = torch.from_numpy(predict_logits(student, data)).softmax(1)
        return float((own - wanted).abs().mean())

    before = distance()
    targets = targets_of(teacher, data, losses, pairing)
    distill(student, targets, pairing, data, SCHEDULE, silent, losses)
    assert distance() < 0.5 * before
    assert not any(module._forward_hooks for module in (*student.modules(), *teacher.modules()))


@pytest.mark.parametrize(
    ("name", "left"),
    [("hidden", 0.9), ("attention", 0.6), ("relations", 0.93), ("progressive", 0.96)],
)
def test_distilling_lowers_each_loss(
    name: str,
    left: float,
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    data: Encoded,
    pairing: Pairing,
) -> None:
    """On examples of the data, measured with dropout off."""
    losses = {name: 1.0} | ({"logits": 1e-3} if LOSSES[name].staged else {})
    batch, (mine, theirs) = collate(data, range(64)), LOSSES[name].needs(pairing)

    def distance() -> float:
        with torch.no_grad():
            own, wanted = observe(student.eval(), batch, mine), observe(teacher, batch, theirs)
            return float(LOSSES[name].value(own, wanted, batch, pairing))

    before = distance()
    data = data.take(range(160))
    targets = targets_of(teacher, data, losses, pairing)
    distill(student, targets, pairing, data, replace(SCHEDULE, epochs=3), silent, losses)
    assert distance() < left * before


def test_losses_are_nearly_the_same_in_bfloat16_and_int8(
    student: PreTrainedModel, teacher: PreTrainedModel, data: Encoded, pairing: Pairing
) -> None:
    """Rounded products move a loss a little, and they do move it: losses see what is rounded."""
    batch, rounding = collate(data, [7, 1, 9]), FakeQuantization.of(student.eval(), 32)
    for name, loss in LOSSES.items():
        losses = {name: 1.0} | ({"labels": 1.0} if loss.staged else {})
        targets = targets_of(teacher, data, losses, pairing)
        # Step 9 is the last before other losses, where there is such.
        objective = Objective(student, targets, pairing, losses, steps=30)
        with torch.no_grad():
            plain = objective(batch, 9)
            with torch.autocast("cpu", torch.bfloat16):
                narrow = objective(batch, 9)
            with rounding.active(student):
                levels = objective(batch, 9)
        assert plain.dtype == narrow.dtype == torch.float32
        for other in (narrow, levels):
            assert 0 < abs(float(other - plain)) < 0.05 * float(plain), name


def test_stages_go_from_the_lowest_layer_up_with_those_below_frozen(
    student: PreTrainedModel, teacher: PreTrainedModel, data: Encoded, pairing: Pairing
) -> None:
    losses = {"progressive": 1.0, "logits": 1.0}
    targets = targets_of(teacher, data, losses, pairing)
    objective = Objective(student, targets, pairing, losses, steps=31)
    stages = [objective.stage(step) for step in range(31)]
    assert stages == [0] * 5 + [1] * 5 + [None] * 21
    batch, layers = collate(data, range(8)), hf.parts_of(student).layers
    moved = []
    for step in (0, 5, 10):
        objective(batch, step).backward()
        moved.append([
            hf.parts_of(student).words.weight.grad is not None,
            *(layer.ffn.down.weight.grad is not None for layer in layers),
            hf.parts_of(student).head.weight.grad is not None,
        ])  # fmt: skip
        student.zero_grad(set_to_none=True)
    assert moved == [[True, True, False, False], [False, False, True, False], [True] * 4]
    # Without a loss that goes by layers, all others are trained on from the first step.
    plain = Objective(student, targets, pairing, {"logits": 1.0}, steps=31)
    assert plain.stage(0) is None


def test_a_stage_trains_nothing_but_its_layer(
    student: PreTrainedModel, teacher: PreTrainedModel, data: Encoded, pairing: Pairing
) -> None:
    """By its own loss, not by that of all layers."""
    losses = {"progressive": 2.0, "logits": 1.0}
    objective = Objective(
        student, targets_of(teacher, data, losses, pairing), pairing, losses, steps=30
    )
    batch = collate(data, range(8))
    with torch.no_grad():
        found = [float(objective(batch, step)) for step in (0, 5)]
        every = [Signal(i, part) for i in range(3) for part in ("states", "query", "key")]
        own = observe(student, batch, [s for s in every if s.layer < 2])
        wanted = observe(teacher, batch, every)
        single = [
            float(LOSSES["progressive"].value(own, wanted, batch, pairing.only(i))) for i in (0, 1)
        ]
        whole = float(LOSSES["progressive"].value(own, wanted, batch, pairing))
    assert found == pytest.approx([2 * x for x in single], rel=1e-2)
    assert whole == pytest.approx(sum(single) / 2, rel=1e-5) and single[0] != single[1]


@pytest.mark.parametrize("step", [2, 7])
def test_a_killed_distillation_ends_as_if_it_had_not_been(
    step: int,
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    data: Encoded,
    pairing: Pairing,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Within a stage whose layers below are frozen, and after the stages: the same to the bit."""
    losses = {"progressive": 1.0, "relations": 0.5, "attention": 0.5, "labels": 1.0}
    schedule, path = TrainingSchedule(epochs=5, batch=32, lr=1e-3), tmp_path / "run.safetensors"
    data = data.take(range(64))
    targets = targets_of(teacher, data, losses, pairing)
    start = {name: x.clone() for name, x in student.state_dict().items()}

    def train(progress: Callable[[int, int, str], None], checkpoint: Path | None) -> Tensor:
        torch.manual_seed(2)
        student.load_state_dict(start)
        distill(student, targets, pairing, data, schedule, progress, losses, checkpoint=checkpoint,
                key="k")  # fmt: skip
        return torch.cat([p.detach().flatten() for p in student.parameters()])

    def stop(done: int, total: int, note: str) -> None:
        if done == step:
            raise KeyboardInterrupt

    whole = train(silent, None)
    monkeypatch.setattr(loop, "_CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train(stop, path)
    steps: list[int] = []
    again = train(lambda done, total, note: steps.append(done), path)
    assert steps[0] == step and steps[-1] == 10
    assert torch.equal(again, whole)
