"""The training loop: AdamW with warm-up and decay; a killed run resumes from its checkpoint.

It also gets over what ends other loops. Where memory runs out, batches are computed in smaller
parts, whose gradients are added up. Where the loss is no number any more, training goes back to the
last checkpoint, with half the learning rate.
"""

from __future__ import annotations

import errno
import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypedDict

import msgspec
import torch
from torch import Tensor, nn

from canao.artifact.reading import parse_json
from canao.errors import DivergedError, InputError
from canao.train.engine.batches import Batch, Encoded, collate, training_order
from canao.train.engine.compute import (
    autocast,
    computes_in,
    device_of,
    out_of_memory,
    random_state,
    set_random_state,
)
from canao.train.engine.fake_quantization import FakeQuantization
from canao.train.engine.storing import require_room, storing
from canao.train.engine.tensor_files import read_tensors, write_tensors
from canao.train.engine.threads import adapt
from canao.train.options import FLOAT32

Progress = Callable[[int, int, str], None]  # steps done, steps in all, note
_CHECKPOINT_SECONDS = 120.0
_CLIP = 1.0
_SLOTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps of each parameter
_HALVINGS = 2  # of the learning rate, before a loss that is no number ends training


@dataclass(frozen=True)
class TrainingSchedule:
    """How many steps to train, and at which learning rate.

    steps         optimiser steps; 0: as many as `epochs` need
    warmup        share of the steps over which the rate rises from 0; after that it falls to 0
    weight_decay  of weight matrices; biases and norms have none
    quantized     epochs at the end in which the model is rounded as its library will be
    dtype         of products, as in TrainOptions; where the model is rounded, float32 in any case
    patience      epochs in a row without a better score after which training ends early; 0: never.
                  A model that is yet to be rounded is trained to the end
    """

    epochs: int = 3
    steps: int = 0
    batch: int = 32
    lr: float = 5e-5
    warmup: float = 0.1
    weight_decay: float = 0.01
    seed: int = 0
    quantized: int = 0
    dtype: str = "auto"
    patience: int = 0

    def total(self, examples: int) -> int:
        return self.steps or self.epochs * -(-examples // self.batch)

    def rate(self, step: int, total: int) -> float:
        """The learning rate of step `step`, counted from 0."""
        warm = max(1, round(self.warmup * total))
        return self.lr * min((step + 1) / warm, (total - step) / max(1, total - warm))

    def first_quantized(self, examples: int) -> int:
        """The step from which the model is rounded; that after the last one if it never is."""
        return max(0, self.total(examples) - self.quantized * -(-examples // self.batch))


@dataclass
class State:
    """What a checkpoint holds besides tensors. `best` is of the model as it computes now: rounded,
    once `quantized` is set. The learning rate was halved `halved` times."""

    step: int = 0
    best: float | None = None
    history: list[float] = field(default_factory=list)
    quantized: bool = False
    halved: int = 0


class _EarlierRow(TypedDict):
    step: Annotated[int, msgspec.Meta(ge=0)]
    best: float | None
    history: list[float]


class _StateRow(_EarlierRow, total=False):
    """The same in JSON form; checkpoints of earlier versions lack what may be missing."""

    quantized: bool
    halved: Annotated[int, msgspec.Meta(ge=0, le=_HALVINGS)]


class _Diverged(Exception):
    """The loss of a step is no number."""


class Loop:
    """One training run of `model` on `data`.

    loss          of a batch: the mean over its examples
    evaluate      scores the model at the start and after each epoch; the weights with the best
                  score are kept (the earlier of equal ones), so training never ends below its start
    rounding      what is rounded in the last epochs, where the schedule has such; scores with it
                  and without are not compared, and the weights with the best one with it are kept
    checkpoint    file to resume from, if it was written under the same `key`
    """

    def __init__(
        self,
        model: nn.Module,
        data: Encoded,
        schedule: TrainingSchedule,
        loss: Callable[[Batch], Tensor],
        *,
        evaluate: Callable[[], float] | None = None,
        rounding: FakeQuantization | None = None,
        checkpoint: Path | None = None,
        key: str = "",
    ) -> None:
        self.model, self.data, self.schedule, self.loss = model, data, schedule, loss
        self.evaluate, self.checkpoint, self.key = evaluate, checkpoint, key
        self.rounding, self.device = rounding, device_of(model)
        self.dtype = computes_in(self.device, schedule.dtype)
        self.parts, self.notes = 1, ""  # of a batch; what progress says beside the loss
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.optimizer = self._new_optimizer()
        self.best: dict[str, Tensor] = {}
        self.state = State()
        self._start: dict[str, Tensor] = {}

    def run(self, progress: Progress, epochs: int = 0) -> list[float]:
        """Train to the end, from the checkpoint if there is one; returns each epoch's score.

        epochs   of the schedule after which to stop for now, with the weights of then; 0: none

        InputError where the loss is no number even at a quarter of the rate, or where the memory is
        too small for one example.
        """
        self._start = {n: p.detach().cpu().clone() for n, p in self.parameters.items()}
        while True:
            with ExitStack() as active:
                try:
                    return self._run(progress, epochs, active)
                except _Diverged:
                    self._go_back()

    def _run(self, progress: Progress, epochs: int, active: ExitStack) -> list[float]:
        total = self.schedule.total(len(self.data))
        rounded_from = self.schedule.first_quantized(len(self.data)) if self.rounding else total
        per_epoch = -(-len(self.data) // self.schedule.batch)
        end = min(total, epochs * per_epoch) if epochs else total
        torch.manual_seed(self.schedule.seed)
        self._prepare()
        self._resume()
        if self.state.quantized:
            self._round(active)
        elif self.state.step == 0 and self.evaluate is not None and rounded_from > 0:
            self._compare(self.evaluate)
        saved = time.monotonic()
        while self.state.step < end and not self._settled():
            if self.state.step == rounded_from and not self.state.quantized:
                self._round(active)
                self.state.quantized, self.state.best, self.best = True, None, {}
                if self.evaluate is not None:
                    self._compare(self.evaluate)
            epoch, first = divmod(self.state.step, per_epoch)
            order = training_order(self.data, self.schedule.batch, self.schedule.seed, epoch)
            for index in order[first : first + end - self.state.step]:
                value = self._step(index, total)
                self.state.step += 1
                progress(self.state.step, end, f"loss {value:.3f}{self.notes}")
                # After the last step of an epoch its score belongs to the checkpoint.
                within = self.state.step % per_epoch and self.state.step < end
                if within and time.monotonic() - saved > _CHECKPOINT_SECONDS:
                    self._save()
                    saved = time.monotonic()
            if self.evaluate is not None:
                self.state.history.append(self._compare(self.evaluate))
            self._save()
            saved = time.monotonic()
        settled = self._settled()
        if self.state.step < end:
            progress(end, end, f"no better in {self.schedule.patience} epochs")
        if self.best and (settled or end == total):
            self.model.load_state_dict(self.best, strict=False)
        self.model.eval()
        return self.state.history

    def _settled(self) -> bool:
        """Whether the last epochs, as many as the schedule's patience, brought nothing better."""
        patience, history = self.schedule.patience, self.state.history
        if not patience or self.rounding is not None or len(history) <= patience:
            return False
        return max(history[-patience:]) <= max(history[:-patience])

    def _round(self, active: ExitStack) -> None:
        """From now on, until `active` ends, the model is rounded."""
        assert self.rounding is not None
        active.enter_context(self.rounding.active(self.model))
        self.dtype = FLOAT32

    def _new_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self._groups(), lr=self.schedule.lr, fused=True)

    def _groups(self) -> list[dict[str, object]]:
        decay = [p for p in self.parameters.values() if p.ndim > 1]
        plain = [p for p in self.parameters.values() if p.ndim <= 1]
        return [
            {"params": decay, "weight_decay": self.schedule.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]

    def _step(self, index: Sequence[int], total: int) -> float:
        adapt()
        self.model.train()
        rate = self.schedule.rate(self.state.step, total) / 2**self.state.halved
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        value = self._gradients(index)
        if not math.isfinite(value):
            raise _Diverged
        # Weights stay finite, and with them every checkpoint.
        if not torch.isfinite(nn.utils.clip_grad_norm_(self.parameters.values(), _CLIP)):
            raise _Diverged
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return value

    def _gradients(self, index: Sequence[int]) -> float:
        """Set the gradients of the loss of a batch, and return the loss; in parts if the memory
        holds no more."""
        while True:
            try:
                return self._in_parts(index)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
            self.optimizer.zero_grad(set_to_none=True)
            if self.parts >= len(index):
                raise InputError(
                    f"training: not enough memory on {self.device} for one example; give a "
                    "smaller --length, another --train-device, or free memory"
                )
            self.parts *= 2
            self.notes = f", memory holds 1/{self.parts} of a batch at a time"
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _in_parts(self, index: Sequence[int]) -> float:
        size, total = -(-len(index) // self.parts), 0.0
        for start in range(0, len(index), size):
            part = index[start : start + size]
            with autocast(self.device, self.dtype):
                loss = self.loss(collate(self.data, part).to(self.device))
            share = self._share(part, index)
            value = loss.item()
            if not math.isfinite(value):
                return value
            total += share * value
            (loss * share if share < 1 else loss).backward()
        return total

    def _share(self, part: Sequence[int], index: Sequence[int]) -> float:
        """The part's share of a batch: of its examples, or of its words where losses are means over
        these."""
        units, total = len(self.data.units(part)), len(self.data.units(index))
        return units / total if total else len(part) / len(index)

    def _go_back(self) -> None:
        """To the last checkpoint, or else to the start, with half the rate; InputError where that
        was done often enough."""
        step, halved = self.state.step, self.state.halved + 1
        if halved > _HALVINGS:
            raise DivergedError(
                f"training diverged at step {step}, where the loss is no number, even at a quarter "
                "of the learning rate; give a smaller rate, and look after the texts"
            )
        self.optimizer, self.best = self._new_optimizer(), {}
        self.state, self.dtype = State(), computes_in(self.device, self.schedule.dtype)
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.grad = None
                parameter.copy_(self._start[name])
        if self.checkpoint is not None:
            self._resume()
        # Written down at once: a run that is killed now does not begin at the whole rate again.
        self.state.halved = halved
        self._save()
        self.notes = f", at 1/{2**halved} of the rate since the loss was no number at step {step}"

    def _compare(self, evaluate: Callable[[], float]) -> float:
        """Evaluate the model, and keep its weights if they are the best so far."""
        self.model.eval()
        value = evaluate()
        if self.state.best is None or value > self.state.best:
            self.state.best = value
            self.best = {n: p.detach().clone() for n, p in self.parameters.items()}
        return value

    def _prepare(self) -> None:
        """InputError where a checkpoint could not be written: known before training, not after."""
        if self.checkpoint is None:
            return
        with storing(self.checkpoint):
            if self.checkpoint.is_dir():
                raise IsADirectoryError(errno.EISDIR, "is a directory", str(self.checkpoint))
            self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
            # The model, its best weights and two moments of each, beside an older checkpoint.
            size = sum(p.numel() * p.element_size() for p in self.parameters.values())
            require_room(self.checkpoint.parent, 4 * size)

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        tensors = {f"model.{n}": p.detach() for n, p in self.parameters.items()}
        tensors |= {f"best.{n}": p for n, p in self.best.items()}
        for name, parameter in self.parameters.items():
            # Before the first step, AdamW keeps nothing.
            held = self.optimizer.state[parameter] or self._zeros(parameter)
            for slot, value in held.items():
                tensors[f"{slot}.{name}"] = value
        tensors["rng"] = random_state(self.device)
        note = {"key": self.key, "state": json.dumps(vars(self.state), allow_nan=False)}
        write_tensors(self.checkpoint, tensors, note)

    def _resume(self) -> None:
        """Go on from the checkpoint; without one that is whole and ours, training starts anew."""
        if self.checkpoint is None or not self.checkpoint.is_file():
            return
        try:
            tensors, note = read_tensors(self.checkpoint)
            if note.get("key") != self.key:
                return
            state = State(**parse_json(note.get("state", ""), str(self.checkpoint), _StateRow))
        except InputError:
            return
        if state.step > self.schedule.total(len(self.data)) or not self._fits(tensors):
            return
        if state.quantized and self.rounding is None:
            return
        self.state = state
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"model.{name}"])
                self.optimizer.state[parameter] = {
                    s: tensors[f"{s}.{name}"].to(self.device) for s in _SLOTS
                }
        self.best = {n: tensors[f"best.{n}"] for n in self.parameters if f"best.{n}" in tensors}
        set_random_state(self.device, tensors["rng"])

    def _zeros(self, parameter: Tensor) -> dict[str, Tensor]:
        """AdamW's state of a parameter before its first step."""
        moments = {slot: torch.zeros_like(parameter) for slot in _SLOTS[1:]}
        return {"step": torch.zeros((), device=self.device)} | moments

    def _fits(self, tensors: dict[str, Tensor]) -> bool:
        """Whether a checkpoint has every tensor of this run, of the right shape and type."""
        wanted = {"rng": random_state(self.device)}
        for name, parameter in self.parameters.items():
            wanted |= {f"{kind}.{name}": parameter for kind in ("model", "exp_avg", "exp_avg_sq")}
            wanted[f"step.{name}"] = torch.tensor(0.0)
            if f"best.{name}" in tensors:
                wanted[f"best.{name}"] = parameter
        return all(
            name in tensors
            and tensors[name].shape == like.shape
            and tensors[name].dtype == like.dtype
            for name, like in wanted.items()
        )
