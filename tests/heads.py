"""Small random models of each task, saved with a tokenizer, and Transformers' pipelines of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import BertConfig, PreTrainedTokenizerFast

from tests import tokens
from tests.compiler.models import SPREAD

LONGEST = 64
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
_SPECIAL = {"WordPiece": ("[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"),
            "BPE": ("<pad>", "<s>", "</s>", "<mask>", "<unk>"),
            "Unigram": ("<pad>", "<s>", "</s>", "<mask>", "<unk>")}  # fmt: skip


def fast_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    pad, cls, sep, mask, unk = _SPECIAL[kind]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens.KINDS[kind](), pad_token=pad, cls_token=cls, sep_token=sep,
        mask_token=mask, unk_token=unk, model_max_length=LONGEST,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


def save_model(
    head: str, folder: Path, *, kind: str = "WordPiece", **settings: Any
) -> tuple[transformers.PreTrainedModel, PreTrainedTokenizerFast]:
    """`Bert<head>` with one layer and the tokenizer, written to `folder`."""
    tokenizer = fast_tokenizer(kind)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=48, num_hidden_layers=1, num_attention_heads=3,
        intermediate_size=64, max_position_embeddings=LONGEST, initializer_range=SPREAD,
        pad_token_id=tokenizer.pad_token_id, **settings,
    )  # fmt: skip
    torch.manual_seed(5)
    model = getattr(transformers, f"Bert{head}")(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer
