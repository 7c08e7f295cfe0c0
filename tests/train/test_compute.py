"""Where training computes, and what it gets over: too little memory, a loss that is no number."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from canao.defaults import silent
from canao.errors import InputError
from canao.machine import local_machine
from canao.model import hf
from canao.model.arch import Arch
from canao.train.data import TextData
from canao.train.engine import compute
from canao.train.engine import loop as module
from canao.train.engine.batches import Batch, Encoded, encode
from canao.train.engine.compute import computes_in, out_of_memory, training_device
from canao.train.engine.fake_quantization import channel_levels, token_levels
from canao.train.engine.loop import Loop, TrainingSchedule
from canao.train.engine.tensor_files import read_tensors
from canao.train.options import TrainOptions
from canao.train.teacher.finetune import finetune, label_loss, predict_logits
from canao.train.trainer import Trainer

FOUND = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
GPU = next((name for name, there in FOUND.items() if there), None)
on_gpu = pytest.mark.skipif(GPU is None, reason="this PyTorch finds no GPU")
ABSENT = next(name for name in ("cuda", "mps") if name != GPU)
SCHEDULE = TrainingSchedule(epochs=2, batch=10, lr=1e-3, dtype="float32")


@pytest.fixture(scope="module")
def data(tiny: Path, task: TextData) -> Encoded:
    return encode(hf.load_tokenizer(tiny), task.train[:60], 32)


def fresh(tiny: Path, task: TextData, device: str = "cpu", dropout: bool = True) -> PreTrainedModel:
    torch.manual_seed(0)
    model = hf.load_classifier(tiny, task.labels)
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout) and not dropout:
            part.p = 0.0
    return model.to(device)


def weights(model: PreTrainedModel) -> Tensor:
    return torch.cat([p.detach().flatten().cpu() for p in model.parameters()])


def notes_of(found: list[str]) -> Callable[[int, int, str], None]:
    return lambda done, total, note: found.append(note)


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match=rf"no device '{ABSENT}' .* --train-device cpu"):
        training_device(ABSENT)
    with pytest.raises(InputError, match=r"device is 'gpu'; give auto, cpu, cuda, mps"):
        TrainOptions(device="gpu")
    with pytest.raises(InputError, match="dtype is 'fp8'; give auto, float32, bf16"):
        TrainOptions(dtype="fp8")
    assert training_device("auto").type == (GPU or "cpu")
    assert computes_in(training_device("cpu"), "bf16") == "bf16"


@pytest.mark.parametrize(("features", "gains", "chosen"), [
    (("avx512_bf16",), 2.2, "bf16"), (("avx512_bf16",), 0.5, "float32"),
    (("amx_bf16", "avx512_bf16"), 1.05, "float32"), (("avx2",), 2.2, "float32"),
])  # fmt: skip
def test_bfloat16_where_that_is_faster(
    features: tuple[str, ...], gains: float, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = replace(local_machine(), features=features)
    monkeypatch.setattr(compute, "local_machine", lambda: machine)
    monkeypatch.setattr(compute, "_bf16_gains", lambda: gains)
    assert computes_in(torch.device("cpu"), "auto") == chosen


def test_what_bfloat16_gains_is_measured_and_draws_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Products in turns: of float32, one takes 5 s once and 3 s else, of bfloat16 always 2 s."""
    took = itertools.chain((5, 2), itertools.cycle((3, 2)))
    clock = itertools.accumulate(itertools.chain.from_iterable((0, t) for t in took))
    monkeypatch.setattr(compute.time, "perf_counter", lambda: next(clock))
    before = torch.get_rng_state()
    assert compute._bf16_gains.__wrapped__() == 1.5
    assert torch.equal(torch.get_rng_state(), before)


def test_results_do_not_ask_where_they_were_computed() -> None:
    here, there = TrainOptions(), TrainOptions(device="cpu", dtype="bf16", threads=3)
    assert here.facts() == there.facts()


def test_bfloat16_learns_what_float32_does(tiny: Path, task: TextData, data: Encoded) -> None:
    found = []
    for dtype in ("float32", "bf16"):
        model = fresh(tiny, task, dropout=False)
        finetune(model, data, TrainingSchedule(epochs=2, batch=10, lr=1e-3, dtype=dtype), silent)
        assert all(p.dtype == torch.float32 for p in model.parameters())
        found.append(predict_logits(model, data))
    difference = np.abs(found[0] - found[1]).max() / found[0].std()
    assert 0 < difference < 0.2


