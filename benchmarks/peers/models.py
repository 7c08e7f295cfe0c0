"""The measured models, by configuration, with random weights under which every layer matters.

Needs torch, transformers and safetensors only: it is imported in LiteRT's environment too.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import nn
from transformers.pytorch_utils import Conv1D

SEED = 20260921
VOCABULARY = range(1000, 30000)  # ids of random texts: whole words, no special tokens
# What the families call the projections of scores, and the last one of each residual branch.
_QUERY = ("query", "q_lin", "query_proj", "attn.q", "Wqkv", "c_attn")
_SCORES = (*_QUERY, "key", "k_lin", "key_proj", "attn.k")
_BRANCH = ("output.dense", "out_lin", "lin2", "attention.dense", "ffn_output", "attn.o", "Wo",
           "c_proj", "attention.conv1d", "output.conv1d")  # fmt: skip
_MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
           "intermediate_size": 1536}  # fmt: skip
_NARROW = {"hidden_size": 256, "num_hidden_layers": 28, "num_attention_heads": 4,
           "intermediate_size": 640}  # fmt: skip
# name -> family in Transformers, and what differs from its default configuration
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert-base": ("Bert", {}),
    "distilbert": ("DistilBert", {}),
    "mobilebert": ("MobileBert", {}),
    "deep-narrow": ("Bert", _NARROW),
    "minilm-l6": ("Bert", _MINILM),
}
# The families of docs/models.md, all of MiniLM's size where their configuration has such a size.
_SMALL = {**_MINILM, "vocab_size": 30522}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert-small": ("Bert", _SMALL),
    "distilbert-small": ("DistilBert", {"dim": 384, "n_layers": 6, "n_heads": 12,
                                        "hidden_dim": 1536}),
    "roberta-small": ("Roberta", _SMALL),
    "xlm-roberta-small": ("XLMRoberta", {**_SMALL, "vocab_size": 250002}),
    "camembert-small": ("Camembert", {**_SMALL, "vocab_size": 32005}),
    "electra-small": ("Electra", {}),
    "albert-small": ("Albert", {**_SMALL, "embedding_size": 128}),
    "mobilebert": ("MobileBert", {}),
    "mpnet-small": ("MPNet", _SMALL),
    "deberta-v3-xsmall": ("DebertaV2", {
        "vocab_size": 30522, "hidden_size": 384, "num_hidden_layers": 12,
        "num_attention_heads": 6, "intermediate_size": 1536, "relative_attention": True,
        "position_buckets": 256, "pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm",
        "share_att_key": True, "position_biased_input": False, "type_vocab_size": 0,
    }),
    "modernbert-small": ("ModernBert", {**_MINILM, "intermediate_size": 1024}),
    "squeezebert-small": ("SqueezeBert", {**_SMALL, "embedding_size": 384}),
    "convbert-small": ("ConvBert", {**_SMALL, "embedding_size": 128}),
    "gpt2-small": ("GPT2", {"n_embd": 384, "n_layer": 6, "n_head": 12}),
}  # fmt: skip


class Encoder(nn.Module):
    """input_ids and attention_mask, [1, tokens] -> last hidden state, [1, tokens, hidden]."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def build_body(name: str, attention: str) -> nn.Module:
    """The encoder of Transformers, where possible without a pooler.

    `attention` is 'eager' or 'sdpa'; families that have no 'sdpa' are 'eager'.
    """
    family, changes = (MODELS | FAMILIES)[name]
    kind = getattr(transformers, f"{family}Model")
    attention = attention if kind._supports_sdpa else "eager"
    config = getattr(transformers, f"{family}Config")(**changes, attn_implementation=attention)
    pooled = "add_pooling_layer" in inspect.signature(kind).parameters
    return kind(config, **({"add_pooling_layer": False} if pooled else {})).eval()


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
        if isinstance(module, (nn.Linear, nn.Conv1d, Conv1D)):
            gain = 1.5 if path.endswith(_SCORES) else 0.5 if path.endswith(_BRANCH) else 1.0
            weight = module.weight
            inputs = len(weight) if isinstance(module, Conv1D) else weight[0].numel()
            weight.normal_(0.0, gain * inputs**-0.5, generator=generator)
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


def random_ids(length: int, number: int = 0) -> torch.Tensor:
    """The measured text: int64 [length], the same every time; of other numbers, other texts."""
    generator = torch.Generator().manual_seed(SEED + length + 1000 * number)
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
