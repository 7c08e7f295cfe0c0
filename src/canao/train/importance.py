"""How much each head, neuron and dimension of a classifier matters to its loss."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from canao.errors import InputError
from canao.model.hf import Parts, parts_of
from canao.train.batches import Encoded, collate
from canao.train.finetune import label_loss
from canao.train.loop import read_tensors, write_tensors


@dataclass(frozen=True)
class Importance:
    """Scores, larger for what matters more.

    hidden    [hidden]           dimensions of the residual stream
    heads     [layers, heads]
    scores    [layers, hidden]   dimensions of queries and keys, head after head
    values    [layers, hidden]   dimensions of values, head after head
    neurons   [layers, ffn]
    pooled    [hidden]           dimensions that the classification head reads
    """

    hidden: Tensor
    heads: Tensor
    scores: Tensor
    values: Tensor
    neurons: Tensor
    pooled: Tensor

    def save(self, path: Path, key: str) -> None:
        """Write to a safetensors file under `key`."""
        write_tensors(path, {f.name: getattr(self, f.name) for f in fields(self)}, {"key": key})

    @classmethod
    def load(cls, path: Path, key: str) -> Importance | None:
        """What was saved under `key`; None if there is none, or it is damaged."""
        if not path.is_file():
            return None
        try:
            tensors, note = read_tensors(path)
        except InputError:
            return None
        return cls(**tensors) if note.get("key") == key else None


def measure_importance(
    model: PreTrainedModel, data: Encoded, examples: int = 512, batch: int = 16
) -> Importance:
    """Importance from the gradients of the label loss on the first `examples` of `data`.

    The score of a structure is |dL/dmask| of a mask of ones on it, summed over batches
    (Michel et al. 2019, section 4.1; DynaBERT, Hou et al. 2020, section 2.1). The mask's gradient
    is the sum of weight times gradient over the weights that write or read the structure, so
    that no mask is needed. A residual dimension is masked behind every norm. Labels alone
    give the loss, as in GRAIN.
    """
    parts = parts_of(model)
    model.eval()
    totals: dict[str, Tensor] = {}
    count = min(examples, len(data))
    for start in range(0, count, batch):
        piece = collate(data, range(start, min(start + batch, count)))
        label_loss(model(**piece.inputs).logits, piece.labels).backward()
        for name, value in _mask_gradients(parts, model.config.num_attention_heads).items():
            totals[name] = totals.get(name, 0) + value
        model.zero_grad(set_to_none=True)
    return Importance(**totals)


def _mask_gradients(parts: Parts, heads: int) -> dict[str, Tensor]:
    """|dL/dmask| of every structure for the gradients that the parameters now hold."""
    norms = [parts.embedding_norm]
    found: dict[str, list[Tensor]] = {"heads": [], "scores": [], "values": [], "neurons": []}
    for layer in parts.layers:
        norms += [layer.attention_norm, layer.ffn_norm]
        value = _reads(layer.output)
        found["heads"].append(value.view(heads, -1).sum(1).abs())
        found["values"].append(value.abs())
        found["scores"].append(_writes(layer.query).abs() + _writes(layer.key).abs())
        found["neurons"].append(_reads(layer.down).abs() + _writes(layer.up).abs())
    scores = {name: torch.stack(rows) for name, rows in found.items()}
    scores["hidden"] = sum(_writes(norm).abs() for norm in norms)
    scores["pooled"] = _reads(parts.head).abs()
    return scores


def _reads(linear: nn.Linear) -> Tensor:
    """Mask gradient of each input of a linear layer, [inputs]."""
    return (linear.weight.detach() * linear.weight.grad).sum(0)


def _writes(module: nn.Linear | nn.LayerNorm) -> Tensor:
    """Mask gradient of each output, [outputs]."""
    weight = module.weight.detach() * module.weight.grad
    rows = weight.sum(1) if weight.ndim == 2 else weight
    return rows + module.bias.detach() * module.bias.grad
