"""BERT whose layers have shapes of their own, as a model class that Transformers knows by name.

A directory of such a model has a config.json and a model.safetensors as any other has, with BERT's
names of weights; what it needs to be loaded is this module, and no code in the directory:

    import canao.model.blocks
    model = transformers.AutoModelForSequenceClassification.from_pretrained("student/")
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.bert.modeling_bert import (
    BertAttention,
    BertIntermediate,
    BertOutput,
    BertSelfAttention,
)

from canao.errors import InputError
from canao.model.arch import BLOCK_FAMILY, Arch, Block


@strict
class BlockBertConfig(BertConfig):
    """BERT's configuration, and the shape of each layer.

    head_size          width of an attention head, in all layers
    block_heads        heads of each layer; 0: it has no attention
    block_ffn          FFN units of each layer; 0: it has no FFN
    block_precisions   of each layer's products when it is compiled; "": the library's

    BERT's own `num_hidden_layers` is the number of layers; `num_attention_heads` and
    `intermediate_size`, which have no meaning here, are those of the largest layer.
    """

    model_type = BLOCK_FAMILY

    head_size: int = 64
    block_heads: list[int] | None = None
    block_ffn: list[int] | None = None
    block_precisions: list[str] | None = None

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


def config_of(config: BertConfig, arch: Arch) -> BlockBertConfig:
    """A BERT configuration, but for the shapes of its layers, which are those of `arch`."""
    held = {k: v for k, v in config.to_dict().items() if k not in ("model_type", "architectures")}
    return BlockBertConfig(**held | {
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


class BlockBertModel(BertModel):
    """BERT without a head, with layers of shapes of their own."""

    config_class = BlockBertConfig
    _no_split_modules = ("BertEmbeddings", "BlockLayer")
    _can_record_outputs = {"hidden_states": BlockLayer, "attentions": BertSelfAttention}

    def __init__(self, config: BlockBertConfig, add_pooling_layer: bool = True) -> None:
        with _without_layers(config):
            super().__init__(config, add_pooling_layer)
        layers = [BlockLayer(config, block) for block in arch_of(config).blocks]
        self.encoder.layer = nn.ModuleList(layers)
        self.post_init()


class BlockBertForSequenceClassification(BertForSequenceClassification):
    """The same with a classifier, or a regression, of the first token."""

    config_class = BlockBertConfig

    def __init__(self, config: BlockBertConfig) -> None:
        with _without_layers(config):
            super().__init__(config)
        self.bert = BlockBertModel(config)
        self.post_init()


class BlockBertForTokenClassification(BertForTokenClassification):
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
