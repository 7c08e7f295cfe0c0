"""ELECTRA's discriminator: BERT with embeddings that may be narrower than its layers, and with GELU
in its classifiers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig

from canao.model.arch import Arch
from canao.model.families.family import Family, bert_embeddings
from canao.model.families.parts import Embeddings


class Electra(Family):
    """Clark et al. 2020. Where embeddings are narrower, students keep them as they are, and cut
    their projection: the tables are what a teacher knows of words, and narrow already."""

    head = "classifier.out_proj"
    untrained = ("classifier.",)
    pools = False

    def refused(self, config: PreTrainedConfig, named: str) -> str:
        if named == "ElectraForMaskedLM":
            return "the generator of an ELECTRA; give its discriminator, which is what is used"
        return super().refused(config, named)

    def expresses(self, config: PreTrainedConfig, arch: Arch) -> bool:
        # Transformers leaves out a projection to the same width.
        lost = _projects(config) and arch.hidden == config.embedding_size
        return arch.is_uniform and not lost

    def resized(self, config: PreTrainedConfig, arch: Arch) -> PreTrainedConfig:
        student = super().resized(config, arch)
        if not _projects(config):
            student.embedding_size = arch.hidden
        return student

    def block_settings(self, config: PreTrainedConfig) -> dict[str, Any]:
        narrow = {"embedding_size": config.embedding_size} if _projects(config) else {}
        return super().block_settings(config) | {"head_activation": "gelu", **narrow}

    def embeddings(self, encoder: Any) -> Embeddings:
        projection = getattr(encoder, "embeddings_project", None)
        return bert_embeddings(encoder.embeddings, projection=projection)

    def pooler(self, model: Any) -> tuple[nn.Linear | None, Callable[[Tensor], Tensor]]:
        return model.classifier.dense, model.classifier.activation


def _projects(config: PreTrainedConfig) -> bool:
    return bool(config.embedding_size != config.hidden_size)
