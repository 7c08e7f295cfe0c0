"""How teachers are fine-tuned by themselves: the recipe, the head alone, the race, what is kept."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_trainer import Watch
from tiny_bert import write_task
from torch import Tensor
from transformers import PreTrainedModel

from canao.defaults import silent
from canao.errors import DivergedError
from canao.model import hf
from canao.train.data import Example, TextData, hold_out, load_data
from canao.train.engine import loop
from canao.train.engine.batches import Encoded, encode
from canao.train.options import TrainOptions
from canao.train.teacher import teaching
from canao.train.teacher.finetune import predict
from canao.train.teacher.head import fit_head
from canao.train.teacher.recipe import TeacherRecipe, recipe_for
from canao.train.trainer import Trainer

OPTIONS = TrainOptions(max_length=32, batch=16, threads=1, dtype="float32")
RACE = TeacherRecipe(
    held=24, batch=16, rates=(1e-4, 3e-3), trial=1, epochs=3, patience=2, head=0, whole=False
)
EVERYTHING = replace(RACE, rates=(1e-3, 2e-3), epochs=2, head=2, whole=True)
HEAD, FIRST, SECOND, MAIN, ON_ALL = (
    "teacher's head", "teacher, trying rate 0.001", "teacher, trying rate 0.002",
    "teacher, rate", "teacher, on all examples",
)  # fmt: skip


def weights(place: Path, data: TextData) -> Tensor:
    model = hf.load_classifier(place, data.labels)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def use(monkeypatch: pytest.MonkeyPatch, recipe: TeacherRecipe) -> None:
    monkeypatch.setattr(teaching, "recipe_for", lambda *facts: recipe)


def told(work: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((work / "teacher.json").read_text())["recipe"]
    return found


@pytest.fixture
def few(task: TextData) -> TextData:
    return replace(task, train=task.train[:96], dev=task.dev[:30])


# The recipe.


@pytest.mark.parametrize("examples", [3, 30, 90, 400, 2490, 3668, 8551, 67_349])
@pytest.mark.parametrize("length", [8, 55])
@pytest.mark.parametrize("classes", [0, 2, 77])
def test_training_costs_what_it_may(examples: int, length: int, classes: int) -> None:
    """Counted as the module says, from the recipe alone: a step costs 200 tokens on top."""
    recipe = recipe_for(examples, examples * length, classes, max(0, examples - classes), 384)
    trained = examples - recipe.held
    steps = -(-trained // recipe.batch)
    race = recipe.trial * len(recipe.rates) if recipe.trial == recipe.epochs else (
        recipe.trial * (len(recipe.rates) - 1) + recipe.epochs
    )
    epochs = race + recipe.epochs * recipe.whole if recipe.trial else recipe.epochs
    half = 0.5 * (1 + 2 * recipe.whole)  # epochs are whole numbers
    assert recipe.epochs == 3 or (epochs - half) * (trained * length + 200 * steps) <= 1.4e6
    assert 3 <= recipe.epochs <= 20
    assert (recipe.trial > 0) == (len(recipe.rates) > 1)
    assert recipe.held == 0 or max(20, min(100, examples // 4)) <= recipe.held <= 2000
    assert 4 * recipe.held <= examples and bool(recipe.patience) == bool(recipe.held)


def test_the_recipe_is_that_of_the_task() -> None:
    mrpc = recipe_for(3668, 195_000, 2, 3666, 384)
    assert (mrpc.held, mrpc.batch, mrpc.rates, mrpc.trial) == (366, 16, (5e-5, 1e-4), 1)
    assert mrpc.head == 0 and not mrpc.whole
    small = recipe_for(400, 8000, 2, 398, 384)
    assert small.whole and small.trial == small.epochs == 20
    large = recipe_for(67_349, 900_000, 2, 67_347, 384)
    assert (large.held, large.rates, large.trial, large.epochs) == (2000, (5e-5,), 0, 3)
    banking = recipe_for(10_003, 150_000, 77, 9926, 384)
    assert banking.head == 20 and banking.rates == (5e-5, 1e-4)
    few = recipe_for(300, 4500, 77, 223, 384)
    assert few.held == 75 and few.head == 143  # 1000 steps of 32 states, at least
    assert recipe_for(3668, 195_000, 2, 3666, 768).rates == (2.5e-5, 5e-5)
    alone = recipe_for(150, 3000, 150, 0, 384)  # every class has one example
    assert alone.held == 0 and alone.rates == alone.rates[:1] and alone.epochs == 20


def test_held_out_examples_are_like_the_others() -> None:
    labels = [0] * 300 + [1] * 90 + [2] * 9 + [3]
    held = hold_out(labels, 40, seed=0)
    assert held == sorted(set(held)) and held == hold_out(labels, 40, seed=0)
    assert held != hold_out(labels, 40, seed=1)
    count = Counter(labels[i] for i in held)
    assert count[0] in (30, 31) and count[1] in (8, 9, 10) and count[2] in (0, 1, 2)
    assert count[3] == 0 and 399 not in hold_out(labels, 400, seed=0)
    assert len(hold_out(labels, 400, seed=0)) == 396  # each of 4 classes keeps one
    values = np.random.default_rng(0).normal(size=500).tolist()
    drawn = [values[i] for i in hold_out(values, 50, seed=0)]
    assert abs(np.quantile(drawn, [0.1, 0.5, 0.9]) - np.quantile(values, [0.1, 0.5, 0.9])).max() < (
        0.15
    )


# The head alone.


def test_a_head_is_fitted_on_states_of_the_body(tiny: Path, few: TextData) -> None:
    """Logistic regression of scikit-learn on Transformers' own states says how well it can do."""
    from sklearn.linear_model import LogisticRegression

    data = encode(hf.load_tokenizer(tiny), few.train, 32)
    model = fresh(tiny, few)
    states = cls_states(model, data)
    body = {n: p.clone() for n, p in model.bert.encoder.state_dict().items()}
    before = float((predict(model, data) == data.labels).mean())
    fit_head(model, data, 80, 0, silent)
    after = float((predict(model, data) == data.labels).mean())
    oracle = LogisticRegression(max_iter=2000).fit(states, data.labels)
    assert after > max(before + 0.1, oracle.score(states, data.labels) - 0.15)
    for name, value in model.bert.encoder.state_dict().items():
        assert torch.equal(value, body[name]), name
    again = fresh(tiny, few)
    fit_head(again, data, 80, 0, silent)
    assert torch.equal(again.classifier.weight, model.classifier.weight)


