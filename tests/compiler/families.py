"""Tiny random models of every family, and what Transformers says of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers

HEADS = ("Model", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering",
         "ForMaskedLM")  # fmt: skip
_COMMON = {"vocab_size": 99, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
           "intermediate_size": 60, "max_position_embeddings": 140, "num_labels": 3}  # fmt: skip
_ANY = ("vocab_size", "max_position_embeddings", "num_labels")  # DistilBERT has names of its own
# family -> what its configuration needs beside or in place of the common part
FAMILIES: dict[str, dict[str, Any]] = {
    "Bert": {"type_vocab_size": 16},
    "DistilBert": {"dim": 48, "n_heads": 4, "n_layers": 2, "hidden_dim": 60},
    "Roberta": {"pad_token_id": 1, "type_vocab_size": 1},
    "XLMRoberta": {"pad_token_id": 3, "type_vocab_size": 1},
    "Camembert": {"pad_token_id": 1, "hidden_size": 37, "num_attention_heads": 1},
    "Electra": {"embedding_size": 20},
    "Albert": {"embedding_size": 20, "num_hidden_layers": 4},
    "MobileBert": {"embedding_size": 24, "intra_bottleneck_size": 26, "num_attention_heads": 2},
    "MPNet": {},
    "DebertaV2": {"relative_attention": True, "position_buckets": 8, "type_vocab_size": 0,
                  "pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm",
                  "share_att_key": True, "position_biased_input": False},
    "ModernBert": {"num_hidden_layers": 3, "global_attn_every_n_layers": 2, "local_attention": 16,
                   "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1,
                   "eos_token_id": 2},
    "SqueezeBert": {"embedding_size": 48},
    "ConvBert": {"embedding_size": 20},
}  # fmt: skip


def make(family: str, head: str = "Model", seed: int = 0, **changes: Any) -> torch.nn.Module:
    """A model whose weights are stirred, so that attention and norms matter in it."""
    torch.manual_seed(seed)
    common = {k: v for k, v in _COMMON.items() if family != "DistilBert" or k in _ANY}
    labels = {"num_labels": 2} if head == "ForQuestionAnswering" else {}
    settings = {**common, **FAMILIES[family], **labels, **changes}
    config = getattr(transformers, f"{family}Config")(**settings)
    model = getattr(transformers, family + head)(config)
    _stir(model)
    return model.float().eval()  # xielu keeps its parameters in bfloat16


@torch.no_grad()
def _stir(model: torch.nn.Module) -> None:
    """Weights that keep the signal's size, attention that is far from uniform."""
    for path, weight in model.named_parameters():
        if weight.dim() < 2:
            norm = "norm" in path.lower() and path.endswith("weight")
            weight.normal_(0.8 if norm else 0.0, 0.15)
        elif "embeddings" in path and path.endswith("embeddings.weight"):
            weight.normal_(0.0, 1.0)
        else:
            keen = any(k in path for k in ("query", "key", "q_lin", "k_lin", "attn.q", "attn.k"))
            weight.normal_(0.0, (1.7 if keen else 1.0) * weight[0].numel() ** -0.5)


def text(model: torch.nn.Module, names: tuple[str, ...], length: int) -> list[np.ndarray]:
    """Random ids and type ids, int32, for the inputs `names`."""
    rng = np.random.default_rng(length)
    types = getattr(model.config, "type_vocab_size", 0) or 1
    drawn = {"input_ids": rng.integers(0, model.config.vocab_size, length),
             "token_type_ids": np.sort(rng.integers(0, types, length))}  # fmt: skip
    return [drawn[name].astype(np.int32) for name in names]


def reference(
    model: torch.nn.Module, names: tuple[str, ...], ids: list[np.ndarray]
) -> dict[str, np.ndarray]:
    """The model's float outputs for one text of which nothing is masked."""
    tensors = {k: torch.from_numpy(v).long()[None] for k, v in zip(names, ids, strict=True)}
    mask = torch.ones_like(tensors["input_ids"])
    with torch.no_grad():
        out = model(**tensors, attention_mask=mask)
    return {k: v.numpy() for k, v in out.items() if isinstance(v, torch.Tensor)}
