"""The supernet: students are its parts, gradients reach only what they hold, and training it makes
its parts better."""

from __future__ import annotations

import copy
from pathlib import Path
from random import Random

import pytest
import torch
from transformers import PreTrainedModel

from canao.defaults import silent
from canao.model import hf
from canao.model.arch import Arch
from canao.model.families.parts import both
from canao.train.data import TextData
from canao.train.distillation.signals import Pairing
from canao.train.distillation.targets import TeacherTargets
from canao.train.engine import loop
from canao.train.engine.batches import Encoded, collate, encode
from canao.train.engine.loop import TrainingSchedule
from canao.train.inheritance.importance import measure_importance
from canao.train.inheritance.inherit import Kept, inherit, keep
from canao.train.options import TrainOptions
from canao.train.ranking.supernet import Keeps, Supernet, drawn, train_supernet
from canao.train.teacher.finetune import finetune, label_loss

TEACHER = Arch.uniform(3, 32, 4, 64)
SMALL = Arch.uniform(2, 24, 3, 32)
BLOCKS = Arch.parse("H24 D8 2+16 0+64 3+0")
SCHEDULE = TrainingSchedule(steps=24, epochs=1, batch=16, lr=2e-3)


@pytest.fixture(scope="module")
def data(tiny: Path, task: TextData) -> Encoded:
    return encode(hf.load_tokenizer(tiny), task.train, 32)


@pytest.fixture(scope="module")
def teacher(tiny: Path, task: TextData, data: Encoded) -> PreTrainedModel:
    torch.manual_seed(0)
    model = hf.load_classifier(tiny, task.labels)
    finetune(model, data, TrainingSchedule(epochs=8, batch=16, lr=2e-3), silent)
    return model


@pytest.fixture(scope="module")
def keeps(teacher: PreTrainedModel, data: Encoded) -> Keeps:
    importance = measure_importance(teacher, data)
    return lambda arch: keep(TEACHER, arch, importance)


@pytest.fixture
def net(teacher: PreTrainedModel, keeps: Keeps) -> Supernet:
    return Supernet(copy.deepcopy(teacher), keeps)


def loss_of(model: PreTrainedModel, data: Encoded) -> torch.Tensor:
    batch = collate(data, range(len(data)))
    return label_loss(model(**batch.inputs).logits, batch.labels)


def trained(
    net: Supernet, teacher: PreTrainedModel, data: Encoded, checkpoint: Path | None = None
) -> Supernet:
    def pairs(model: PreTrainedModel, kept: Kept) -> Pairing:
        return Pairing.of(model, teacher, kept.layers, kept.hidden, relation_heads=8)

    train_supernet(
        net, TeacherTargets(teacher, data), data, SCHEDULE, silent, TrainOptions().weights, pairs,
        checkpoint=checkpoint, key="k",
    )  # fmt: skip
    return net


@pytest.mark.parametrize("arch", [SMALL, BLOCKS], ids=str)
def test_a_student_is_what_is_kept_of_it(
    net: Supernet, teacher: PreTrainedModel, keeps: Keeps, data: Encoded, arch: Arch
) -> None:
    with torch.no_grad():
        found = net.student(arch)
        want = inherit(teacher, arch, keeps(arch), None)
        assert hf.arch_of(found.config) == arch and not found.training
        assert torch.equal(loss_of(found, data), loss_of(want, data))


def test_the_whole_is_the_teacher(net: Supernet, teacher: PreTrainedModel, data: Encoded) -> None:
    with torch.no_grad():
        torch.testing.assert_close(loss_of(net.student(TEACHER), data), loss_of(teacher, data))


def test_gradients_reach_what_a_student_holds_and_nothing_else(
    net: Supernet, keeps: Keeps, data: Encoded
) -> None:
    loss_of(net.student(SMALL), data).backward()
    kept, parts = keeps(SMALL), hf.parts_of(net.model)
    left_out = set(range(3)) - set(kept.layers)
    for i in left_out:
        up = both(parts.layers[i])[1].up
        assert up.weight.grad is None or not up.weight.grad.any()
    for place, i in enumerate(kept.layers):
        gradient = both(parts.layers[i])[1].up.weight.grad
        assert gradient is not None
        rows = set(gradient.abs().sum(1).nonzero().flatten().tolist())
        columns = set(gradient.abs().sum(0).nonzero().flatten().tolist())
        assert rows <= set(kept.ffn_units[place].tolist()) and rows
        assert columns == set(kept.hidden.tolist())


