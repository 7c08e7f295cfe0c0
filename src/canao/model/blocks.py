"""BERT whose layers have shapes of their own, as a model class that Transformers knows by name.

A directory of such a model has a config.json and a model.safetensors as any other has, with BERT's
names of weights; what it needs to be loaded is this module, and no code in the directory:

    import canao.model.blocks
    model = transformers.AutoModelForSequenceClassification.from_pretrained("student/")
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    BertTokenizer,
)
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.bert.modeling_bert import (
    BertAttention,
    BertEmbeddings,
    BertIntermediate,
    BertOutput,
    BertPreTrainedModel,
    BertSelfAttention,
)
from transformers.models.mobilebert.modeling_mobilebert import MobileBertEmbeddings

from canao.errors import InputError
from canao.model.arch import BLOCK_FAMILY, Arch, Block

NO_POOLER = "none"
HEAD_ACTIVATIONS = ("tanh", "relu", "gelu", NO_POOLER)
# Of a student's embeddings and head; BERT has none of them.
SETTINGS = ("head_activation", "embedding_size", "trigram_input")


@strict
class BlockBertConfig(BertConfig):
    """BERT's configuration, and the shape of each layer.

    head_size          width of an attention head, in all layers
    block_heads        heads of each layer; 0: it has no attention
    block_ffn          FFN units of each layer; 0: it has no FFN
    block_precisions   of each layer's products when it is compiled; "": the library's
    head_activation    of the pooler: tanh, relu or gelu; none: there is no pooler, and the head
                       reads the first token
    embedding_size     width of the tables of embeddings, from which a projection goes to the hidden
                       size; None: there is no projection
    trigram_input      whether the projection is MobileBERT's: it reads the words alone, each with
                       its two neighbours, and the other tables are as wide as the hidden states

    The last three are what embeddings and heads of other families have and BERT's have not. BERT's
    own `num_hidden_layers` is the number of layers; `num_attention_heads` and `intermediate_size`,
    which have no meaning here, are those of the largest layer.
    """

    model_type = BLOCK_FAMILY

    head_size: int = 64
    block_heads: list[int] | None = None
    block_ffn: list[int] | None = None
    block_precisions: list[str] | None = None
    head_activation: str = "tanh"
    embedding_size: int | None = None
    trigram_input: bool = False

    def validate_head(self) -> None:
        """ValueError unless the pooler's activation is one of those known."""
        if self.head_activation not in HEAD_ACTIVATIONS:
            known = ", ".join(HEAD_ACTIVATIONS)
            raise ValueError(f"head_activation is {self.head_activation!r:.40}, not one of {known}")

    def validate_embeddings(self) -> None:
        """ValueError unless the embeddings can be made."""
        if self.embedding_size is not None and self.embedding_size < 1:
            raise ValueError(f"embedding_size is {self.embedding_size}, which is no size")
        if self.trigram_input and self.embedding_size is None:
            raise ValueError("trigram_input needs an embedding_size, and there is none")

    def validate_blocks(self) -> None:
        """ValueError unless the layers make an architecture, of as many layers as are stated."""
        arch = arch_of(self)
        stated = self.num_hidden_layers, self.num_attention_heads, self.intermediate_size
        held = arch.layers, max(1, arch.heads), max(1, arch.ffn)
        if stated != held:
            raise ValueError(
                "num_hidden_layers, num_attention_heads and intermediate_size are "
                f"{', '.join(map(str, stated))}, and the largest of block_heads and block_ffn make "
                f"them {', '.join(map(str, held))}"
            )


def arch_of(config: BlockBertConfig) -> Arch:
    """The architecture in such a configuration; ValueError where it holds none."""
    layers = config.num_hidden_layers
    heads = config.block_heads or [config.num_attention_heads] * layers
    ffn = config.block_ffn or [config.intermediate_size] * layers
    precisions = config.block_precisions or [""] * layers
    if not layers == len(heads) == len(ffn) == len(precisions):
        raise ValueError(
            f"num_hidden_layers is {layers}, and block_heads, block_ffn and block_precisions have "
            f"{len(heads)}, {len(ffn)} and {len(precisions)} entries"
        )
    try:
        blocks = tuple(map(Block, heads, ffn, precisions))
        return Arch(config.hidden_size, config.head_size, blocks)
    except InputError as error:
        raise ValueError(str(error)) from None


