"""The measured models, by configuration, with random weights under which every layer matters.

Needs torch, transformers and safetensors only: it is imported in LiteRT's environment too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import nn

SEED = 20260921
VOCABULARY = range(1000, 30000)  # ids of random texts: whole words, no special tokens
# What the families call the projections of scores, and the last one of each residual branch.
_QUERY = ("query", "q_lin")
_SCORES = (*_QUERY, "key", "k_lin")
_BRANCH = ("output.dense", "out_lin", "lin2")
_MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
           "intermediate_size": 1536}  # fmt: skip
_NARROW = {"hidden_size": 256, "num_hidden_layers": 28, "num_attention_heads": 4,
           "intermediate_size": 640}  # fmt: skip
# name -> family in Transformers, and what differs from its default configuration
MODELS: dict[str, tuple[str, dict[str, int]]] = {
    "bert-base": ("Bert", {}),
    "distilbert": ("DistilBert", {}),
    "mobilebert": ("MobileBert", {}),
    "deep-narrow": ("Bert", _NARROW),
    "minilm-l6": ("Bert", _MINILM),
}


class Encoder(nn.Module):
    """input_ids and attention_mask, [1, tokens] -> last hidden state, [1, tokens, hidden]."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def build_body(name: str, attention: str) -> nn.Module:
    """The encoder of Transformers without a pooler; `attention` is 'eager' or 'sdpa'."""
    family, changes = MODELS[name]
    config = getattr(transformers, f"{family}Config")(**changes, attn_implementation=attention)
    kind = getattr(transformers, f"{family}Model")
    extra: dict[str, Any] = {} if family == "DistilBert" else {"add_pooling_layer": False}
    return kind(config, **extra).eval()


def load_body(name: str, folder: str | Path, attention: str) -> nn.Module:
    """The model with the weights that `peers.prepare` left in the folder."""
    body = build_body(name, attention)
    body.load_state_dict(load_file(Path(folder) / "weights.safetensors"))
    return body


def load_encoder(name: str, folder: str | Path, attention: str = "eager") -> Encoder:
    """The same, with the two inputs that the engines are given."""
    return Encoder(load_body(name, folder, attention)).eval()


@torch.no_grad()
def randomise(body: nn.Module) -> None:
    """Weights that keep the signal's size and make attention attend.

    The defaults (normal, 0.02) leave attention all but uniform, and MobileBERT's output all but
    independent of it, so that an engine could get it wrong unseen. Residual branches are half as
    large as what they are added to: with larger ones, what a middle layer of 28 did is forgotten.
    """
    generator = torch.Generator().manual_seed(SEED)
    for path, module in body.named_modules():
        if isinstance(module, nn.Linear):
            gain = 1.5 if path.endswith(_SCORES) else 0.5 if path.endswith(_BRANCH) else 1.0
            module.weight.normal_(0.0, gain * module.in_features**-0.5, generator=generator)
        for name, parameter in module.named_parameters(recurse=False):
            if name == "bias":
                parameter.normal_(0.0, 0.05, generator=generator)
            elif isinstance(module, nn.Embedding):
                parameter.normal_(0.0, 1.0, generator=generator)
            elif parameter.dim() == 1:
                parameter.normal_(1.0, 0.1, generator=generator)
    _settle_affine(body)


def _settle_affine(body: nn.Module) -> None:
    """MobileBERT's norms do not normalise: scale each so that its output has deviation 1."""

    def settle(module: nn.Module, _: Any, output: torch.Tensor) -> torch.Tensor:
        deviation = output.std()
        for parameter in module.parameters():
            parameter.div_(deviation)
        return output / deviation

    norms = [m for m in body.modules() if type(m).__name__ == "NoNorm"]
    hooks = [m.register_forward_hook(settle) for m in norms]
    if norms:
        body(input_ids=random_ids(64)[None], attention_mask=torch.ones(1, 64, dtype=torch.long))
    for hook in hooks:
        hook.remove()


def random_ids(length: int) -> torch.Tensor:
    """The measured text: int64 [length], the same every time."""
    generator = torch.Generator().manual_seed(SEED + length)
    return torch.randint(VOCABULARY.start, VOCABULARY.stop, (length,), generator=generator)


@torch.no_grad()
def sensitivity(encoder: Encoder, length: int = 32) -> float:
    """Largest move of the output, in its standard deviations, without one middle layer's query.

    An engine whose output agrees to much less than this has computed its attention.
    """
    named = [m for n, m in encoder.named_modules() if n.endswith(_QUERY)]
    query, ids = named[len(named) // 2], random_ids(length)[None]
    kept = query.weight.clone()
    before = encoder(ids, torch.ones_like(ids))
    query.weight.zero_()
    after = encoder(ids, torch.ones_like(ids))
    query.weight.copy_(kept)
    return float((after - before).abs().max() / before.std())