def with_little_memory(model: PreTrainedModel, most: int) -> Callable[[Batch], Tensor]:
    """A loss for which memory holds `most` examples."""

    def loss(batch: Batch) -> Tensor:
        if len(batch.index) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return label_loss(model(**batch.inputs).logits, batch.labels)

    return loss


def test_batches_that_do_not_fit_are_computed_in_parts(
    tiny: Path, task: TextData, data: Encoded
) -> None:
    """To rounding the same weights: the gradients of parts are added up."""
    found: list[str] = []
    whole, parts = (fresh(tiny, task, dropout=False) for _ in range(2))
    Loop(whole, data, SCHEDULE, with_little_memory(whole, 10)).run(silent)
    Loop(parts, data, SCHEDULE, with_little_memory(parts, 3)).run(notes_of(found))
    assert all("memory holds 1/4 of a batch at a time" in note for note in found)
    torch.testing.assert_close(weights(parts), weights(whole), rtol=0, atol=2e-4)
    with pytest.raises(InputError, match=r"not enough memory on cpu for one example; give a smal"):
        Loop(parts, data, SCHEDULE, with_little_memory(parts, 0)).run(silent)


def test_a_gpu_that_cannot_compute_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is found, and that this PyTorch has no code for: `auto` takes the CPU."""

    def ones(*shape: int, device: str) -> Tensor:
        if device == "cpu":
            return torch.zeros(shape)
        raise RuntimeError("CUDA error: no kernel image is available\nCompile with more")

    monkeypatch.setattr(torch, "ones", ones)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert training_device("auto").type == "cpu"
    with pytest.raises(InputError, match=r"no device 'cuda' .* \(CUDA error: no kernel"):
        training_device("cuda")


def test_memory_that_runs_out_elsewhere_is_a_line(
    tiny: Path, task: TextData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outside of a step, where there is no batch to be made smaller."""
    options = TrainOptions(max_length=32, teacher_epochs=1, quick_steps=1, device="cpu")

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    trainer = Trainer(tiny, task, tmp_path, options, silent)
    arch = Arch.uniform(1, trainer.teacher_arch().hidden, 1, 8)
    trainer.teacher()
    for name, asked in (("texts.predict", trainer.proxy_score),
                        ("trainer.TeacherTargets", trainer.finish),
                        ("trainer.inherit", trainer.skeleton)):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(f"canao.train.{name}", full)
            with pytest.raises(InputError, match=r"training: not enough memory on cpu; give a"):
                asked(arch)


def test_memory_that_ran_out_is_known_by_its_error() -> None:
    with pytest.raises(RuntimeError, match="memory") as raised:
        torch.empty(1 << 50)
    assert out_of_memory(raised.value)
    assert out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"))
    assert not out_of_memory(RuntimeError("size mismatch"))


def with_bad_steps(model: PreTrainedModel, bad: set[int]) -> Callable[[Batch], Tensor]:
    """A loss that is no number in the calls of these numbers."""
    calls = iter(range(1000))

    def loss(batch: Batch) -> Tensor:
        value = label_loss(model(**batch.inputs).logits, batch.labels)
        return value * float("nan") if next(calls) in bad else value

    return loss


def test_training_goes_back_when_the_loss_is_no_number(
    tiny: Path, task: TextData, data: Encoded, tmp_path: Path
) -> None:
    """To the end of the first epoch, the last checkpoint; with half the rate from there."""
    path, model, found = tmp_path / "run.safetensors", fresh(tiny, task), []
    loop = Loop(model, data, SCHEDULE, with_bad_steps(model, {9}), checkpoint=path, key="k")
    loop.run(notes_of(found))
    assert len(found) == 9 + 6  # six steps an epoch, three of the second done twice
    told = ", at 1/2 of the rate since the loss was no number at step 9"
    assert [told in note for note in found] == [False] * 9 + [True] * 6
    assert loop.state.halved == 1 and bool(torch.isfinite(weights(model)).all())
    # A run that is killed after that goes on at half the rate.
    again = Loop(fresh(tiny, task), data, SCHEDULE, with_bad_steps(model, set()), checkpoint=path,
                 key="k")  # fmt: skip
    again.run(silent)
    assert again.state.halved == 1