def fresh(tiny: Path, data: TextData) -> PreTrainedModel:
    torch.manual_seed(0)
    return hf.load_classifier(tiny, data.labels)


def cls_states(model: PreTrainedModel, data: Encoded) -> np.ndarray:
    with torch.no_grad():
        return np.stack([
            model.bert(torch.tensor([ids.tolist()])).last_hidden_state[0, 0].numpy()
            for ids in data.ids
        ])  # fmt: skip


# Race, training, and what is kept.


def test_the_better_rate_wins_and_is_told(
    tiny: Path, few: TextData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, RACE)
    watch = Watch()
    found = Trainer(tiny, few, tmp_path, OPTIONS, watch).teacher()
    facts = told(tmp_path)
    raced = facts["raced"]
    assert isinstance(raced, dict) and set(raced) == {"0.0001", "0.003"}
    best = min(raced, key=lambda name: raced[name]["loss"])
    assert facts["rate"] == float(best) and len({row["loss"] for row in raced.values()}) == 2
    # 72 of 96 examples are trained on, in 5 steps an epoch; the winner goes on after its first.
    assert watch.steps == {
        "teacher, trying rate 0.0001": 5, "teacher, trying rate 0.003": 5,
        f"teacher, rate {best}": 10, "teacher": 1,
    }  # fmt: skip
    held = [few.train[i] for i in hold_out([e.label for e in few.train], 24, 0)]
    model = hf.load_classifier(found.model_dir, few.labels)
    right = predict(model, encode(hf.load_tokenizer(tiny), held, 32)) == [e.label for e in held]
    assert facts["held_out"]["accuracy"] == pytest.approx(right.mean())  # type: ignore[index]
    assert not list((tmp_path / "checkpoints").glob("*"))


