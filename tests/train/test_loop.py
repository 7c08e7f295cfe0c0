from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from canao.defaults import silent
from canao.errors import InputError
from canao.model import hf
from canao.train.data import Example, TextData
from canao.train.engine import loop as module
from canao.train.engine import tensor_files
from canao.train.engine.batches import (
    Batch,
    Encoded,
    collate,
    encode,
    evaluation_batches,
    training_order,
)
from canao.train.engine.compute import threads
from canao.train.engine.loop import Loop, TrainingSchedule
from canao.train.engine.tensor_files import read_tensors, write_tensors
from canao.train.teacher.finetune import finetune, label_loss, predict


@pytest.fixture(scope="module")
def data(tiny: Path, task: TextData) -> Encoded:
    return encode(hf.load_tokenizer(tiny), task.train[:100], 32)


def fresh(tiny: Path, task: TextData) -> PreTrainedModel:
    torch.manual_seed(0)
    return hf.load_classifier(tiny, task.labels)


def stop_at(step: int) -> Callable[[int, int, str], None]:
    def progress(done: int, total: int, note: str) -> None:
        if done == step:
            raise KeyboardInterrupt

    return progress


def collect(steps: list[int]) -> Callable[[int, int, str], None]:
    return lambda done, total, note: steps.append(done)


def weights(model: PreTrainedModel) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_encoding_cuts_pairs_and_marks_them(tiny: Path) -> None:
    examples = [Example("good film", "bad " * 40, 1), Example("a", "b", 0)]
    data = encode(hf.load_tokenizer(tiny), examples, 12)
    assert [len(x) for x in data.ids] == [12, 5]
    assert data.types[0].tolist() == [0] * 4 + [1] * 8
    batch = collate(data, [1, 0])
    assert batch.ids.shape == (2, 16) and batch.labels.tolist() == [0, 1]
    assert batch.padding_mask.sum(1).tolist() == [5, 12]


def test_an_epoch_has_every_example_once_in_like_lengths(data: Encoded) -> None:
    order = training_order(data, 8, seed=0, epoch=0)
    assert sorted(i for batch in order for i in batch) == list(range(len(data)))
    assert order == training_order(data, 8, seed=0, epoch=0)
    assert order != training_order(data, 8, seed=0, epoch=1)
    lengths = [[len(data.ids[i]) for i in batch] for batch in order]
    assert np.mean([max(x) - min(x) for x in lengths]) < 2
    seen = [i for batch in evaluation_batches(data, 7) for i in batch.index]
    assert sorted(seen) == list(range(len(data)))


