"""The head of a classifier trained alone, before the whole model is.

A new head is random, and its first gradients pull the body away from what it has learnt. So the
head is trained first, on states that the body computes once, and then all of it (Kumar et al.
2022, "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution": linear
probing, then fine-tuning). That takes a pass over the texts, and seconds.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from canao.model.hf import parts_of
from canao.train.engine.batches import Encoded, evaluation_batches
from canao.train.engine.compute import device_of
from canao.train.engine.loop import Progress
from canao.train.teacher.finetune import label_loss
from canao.train.teacher.recipe import HEAD_BATCH

_BATCH = 64  # of texts that pass the body
_RATE = 1e-3
_DECAY = 0.01
_DROPOUT = 0.1


def fit_head(
    model: PreTrainedModel, data: Encoded, epochs: int, seed: int, progress: Progress
) -> None:
    """Train the head, and the pooler if there is one, in place on the labels of `data`; the body
    stays as it is.

    AdamW at a rate that falls from 1e-3 to 0, over `epochs` of the states. The same seed gives the
    same head.
    """
    parts, device = parts_of(model), device_of(model)
    torch.manual_seed(seed)
    states, labels = _states(model, data, progress), torch.from_numpy(data.labels).to(device)
    trained = [p for m in (parts.pooler, parts.head) if m is not None for p in m.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=_RATE, weight_decay=_DECAY)
    draws, step = torch.Generator().manual_seed(seed), 0
    # As many steps for the words of texts as for texts.
    size = max(1, HEAD_BATCH * len(labels) // len(data))
    total = epochs * -(-len(labels) // size)
    for _ in range(epochs):
        for rows in torch.randperm(len(labels), generator=draws).split(size):
            optimizer.param_groups[0]["lr"] = _RATE * (1 - step / total)
            read = functional.dropout(parts.pooled(states[rows]), _DROPOUT)
            loss = label_loss(parts.head(read), labels[rows], data.task)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            progress(step, total, f"loss {loss.item():.3f}")


def _states(model: PreTrainedModel, data: Encoded, progress: Progress) -> Tensor:
    """What the pooler reads of each text, or the head where there is none, [units, hidden]."""
    parts, device = parts_of(model), device_of(model)
    first = parts.pooler or parts.head
    found = torch.zeros(len(data.labels), first.in_features, device=device)
    seen: list[Tensor] = []
    hook = first.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    model.eval()
    total = -(-len(data) // _BATCH)
    try:
        with torch.no_grad():
            for done, batch in enumerate(evaluation_batches(data, _BATCH, device), start=1):
                model(**batch.inputs)
                found[data.units(batch.index)] = batch.of_units(seen.pop())
                progress(done, total, "states")
    finally:
        hook.remove()
    return found
