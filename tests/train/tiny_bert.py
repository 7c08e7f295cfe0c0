"""A small BERT with its own tokenizer, and a task that it can learn in seconds."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
)

GOOD = ("good", "fine", "great", "superb", "happy")
BAD = ("bad", "poor", "awful", "dire", "sad")
PLAIN = ("the", "film", "was", "a", "plot", "and", "cast", "it", "story", "of")


def save_tiny(folder: Path, more: Sequence[str] = (), **changes: object) -> Path:
    """A random BERT of 3 layers, width 32, with a WordPiece tokenizer over the words above, and
    `more` tokens after them."""
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *GOOD, *BAD, *PLAIN, *more)
    vocab = {word: i for i, word in enumerate(words)}
    raw = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer()
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, **{f"{k}_token": v for k, v in special.items()},
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip
    torch.manual_seed(3)
    shape = {
        "vocab_size": len(vocab), "hidden_size": 32, "num_hidden_layers": 3,
        "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 64,
        "initializer_range": 0.1,
    }  # fmt: skip
    model = BertForSequenceClassification(BertConfig(**(shape | changes)))
    # As an encoder's checkpoint comes: without a head for any task.
    model.bert.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_masked(folder: Path, tiny: Path, seed: int = 5, vocab_size: int = 25) -> Path:
    """A random masked language model with the tokenizer of `tiny`."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=vocab_size, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=16, initializer_range=0.5,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny, local_files_only=True).save_pretrained(folder)
    return folder


def write_task(folder: Path, kind: str = "classes", train: int = 320, dev: int = 60) -> Path:
    """Texts of a few words; the label says which sort of words prevails, or by how much."""
    pick = random.Random(5)
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", train), ("dev", dev)):
        lines = ["sentence\tlabel"]
        for _ in range(count):
            good, bad = pick.choice([(0, 1), (1, 0), (2, 0), (0, 2), (2, 1), (1, 2)])
            words = pick.sample(GOOD, good) + pick.sample(BAD, bad)
            words += pick.choices(PLAIN, k=pick.randint(2, 9))
            pick.shuffle(words)
            label = f"{good - bad:.1f}" if kind == "values" else ("pos" if good > bad else "neg")
            lines.append(f"{' '.join(words)}\t{label}")
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
