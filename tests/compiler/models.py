"""Random BERT models of odd shapes, and what Transformers says of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel

# Weights of this spread keep every part of a random model in play: at the default, 0.02, an
# attention that computed nonsense would hardly move the logits.
SPREAD = 0.1

# name -> configuration: widths off the vector and off the tile, one head, odd activations.
SHAPES: dict[str, dict[str, Any]] = {
    "small": {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128},
    "odd": {"hidden_size": 74, "num_attention_heads": 2, "intermediate_size": 101},
    "prime": {"hidden_size": 37, "num_attention_heads": 1, "intermediate_size": 61},
    "narrow_heads": {"hidden_size": 48, "num_attention_heads": 6, "intermediate_size": 20,
                     "hidden_act": "relu"},
    "wide_head": {"hidden_size": 128, "num_attention_heads": 1, "intermediate_size": 33,
                  "hidden_act": "gelu_new"},
    "silu": {"hidden_size": 40, "num_attention_heads": 5, "intermediate_size": 300,
             "hidden_act": "silu", "type_vocab_size": 16},
    "deep_product": {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 1100,
                     "hidden_act": "tanh"},
}  # fmt: skip


def classifier(name: str = "small", *, layers: int = 2, max_length: int = 512, labels: int = 3,
               seed: int = 0) -> BertForSequenceClassification:  # fmt: skip
    torch.manual_seed(seed)
    return BertForSequenceClassification(_config(name, layers, max_length, labels)).eval()


def encoder(name: str = "small", *, layers: int = 2, max_length: int = 512) -> BertModel:
    torch.manual_seed(1)
    return BertModel(_config(name, layers, max_length, 2)).eval()


def _config(name: str, layers: int, max_length: int, labels: int) -> BertConfig:
    return BertConfig(
        vocab_size=99, num_hidden_layers=layers, max_position_embeddings=max_length,
        num_labels=labels, initializer_range=SPREAD, **SHAPES[name],
    )  # fmt: skip


def reference(model: torch.nn.Module, ids: np.ndarray, types: np.ndarray) -> list[np.ndarray]:
    """The model's float outputs for one text, in order, from Transformers in float32."""
    with torch.no_grad():
        out = model(
            input_ids=torch.from_numpy(ids).long()[None],
            token_type_ids=torch.from_numpy(types).long()[None],
        )
    return [v.numpy() for v in out.values() if isinstance(v, torch.Tensor)]
