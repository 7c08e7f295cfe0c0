"""A small BERT with its own tokenizer, and a task that it can learn in seconds."""

from __future__ import annotations

import json
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


def save_sentence_model(folder: Path, mode: str = "mean", dense: int = 0) -> Path:
    """The encoder of `save_tiny` with a pooling, as Sentence-Transformers saves it; vectors have
    length 1, or are mapped by a Dense module to so many dimensions."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    save_tiny(folder / "plain")
    transformer = modules.Transformer(str(folder / "plain"), max_seq_length=48)
    parts = [transformer, modules.Pooling(32, pooling_mode=mode)]
    if dense:
        parts.append(modules.Dense(32, dense, activation_function=torch.nn.Identity()))
    else:
        parts.append(modules.Normalize())
    SentenceTransformer(modules=parts, device="cpu").save(str(folder / "model"))
    return folder / "model"


def write_texts(folder: Path, train: int = 160, dev: int = 30, scores: bool = False) -> Path:
    """Texts one a line, or pairs of them with a score of how many words they share."""
    pick = random.Random(8)
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", train), ("dev", dev)):
        texts = [pick.choices((*GOOD, *BAD, *PLAIN), k=pick.randint(3, 8)) for _ in range(count)]
        if not scores:
            lines = [" ".join(words) for words in texts]
            (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
            continue
        rows = ["sentence1\tsentence2\tlabel"]
        for words in texts:
            other = pick.sample(words, pick.randint(1, len(words))) + pick.choices(PLAIN, k=2)
            score = len(set(words) & set(other)) / len(set(words) | set(other))
            rows.append(f"{' '.join(words)}\t{' '.join(other)}\t{5 * score:.2f}")
        (folder / f"{name}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


TAGS = ("B-bad", "B-good", "I-good", "O")


def tag_of(word: str) -> str:
    """The label of a word, which the word itself tells."""
    first = word.split("-")[0]
    if first in GOOD:
        return "B-good" if first in GOOD[:3] else "I-good"
    return "B-bad" if first in BAD else "O"


def write_words(folder: Path, train: int = 240, dev: int = 50, table: bool = False) -> Path:
    """Sentences whose words have labels, some of them of several tokens: as .conll files, or as
    tables with lists."""
    pick = random.Random(7)
    folder.mkdir(parents=True, exist_ok=True)
    words = (*GOOD, *BAD, *PLAIN, *PLAIN, "good-film", "bad-plot", "plot-good")
    for name, count in (("train", train), ("dev", dev)):
        rows = [pick.choices(words, k=pick.randint(2, 9)) for _ in range(count)]
        if table:
            lines = [json.dumps({"tokens": row, "tags": [tag_of(w) for w in row]}) for row in rows]
            (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
            continue
        blocks = ["\n".join(f"{word}\t{tag_of(word)}" for word in row) for row in rows]
        (folder / f"{name}.conll").write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
    return folder


def write_several(folder: Path, train: int = 320, dev: int = 60) -> Path:
    """Texts with the labels of what is in them: any of praise, blame and plot, or none."""
    pick = random.Random(6)
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", train), ("dev", dev)):
        lines = []
        for _ in range(count):
            words = pick.choices(PLAIN, k=pick.randint(1, 4))
            words += pick.choices(GOOD, k=pick.randint(0, 2)) + pick.choices(
                BAD, k=pick.randint(0, 2)
            )
            pick.shuffle(words)
            found = {"praise": GOOD, "blame": BAD, "plot": ("plot",)}
            labels = [label for label, of in found.items() if set(of) & set(words)]
            lines.append(json.dumps({"text": " ".join(words), "labels": labels}))
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
