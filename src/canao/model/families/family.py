"""What is particular to a family of teachers. This is BERT's; other families say where they
differ."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from transformers import BertConfig, PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN

from canao.model.arch import Arch
from canao.model.families.parts import Attention, Embeddings, Ffn, Layer, Parts
from canao.model.heads import Head, head_of

_SHARED = frozenset(BertConfig().to_dict()) - {"model_type", "architectures", "_name_or_path"}


class Family:
    """How models of a family are configured and built.

    sizes        what its configuration calls layers, hidden, heads and ffn
    hidden_act   what its configuration calls the FFN's activation
    head         path of the last layer of its classifiers of texts, which has a row for each label
    untrained    paths that a checkpoint may lack, as pooler and head
    pools        whether its encoder has a pooler, and can be made without
    layers       path of its list of layers, within the encoder
    halves       what the modules of a layer belong to: 0 for attention, 1 for the FFN
    """

    sizes: Mapping[str, str] = {
        "layers": "num_hidden_layers", "hidden": "hidden_size", "heads": "num_attention_heads",
        "ffn": "intermediate_size",
    }  # fmt: skip
    hidden_act = "hidden_act"
    head = "classifier"
    untrained: tuple[str, ...] = ("classifier.", "bert.pooler.")
    pools = True
    layers = "encoder.layer"
    halves: Mapping[str, int] = {"attention": 0, "intermediate": 1, "output": 1}

    def refused(self, config: PreTrainedConfig, named: str) -> str:
        """Why no such model can be a teacher, and the remedy; "" if it can. `named` is the class
        of the checkpoint."""
        pad = config.pad_token_id
        if pad is not None and not 0 <= pad < config.vocab_size:
            return f"pad_token_id is {pad}, of {config.vocab_size} tokens; correct the file"
        name = getattr(config, self.hidden_act)
        if name not in ACT2FN:
            return f"{self.hidden_act} is {name!r:.40}, which Transformers does not know"
        made = ACT2FN[name]
        if any(True for _ in getattr(made, "parameters", tuple)()):
            return (
                f"{self.hidden_act} is '{name}', which has weights of its own, which students "
                "cannot take over; give a teacher with another activation"
            )
        return ""

    def arch(self, config: PreTrainedConfig) -> Arch:
        """The architecture in a configuration; InputError if it is none."""
        return Arch.uniform(**{size: getattr(config, name) for size, name in self.sizes.items()})

    def expresses(self, config: PreTrainedConfig, arch: Arch) -> bool:
        """Whether a student of that architecture is a model of the family itself."""
        return arch.is_uniform

    def resized(self, config: PreTrainedConfig, arch: Arch) -> PreTrainedConfig:
        """A copy of a configuration with an architecture that the family expresses."""
        student = copy.deepcopy(config)
        for size, name in self.sizes.items():
            setattr(student, name, getattr(arch, size))
        return student

    def block_settings(self, config: PreTrainedConfig) -> dict[str, Any]:
        """The settings of a student whose layers the family does not express: those of blocks.py
        but for its architecture."""
        held = config.to_dict()
        return {name: held[name] for name in _SHARED if name in held}

    def tokens(self, config: PreTrainedConfig) -> int:
        """The most tokens of a text."""
        return int(config.max_position_embeddings)

    def types(self, config: PreTrainedConfig) -> int:
        """How many token types there are; 0: its models take none."""
        return int(config.type_vocab_size)

    def path_of(self, head: Head) -> str:
        """Path of the last layer of models with a head."""
        return self.head if head.pools else "classifier"

    def parts(self, model: PreTrainedModel) -> Parts:
        """The modules of a model with one of the heads."""
        body, head = model.base_model, head_of(model)
        pooler, activation = self.pooler(model) if head.pools else (None, nn.Identity())
        last = model.get_submodule(self.path_of(head))
        assert isinstance(last, nn.Linear)
        return Parts(
            embeddings=self.embeddings(body),
            layers=tuple(map(self.layer, body.get_submodule(self.layers))),
            pooler=pooler, activation=activation, head=last, averages=head.averages,
        )  # fmt: skip

    def embeddings(self, encoder: Any) -> Embeddings:
        """What makes the hidden states that an encoder's layers read."""
        return bert_embeddings(encoder.embeddings)

    def layer(self, module: Any) -> Layer:
        """The modules of one of an encoder's layers."""
        return Layer(_attention(module.attention), _ffns(module))

    def pooler(self, model: Any) -> tuple[nn.Linear | None, Callable[[Tensor], Tensor]]:
        """Of a classifier of texts, the linear layer before the last, and its activation."""
        found = model.base_model.pooler
        return found.dense, found.activation


def bert_embeddings(module: Any, **more: Any) -> Embeddings:
    """The tables of a module with BERT's names."""
    return Embeddings(
        module.word_embeddings, module.position_embeddings, module.token_type_embeddings,
        module.LayerNorm, **more,
    )  # fmt: skip


def _attention(module: Any) -> Attention | None:
    if module is None:
        return None
    own, output = module.self, module.output
    return Attention(
        own.query, own.key, own.value, output.dense, output.LayerNorm, own.num_attention_heads
    )


def _ffns(layer: Any) -> tuple[Ffn, ...]:
    up, down = layer.intermediate, layer.output
    return () if up is None else (Ffn(up.dense, activation_of(up), down.dense, down.LayerNorm),)


def activation_of(module: Any) -> Callable[[Tensor], Tensor]:
    """The activation of a module with BERT's names, which widens hidden states."""
    found: Callable[[Tensor], Tensor] = module.intermediate_act_fn
    return found