def test_rate_rises_then_falls_to_nothing() -> None:
    schedule = TrainingSchedule(lr=1.0, warmup=0.1)
    rates = [schedule.rate(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == rates[9] == 1.0
    assert rates[99] == pytest.approx(1 / 90) and rates[54] == pytest.approx(46 / 90)
    assert TrainingSchedule(epochs=3, batch=32).total(100) == 12


@pytest.mark.parametrize("step", [3, 13, 21])
def test_a_killed_run_ends_as_if_it_had_not_been(
    step: int,
    tiny: Path,
    task: TextData,
    data: Encoded,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kills within an epoch, with dropout on: the same weights to the last bit."""
    schedule = TrainingSchedule(epochs=3, batch=10, lr=1e-3)
    whole = fresh(tiny, task)
    scores = finetune(whole, data, schedule, silent, evaluate=values([0.0, 0.1, 0.3, 0.2]))
    monkeypatch.setattr(module, "_CHECKPOINT_SECONDS", 0.0)
    path = tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        finetune(
            fresh(tiny, task), data, schedule, stop_at(step),
            evaluate=values([0.0, 0.1, 0.3, 0.2]), checkpoint=path, key="k",
        )  # fmt: skip
    steps: list[int] = []
    rest = fresh(tiny, task)
    left = [0.1, 0.3, 0.2][(step - 1) // 10 :]
    again = finetune(
        rest, data, schedule, collect(steps), evaluate=values(left), checkpoint=path, key="k"
    )
    assert steps[0] == step and steps[-1] == 30
    assert again == scores == [0.1, 0.3, 0.2]
    assert torch.equal(weights(rest), weights(whole))


def values(found: list[float]) -> Callable[[], float]:
    left = iter(found)
    return lambda: next(left)


def test_the_best_epoch_is_kept(tiny: Path, task: TextData, data: Encoded) -> None:
    after: list[Tensor] = []
    model = fresh(tiny, task)
    score = values([0.4, 0.5, 0.9, 0.9, 0.1])

    def evaluate() -> float:
        after.append(weights(model))
        return score()

    finetune(model, data, TrainingSchedule(epochs=4, batch=25, lr=1e-3), silent, evaluate=evaluate)
    assert torch.equal(weights(model), after[2])
    assert not torch.equal(after[2], after[3])


@pytest.mark.parametrize(
    ("patience", "run"), [(0, 6), (1, 3), (2, 4), (4, 6)]
)
def test_training_ends_when_nothing_gets_better(
    patience: int, run: int, tiny: Path, task: TextData, data: Encoded
) -> None:
    """Of epochs: the score at the start, 0.7, is of none."""
    schedule = TrainingSchedule(epochs=6, batch=50, lr=1e-3, patience=patience)
    scores, steps = [0.4, 0.5, 0.5, 0.3, 0.45, 0.6], list[int]()
    found = finetune(
        fresh(tiny, task), data, schedule, collect(steps), evaluate=values([0.7, *scores])
    )
    assert found == scores[:run] and steps[-1] == 12
    assert len(steps) == 2 * run + (run < 6)


def test_a_run_can_stop_for_now(
    tiny: Path, task: TextData, data: Encoded, tmp_path: Path
) -> None:
    """And goes on to the same weights; until then, the model is that of its last epoch."""
    schedule = TrainingSchedule(epochs=3, batch=25, lr=1e-3)
    scores, path = [0.0, 0.5, 0.2, 0.1], tmp_path / "run.safetensors"
    whole, parts = fresh(tiny, task), fresh(tiny, task)
    run_loop(whole, data, schedule, scores, None, 0)
    assert run_loop(parts, data, schedule, scores[:3], path, 2) == [0.5, 0.2]
    assert not torch.equal(weights(parts), weights(whole))
    assert run_loop(parts, data, schedule, scores[3:], path, 0) == [0.5, 0.2, 0.1]
    assert torch.equal(weights(parts), weights(whole))


def run_loop(
    model: PreTrainedModel, data: Encoded, schedule: TrainingSchedule, scores: list[float],
    path: Path | None, epochs: int,
) -> list[float]:  # fmt: skip
    def loss(batch: Batch) -> Tensor:
        return label_loss(model(**batch.inputs).logits, batch.labels)

    loop = Loop(
        model, data, schedule, loss, evaluate=values(scores), checkpoint=path, key="k"
    )  # fmt: skip
    return loop.run(silent, epochs)


def test_training_never_ends_below_its_start(tiny: Path, task: TextData, data: Encoded) -> None:
    model = fresh(tiny, task)
    before = weights(model)
    scores = finetune(
        model, data, TrainingSchedule(epochs=2, lr=1e-3), silent, evaluate=values([0.8, 0.7, 0.8])
    )
    assert scores == [0.7, 0.8] and torch.equal(weights(model), before)


def test_other_or_damaged_checkpoints_are_not_used(
    tiny: Path, task: TextData, data: Encoded, tmp_path: Path
) -> None:
    path = tmp_path / "run.safetensors"
    schedule = TrainingSchedule(steps=4, batch=10, lr=1e-3)
    finetune(fresh(tiny, task), data, schedule, silent, checkpoint=path, key="old")
    for key, content in (("new", path.read_bytes()), ("old", path.read_bytes()[:1000])):
        path.write_bytes(content)
        steps: list[int] = []
        model = fresh(tiny, task)
        finetune(model, data, schedule, collect(steps), checkpoint=path, key=key)
        assert steps == [1, 2, 3, 4]


def test_divergence_is_told(tiny: Path, task: TextData, data: Encoded) -> None:
    model = fresh(tiny, task)
    with torch.no_grad():
        hf.parts_of(model).head.weight.fill_(float("nan"))
    with pytest.raises(InputError, match=r"diverged at step 0, .* smaller rate"):
        finetune(model, data, TrainingSchedule(steps=2), silent)


def test_fine_tuning_learns_the_task(tiny: Path, task: TextData) -> None:
    model = fresh(tiny, task)
    train, dev = (encode(hf.load_tokenizer(tiny), x, 32) for x in (task.train, task.dev))
    finetune(model, train, TrainingSchedule(epochs=8, batch=16, lr=2e-3), silent)
    assert (predict(model, dev) == dev.labels).mean() > 0.9


def test_tensor_files_are_whole_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deep" / "t.safetensors"
    write_tensors(path, {"a": torch.arange(3)}, {"key": "k"})
    tensors, note = read_tensors(path)
    assert tensors["a"].tolist() == [0, 1, 2] and note == {"key": "k"}

    def full(*args: object, **kwargs: object) -> None:
        Path(str(args[1])).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(tensor_files, "save_file", full)
    with pytest.raises(InputError, match=r"cannot be used \(no space left"):
        write_tensors(path, {"a": torch.ones(2)}, {})
    assert read_tensors(path)[1] == note
    assert [p.name for p in path.parent.iterdir()] == ["t.safetensors"]
    with pytest.raises(InputError, match="cannot be read"):
        read_tensors(tmp_path / "none")


def test_threads_are_set_and_put_back() -> None:
    with threads(2):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 1
