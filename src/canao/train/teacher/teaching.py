"""Fine-tuning of a teacher by a recipe (recipe.py): head, race of rates, training.

    head           the new head is trained first, where there are many classes (head.py)
    race           each rate trains the first epochs; the best one goes on where it stopped
    training       to the end, or until the held-out score stops rising; the best epoch is kept
    on all         for small sets: once more on all examples, held-out ones included, at that rate
                   for that many epochs

Whatever a stage has found lies among the checkpoints, so that a killed run goes on in it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor
from transformers import PreTrainedModel

from canao.artifact.files import write_whole
from canao.artifact.reading import read_json
from canao.errors import DivergedError, InputError
from canao.model.hf import arch_of, parts_of
from canao.train.data import TextData, hold_out
from canao.train.engine.batches import Batch, Encoded, logits_of
from canao.train.engine.loop import Loop, Progress, State, TrainingSchedule
from canao.train.engine.storing import storing
from canao.train.engine.tensor_files import read_tensors, write_tensors
from canao.train.metrics import Score, score
from canao.train.teacher.finetune import label_loss, predict_logits
from canao.train.teacher.head import fit_head
from canao.train.teacher.recipe import TeacherRecipe, recipe_for

_TIE = 1e-6  # of the loss, by which equal scores differ; scores of other predictions differ by more
_LOSS_LIMIT = 100.0  # above it, a loss tells no more
_UNTRAINED = -1e9  # the score of a new head: below any other


@dataclass(frozen=True)
class Taught:
    """How a teacher was fine-tuned.

    rate, best_epoch   learning rate and epoch whose weights were kept; epochs count from 1, and 0
                       is the start with its head trained alone
    epochs             that were run at that rate
    held               score on the held-out examples; None where none were held out. Where the
                       teacher was trained anew on all of them, that of the run before
    raced              of each rate, held-out `score` and `loss` after the race's epochs, or of its
                       best epoch if these were all epochs; empty without a race
    """

    recipe: TeacherRecipe
    rate: float
    epochs: int
    best_epoch: int
    held: Score | None
    raced: dict[str, dict[str, float]]

    @property
    def told(self) -> str:
        """In a line, for people."""
        text = f"rate {self.rate:g}, best epoch {self.best_epoch} of {self.epochs}"
        if self.held is None:
            return f"{text}; too few examples to hold some out and choose by them"
        return f"{text}, {self.held.primary} {self.held.value:.3f} on {self.recipe.held} held out"

    def facts(self) -> dict[str, Any]:
        """In JSON form, for the teacher's record."""
        return {
            "rate": self.rate, "epochs": self.epochs, "best_epoch": self.best_epoch,
            "held_out": dict(self.held.metrics) if self.held else {}, "raced": self.raced,
            **{f"recipe.{name}": value for name, value in self.recipe.facts().items()},
        }  # fmt: skip


class _Found(msgspec.Struct):
    """Score and loss of a rate on the held-out examples."""

    score: float
    loss: float


class _Race(msgspec.Struct):
    """What the race has found so far, by rate."""

    key: str
    found: dict[str, _Found]


