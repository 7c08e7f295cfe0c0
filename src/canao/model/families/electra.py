"""ELECTRA's discriminator: BERT with embeddings that may be narrower than its layers, and with GELU
in its classifiers."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from canao.model.arch import Arch
from canao.model.families.family import Family, bert_embeddings, bert_layers
from canao.model.families.parts import Parts


class Electra(Family):
    """Clark et al. 2020. Where embeddings are narrower, students keep them as they are, and cut
    their projection: the tables are what a teacher knows of words, and narrow already."""

    head = "classifier.out_proj"
    untrained = ("classifier.",)

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

    def parts(self, model: PreTrainedModel) -> Parts:
        body, head = model.electra, model.classifier
        return Parts(
            embeddings=bert_embeddings(
                body.embeddings, projection=getattr(body, "embeddings_project", None)
            ),
            layers=bert_layers(body),
            pooler=head.dense,
            activation=head.activation,
            head=head.out_proj,
        )


def _projects(config: PreTrainedConfig) -> bool:
    return bool(config.embedding_size != config.hidden_size)