def config_of(settings: Mapping[str, Any], arch: Arch) -> BlockBertConfig:
    """BERT's settings, and those of SETTINGS that differ from BERT's, with the layers of `arch`."""
    return BlockBertConfig(**dict(settings) | {
        "hidden_size": arch.hidden, "head_size": arch.head_size, "num_hidden_layers": arch.layers,
        "num_attention_heads": max(1, arch.heads), "intermediate_size": max(1, arch.ffn),
        "block_heads": [block.heads for block in arch.blocks],
        "block_ffn": [block.ffn for block in arch.blocks],
        "block_precisions": [block.precision for block in arch.blocks],
    })  # fmt: skip


def precisions(model: nn.Module) -> tuple[tuple[str, str], ...]:
    """The layers of a model whose products have a precision of their own in its library: their
    paths, and that."""
    return tuple(
        (path, module.precision)
        for path, module in model.named_modules()
        if isinstance(module, BlockLayer) and module.precision
    )


class BlockLayer(GradientCheckpointingLayer):
    """A layer of BERT with its own number of heads and FFN units, or without one of the two."""

    def __init__(self, config: BlockBertConfig, block: Block) -> None:
        super().__init__()
        self.precision = block.precision
        self.attention = _attention(config, block.heads) if block.heads else None
        wide = copy.copy(config)
        wide.intermediate_size = block.ffn or 1
        self.intermediate = BertIntermediate(wide) if block.ffn else None
        self.output = BertOutput(wide) if block.ffn else None

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> Tensor:
        """The hidden states after this layer, [batch, tokens, hidden] as before it."""
        kwargs = {k: v for k, v in kwargs.items() if k not in _OF_DECODERS}
        if self.attention is not None:
            hidden_states, _ = self.attention(hidden_states, attention_mask, **kwargs)
        if self.intermediate is not None and self.output is not None:
            hidden_states = self.output(self.intermediate(hidden_states), hidden_states)
        return hidden_states


_OF_DECODERS = ("encoder_hidden_states", "encoder_attention_mask", "cache", "past_key_values")


def _attention(config: BlockBertConfig, heads: int) -> BertAttention:
    """BERT's attention, whose heads together may be wider or narrower than the hidden states."""
    one = copy.copy(config)
    one.num_attention_heads = 1
    module, width = BertAttention(one), heads * config.head_size
    own = module.self
    own.config = config  # whose way to compute attention is set later
    own.num_attention_heads, own.attention_head_size = heads, config.head_size
    own.all_head_size, own.scaling = width, config.head_size**-0.5
    for name in ("query", "key", "value"):
        setattr(own, name, nn.Linear(config.hidden_size, width))
    module.output.dense = nn.Linear(width, config.hidden_size)
    return module


class ProjectedEmbeddings(BertEmbeddings):
    """ELECTRA's: narrow tables and their norm, and a projection to the hidden states."""

    def __init__(self, config: BlockBertConfig) -> None:
        narrow = copy.copy(config)
        narrow.hidden_size = config.embedding_size
        super().__init__(narrow)
        self.projection = nn.Linear(narrow.hidden_size, config.hidden_size)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Hidden states, [batch, tokens, hidden]."""
        out: Tensor = self.projection(super().forward(*args, **kwargs))
        return out


class TrigramEmbeddings(MobileBertEmbeddings):
    """MobileBERT's: a projection of narrow word vectors, each with its two neighbours."""

    def __init__(self, config: BlockBertConfig) -> None:
        own = copy.copy(config)
        own.normalization_type = "no_norm"  # a scale and a shift, as the teacher's embeddings have
        assert config.trigram_input
        super().__init__(own)

    def forward(
        self, input_ids: Tensor | None = None, token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None, inputs_embeds: Tensor | None = None,
        cache_length: int = 0,
    ) -> Tensor:  # fmt: skip
        """Hidden states, [batch, tokens, hidden]. `cache_length` is of decoders."""
        out: Tensor = super().forward(input_ids, token_type_ids, position_ids, inputs_embeds)
        return out


