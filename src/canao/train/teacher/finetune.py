"""Fine-tuning of a teacher on labelled text, and predictions of a classifier."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from canao.train.engine.batches import Batch, Encoded, evaluation_batches, logits_of, text_task
from canao.train.engine.compute import device_of
from canao.train.engine.fake_quantization import FakeQuantization
from canao.train.engine.loop import Loop, Progress, TrainingSchedule
from canao.train.tasks.task import Task

_EVALUATION_BATCH = 64


def label_loss(logits: Tensor, labels: Tensor, task: Task | None = None) -> Tensor:
    """The mean loss of units [units, outputs] on their labels, as the task has it. Without a task,
    cross-entropy of class indices, or squared error of values (logits of shape [n, 1])."""
    return (task or text_task(labels.is_floating_point())).label_loss(logits, labels)


def finetune(
    model: PreTrainedModel,
    data: Encoded,
    schedule: TrainingSchedule,
    progress: Progress,
    *,
    evaluate: Callable[[], float] | None = None,
    rounding: FakeQuantization | None = None,
    checkpoint: Path | None = None,
    key: str = "",
) -> list[float]:
    """Train `model` in place on the labels; returns the score after each epoch.

    The recipe is BERT's (Devlin et al. 2019, appendix A.3): Adam with weight decay, a learning
    rate of 5e-5, batches of 32, 3 epochs. With `evaluate`, the weights of the best epoch are kept.
    `rounding` says what is rounded in the schedule's last epochs, if the model itself is to be
    compiled.
    """

    def loss(batch: Batch) -> Tensor:
        return label_loss(logits_of(model, batch), batch.labels, batch.task)

    loop = Loop(
        model, data, schedule, loss, evaluate=evaluate, rounding=rounding, checkpoint=checkpoint,
        key=key,
    )  # fmt: skip
    return loop.run(progress)


def predict_logits(model: PreTrainedModel, data: Encoded) -> np.ndarray:
    """Logits of each unit, [units, outputs], in the order of `data`."""
    model.eval()
    out = np.zeros((len(data.labels), model.config.num_labels), dtype=np.float32)
    with torch.inference_mode():
        for batch in evaluation_batches(data, _EVALUATION_BATCH, device_of(model)):
            found = logits_of(model, batch).float().cpu().numpy()
            out[data.units(batch.index)] = found
    return out


def predict(model: PreTrainedModel, data: Encoded) -> np.ndarray:
    """What the model says of the examples, or of all their words, as the task's targets have
    it: class indices or values, [examples], for one."""
    return data.predicted(predict_logits(model, data))