def test_gradients_are_those_of_the_same_weights_by_themselves(
    net: Supernet, keeps: Keeps, data: Encoded
) -> None:
    """Compared with a student that is trained alone: at the rows that were copied."""
    alone = net.student(SMALL)
    with torch.no_grad():
        alone = copy.deepcopy(inherit(net.model, SMALL, keeps(SMALL), None)).requires_grad_(True)
    loss_of(alone, data).backward()
    loss_of(net.student(SMALL), data).backward()
    kept = keeps(SMALL)
    mine = both(hf.parts_of(net.model).layers[kept.layers[0]])[1].down.weight.grad
    theirs = both(hf.parts_of(alone).layers[0])[1].down.weight.grad
    assert mine is not None and theirs is not None
    torch.testing.assert_close(mine[kept.hidden][:, kept.ffn_units[0]], theirs)


def test_training_makes_students_better(
    net: Supernet, teacher: PreTrainedModel, data: Encoded
) -> None:
    archs = [SMALL, BLOCKS]
    with torch.no_grad():
        before = [float(loss_of(net.student(arch), data)) for arch in archs]
    trained(net, teacher, data)
    with torch.no_grad():
        after = [float(loss_of(net.student(arch), data)) for arch in archs]
        assert float(loss_of(net.model.eval(), data)) < 0.2
    assert all(b < 0.9 * a for a, b in zip(before, after, strict=True)), (before, after)


def test_a_killed_training_goes_on_as_if_it_had_not_been(
    net: Supernet, teacher: PreTrainedModel, keeps: Keeps, data: Encoded, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    whole = trained(Supernet(copy.deepcopy(teacher), keeps), teacher, data)
    step = loop.Loop._step

    def killed(self: loop.Loop, index: list[int], total: int) -> float:
        if self.state.step == 21:  # after the epoch whose end writes a checkpoint
            raise KeyboardInterrupt
        return step(self, index, total)

    monkeypatch.setattr(loop.Loop, "_step", killed)
    with pytest.raises(KeyboardInterrupt):
        trained(net, teacher, data, tmp_path / "net.safetensors")
    monkeypatch.setattr(loop.Loop, "_step", step)
    again = trained(
        Supernet(copy.deepcopy(teacher), keeps), teacher, data, tmp_path / "net.safetensors"
    )
    for (name, a), b in zip(
        whole.model.state_dict().items(), again.model.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name


def test_saved_weights_are_taken_under_their_key_only(
    net: Supernet, teacher: PreTrainedModel, keeps: Keeps, tmp_path: Path
) -> None:
    path = tmp_path / "net.safetensors"
    with torch.no_grad():
        hf.parts_of(net.model).head.weight.fill_(0.25)
    net.save(path, "a")
    other = Supernet(copy.deepcopy(teacher), keeps)
    assert not other.load(path, "b")
    assert not torch.any(hf.parts_of(other.model).head.weight == 0.25)
    assert other.load(path, "a")
    assert torch.all(hf.parts_of(other.model).head.weight == 0.25)
    path.write_bytes(path.read_bytes()[:-9])
    assert not other.load(path, "a")


def test_random_students_are_parts_of_the_teacher(keeps: Keeps) -> None:
    archs = [drawn(TEACHER, Random(seed)) for seed in range(200)]
    for arch in archs:
        keeps(arch)  # refuses what is more than the teacher has
    assert len(set(archs)) > 100
    assert {arch.layers for arch in archs} == {1, 2, 3}
    assert {arch.hidden for arch in archs} == {8, 16, 24, 32}
    assert any(b.heads == 0 for a in archs for b in a.blocks)
    assert any(b.ffn == 0 for a in archs for b in a.blocks)
    assert sum(arch.is_uniform for arch in archs) > 60
