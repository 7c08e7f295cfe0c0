"""The tokenizer of a model directory, as the tokenizer.json that an artifact carries.

Older directories contain only a vocabulary. Transformers converts it offline when the model is
compiled, so that running the model needs nothing but the `tokenizers` library.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from canao.errors import InputError

_KEPT = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
# Vocabulary files of tokenizers without a tokenizer.json, and the kind of each.
_OLDER = (
    (("vocab.txt",), "WordPiece"),
    (("vocab.json", "merges.txt"), "BPE"),
    (("spiece.model",), "Unigram"),
    (("sentencepiece.bpe.model",), "Unigram"),
    (("spm.model",), "Unigram"),
)


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """A tokenizer that was read and works, as an artifact carries it.

    contents     its files by name; one of them is tokenizer.json
    description  what `describe_tokenizer` returns for them
    ids          every id of its vocabulary is below this; tokens that were added may lie above
    """

    contents: Mapping[str, bytes]
    description: Mapping[str, Any]
    ids: int


def read_tokenizer(path: Path | None) -> TokenizerFiles | None:
    """The tokenizer in a model directory, converted if necessary; None if there is none.

    InputError if it cannot be read.
    """
    found = describe_tokenizer(path)
    if path is None or found is None:
        return None
    contents = {name: _bytes(path / name) for name in _KEPT if (path / name).is_file()}
    if found["file"] == "tokenizer.json":
        loaded = _load(path / "tokenizer.json", contents["tokenizer.json"])
    else:
        loaded = _convert(path, found["file"])
        contents["tokenizer.json"] = loaded.to_str(pretty=True).encode()
    ids = 1 + max(loaded.get_vocab(with_added_tokens=False).values(), default=-1)
    return TokenizerFiles(contents, _describe(path, contents), ids)


def describe_tokenizer(path: Path | None) -> dict[str, Any] | None:
    """Kind, size, file and mask token of a directory's tokenizer; None if there is none."""
    if path is None:
        return None
    contents = {name: _bytes(path / name) for name in _KEPT if (path / name).is_file()}
    if "tokenizer.json" in contents:
        return _describe(path, contents)
    for files, kind in _OLDER:
        if all((path / name).is_file() for name in files):
            return {"kind": kind, "tokens": None, "file": " + ".join(files),
                    "mask": _mask_token(path, contents)}  # fmt: skip
    return None


def _describe(path: Path, contents: Mapping[str, bytes]) -> dict[str, Any]:
    form = _object(path / "tokenizer.json", contents["tokenizer.json"])
    model = form.get("model")
    if not isinstance(model, dict):
        raise InputError(f"{path}/tokenizer.json: has no model; save the tokenizer again")
    vocabulary = model.get("vocab", ())
    try:
        added = {a["id"] for a in form.get("added_tokens", [])}
        ids = set(vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary)))
    except (TypeError, KeyError):
        raise InputError(
            f"{path}/tokenizer.json: its tokens cannot be read; save the tokenizer again"
        ) from None
    kind = model.get("type") or ("BPE" if "merges" in model else "WordPiece")
    return {"kind": kind, "tokens": len(ids | added), "file": "tokenizer.json",
            "mask": _mask_token(path, contents)}  # fmt: skip


def _load(path: Path, content: bytes) -> Any:
    import tokenizers

    try:
        return tokenizers.Tokenizer.from_str(content.decode("utf-8"))
    except Exception as error:  # noqa: BLE001  the library raises bare Exception
        raise InputError(
            f"{path}: cannot be read as a tokenizer ({_first_line(error)}); save it again"
        ) from None


def _convert(path: Path, files: str) -> Any:
    import transformers

    transformers.utils.logging.set_verbosity_error()
    hint = "save it as tokenizer.json"
    if files.endswith(".model") and find_spec("sentencepiece") is None:
        raise InputError(
            f"{path}/{files}: needs sentencepiece to be converted; install that, or save the "
            "tokenizer as tokenizer.json where it is installed"
        )
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
        backend = tokenizer.backend_tokenizer
    except Exception as error:  # noqa: BLE001  readers of vocabularies raise bare Exception
        raise InputError(
            f"{path}/{files}: cannot be read as a tokenizer ({_first_line(error)}); {hint}"
        ) from None
    if backend.get_vocab_size() <= len(set(tokenizer.all_special_tokens)):
        # If Transformers cannot find or read a file, it returns an empty vocabulary.
        raise InputError(f"{path}/{files}: no vocabulary is read from it; {hint}")
    return backend


def _mask_token(path: Path, contents: Mapping[str, bytes]) -> str | None:
    """The mask token: the one that the configuration names, or a usual one in the vocabulary."""
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        settings = _object(path / name, contents[name]) if name in contents else {}
        token = settings.get("mask_token")
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str):
            return text
    if "tokenizer.json" not in contents:
        return None
    form = _object(path / "tokenizer.json", contents["tokenizer.json"])
    added = [a.get("content") for a in form.get("added_tokens", [])]
    return next((token for token in ("[MASK]", "<mask>") if token in added), None)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); make it readable") from None


def _object(path: Path, content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError as error:
        raise InputError(
            f"{path}: cannot be read as JSON ({error}); save the tokenizer again"
        ) from None
    return value if isinstance(value, dict) else {}


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
