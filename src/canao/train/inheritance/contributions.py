"""How much each head, FFN unit and dimension of an encoder contributes, on texts without labels.

Where there is a task, importance is how much its loss depends on a structure (importance.py). Plain
text has no labels. So a structure counts here by what it adds to the hidden states: the mean square
of its activation, times the squared weights that read it (Sun et al. 2024, "Wanda", section 3, of
whole columns).
"""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from canao.model.families.parts import both, whole
from canao.model.hf import parts_of
from canao.train.engine.batches import Encoded, collate
from canao.train.engine.compute import device_of
from canao.train.inheritance.importance import Importance

_TOKENS = 16_384
_BATCH = 32


def contributions(model: PreTrainedModel, data: Encoded) -> Importance:
    """The importance of every structure, from the first texts of `data`."""
    parts = parts_of(model)
    layers = [whole(layer) for layer in parts.layers]
    writers = [parts.embeddings.end, *(norm for layer in parts.layers for norm in layer.norms)]
    given = [module for a, ffns in layers for module in (a.output, *(f.down for f in ffns))]
    made = [*(module for a, _ in layers for module in (a.query, a.key)), *writers]
    inputs, outputs = _squares(model, data, given, made)
    scores = [outputs[2 * i] * outputs[2 * i + 1] for i in range(len(layers))]
    hidden = torch.stack(outputs[2 * len(layers) :]).sum(0)
    values, heads, units, read = [], [], [], iter(inputs)
    for layer, (attention, ffns) in zip(parts.layers, layers, strict=True):
        same, like = both(layer.as_bert())
        values.append(_read(next(read), same.output))
        heads.append(values[-1].view(attention.heads, -1).sum(1))
        units.append(_read(torch.cat([next(read) for _ in ffns]), like.down))
    return Importance(
        hidden=hidden, heads=torch.stack(heads), scores=torch.stack(scores),
        values=torch.stack(values), ffn_units=torch.stack(units), pooled=hidden.clone(),
    )  # fmt: skip


def _read(squares: Tensor, module: nn.Linear) -> Tensor:
    """What each input adds to a module's output."""
    return squares * module.weight.detach().cpu().square().sum(0)


def _squares(
    model: PreTrainedModel, data: Encoded, given: list[nn.Linear], made: list[nn.Module]
) -> tuple[list[Tensor], list[Tensor]]:
    """The mean square, over real tokens, of each input of `given` and each output of `made`."""
    device, real = device_of(model), list[Tensor]()
    totals: dict[int, Tensor] = {}

    def add(place: int, x: Tensor) -> None:
        rows = x[real[-1]].float().square().sum(0)
        totals[place] = totals.get(place, torch.zeros_like(rows)) + rows

    model.eval()
    count = start = 0
    with ExitStack() as hooks, torch.no_grad():
        for i, module in enumerate(given):
            hooks.enter_context(module.register_forward_pre_hook(
                lambda module, inputs, i=i: add(i, inputs[0])
            ))  # fmt: skip
        for i, other in enumerate(made, start=len(given)):
            hooks.enter_context(other.register_forward_hook(
                lambda module, inputs, output, i=i: add(i, output)
            ))  # fmt: skip
        while start < len(data) and count < _TOKENS:
            batch = collate(data, range(start, min(start + _BATCH, len(data)))).to(device)
            real.append(batch.padding_mask.bool())
            model(**batch.inputs)
            count, start = count + int(real[-1].sum()), start + _BATCH
    means = [totals[i].cpu() / count for i in range(len(given) + len(made))]
    return means[: len(given)], means[len(given) :]
