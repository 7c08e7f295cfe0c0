"""Distil a teacher into a student that inherited from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from canao.model.hf import parts_of
from canao.train.batches import Batch, Encoded, evaluation_batches
from canao.train.finetune import label_loss
from canao.train.loop import Loop, Progress, Schedule

_BATCH = 64
_RELATION_HEADS = 12


@dataclass(frozen=True)
class Recipe:
    """Weights of the losses.

    logits       KL divergence from the teacher's classes at `temperature`, times its square
                 (Hinton et al. 2015, section 2); squared error where the task is regression
    labels       cross-entropy, or squared error, of the data's own labels
    hidden       squared error of the last layer's states, on the dimensions that the student kept
    relations    query, key and value relations of the last layer (MiniLMv2, Wang et al. 2021)
    """

    logits: float = 1.0
    temperature: float = 2.0
    labels: float = 0.5
    hidden: float = 1.0
    relations: float = 0.0
    dropout: bool = True


class Signals:
    """What a teacher says of every example of `data`: computed once, then looked up.

    The last layer's states and queries, keys and values are kept in half precision if they need
    no more than `limit` bytes; otherwise the teacher runs again for each batch.
    """

    def __init__(
        self,
        teacher: PreTrainedModel,
        data: Encoded,
        progress: Progress,
        *,
        relations: bool = False,
        limit: int = 1 << 30,
    ) -> None:
        self.teacher = teacher.eval()
        self.taps = Taps(teacher, relations)
        self.logits = torch.zeros(len(data), teacher.config.num_labels)
        self.starts = [0]
        for ids in data.ids:
            self.starts.append(self.starts[-1] + len(ids))
        width = teacher.config.hidden_size * len(self.taps.modules)
        fits = self.starts[-1] * width * 2 <= limit
        self.states = torch.zeros(self.starts[-1], width, dtype=torch.half) if fits else None
        total = math.ceil(len(data) / _BATCH)
        for done, batch in enumerate(evaluation_batches(data, _BATCH), start=1):
            self._compute(batch)
            progress(done, total, "teacher's outputs")

    def _compute(self, batch: Batch) -> None:
        with torch.inference_mode():
            self.logits[list(batch.index)] = self.teacher(**batch.inputs).logits.float()
            if self.states is None:
                return
            states = torch.cat(self.taps.take(), dim=-1).half()
            for row, i in enumerate(batch.index):
                start, end = self.starts[i], self.starts[i + 1]
                self.states[start:end] = states[row, : end - start]

    def of(self, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        """Logits [examples, outputs]; tapped states, each [examples, tokens, hidden]."""
        logits = self.logits[list(batch.index)]
        if self.states is None:
            with torch.no_grad():
                self.teacher(**batch.inputs)
            return logits, self.taps.take()
        padded = torch.zeros(*batch.ids.shape, self.states.shape[1])
        for row, i in enumerate(batch.index):
            start, end = self.starts[i], self.starts[i + 1]
            padded[row, : end - start] = self.states[start:end]
        return logits, list(padded.chunk(len(self.taps.modules), dim=-1))


class Taps:
    """Records what the last layer puts out: states, and queries, keys and values if asked."""

    def __init__(self, model: PreTrainedModel, relations: bool) -> None:
        layer = parts_of(model).layers[-1]
        self.modules: list[nn.Module] = [layer.ffn_norm]
        if relations:
            self.modules += [layer.query, layer.key, layer.value]
        self.seen: dict[nn.Module, Tensor] = {}
        self.hooks = [m.register_forward_hook(self._record) for m in self.modules]

    def _record(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        self.seen[module] = output

    def take(self) -> list[Tensor]:
        """The outputs of the last forward pass, each [examples, tokens, hidden]."""
        return [self.seen.pop(module) for module in self.modules]

    def close(self) -> None:
        for hook in self.hooks:
            hook.remove()


def distill(
    student: PreTrainedModel,
    signals: Signals,
    kept: Tensor,
    data: Encoded,
    schedule: Schedule,
    recipe: Recipe,
    progress: Progress,
    *,
    evaluate: Callable[[], float] | None = None,
    checkpoint: Path | None = None,
    key: str = "",
) -> list[float]:
    """Train `student` in place on the teacher's signals; the score after each epoch."""
    taps = Taps(student, len(signals.taps.modules) > 1)
    if not recipe.dropout:
        for module in student.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0

    def loss(batch: Batch) -> Tensor:
        logits = student(**batch.inputs).logits
        own = taps.take()
        target, states = signals.of(batch)
        total = recipe.logits * _logit_loss(logits, target, recipe.temperature)
        if recipe.labels:
            total = total + recipe.labels * label_loss(logits, batch.labels)
        real = batch.mask.bool()
        if recipe.hidden:
            total = total + recipe.hidden * functional.mse_loss(
                own[0][real], states[0][..., kept][real]
            )
        if recipe.relations:
            for x, y in zip(own[1:], states[1:], strict=True):
                total = total + recipe.relations * relation_loss(x, y, real)
        return total

    loop = Loop(student, data, schedule, loss, evaluate=evaluate, checkpoint=checkpoint, key=key)
    try:
        return loop.run(progress)
    finally:
        taps.close()


def _logit_loss(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    if logits.shape[1] == 1:
        return functional.mse_loss(logits, target)
    own = functional.log_softmax(logits / temperature, dim=-1)
    wanted = functional.log_softmax(target / temperature, dim=-1)
    return functional.kl_div(own, wanted, log_target=True, reduction="batchmean") * temperature**2


def relation_loss(student: Tensor, teacher: Tensor, real: Tensor) -> Tensor:
    """KL of the token-to-token relations softmax(X X^T / sqrt(d)), mean over heads and tokens.

    X is split into as many relation heads as divide both widths (MiniLMv2, section 3.1).
    """
    common = math.gcd(student.shape[-1], teacher.shape[-1])
    heads = max(h for h in range(1, _RELATION_HEADS + 1) if common % h == 0)
    own, wanted = _relations(student, heads, real), _relations(teacher, heads, real)
    divergence = (wanted.exp() * (wanted - own)).sum(-1).mean(1)
    return divergence[real].mean()


def _relations(states: Tensor, heads: int, real: Tensor) -> Tensor:
    x = states.unflatten(-1, (heads, -1)).transpose(1, 2)
    scores = x @ x.transpose(-1, -2) / math.sqrt(x.shape[-1])
    # A finite floor: exp gives 0, and 0 * (floor - floor) stays 0 where -inf would give NaN.
    return scores.masked_fill(~real[:, None, None, :], -1e4).log_softmax(dim=-1)
