"""A small teacher of each family, with a tokenizer over the words of tiny_bert.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModel,
    CamembertConfig,
    DistilBertConfig,
    ElectraConfig,
    MobileBertConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLMRobertaConfig,
)

from canao.model.arch import Arch, Block
from canao.model.blocks import BlockBertConfig
from tests.train.tiny_bert import BAD, GOOD, PLAIN

_SIZES = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 64, "initializer_range": 0.1,
}  # fmt: skip
# Positions are counted from 2 on there, so that texts have 62 tokens at most.
_PADDED = {**_SIZES, "type_vocab_size": 1, "pad_token_id": 1}
FAMILIES: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "distilbert": (DistilBertConfig, {
        "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 64,
        "initializer_range": 0.1,
    }),
    "roberta": (RobertaConfig, _PADDED),
    "xlm-roberta": (XLMRobertaConfig, _PADDED),
    "camembert": (CamembertConfig, _PADDED),
    "electra": (ElectraConfig, {**_SIZES, "embedding_size": 16}),
    "electra-wide": (ElectraConfig, {**_SIZES, "embedding_size": 32}),
    "mobilebert": (MobileBertConfig, {
        **_SIZES, "intermediate_size": 24, "num_feedforward_networks": 2, "embedding_size": 12,
        "intra_bottleneck_size": 16,
    }),
    # Without a pooler: its head reads the first token's hidden states.
    "mobilebert-bare": (MobileBertConfig, {
        **_SIZES, "intermediate_size": 24, "num_feedforward_networks": 2, "embedding_size": 12,
        "intra_bottleneck_size": 16, "classifier_activation": False,
    }),
    "canao-bert": (BlockBertConfig, {
        **_SIZES, "num_attention_heads": 2, "head_size": 8, "block_heads": [2, 2, 2],
        "block_ffn": [64, 64, 64], "embedding_size": 16, "head_activation": "relu",
    }),
}  # fmt: skip
FULL = {name: Arch.uniform(3, 32, 4, 64) for name in FAMILIES} | {
    "mobilebert": Arch(32, 4, (Block(4, 48),) * 3),
    "mobilebert-bare": Arch(32, 4, (Block(4, 48),) * 3),
    "canao-bert": Arch(32, 8, (Block(2, 64),) * 3),
}  # fmt: skip


def smaller(name: str) -> Arch:
    """A student whose layers are alike, narrower than its teacher in everything."""
    full = FULL[name]
    heads = min(24 // full.head_size, full.heads - (full.width < full.hidden))
    return Arch(24, full.head_size, (Block(heads, 40),) * 2)


def uneven(name: str) -> Arch:
    """A student whose layers have shapes of their own."""
    size = FULL[name].head_size
    return Arch(24, size, (Block(2, 33), Block(1, 0), Block(0, 17)))


def tiny_tokenizer(pad: int, typed: bool) -> PreTrainedTokenizerFast:
    """Words as tokens; the padding token has the id `pad`, 0 or 1."""
    first = ("[PAD]", "[UNK]") if pad == 0 else ("[UNK]", "[PAD]")
    words = (*first, "[CLS]", "[SEP]", "[MASK]", *GOOD, *BAD, *PLAIN)
    raw = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer()
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = ["input_ids", "token_type_ids", "attention_mask"]
    special = {f"{w.strip('[]').lower()}_token": w for w in words[:5]}
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, model_input_names=names if typed else names[::2], **special
    )


def save_tiny_of(name: str, folder: Path, **changes: Any) -> Path:
    """A random teacher of a family, as an encoder's checkpoint comes: without a head for any task.
    Its norms and biases do something."""
    kind, sizes = FAMILIES[name]
    typed = sizes.get("type_vocab_size", 2) > 1 and kind is not DistilBertConfig
    tokenizer = tiny_tokenizer(sizes.get("pad_token_id", 0), typed)
    torch.manual_seed(3)
    model = AutoModel.from_config(kind(**{"vocab_size": len(tokenizer)} | sizes | changes))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.add_(0.1 * torch.randn_like(weight))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
