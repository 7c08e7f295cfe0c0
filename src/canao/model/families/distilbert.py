"""DistilBERT: BERT's layers under other names, without token types and pooler; its classifier has
a layer with ReLU in the pooler's place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig

from canao.model.families.family import Family
from canao.model.families.parts import Attention, Embeddings, Ffn, Layer


class DistilBert(Family):
    """Sanh et al. 2019."""

    sizes: Mapping[str, str] = {
        "layers": "n_layers", "hidden": "dim", "heads": "n_heads", "ffn": "hidden_dim",
    }  # fmt: skip
    hidden_act = "activation"
    untrained = ("classifier.", "pre_classifier.")
    pools = False
    layers = "transformer.layer"
    halves: Mapping[str, int] = {
        "attention": 0, "sa_layer_norm": 0, "ffn": 1, "output_layer_norm": 1,
    }  # fmt: skip

    def block_settings(self, config: PreTrainedConfig) -> dict[str, Any]:
        return super().block_settings(config) | {
            "hidden_act": config.activation,
            "hidden_dropout_prob": config.dropout,
            "attention_probs_dropout_prob": config.attention_dropout,
            "classifier_dropout": config.seq_classif_dropout,
            "type_vocab_size": 1,  # a row of zeros
            "layer_norm_eps": 1e-12,  # as its code has it
            "head_activation": "relu",
        }

    def types(self, config: PreTrainedConfig) -> int:
        return 0

    def embeddings(self, encoder: Any) -> Embeddings:
        tables = encoder.embeddings
        return Embeddings(
            tables.word_embeddings, tables.position_embeddings, None, tables.LayerNorm
        )

    def layer(self, module: Any) -> Layer:
        own, ffn, end = module.attention, module.ffn, module.output_layer_norm
        attention = Attention(
            own.q_lin, own.k_lin, own.v_lin, own.out_lin, module.sa_layer_norm, own.n_heads
        )
        return Layer(attention, (Ffn(ffn.lin1, ffn.activation, ffn.lin2, end),))

    def pooler(self, model: Any) -> tuple[nn.Linear | None, Callable[[Tensor], Tensor]]:
        return model.pre_classifier, functional.relu
