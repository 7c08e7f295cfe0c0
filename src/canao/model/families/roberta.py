"""RoBERTa and its relatives with the same modules, XLM-RoBERTa and CamemBERT: BERT whose positions
are counted from the padding id on, and whose classifiers have a pooler of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from canao.model.families.family import Family, bert_embeddings
from canao.model.families.parts import Embeddings


class Roberta(Family):
    """Liu et al. 2019. Texts are padded at their end, so that a token's position is its place."""

    head = "classifier.out_proj"
    untrained = ("classifier.",)

    def refused(self, config: PreTrainedConfig, named: str) -> str:
        if config.pad_token_id is None:
            return "names no pad_token_id, from which positions are counted; name it"
        if self.tokens(config) < 2:
            return (f"max_position_embeddings is {config.max_position_embeddings}, and positions "
                    f"begin at {_first(config)}; correct the file")  # fmt: skip
        return super().refused(config, named)

    def block_settings(self, config: PreTrainedConfig) -> dict[str, Any]:
        return super().block_settings(config) | {"max_position_embeddings": self.tokens(config)}

    def tokens(self, config: PreTrainedConfig) -> int:
        return int(config.max_position_embeddings) - _first(config)

    def embeddings(self, encoder: Any) -> Embeddings:
        return bert_embeddings(encoder.embeddings, first=_first(encoder.config))

    def pooler(self, model: Any) -> tuple[nn.Linear | None, Callable[[Tensor], Tensor]]:
        return model.classifier.dense, torch.tanh


def _first(config: PreTrainedConfig) -> int:
    """The position of a text's first token."""
    return int(config.pad_token_id) + 1
