"""Random BERT, MobileBERT and GPT-2 models of odd shapes, and what Transformers says of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    MobileBertConfig,
    MobileBertModel,
)

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

_BOTTLENECK = {"hidden_size": 37, "embedding_size": 19, "intra_bottleneck_size": 26,
               "num_attention_heads": 2, "intermediate_size": 41}  # fmt: skip
# name -> configuration of MobileBERT: what each option adds or leaves out of the graph.
MOBILE: dict[str, dict[str, Any]] = {
    "standard": {"hidden_size": 64, "embedding_size": 32, "intra_bottleneck_size": 24,
                 "num_attention_heads": 3, "intermediate_size": 40},
    "odd": {**_BOTTLENECK, "num_feedforward_networks": 2},
    "one_network": {**_BOTTLENECK, "num_feedforward_networks": 1},
    "layer_norm": {**_BOTTLENECK, "normalization_type": "layer_norm"},
    "attention_in_bottleneck": {**_BOTTLENECK, "use_bottleneck_attention": True},
    "no_bottleneck": {**_BOTTLENECK, "hidden_size": 36, "use_bottleneck": False,
                      "num_attention_heads": 3},
    "no_trigram": {**_BOTTLENECK, "trigram_input": False, "num_feedforward_networks": 1},
}  # fmt: skip


# name -> configuration of GPT-2: head sizes off the vector, one head, other activations.
DECODERS: dict[str, dict[str, Any]] = {
    "small": {"n_embd": 64, "n_head": 4},
    "three_heads": {"n_embd": 48, "n_head": 3},
    "odd": {"n_embd": 74, "n_head": 2, "n_inner": 101, "activation_function": "gelu"},
    "prime": {"n_embd": 37, "n_head": 1, "scale_attn_by_inverse_layer_idx": True},
    "wide_head": {"n_embd": 160, "n_head": 2, "activation_function": "relu",
                  "scale_attn_weights": False, "initializer_range": 0.03},
    "untied": {"n_embd": 40, "n_head": 5, "tie_word_embeddings": False},
}  # fmt: skip


def decoder(name: str = "three_heads", *, layers: int = 2, max_length: int = 200,
            vocabulary: int = 99) -> GPT2LMHeadModel:  # fmt: skip
    torch.manual_seed(4)
    model = GPT2LMHeadModel(_decoder_config(name, layers, max_length, vocabulary))
    _shift(model)
    return model.eval()


def bare_decoder(name: str = "odd") -> GPT2Model:
    torch.manual_seed(5)
    return GPT2Model(_decoder_config(name, 2, 130, 99)).eval()


def _decoder_config(name: str, layers: int, max_length: int, vocabulary: int) -> GPT2Config:
    options = {"initializer_range": SPREAD, **DECODERS[name]}
    return GPT2Config(vocab_size=vocabulary, n_layer=layers, n_positions=max_length,
                      bos_token_id=0, eos_token_id=vocabulary - 1, **options)  # fmt: skip


@torch.no_grad()
def _shift(model: torch.nn.Module) -> None:
    """Biases that are not 0, and norms that are not 1."""
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.add_(torch.randn_like(parameter) * SPREAD)


def classifier(name: str = "small", *, layers: int = 2, max_length: int = 512, labels: int = 3,
               seed: int = 0, vocabulary: int = 99) -> BertForSequenceClassification:  # fmt: skip
    torch.manual_seed(seed)
    config = _config(name, layers, max_length, labels, vocabulary)
    return BertForSequenceClassification(config).eval()


def spans(name: str = "small") -> BertForQuestionAnswering:
    torch.manual_seed(3)
    return BertForQuestionAnswering(_config(name, 1, 512, 2)).eval()


def encoder(name: str = "small", *, layers: int = 2, max_length: int = 512) -> BertModel:
    torch.manual_seed(1)
    return BertModel(_config(name, layers, max_length, 2)).eval()


def _config(
    name: str, layers: int, max_length: int, labels: int, vocabulary: int = 99
) -> BertConfig:
    return BertConfig(
        vocab_size=vocabulary, num_hidden_layers=layers, max_position_embeddings=max_length,
        num_labels=labels, initializer_range=SPREAD, **SHAPES[name],
    )  # fmt: skip


def mobile(name: str, *, layers: int = 2, max_length: int = 512) -> MobileBertModel:
    torch.manual_seed(2)
    model = MobileBertModel(MobileBertConfig(
        vocab_size=99, num_hidden_layers=layers, max_position_embeddings=max_length, **MOBILE[name],
    ))  # fmt: skip
    _stir(model)
    return model.eval()


@torch.no_grad()
def _stir(model: torch.nn.Module) -> None:
    """Weights that keep the signal's size through bottlenecks, and norms that are not 1 and 0."""
    for path, parameter in model.named_parameters():
        if parameter.dim() == 2 and "embeddings.weight" not in path:
            gain = 2.0 if ".query." in path or ".key." in path else 1.0
            parameter.normal_(0.0, gain * parameter.shape[1] ** -0.5)
        elif parameter.dim() == 2:
            parameter.normal_(0.0, 1.0)
        else:
            parameter.normal_(0.7 if path.endswith("LayerNorm.weight") else 0.0, 0.1)


def reference(model: torch.nn.Module, ids: np.ndarray, types: np.ndarray) -> list[np.ndarray]:
    """The model's float outputs for one text, in order, from Transformers in float32."""
    with torch.no_grad():
        out = model(
            input_ids=torch.from_numpy(ids).long()[None],
            token_type_ids=torch.from_numpy(types).long()[None],
        )
    return [v.numpy() for v in out.values() if isinstance(v, torch.Tensor)]
