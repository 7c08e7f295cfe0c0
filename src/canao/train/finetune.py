"""Fine-tuning of a teacher on labelled text, and predictions of a classifier."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from canao.train.batches import Batch, Encoded, evaluation_batches
from canao.train.compute import device_of
from canao.train.fake_quantization import FakeQuantization
from canao.train.loop import Loop, Progress, TrainingSchedule

_EVALUATION_BATCH = 64


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of class indices, or squared error of values (logits of shape [n, 1])."""
    if labels.is_floating_point():
        return functional.mse_loss(logits[:, 0], labels)
    return functional.cross_entropy(logits, labels)


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
        return label_loss(model(**batch.inputs).logits, batch.labels)

    loop = Loop(
        model, data, schedule, loss, evaluate=evaluate, rounding=rounding, checkpoint=checkpoint,
        key=key,
    )  # fmt: skip
    return loop.run(progress)


def predict_logits(model: PreTrainedModel, data: Encoded) -> np.ndarray:
    """Logits of shape [examples, outputs], in the order of `data`."""
    model.eval()
    out = np.zeros((len(data), model.config.num_labels), dtype=np.float32)
    with torch.inference_mode():
        for batch in evaluation_batches(data, _EVALUATION_BATCH, device_of(model)):
            out[list(batch.index)] = model(**batch.inputs).logits.float().cpu().numpy()
    return out


def predict(model: PreTrainedModel, data: Encoded) -> np.ndarray:
    """Class indices, or values where the model has one output; shape [examples]."""
    return predicted(predict_logits(model, data))


def predicted(logits: np.ndarray) -> np.ndarray:
    """What logits of shape [examples, outputs] predict; shape [examples]."""
    return logits[:, 0] if logits.shape[1] == 1 else logits.argmax(axis=1)