class Teaching:
    """Fine-tunes `model` in place.

    data, examples   the task, and its training examples as the tokenizer gives them, in their order
    metric           that chooses the epoch; None: the task's usual one
    seed, dtype      as in TrainOptions
    checkpoints      directory of what a killed run resumes from; `key` names all that it depends on
    stage            gives the progress callback of a stage, by its name
    """

    def __init__(
        self,
        model: PreTrainedModel,
        data: TextData,
        examples: Encoded,
        *,
        metric: str | None,
        seed: int,
        dtype: str,
        checkpoints: Path,
        key: str,
        stage: Callable[[str], Progress],
    ) -> None:
        self.model, self.metric, self.seed, self.dtype = model, metric, seed, dtype
        self.checkpoints, self.key, self.stage = checkpoints, key, stage
        labels = data.strata()
        self.recipe = recipe_for(
            len(labels), sum(map(len, examples.ids)), len(data.labels),
            len(hold_out(labels, len(labels), seed)), arch_of(model.config).hidden,
        )  # fmt: skip
        held = hold_out(labels, self.recipe.held, seed) if self.recipe.held else []
        kept = set(held)
        self.all, self.held = examples, examples.take(held) if held else None
        self.part = examples.take([i for i in range(len(labels)) if i not in kept])
        self._task = replace(data, train=(), dev=tuple(data.train[i] for i in held))

    def run(self) -> Taught:
        """Fine-tune to the end, from what an interrupted run left."""
        recipe, fresh = self.recipe, _clones(self.model)
        self._fit_head()
        start = _clones(self.model)
        raced = self._race(start)
        rate = self._fastest(raced) if raced else recipe.rates[0]
        state = self._train(rate, start, self.stage(f"teacher, rate {rate:g}"))
        epochs, found = len(state.history) or recipe.epochs, None
        best = epochs
        if self.held is not None:
            best = state.history.index(state.best) + 1 if state.best in state.history else 0
            found = self._on_held_out()[0]
        if recipe.whole:
            self._train_on_all(rate, best, fresh)
        taught = Taught(recipe, rate, epochs, best, found, raced)
        self.stage("teacher")(1, 1, taught.told)
        return taught

    def _fit_head(self) -> None:
        """Train the head alone, or take what was trained before."""
        if not self.recipe.head:
            return
        path, parts = self.checkpoints / "teacher-head.safetensors", parts_of(self.model)
        own = {f"{kind}.{name}": value
               for kind, module in (("pooler", parts.pooler), ("head", parts.head))
               if module is not None for name, value in module.named_parameters()}  # fmt: skip
        stored = _read_head(path, self.key, own)
        if stored is None:
            fit_head(
                self.model, self.part, self.recipe.head, self.seed, self.stage("teacher's head")
            )
            write_tensors(path, {n: p.detach() for n, p in own.items()}, {"key": self.key})
            return
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(stored[name])

    def _race(self, start: dict[str, Tensor]) -> dict[str, dict[str, float]]:
        """How good each rate is in its first epochs. The best one's checkpoint is kept."""
        recipe, path = self.recipe, self.checkpoints / "teacher-race.json"
        if len(recipe.rates) == 1:
            return {}
        raced = _read_race(path, self.key, [_name(rate) for rate in recipe.rates])
        for rate in recipe.rates:
            if _name(rate) in raced:
                continue
            raced[_name(rate)] = self._tried(rate, start)
            with storing(path):
                row = {"key": self.key, "found": raced}
                write_whole(path, json.dumps(row, indent=2) + "\n")
            for slower in raced.keys() - {_name(self._fastest(raced))}:
                self._checkpoint(slower).unlink(missing_ok=True)
        return raced

    def _tried(self, rate: float, start: Mapping[str, Tensor]) -> dict[str, float]:
        """Score and loss of a rate after the race's epochs; the worst for one that is too high."""
        try:
            self._train(rate, start, self.stage(f"teacher, trying rate {rate:g}"),
                        self.recipe.trial)  # fmt: skip
        except DivergedError:
            if rate == self.recipe.rates[0]:  # the others are higher
                raise
            return {"score": -1.0, "loss": _LOSS_LIMIT}
        found, loss = self._on_held_out()
        return {"score": found.value, "loss": loss}

    def _fastest(self, raced: Mapping[str, Mapping[str, float]]) -> float:
        """The best rate of those that have run: by their scores if they ran all epochs. After few,
        scores may still be those of a model that says the same of all texts; losses tell more."""
        to_the_end = self.recipe.trial == self.recipe.epochs

        def rank(rate: float) -> tuple[float, float]:
            row = raced[_name(rate)]
            return (row["score"] if to_the_end else 0.0, -row["loss"])

        return max((rate for rate in self.recipe.rates if _name(rate) in raced), key=rank)

    def _train(
        self, rate: float, start: Mapping[str, Tensor], progress: Progress, epochs: int = 0
    ) -> State:
        """Train from `start`, or from the checkpoint of that rate. At the end the model is that of
        the best epoch, or `start` itself if its head was trained. epochs   as in Loop.run"""
        schedule = self._schedule(rate, self.recipe.patience)

        def evaluate() -> float:
            if loop.state.step == 0 and not self.recipe.head:
                return _UNTRAINED
            found, loss = self._on_held_out()
            return found.value - _TIE * loss

        self.model.load_state_dict(start, strict=False)
        loop = Loop(
            self.model, self.part, schedule, self._loss,
            evaluate=None if self.held is None else evaluate,
            checkpoint=self._checkpoint(_name(rate)), key=self.key,
        )  # fmt: skip
        loop.run(progress, epochs)
        return loop.state

    def _train_on_all(self, rate: float, epochs: int, fresh: Mapping[str, Tensor]) -> None:
        """Train the untrained model again, head first as before, on all examples."""
        stage = self.stage("teacher, on all examples")
        self.model.load_state_dict(fresh, strict=False)
        if self.recipe.head:
            fit_head(self.model, self.all, self.recipe.head, self.seed, stage)
        if not epochs:
            return
        loop = Loop(
            self.model, self.all, self._schedule(rate), self._loss,
            checkpoint=self._checkpoint("on-all"), key=self.key,
        )  # fmt: skip
        loop.run(stage, epochs)

    def _schedule(self, rate: float, patience: int = 0) -> TrainingSchedule:
        recipe = self.recipe
        return TrainingSchedule(
            epochs=recipe.epochs, batch=recipe.batch, lr=rate, seed=self.seed, dtype=self.dtype,
            patience=patience,
        )  # fmt: skip

    def _loss(self, batch: Batch) -> Tensor:
        return label_loss(logits_of(self.model, batch), batch.labels, batch.task)

    def _on_held_out(self) -> tuple[Score, float]:
        """Score and loss of the model as it is on the held-out examples."""
        assert self.held is not None
        logits = predict_logits(self.model, self.held)
        labels = torch.from_numpy(self.held.labels)
        loss = label_loss(torch.from_numpy(logits), labels, self.held.task).item()
        # JSON knows no infinity.
        loss = min(loss, _LOSS_LIMIT) if math.isfinite(loss) else _LOSS_LIMIT
        return score(self.held.predicted(logits), self._task, self.metric), loss

    def _checkpoint(self, name: str) -> Path:
        return self.checkpoints / f"teacher-{name}.safetensors"


def _clones(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def _name(rate: float) -> str:
    return f"{rate:g}"


def _read_race(path: Path, key: str, rates: Sequence[str]) -> dict[str, dict[str, float]]:
    """What a killed run's race had found of these rates; nothing if that was another one's, or is
    damaged."""
    try:
        record = read_json(path, _Race)
    except (InputError, OSError):
        return {}
    if record.key != key:
        return {}
    return {n: {"score": f.score, "loss": f.loss} for n, f in record.found.items() if n in rates}


def _read_head(path: Path, key: str, like: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The head that a killed run had trained; None if that was another one's, or is damaged."""
    try:
        tensors, note = read_tensors(path)
    except InputError:
        return None
    fits = note.get("key") == key and all(
        name in tensors and tensors[name].shape == value.shape for name, value in like.items()
    )
    return tensors if fits else None
