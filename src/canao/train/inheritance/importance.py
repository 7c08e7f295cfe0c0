"""How much the loss of a classifier depends on each head, FFN unit and hidden dimension."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from canao.model.arch import Arch
from canao.model.families.parts import Norm, Parts, whole
from canao.model.hf import parts_of
from canao.train.engine.batches import Encoded, collate, logits_of
from canao.train.engine.compute import device_of
from canao.train.engine.tensor_files import KeyedTensors, read_keyed
from canao.train.teacher.finetune import label_loss


@dataclass(frozen=True)
class Importance(KeyedTensors):
    """Importance scores: the larger, the more the loss depends on the structure.

    hidden      [hidden]           dimensions of the residual stream
    heads       [layers, heads]    attention heads
    scores      [layers, width]    dimensions of queries and keys, head after head
    values      [layers, width]    dimensions of values, head after head
    ffn_units   [layers, ffn]      units of a layer's FFNs
    pooled      [hidden]           dimensions that the classification head reads
    """

    hidden: Tensor
    heads: Tensor
    scores: Tensor
    values: Tensor
    ffn_units: Tensor
    pooled: Tensor

    @classmethod
    def load(cls, path: Path, key: str, arch: Arch) -> Importance | None:
        """What was saved under `key` for a model of that shape; None if it is missing, damaged or
        of another version."""
        deep = (arch.layers, arch.width)
        shapes = {"hidden": (arch.hidden,), "heads": (arch.layers, arch.heads), "scores": deep,
                  "values": deep, "ffn_units": (arch.layers, arch.ffn),
                  "pooled": (arch.hidden,)}  # fmt: skip
        tensors = read_keyed(path, key, shapes)
        return None if tensors is None else cls(**tensors)


def measure_importance(
    model: PreTrainedModel, data: Encoded, examples: int = 512, batch: int = 16
) -> Importance:
    """The importance of every structure, from the first `examples` of `data`.

    Think of a pruning mask: a factor of 1 on each structure, which pruning would set to 0. The
    importance of a structure is |dL/dmask|, summed over batches (Michel et al. 2019, section 4.1;
    DynaBERT, Hou et al. 2020, section 2.1). This gradient equals the sum of weight times gradient
    over the weights that write or read the structure, so the mask itself is never built. The mask
    of a residual dimension stands behind every module that writes it. L is the loss on the labels
    alone, as in GRAIN.
    """
    parts = parts_of(model)
    model.eval()
    totals: dict[str, Tensor] = {}
    count = min(examples, len(data))
    for start in range(0, count, batch):
        piece = collate(data, range(start, min(start + batch, count))).to(device_of(model))
        label_loss(logits_of(model, piece), piece.labels, piece.task).backward()
        for name, value in _pruning_mask_gradients(parts).items():
            totals[name] = totals.get(name, 0) + value
        model.zero_grad(set_to_none=True)
    return Importance(**{name: total.cpu() for name, total in totals.items()})


def _pruning_mask_gradients(parts: Parts) -> dict[str, Tensor]:
    """|dL/dmask| of every structure, from the gradients that the parameters hold now."""
    writers: list[nn.Linear | Norm] = [parts.embeddings.end]
    found: dict[str, list[Tensor]] = {"heads": [], "scores": [], "values": [], "ffn_units": []}
    for layer in parts.layers:
        attention, ffns = whole(layer)
        writers += layer.norms
        value = _reads(attention.output)
        found["heads"].append(value.view(attention.heads, -1).sum(1).abs())
        found["values"].append(value.abs())
        found["scores"].append(_writes(attention.query).abs() + _writes(attention.key).abs())
        units = [_reads(ffn.down).abs() + _writes(ffn.up).abs() for ffn in ffns]
        found["ffn_units"].append(torch.cat(units))
    scores = {name: torch.stack(rows) for name, rows in found.items()}
    scores["hidden"] = sum(_writes(writer).abs() for writer in writers)
    # Without a pooler, the head reads the hidden dimensions.
    scores["pooled"] = scores["hidden"] if parts.pooler is None else _reads(parts.head).abs()
    return scores


def _reads(linear: nn.Linear) -> Tensor:
    """dL/dmask of each input of a linear layer, [inputs]."""
    return (linear.weight.detach() * linear.weight.grad).sum(0)


def _writes(module: nn.Linear | Norm) -> Tensor:
    """dL/dmask of each output of a linear layer or norm, [outputs]."""
    weight = module.weight.detach() * module.weight.grad
    rows = weight.sum(1) if weight.ndim == 2 else weight
    return rows + module.bias.detach() * module.bias.grad