class FirstToken(nn.Module):
    """In a pooler's place, where a family has none."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """The first token's hidden states, [batch, hidden] of [batch, tokens, hidden]."""
        return hidden_states[:, 0]


def projection_of(embeddings: nn.Module) -> nn.Linear | None:
    """The projection of a model's embeddings; None if they are BERT's."""
    if isinstance(embeddings, ProjectedEmbeddings):
        return embeddings.projection
    if isinstance(embeddings, TrigramEmbeddings):
        found: nn.Linear = embeddings.embedding_transformation
        return found
    return None


class _BlockBert(BertPreTrainedModel):
    """How modules begin that BERT has not. Their buffers are in no file, and made here."""

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, TrigramEmbeddings):
            places = torch.arange(module.position_ids.shape[-1])
            init.copy_(module.position_ids, places.expand((1, -1)))
            init.ones_(module.LayerNorm.weight)
            init.zeros_(module.LayerNorm.bias)


class BlockBertModel(_BlockBert, BertModel):
    """BERT without a head, with layers of shapes of their own."""

    pooler: Any
    config_class = BlockBertConfig
    _no_split_modules = ("BertEmbeddings", "BlockLayer")
    _can_record_outputs = {"hidden_states": BlockLayer, "attentions": BertSelfAttention}

    def __init__(self, config: BlockBertConfig, add_pooling_layer: bool = True) -> None:
        with _without_layers(config):
            super().__init__(config, add_pooling_layer)
        layers = [BlockLayer(config, block) for block in arch_of(config).blocks]
        self.encoder.layer = nn.ModuleList(layers)
        if config.embedding_size is not None:
            trigram = config.trigram_input
            self.embeddings = (TrigramEmbeddings if trigram else ProjectedEmbeddings)(config)
        if self.pooler is not None and config.head_activation == NO_POOLER:
            self.pooler = FirstToken()
        elif self.pooler is not None:
            self.pooler.activation = ACT2FN[config.head_activation]
        self.post_init()


class BlockBertForSequenceClassification(_BlockBert, BertForSequenceClassification):
    """The same with a classifier, or a regression, of the first token."""

    config_class = BlockBertConfig

    def __init__(self, config: BlockBertConfig) -> None:
        with _without_layers(config):
            super().__init__(config)
        self.bert = BlockBertModel(config)
        self.post_init()


class BlockBertForTokenClassification(_BlockBert, BertForTokenClassification):
    """The same with a classifier of each token."""

    config_class = BlockBertConfig

    def __init__(self, config: BlockBertConfig) -> None:
        with _without_layers(config):
            super().__init__(config)
        self.bert = BlockBertModel(config, add_pooling_layer=False)
        self.post_init()


@contextmanager
def _without_layers(config: BlockBertConfig) -> Iterator[None]:
    """In the context, BERT's own code makes no layers of the configuration."""
    layers = config.num_hidden_layers
    config.num_hidden_layers = 0
    try:
        yield
    finally:
        config.num_hidden_layers = layers


CLASSES = {
    kind.__name__: kind
    for kind in (
        BlockBertModel, BlockBertForSequenceClassification, BlockBertForTokenClassification
    )
}  # fmt: skip

AutoConfig.register(BLOCK_FAMILY, BlockBertConfig)
AutoTokenizer.register(BlockBertConfig, tokenizer_class=BertTokenizer)
for _auto, _kind in zip(
    (AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification),
    CLASSES.values(), strict=True,
):  # fmt: skip
    _auto.register(BlockBertConfig, _kind)
