"""A model directory's tokenizer, as the one tokenizer.json that an artifact carries.

Directories written long ago have a vocabulary only. Transformers converts those without a
network, once, when the model is compiled: running it then needs the `tokenizers` library alone.
"""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from canao.errors import InputError

_KEPT = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
# Vocabularies of tokenizers without a tokenizer.json, and the kind that each is.
_OLDER = (
    (("vocab.txt",), "WordPiece"),
    (("vocab.json", "merges.txt"), "BPE"),
    (("spiece.model",), "Unigram"),
    (("sentencepiece.bpe.model",), "Unigram"),
    (("spm.model",), "Unigram"),
)


def describe_tokenizer(path: Path | None) -> dict[str, Any] | None:
    """Kind, size, file and mask token of the tokenizer in a model directory; None: it has none."""
    if path is None:
        return None
    written = path / "tokenizer.json"
    if written.is_file():
        form = _json(written)
        model = form.get("model", {})
        added = {a.get("id") for a in form.get("added_tokens", [])}
        vocabulary = model.get("vocab", ())
        ids = set(vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary)))
        kind = model.get("type") or ("BPE" if "merges" in model else "WordPiece")
        return {"kind": kind, "tokens": len(ids | added), "file": "tokenizer.json",
                "mask": _mask_token(path)}  # fmt: skip
    for files, kind in _OLDER:
        if all((path / name).is_file() for name in files):
            return {"kind": kind, "tokens": None, "file": " + ".join(files),
                    "mask": _mask_token(path)}  # fmt: skip
    return None


def copy_tokenizer(path: Path | None, to: Path) -> None:
    """Put the tokenizer of model directory `path` into directory `to`, converted if it must be."""
    if path is None:
        return
    for name in _KEPT:
        if (path / name).is_file():
            shutil.copyfile(path / name, to / name)
    found = describe_tokenizer(path)
    if found is not None and found["file"] != "tokenizer.json":
        _convert(path, found["file"]).save(str(to / "tokenizer.json"))


def _convert(path: Path, files: str) -> Any:
    import transformers

    transformers.utils.logging.set_verbosity_error()
    remedy = "save it as tokenizer.json"
    if files.endswith(".model") and find_spec("sentencepiece") is None:
        raise InputError(
            f"{path}/{files}: needs sentencepiece to be converted; install that, or save the "
            "tokenizer as tokenizer.json where it is installed"
        )
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
        backend = tokenizer.backend_tokenizer
    except Exception as error:  # noqa: BLE001  readers of vocabularies raise bare Exception
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"{path}/{files}: cannot be read as a tokenizer ({lines[0][:200]}); {remedy}"
        ) from None
    if backend.get_vocab_size() <= len(set(tokenizer.all_special_tokens)):
        # Transformers takes a file that it cannot find or read for an empty vocabulary.
        raise InputError(f"{path}/{files}: no vocabulary is read from it; {remedy}")
    return backend


def _mask_token(path: Path) -> str | None:
    """The token that stands for a word to fill in: as the configuration names it, or usual."""
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        token = _json(path / name).get("mask_token") if (path / name).is_file() else None
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str):
            return text
    if not (path / "tokenizer.json").is_file():
        return None
    added = [a.get("content") for a in _json(path / "tokenizer.json").get("added_tokens", [])]
    return next((token for token in ("[MASK]", "<mask>") if token in added), None)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from None
    return value if isinstance(value, dict) else {}
