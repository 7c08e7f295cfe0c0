"""DistilBERT: BERT's layers under other names, without token types and pooler; its classifier has
a layer with ReLU in the pooler's place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel

from canao.model.families.family import Family
from canao.model.families.parts import Attention, Embeddings, Ffn, Layer, Parts


class DistilBert(Family):
    """Sanh et al. 2019."""

    sizes: Mapping[str, str] = {
        "layers": "n_layers", "hidden": "dim", "heads": "n_heads", "ffn": "hidden_dim",
    }  # fmt: skip
    hidden_act = "activation"
    untrained = ("classifier.", "pre_classifier.")
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

    def parts(self, model: PreTrainedModel) -> Parts:
        tables = model.distilbert.embeddings
        return Parts(
            embeddings=Embeddings(
                tables.word_embeddings, tables.position_embeddings, None, tables.LayerNorm
            ),
            layers=tuple(map(_layer, model.distilbert.transformer.layer)),
            pooler=model.pre_classifier,
            activation=functional.relu,
            head=model.classifier,
        )


def _layer(module: Any) -> Layer:
    own, ffn = module.attention, module.ffn
    attention = Attention(
        own.q_lin, own.k_lin, own.v_lin, own.out_lin, module.sa_layer_norm, own.n_heads
    )
    return Layer(attention, (Ffn(ffn.lin1, ffn.activation, ffn.lin2, module.output_layer_norm),))
