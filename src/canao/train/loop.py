"""The training loop: AdamW with warm-up and decay; a killed run resumes from its checkpoint."""

from __future__ import annotations

import errno
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypedDict

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from canao.artifact.files import staged_file
from canao.artifact.reading import parse_json
from canao.errors import InputError
from canao.train.batches import Batch, Encoded, collate, training_order
from canao.train.fake_quantization import FakeQuantization
from canao.train.storing import require_room, storing

Progress = Callable[[int, int, str], None]  # steps done, steps in all, note
_CHECKPOINT_SECONDS = 120.0
_CLIP = 1.0
_SLOTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps of each parameter


@dataclass(frozen=True)
class TrainingSchedule:
    """How many steps to train, and at which learning rate.

    steps         optimiser steps; 0: as many as `epochs` need
    warmup        share of the steps over which the rate rises from 0; after that it falls to 0
    weight_decay  of weight matrices; biases and norms have none
    quantized     epochs at the end in which the model is rounded as its library will be
    """

    epochs: int = 3
    steps: int = 0
    batch: int = 32
    lr: float = 5e-5
    warmup: float = 0.1
    weight_decay: float = 0.01
    seed: int = 0
    quantized: int = 0

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
class _State:
    """What a checkpoint holds besides tensors. `best` is of the model as it computes now: rounded,
    once `quantized` is set."""

    step: int = 0
    best: float | None = None
    history: list[float] = field(default_factory=list)
    quantized: bool = False


class _EarlierRow(TypedDict):
    step: Annotated[int, msgspec.Meta(ge=0)]
    best: float | None
    history: list[float]


class _StateRow(_EarlierRow, total=False):
    """The same in JSON form; checkpoints of earlier versions lack what may be missing."""

    quantized: bool


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
        self.rounding = rounding
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(self._groups(), lr=schedule.lr, fused=True)
        self.best: dict[str, Tensor] = {}
        self.state = _State()

    def run(self, progress: Progress) -> list[float]:
        """Train to the end, from the checkpoint if there is one; returns each epoch's score."""
        with ExitStack() as active:
            return self._run(progress, active)

    def _run(self, progress: Progress, active: ExitStack) -> list[float]:
        total = self.schedule.total(len(self.data))
        rounded_from = self.schedule.first_quantized(len(self.data)) if self.rounding else total
        per_epoch = -(-len(self.data) // self.schedule.batch)
        torch.manual_seed(self.schedule.seed)
        self._prepare()
        self._resume()
        if self.state.quantized:
            self._round(active)
        elif self.state.step == 0 and self.evaluate is not None and rounded_from > 0:
            self._compare(self.evaluate)
        saved = time.monotonic()
        while self.state.step < total:
            if self.state.step == rounded_from and not self.state.quantized:
                self._round(active)
                self.state.quantized, self.state.best, self.best = True, None, {}
                if self.evaluate is not None:
                    self._compare(self.evaluate)
            epoch, first = divmod(self.state.step, per_epoch)
            order = training_order(self.data, self.schedule.batch, self.schedule.seed, epoch)
            for index in order[first : first + total - self.state.step]:
                value = self._step(index, total)
                self.state.step += 1
                progress(self.state.step, total, f"loss {value:.3f}")
                if time.monotonic() - saved > _CHECKPOINT_SECONDS:
                    self._save()
                    saved = time.monotonic()
            if self.evaluate is not None:
                self.state.history.append(self._compare(self.evaluate))
            self._save()
            saved = time.monotonic()
        if self.best:
            self.model.load_state_dict(self.best, strict=False)
        self.model.eval()
        return self.state.history

    def _round(self, active: ExitStack) -> None:
        """From now on, until `active` ends, the model is rounded."""
        assert self.rounding is not None
        active.enter_context(self.rounding.active(self.model))

    def _groups(self) -> list[dict[str, object]]:
        decay = [p for p in self.parameters.values() if p.ndim > 1]
        plain = [p for p in self.parameters.values() if p.ndim <= 1]
        return [
            {"params": decay, "weight_decay": self.schedule.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]

    def _step(self, index: Sequence[int], total: int) -> float:
        self.model.train()
        rate = self.schedule.rate(self.state.step, total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self.loss(collate(self.data, index))
        value = loss.item()
        if not math.isfinite(value):
            raise InputError(
                f"training diverged at step {self.state.step} (loss {value}); "
                "give a smaller learning rate"
            )
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters.values(), _CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return value

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
            for slot, value in self.optimizer.state[parameter].items():
                tensors[f"{slot}.{name}"] = value
        tensors["rng"] = torch.get_rng_state()
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
            state = _State(**parse_json(note.get("state", ""), str(self.checkpoint), _StateRow))
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
                self.optimizer.state[parameter] = {s: tensors[f"{s}.{name}"] for s in _SLOTS}
        self.best = {n: tensors[f"best.{n}"] for n in self.parameters if f"best.{n}" in tensors}
        torch.set_rng_state(tensors["rng"])

    def _fits(self, tensors: dict[str, Tensor]) -> bool:
        """Whether a checkpoint has every tensor of this run, of the right shape and type."""
        wanted = {"rng": torch.get_rng_state()}
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


def write_tensors(path: Path, tensors: dict[str, Tensor], note: dict[str, str]) -> None:
    """Write a safetensors file with `note` in its header; the file is there whole or not at all.

    InputError if it cannot be written, as where the disk is full; what was there before stays.
    """
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with staged_file(path) as temporary:
            save_file({n: t.contiguous() for n, t in tensors.items()}, temporary, metadata=note)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file and the note in its header; InputError if damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            # Cloned: the file may be replaced while its memory map is in use.
            names = file.keys()
            return {n: file.get_tensor(n).clone() for n in names}, file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({error}); remove it") from None


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Let torch compute with `count` threads inside the block (None: as torch is set)."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
