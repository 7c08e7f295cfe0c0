"""Decoders that generation is measured with: random weights, one ONNX file with past keys."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

# Layers, heads, hidden size, vocabulary and longest text.
SHAPES = {"gpt2": (12, 12, 768, 50257, 1024), "tiny": (2, 2, 32, 99, 64)}


def decoder(name: str) -> GPT2LMHeadModel:
    """The model of a name with random weights, the same every time."""
    layers, heads, hidden, vocabulary, longest = SHAPES[name]
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=layers, n_head=heads, n_embd=hidden, vocab_size=vocabulary, n_positions=longest,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


class WithPast(nn.Module):
    """Ids [1, s] and keys and values of earlier tokens -> logits of the last token, new keys and
    values. The mask is written out: exporters cannot follow how Transformers makes it."""

    def __init__(self, model: GPT2LMHeadModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        before, new = past[0].shape[2], input_ids.shape[1]
        places = torch.arange(before + new)
        queries = places[before:]
        seen = places[None, :] <= queries[:, None]
        mask = torch.where(seen, 0.0, torch.finfo(torch.float32).min)[None, None]
        cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
        out = self.model(
            input_ids, past_key_values=cache, attention_mask=mask, position_ids=queries[None],
            use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        kept = [t for layer in out.past_key_values.layers for t in (layer.keys, layer.values)]
        return (out.logits[:, 0], *kept)


def export(model: GPT2LMHeadModel, file: Path) -> None:
    """Write the model with past keys and values as an .onnx file; both lengths are dynamic."""
    config = model.config
    shape = (1, config.n_head, 5, config.n_embd // config.n_head)
    past = [torch.zeros(shape) for _ in range(2 * config.n_layer)]
    before, new = torch.export.Dim.DYNAMIC, torch.export.Dim.DYNAMIC
    torch.onnx.export(
        WithPast(model).eval(), (torch.zeros(1, 3, dtype=torch.long), *past), file, dynamo=True,
        dynamic_shapes=({1: new}, tuple({2: before} for _ in past)),
        input_names=["input_ids", *(f"past_{i}" for i in range(len(past)))],
        output_names=["logits", *(f"present_{i}" for i in range(len(past)))],
        verbose=False,
    )  # fmt: skip
