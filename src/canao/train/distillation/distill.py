"""Distillation: train a student on the outputs of the teacher that it inherited weights from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from canao.train.distillation.losses import LOSSES
from canao.train.distillation.signals import Pairing, Seen, Signal, observe
from canao.train.distillation.targets import TeacherTargets
from canao.train.engine.batches import Batch, Encoded
from canao.train.engine.compute import device_of
from canao.train.engine.fake_quantization import FakeQuantization
from canao.train.engine.loop import Loop, Progress, TrainingSchedule

# Of the steps, for losses that go layer after layer: MobileBERT spends 240,000 of 740,000 steps so.
_STAGED = 1 / 3


def distill(
    student: PreTrainedModel,
    targets: TeacherTargets,
    pairing: Pairing,
    data: Encoded,
    schedule: TrainingSchedule,
    progress: Progress,
    losses: Mapping[str, float],
    *,
    evaluate: Callable[[], float] | None = None,
    rounding: FakeQuantization | None = None,
    checkpoint: Path | None = None,
    key: str = "",
) -> list[float]:
    """Train `student` in place on the teacher's targets for `data`; returns each epoch's score.

    `losses` are weights by name (`losses.py`); `pairing` says what of the student is compared with
    what of the teacher; `rounding` says what is rounded in the schedule's last epochs.
    """
    objective = Objective(student, targets, pairing, losses, schedule.total(len(data)))

    def loss(batch: Batch) -> Tensor:
        return objective(batch, loop.state.step)

    loop = Loop(
        student, data, schedule, loss, evaluate=evaluate, rounding=rounding, checkpoint=checkpoint,
        key=key,
    )  # fmt: skip
    return loop.run(progress)


def needed(losses: Iterable[str], pairing: Pairing) -> tuple[set[Signal], set[Signal]]:
    """All that these losses compare beside logits, of the student and of the teacher."""
    needs = [LOSSES[name].needs(pairing) for name in losses]
    mine, theirs = ({signal for need in needs for signal in need[side]} for side in (0, 1))
    return mine, theirs


def compared(
    own: Seen, wanted: Seen, batch: Batch, pairing: Pairing, losses: Mapping[str, float]
) -> Tensor:
    """The weighted sum of losses by name, of what the student and the teacher made of a batch."""
    # What models compute in bfloat16, losses compare in float32.
    with torch.autocast(own.logits.device.type, enabled=False):
        own, wanted = own.float(), wanted.float()
        parts = [weight * LOSSES[name].value(own, wanted, batch, pairing)
                 for name, weight in losses.items()]  # fmt: skip
        return torch.stack(parts).sum()


class Objective:
    """The loss of a batch at a step: first of the losses that go layer after layer, one pair of
    layers at a time, then of all others."""

    def __init__(
        self, student: PreTrainedModel, targets: TeacherTargets, pairing: Pairing,
        losses: Mapping[str, float], steps: int,
    ) -> None:  # fmt: skip
        device = device_of(student)
        self.student, self.targets, self.device = student, targets, device
        self.pairing = replace(pairing, hidden=pairing.hidden.to(device))
        self.staged = {n: w for n, w in losses.items() if LOSSES[n].staged}
        self.others = {n: w for n, w in losses.items() if not LOSSES[n].staged}
        self.first = round(_STAGED * steps) if self.staged else 0

    def stage(self, step: int) -> int | None:
        """Which pair of layers is trained at a step; None once all are. Each has the same share of
        the steps: less than one where there are too few, and then some layers have none."""
        return step * len(self.pairing.layers) // self.first if step < self.first else None

    def __call__(self, batch: Batch, step: int) -> Tensor:
        stage = self.stage(step)
        if stage is None:
            return self._sum(batch, self.others, self.pairing, 0)
        pair = self.pairing.only(stage)
        return self._sum(batch, self.staged, pair, frozen=pair.layers[0][0])

    def _sum(
        self, batch: Batch, losses: Mapping[str, float], pairing: Pairing, frozen: int
    ) -> Tensor:
        mine, theirs = needed(losses, pairing)
        own = observe(self.student, batch, mine, frozen)
        return compared(own, self.targets.of(batch, theirs), batch, pairing, losses)
