"""A small tokenizer of each class that the families in docs/models.md have, saved as Transformers
saves it, and a reader of what CANAO makes of it."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import transformers

from canao.artifact.directory import Artifact
from canao.inference.tasks import Reader
from canao.model.inventory.inventory import Inventory
from canao.model.tokenizing.tokenizer import TokenizerFiles, read_tokenizer
from tests import tokens

# The class of the tokenizer, the model type that goes with it, and the kind of its vocabulary.
CLASSES = {
    "BertTokenizer": ("bert", "WordPiece"),
    "DistilBertTokenizer": ("distilbert", "WordPiece"),
    "RobertaTokenizer": ("roberta", "BPE"),
    "XLMRobertaTokenizer": ("xlm-roberta", "Unigram"),
    "CamembertTokenizer": ("camembert", "Unigram"),
    "ElectraTokenizer": ("electra", "WordPiece"),
    "AlbertTokenizer": ("albert", "Unigram"),
    "MobileBertTokenizer": ("mobilebert", "WordPiece"),
    "MPNetTokenizer": ("mpnet", "WordPiece"),
    "DebertaTokenizer": ("deberta", "BPE"),
    "DebertaV2Tokenizer": ("deberta-v2", "Unigram"),
    "PreTrainedTokenizerFast": ("modernbert", "BPE"),
    "SqueezeBertTokenizer": ("squeezebert", "WordPiece"),
    "ConvBertTokenizer": ("convbert", "WordPiece"),
    "GPT2Tokenizer": ("gpt2", "BPE"),
    "GPTNeoXTokenizer": ("gpt_neox", "BPE"),
    "LlamaTokenizer": ("llama", "BPE"),
    "Qwen2Tokenizer": ("qwen3", "BPE"),
    "GemmaTokenizer": ("gemma", "BPE"),
    "T5Tokenizer": ("t5", "Unigram"),
}
TEXTS = (
    "Ada Lovelace was born in London, and worked with Charles Babbage.",
    "  ZÜRICH, Köln\tund São Paulo \n",
    "naive cafe\u0301 İstanbul ISSIZ straße ẞ",
    "東京 漢字ひらがな 한국어 \U0001f600\U0001f468\u200d\U0001f469",
    "a [SEP] b [MASK] c </s> d <mask>e <|endoftext|>",
    "\x00 \x07 \ufffd \u200b zero\u00a0width",
    "x" * 120,
    "the the the analytical engine has no pretensions",
    "I'll be late!! ... (really?) 3.14 #tag",
    "<ent> and<ent>and <ENT>",
)
PAIRS = (
    ("Where was Ada born?", "Ada Lovelace was born in London and she worked there."),
    ("é [SEP]", " 東京 <mask> "),
)


@cache
def _vocabulary(kind: str) -> dict[str, Any]:
    """What a class of tokenizers is made from: the trained vocabulary, and merges."""
    model = json.loads(tokens.KINDS[kind]().to_str())["model"]
    if kind == "Unigram":
        return {"vocab": [tuple(pair) for pair in model["vocab"]]}
    made = {"vocab": model["vocab"]}
    return made | ({"merges": [tuple(m) for m in model["merges"]]} if kind == "BPE" else {})


def save(folder: Path, name: str, **settings: Any) -> Path:
    """A tokenizer of the class `name`, and the config.json that goes with it."""
    family, kind = CLASSES[name]
    made: dict[str, Any] = dict(_vocabulary(kind))
    if name == "AlbertTokenizer":
        own = {"<s>": "[CLS]", "</s>": "[SEP]", "<mask>": "[MASK]"}
        made["vocab"] = [(own.get(token, token), score) for token, score in made["vocab"]]
    if name == "PreTrainedTokenizerFast":
        made = {"tokenizer_object": tokens.byte_bpe(), "pad_token": "<pad>", "cls_token": "<s>",
                "sep_token": "</s>", "mask_token": "<mask>", "unk_token": "<unk>"}  # fmt: skip
    tokenizer = getattr(transformers, name)(**made, **settings)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": family}))
    return folder


def patch(path: Path, drop: tuple[str, ...] = (), **entries: Any) -> None:
    """Set entries of a JSON file, which is made if it is not there, and take others out."""
    held = json.loads(path.read_text()) if path.is_file() else {}
    kept = {k: v for k, v in (held | entries).items() if k not in drop}
    path.write_text(json.dumps(kept, ensure_ascii=False), encoding="utf-8")


def reader(
    folder: Path, out: Path, *, max_length: int = 512, ignored: tuple[str, ...] = (),
    **manifest: Any,
) -> Reader:  # fmt: skip
    """The reader of an artifact with the tokenizer of `folder`; errors are those of compiling."""
    inventory = Inventory(folder, ignored)
    found = read_tokenizer(folder, inventory)
    inventory.require()
    assert found is not None
    return reader_of(found, out, max_length=max_length, **manifest)


def reader_of(
    found: TokenizerFiles, out: Path, *, max_length: int = 512, **manifest: Any
) -> Reader:
    """The reader of an artifact in `out` that holds a tokenizer and nothing else."""
    out.mkdir(parents=True, exist_ok=True)
    content = found.contents["tokenizer.json"]
    (out / "tokenizer.json").write_bytes(content)
    inputs = [{"name": "input_ids", "limit": 1 << 24}, {"name": "token_type_ids", "limit": 2}]
    held = {"task": "text-classification", "inputs": inputs, "max_length": max_length,
            "files": {"tokenizer.json": hashlib.sha256(content).hexdigest()},
            "tokenizer": dict(found.description)}  # fmt: skip
    return Reader(Artifact(out, held | manifest))


def auto(folder: Path) -> Any:
    """The tokenizer that Transformers loads from the same directory."""
    return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