def test_nothing_is_chosen_on_the_dev_set(
    whole: Path, tiny: Path, few: TextData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, EVERYTHING)
    wrong = replace(few, dev=tuple(replace(e, label=1 - e.label) for e in few.dev))
    found = Trainer(tiny, wrong, tmp_path, OPTIONS, Watch()).teacher()
    right = json.loads((whole / "teacher.json").read_text())["metrics"]["accuracy"]
    assert found.score.value == pytest.approx(1 - right)
    assert torch.equal(weights(found.model_dir, few), weights(whole / "teacher", few))


@pytest.mark.parametrize(
    ("stage", "step"), [(HEAD, 4), (FIRST, 3), (SECOND, 5), (MAIN, 7), (ON_ALL, 4)]
)
def test_a_killed_recipe_goes_on_in_its_stage(
    stage: str, step: int, whole: Path, tiny: Path, few: TextData, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    use(monkeypatch, EVERYTHING)
    monkeypatch.setattr(loop, "_CHECKPOINT_SECONDS", 0.0)
    order = [HEAD, FIRST, SECOND, f"{MAIN} {told(whole)['rate']:g}", ON_ALL]
    stage = next(name for name in order if name.startswith(stage))
    with pytest.raises(KeyboardInterrupt):
        Trainer(tiny, few, tmp_path, OPTIONS, Watch(stage, step)).teacher()
    watch = Watch()
    again = Trainer(tiny, few, tmp_path, OPTIONS, watch).teacher()
    # A stage that is over is not run again, and one of training goes on in its midst.
    assert not any(watch.steps[name] for name in order[: order.index(stage)])
    best = told(whole)["best_epoch"]
    assert isinstance(best, int)
    # On all examples, the head is trained anew: 2 batches for states, and 2 epochs of 3.
    last = {FIRST: 5, SECOND: 5, order[3]: 10, ON_ALL: 8 + 6 * best}
    done = 0 if stage == ON_ALL else step - 1
    assert stage == HEAD or watch.steps[stage] == last[stage] - done
    assert told(tmp_path) == told(whole)
    assert torch.equal(weights(again.model_dir, few), weights(whole / "teacher", few))


@pytest.fixture(scope="module")
def whole(
    tiny: Path, task: TextData, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The results of a run by the whole recipe that was not killed."""
    work = tmp_path_factory.mktemp("whole")
    few = replace(task, train=task.train[:96], dev=task.dev[:30])
    with pytest.MonkeyPatch.context() as patch:
        use(patch, EVERYTHING)
        Trainer(tiny, few, work, OPTIONS, Watch()).teacher()
    return work


def test_other_rates_checkpoints_or_a_damaged_race_are_not_used(
    whole: Path, tiny: Path, few: TextData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, EVERYTHING)
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "teacher-race.json").write_text('{"key": "other", "found": {"0.001": {}}}')
    (folder / "teacher-head.safetensors").write_bytes(b"nothing")
    found = Trainer(tiny, few, tmp_path, OPTIONS, Watch()).teacher()
    assert torch.equal(weights(found.model_dir, few), weights(whole / "teacher", few))


def test_given_epochs_or_rates_are_run_as_they_are(
    tiny: Path, few: TextData, tmp_path: Path
) -> None:
    """No race, no early stopping, and the batch of the options: 96 examples, 6 steps an epoch."""
    for given, epochs, rate in ((("teacher_lr", 1e-3), 3, 1e-3), (("teacher_epochs", 2), 2, 5e-5)):
        work, watch = tmp_path / given[0], Watch()
        Trainer(tiny, few, work, replace(OPTIONS, **dict([given])), watch).teacher()
        assert watch.steps == {"teacher": 6 * epochs}
        assert {n: told(work)[n] for n in ("rate", "epochs")} == {"rate": rate, "epochs": epochs}


def test_classes_that_cannot_be_held_out(
    tiny: Path, few: TextData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A class with one example is trained on, and a score that says nothing stops nothing."""
    one = next(i for i, e in enumerate(few.train) if e.label == 1)
    train = tuple(e for i, e in enumerate(few.train) if e.label == 0 or i == one)
    rare = replace(few, train=train)
    use(monkeypatch, replace(RACE, rates=(1e-3, 2e-3)))
    options = replace(OPTIONS, metric="matthews_correlation")
    Trainer(tiny, rare, tmp_path, options, Watch()).teacher()
    facts = told(tmp_path)
    # All scores are 0; what tells epochs apart is the loss, so that training did not end at once.
    assert facts["held_out"]["matthews_correlation"] == 0  # type: ignore[index]
    assert facts["epochs"] == 3 and facts["best_epoch"] == 3


def test_too_few_examples_to_hold_some_out(tiny: Path, tmp_path: Path) -> None:
    data = load_data(write_task(tmp_path / "data", train=24))
    notes: list[str] = []
    watch = Watch()

    def progress(stage: str, done: int, total: int, note: str) -> None:
        watch(stage, done, total, note)
        notes.append(note)

    Trainer(tiny, data, tmp_path / "work", OPTIONS, progress).teacher()
    assert notes[-1] == (
        "rate 0.0006, best epoch 20 of 20; too few examples to hold some out and choose by them"
    )
    assert watch.steps["teacher, rate 0.0006"] == 40  # 24 examples in batches of 16


def test_rates_of_a_small_set_run_to_their_end(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then scores are compared; here those of values."""
    use(monkeypatch, replace(RACE, head=2, trial=3, epochs=3))
    data = load_data(write_task(tmp_path / "data", "values", train=96), "text-regression")
    Trainer(tiny, data, tmp_path / "work", OPTIONS, Watch()).teacher()
    facts = told(tmp_path / "work")
    raced, held = facts["raced"], facts["held_out"]
    assert isinstance(raced, dict) and isinstance(held, dict)
    best = max(raced, key=lambda name: raced[name]["score"])
    assert data.regression and facts["rate"] == float(best)
    assert held["pearson_spearman"] == pytest.approx(raced[best]["score"])
    assert set(held) == {"pearson_spearman", "pearson", "spearmanr"}


def test_held_out_examples_leave_no_example_twice(
    tiny: Path, few: TextData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, RACE)
    examples = tuple(Example(f"film {i}", None, i % 2) for i in range(100))
    data = replace(few, train=examples)
    encoded = encode(hf.load_tokenizer(tiny), examples, 32)
    encoded = replace(encoded, ids=tuple(np.array([2, i, 3]) for i in range(100)))
    run = teaching.Teaching(
        fresh(tiny, data), data, encoded, metric=None, seed=0, dtype="float32",
        checkpoints=tmp_path, key="k", stage=lambda name: silent,
    )  # fmt: skip
    assert run.held is not None and len(run.held) == 24
    seen = [int(row[1]) for part in (run.part, run.held) for row in part.ids]
    assert sorted(seen) == list(range(100))


def test_a_rate_that_diverges_has_lost(
    tiny: Path, few: TextData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless it is the lowest, after which nothing is left to try."""
    use(monkeypatch, RACE)
    train = teaching.Teaching._train

    def diverging(self: teaching.Teaching, rate: float, *rest: object, **more: object) -> object:
        if rate in too_high:
            raise DivergedError("training diverged at step 3; give a smaller rate")
        return train(self, rate, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(teaching.Teaching, "_train", diverging)
    too_high = {3e-3}
    Trainer(tiny, few, tmp_path / "w", OPTIONS, silent).teacher()
    found = told(tmp_path / "w")
    assert found["rate"] == 1e-4 and found["raced"]["0.003"] == {"score": -1.0, "loss": 100.0}
    too_high = {1e-4}
    with pytest.raises(DivergedError, match="diverged"):
        Trainer(tiny, few, tmp_path / "w2", OPTIONS, silent).teacher()


@pytest.mark.parametrize(
    "found",
    [{"0.0001": {}}, {"0.0001": {"score": "a", "loss": 1}}, {"/../x": {"score": 1, "loss": 1}}],
)
def test_a_race_of_other_entries_is_run_anew(
    found: dict[str, object], tiny: Path, few: TextData, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    use(monkeypatch, replace(RACE, epochs=1))
    trainer = Trainer(tiny, few, tmp_path / "w", OPTIONS, silent)
    checkpoints = tmp_path / "w" / "checkpoints"
    (checkpoints / "teacher-folder").mkdir(parents=True)
    row = {"key": trainer._key, "found": found}
    (checkpoints / "teacher-race.json").write_text(json.dumps(row))
    trainer.teacher()
    assert set(told(tmp_path / "w")["raced"]) == {"0.0001", "0.003"}
