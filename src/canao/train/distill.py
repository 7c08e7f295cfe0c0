"""Distillation: train a student on the outputs of the teacher that it inherited weights from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from canao.model.hf import parts_of
from canao.train.batches import Batch, Encoded, evaluation_batches
from canao.train.compute import device_of
from canao.train.fake_quantization import FakeQuantization
from canao.train.finetune import label_loss
from canao.train.loop import Loop, Progress, TrainingSchedule

_BATCH = 64


@dataclass(frozen=True)
class Recipe:
    """The weights of the losses.

    logits        KL divergence from the teacher's class probabilities at `temperature`, times the
                  squared temperature (Hinton et al. 2015, section 2); squared error for regression
    labels        cross-entropy with the labels of the data; squared error for regression
    hidden        squared error of the last layer's hidden states, on the dimensions that the
                  student kept of the teacher, so that no projection between widths is needed
    """

    logits: float = 1.0
    temperature: float = 2.0
    labels: float = 0.5
    hidden: float = 1.0


class TeacherTargets:
    """The teacher's outputs for every example of `data`, which the student is trained to match.

    They are computed once and then looked up. Hidden states of the last layer are kept in half
    precision if they need at most `limit` bytes; otherwise the teacher runs again for each batch.
    They are in the memory of the CPU, and go to the teacher's device with their batch.
    """

    def __init__(
        self,
        teacher: PreTrainedModel,
        data: Encoded,
        progress: Progress,
        *,
        limit: int = 1 << 30,
    ) -> None:
        self.teacher, self.device = teacher.eval(), device_of(teacher)
        self.logits = torch.zeros(len(data), teacher.config.num_labels)
        self.starts = [0]
        for ids in data.ids:
            self.starts.append(self.starts[-1] + len(ids))
        width = teacher.config.hidden_size
        fits = self.starts[-1] * width * 2 <= limit
        self.states = torch.zeros(self.starts[-1], width, dtype=torch.half) if fits else None
        total = math.ceil(len(data) / _BATCH)
        batches = evaluation_batches(data, _BATCH, self.device)
        for done, batch in enumerate(batches, start=1):
            self._compute(batch)
            progress(done, total, "teacher targets")

    def _compute(self, batch: Batch) -> None:
        with torch.inference_mode():
            logits, states = outputs(self.teacher, batch)
            self.logits[list(batch.index)] = logits.cpu()
            if self.states is None:
                return
            states = states.to("cpu", torch.half)
            for row, i in enumerate(batch.index):
                start, end = self.starts[i], self.starts[i + 1]
                self.states[start:end] = states[row, : end - start]

    def of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits [examples, outputs] and the last hidden states [examples, tokens, hidden]."""
        logits = self.logits[list(batch.index)].to(self.device)
        if self.states is None:
            with torch.no_grad():
                return logits, outputs(self.teacher, batch)[1]
        padded = torch.zeros(*batch.ids.shape, self.states.shape[1], dtype=torch.half)
        for row, i in enumerate(batch.index):
            start, end = self.starts[i], self.starts[i + 1]
            padded[row, : end - start] = self.states[start:end]
        return logits, padded.to(self.device).float()


def outputs(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits [examples, outputs] and the last hidden states [examples, tokens, hidden]."""
    seen: list[Tensor] = []
    last = parts_of(model).layers[-1].end
    hook = last.register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        return model(**batch.inputs).logits, seen[0]
    finally:
        hook.remove()


def distill(
    student: PreTrainedModel,
    targets: TeacherTargets,
    kept: Tensor,
    data: Encoded,
    schedule: TrainingSchedule,
    progress: Progress,
    *,
    recipe: Recipe | None = None,
    evaluate: Callable[[], float] | None = None,
    rounding: FakeQuantization | None = None,
    checkpoint: Path | None = None,
    key: str = "",
) -> list[float]:
    """Train `student` in place on the teacher's targets for `data`; returns each epoch's score.

    `kept` are the teacher's hidden dimensions that the student kept, [student hidden]; `rounding`
    says what is rounded in the schedule's last epochs.
    """
    recipe, kept = recipe or Recipe(), kept.to(device_of(student))

    def loss(batch: Batch) -> Tensor:
        logits, states = outputs(student, batch)
        target, wanted = targets.of(batch)
        real = batch.padding_mask.bool()
        return (
            recipe.logits * _logit_loss(logits, target, recipe.temperature)
            + recipe.labels * label_loss(logits, batch.labels)
            + recipe.hidden * functional.mse_loss(states[real], wanted[..., kept][real])
        )

    loop = Loop(
        student, data, schedule, loss, evaluate=evaluate, rounding=rounding, checkpoint=checkpoint,
        key=key,
    )  # fmt: skip
    return loop.run(progress)


def _logit_loss(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    if logits.shape[1] == 1:
        return functional.mse_loss(logits, target)
    # On a CPU, autocast leaves this one in bfloat16.
    own = functional.log_softmax(logits.float() / temperature, dim=-1)
    wanted = functional.log_softmax(target / temperature, dim=-1)
    return functional.kl_div(own, wanted, log_target=True, reduction="batchmean") * temperature**2
