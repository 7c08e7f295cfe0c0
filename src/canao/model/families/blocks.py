"""BERT whose layers have shapes of their own (model/blocks.py), as a teacher: its layers must be
alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from canao.model import blocks
from canao.model.arch import Arch
from canao.model.families.family import Family, bert_embeddings
from canao.model.families.parts import Embeddings


class Blocks(Family):
    """Students of a search."""

    def refused(self, config: PreTrainedConfig, named: str) -> str:
        if not self.arch(config).is_alike:
            return ("its layers have shapes of their own; give a teacher whose layers are all "
                    "alike, with attention and FFN, such as this one's own teacher")  # fmt: skip
        return super().refused(config, named)

    def arch(self, config: PreTrainedConfig) -> Arch:
        return blocks.arch_of(config)

    def expresses(self, config: PreTrainedConfig, arch: Arch) -> bool:
        return False

    def block_settings(self, config: PreTrainedConfig) -> dict[str, Any]:
        held = config.to_dict()
        return super().block_settings(config) | {name: held.get(name) for name in blocks.SETTINGS}

    def embeddings(self, encoder: Any) -> Embeddings:
        tables = encoder.embeddings
        return bert_embeddings(
            tables, projection=blocks.projection_of(tables),
            trigram=isinstance(tables, blocks.TrigramEmbeddings),
        )  # fmt: skip

    def pooler(self, model: Any) -> tuple[nn.Linear | None, Callable[[Tensor], Tensor]]:
        found = model.base_model.pooler
        return getattr(found, "dense", None), getattr(found, "activation", torch.tanh)