def test_the_rate_is_halved_twice_at_most(tiny: Path, task: TextData, data: Encoded) -> None:
    """Without a checkpoint, back to the weights that training began with."""
    model, found = fresh(tiny, task), []
    Loop(model, data, SCHEDULE, with_bad_steps(model, {3, 6})).run(notes_of(found))
    assert len(found) == 3 + 2 + 12 and "at 1/4 of the rate" in found[-1]
    twice = with_bad_steps(model, {3, 6, 8})
    with pytest.raises(InputError, match=r"diverged at step 1, .* a quarter .* smaller rate"):
        Loop(model, data, SCHEDULE, twice).run(silent)


def test_gradients_that_are_no_numbers_change_no_weights(
    tiny: Path, task: TextData, data: Encoded
) -> None:
    """The loss is finite, and its gradient is not: at zero, the root's is infinite."""
    model = fresh(tiny, task)

    def loss(batch: Batch) -> Tensor:
        return (model(**batch.inputs).logits.sum() * 0.0).sqrt()

    before = weights(model)
    with pytest.raises(InputError, match="diverged at step 0"):
        Loop(model, data, SCHEDULE, loss).run(silent)
    assert torch.equal(weights(model), before)


@on_gpu
def test_a_gpu_trains_as_a_cpu_does(tiny: Path, task: TextData, data: Encoded) -> None:
    found = []
    for device in ("cpu", GPU):
        model = fresh(tiny, task, device, dropout=False)
        finetune(model, data, SCHEDULE, silent)
        found.append(predict_logits(model, data))
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=1e-2 * found[0].std())


@on_gpu
def test_a_killed_run_on_a_gpu_goes_on(
    tiny: Path, task: TextData, data: Encoded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout, whose generator is the GPU's. Sums of gradients may differ in their order."""

    def stop(done: int, total: int, note: str) -> None:
        if done == 7:
            raise KeyboardInterrupt

    whole, path = fresh(tiny, task, GPU), tmp_path / "run.safetensors"
    finetune(whole, data, SCHEDULE, silent)
    monkeypatch.setattr(module, "_CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        finetune(fresh(tiny, task, GPU), data, SCHEDULE, stop, checkpoint=path, key="k")
    assert read_tensors(path)[0]["rng"].numel() < 100  # not the CPU's, which has 5,056 bytes
    rest = fresh(tiny, task, GPU)
    steps: list[int] = []
    finetune(rest, data, SCHEDULE, lambda done, *_: steps.append(done), checkpoint=path, key="k")
    assert steps == list(range(7, 13))
    torch.testing.assert_close(weights(rest), weights(whole), rtol=0, atol=1e-4)


@on_gpu
def test_levels_on_a_gpu_are_those_of_the_interpreter() -> None:
    if GPU == "mps":
        pytest.skip("float32 of MPS is not IEEE's in every operation")
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.standard_normal((64, 257)).astype(np.float32))
    for levels in (token_levels, channel_levels):
        for own, other in zip(levels(rows), levels(rows.to(GPU)), strict=True):
            assert torch.equal(own, other.cpu())


@on_gpu
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_student_is_trained_on_a_gpu(
    tiny: Path, task: TextData, tmp_path: Path, precision: str
) -> None:
    options = TrainOptions(
        max_length=32, batch=16, teacher_epochs=4, teacher_lr=2e-3, quick_steps=4, final_epochs=3,
        precision=precision, device=str(GPU),
    )  # fmt: skip
    trainer = Trainer(tiny, task, tmp_path, options, silent)
    teacher = trainer.teacher()
    whole = trainer.teacher_arch()
    arch = Arch.uniform(1, whole.hidden // 2, 1, whole.ffn // 2)
    assert trainer.proxy_score(arch).value > 0.5
    student = trainer.finish(arch)
    assert student.score.value > 0.8 and teacher.score.value > 0.8
    assert (trainer.skeleton(arch) / "model.safetensors").is_file()
