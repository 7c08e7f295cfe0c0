"""How much of what a layer's halves compute is lost with fewer heads or FFN units.

Heads and units are taken away one after another, those first whose loss the others make up for
best: the weights of the output projection that stay are changed so that its result on training
texts moves least (structured optimal brain surgeon: Kurtic et al. 2023, "ZipLM", section 3). With H
the second moments of the projection's inputs, a structure S with the columns W_S costs

    tr(W_S (H^-1_SS)^-1 W_S^T)

which is exactly the squared error that its removal adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from canao.model.arch import Arch
from canao.model.families.parts import both, whole
from canao.model.hf import parts_of
from canao.train.engine.batches import Encoded, collate
from canao.train.engine.compute import device_of, in_float64
from canao.train.engine.tensor_files import KeyedTensors, read_keyed

_TOKENS = 8192  # of training texts, at least, if there are so many
_BATCH = 32
_DAMPING = 0.01  # of the mean second moment, so that H has an inverse
_TOGETHER = 16  # FFN units that are taken away at a time


@dataclass(frozen=True)
class PruningErrors(KeyedTensors):
    """The squared error of what a half gives, relative to what it gave, in the teacher.

    heads   [layers, heads + 1]: with 0, 1, ... heads left
    ffn     [layers, FFN units + 1]: with 0, 1, ... units left
    """

    heads: Tensor
    ffn: Tensor

    def of_heads(self, layer: int, heads: int) -> float:
        """What attention of a layer loses with so many heads."""
        return float(self.heads[layer, heads])

    def of_ffn(self, layer: int, units: int) -> float:
        """What the FFN of a layer loses with so many units."""
        return float(self.ffn[layer, units])

    @classmethod
    def load(cls, path: Path, key: str, arch: Arch) -> PruningErrors | None:
        """What was saved under `key` for a model of that shape; None if it is missing, damaged or
        of another version."""
        shapes = {"heads": (arch.layers, arch.heads + 1), "ffn": (arch.layers, arch.ffn + 1)}
        tensors = read_keyed(path, key, shapes)
        return None if tensors is None else cls(**tensors)


def measure_errors(model: PreTrainedModel, data: Encoded) -> PruningErrors:
    """The errors of every layer, on the first training texts."""
    layers = parts_of(model).layers
    groups = list[Sequence[nn.Linear]]()
    for layer in layers:
        attention, ffns = whole(layer)
        groups += [(attention.output,), [ffn.down for ffn in ffns]]
    moments = iter(_moments(model, groups, data))
    heads, units = [], []
    for layer in layers:
        attention, ffn = both(layer.as_bert())
        size = attention.output.in_features // attention.heads
        heads.append(errors(attention.output.weight, next(moments), size, 1))
        units.append(errors(ffn.down.weight, next(moments), 1, _TOGETHER))
    return PruningErrors(torch.stack(heads), torch.stack(units))


def errors(weight: Tensor, moments: Tensor, size: int, together: int) -> Tensor:
    """The relative squared errors of X W^T with 0, 1, ... structures left, [structures + 1].

    weight     [outputs, inputs]; a structure is `size` neighbouring inputs
    moments    X^T X, [inputs, inputs]
    together   structures that are taken away at a time, by the costs before the first of them
    """
    w, h = in_float64(weight.detach()).clone(), in_float64(moments).clone()
    count = h.shape[0] // size
    whole = torch.einsum("oi,ij,oj->", w, h, w).clamp_min(1e-30)
    h.diagonal().add_(_DAMPING * h.diagonal().mean() + 1e-12)
    inverse = torch.linalg.inv(h)
    left = torch.arange(count, device=h.device)
    found = torch.zeros(count + 1, dtype=torch.float64)
    lost = 0.0
    while len(left) > together:
        costs = _costs(w, inverse, size, len(left))
        gone = costs.argsort()[:together]
        columns = (gone[:, None] * size + torch.arange(size, device=h.device)).flatten()
        lost += _remove(w, inverse, columns)
        stay = torch.ones(len(left) * size, dtype=torch.bool, device=h.device)
        stay[columns] = False
        w, inverse, left = w[:, stay], inverse[stay][:, stay], left[costs.argsort()[together:]]
        found[len(left)] = lost
    found[0] = 1.0
    shares = (found / whole.cpu()).clamp(max=1.0)
    shares[0] = 1.0
    return _filled(shares, count, together).float()


def _costs(w: Tensor, inverse: Tensor, size: int, count: int) -> Tensor:
    """What the removal of each structure adds to the squared error, [count]."""
    if size == 1:
        return w.square().sum(0) / inverse.diagonal()
    blocks = inverse.view(count, size, count, size).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    columns = w.view(-1, count, size).permute(1, 2, 0)
    return (columns * torch.linalg.solve(blocks, columns)).sum((1, 2))


def _remove(w: Tensor, inverse: Tensor, columns: Tensor) -> float:
    """Change the weights and the inverse in place as columns go; what that adds to the error."""
    own = inverse[columns][:, columns]
    taken = torch.linalg.solve(own, w[:, columns].T)  # [columns, outputs]
    lost = float((taken * w[:, columns].T).sum())
    rows = inverse[columns]
    w -= taken.T @ rows
    inverse -= rows.T @ torch.linalg.solve(own, rows)
    return lost


def _filled(shares: Tensor, count: int, together: int) -> Tensor:
    """The errors between those that were measured, on straight lines."""
    known = [k for k in range(count + 1) if k in (0, count) or (count - k) % together == 0]
    xs = torch.tensor(known, dtype=torch.float64)
    at = torch.arange(count + 1, dtype=torch.float64)
    upper = torch.searchsorted(xs, at).clamp(1, len(xs) - 1)
    low, high = xs[upper - 1], xs[upper]
    below, above = shares[low.long()], shares[high.long()]
    return below + (above - below) * (at - low) / (high - low)


def _moments(
    model: PreTrainedModel, groups: Sequence[Sequence[nn.Linear]], data: Encoded
) -> list[Tensor]:
    """X^T X at real tokens, float64, where X are the inputs of a group's modules side by side."""
    device, kept = device_of(model), list[Tensor]()
    widths = [sum(module.in_features for module in group) for group in groups]
    totals = [in_float64(torch.zeros(width, width, device=device)) for width in widths]
    seen: list[list[Tensor]] = [[] for _ in groups]

    def add(i: int, given: Tensor) -> None:
        seen[i].append(given[kept[-1]])
        if len(seen[i]) == len(groups[i]):
            rows = torch.cat(seen[i], 1)
            totals[i] += in_float64(rows.T @ rows)
            seen[i].clear()

    hooks = [
        module.register_forward_pre_hook(lambda module, given, i=i: add(i, given[0]))
        for i, group in enumerate(groups)
        for module in group
    ]
    model.eval()
    try:
        with torch.no_grad():
            tokens = start = 0
            while start < len(data) and tokens < _TOKENS:
                batch = collate(data, range(start, min(start + _BATCH, len(data)))).to(device)
                kept.append(batch.padding_mask.bool())
                model(**batch.inputs)
                tokens, start = tokens + int(kept[-1].sum()), start + _BATCH
    finally:
        for hook in hooks:
            hook.remove()
    return totals
