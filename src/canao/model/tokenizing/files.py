"""The files of a directory's tokenizer: which there are, and what they say without being loaded."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from canao.artifact.files import write_json
from canao.artifact.reading import read_json
from canao.model.inventory.inventory import IGNORED, Inventory
from canao.model.inventory.tables.tokenizer import VOCABULARIES
from canao.model.tokenizing.form import check_form, kind_of, token_count

FORM, CONFIG = "tokenizer.json", "tokenizer_config.json"
SPECIAL, ADDED = "special_tokens_map.json", "added_tokens.json"
AGAIN = "save the tokenizer again"  # what is to be done about a damaged file
# Entries of config.json that AutoTokenizer looks at.
_OF_THE_MODEL = ("model_type", "model_name", "tokenizer_class", "transformers_version")


def vocabulary_files(path: Path) -> tuple[Path, ...]:
    """The files of a directory that hold a tokenizer's vocabulary, tokenizer.json first."""
    try:
        names = sorted(os.listdir(path))
    except OSError:
        return ()
    known = [n for pattern in (FORM, *VOCABULARIES) for n in names if fnmatchcase(n, pattern)]
    return tuple(path / n for n in dict.fromkeys(known))


def describe_tokenizer(path: Path | None) -> dict[str, Any] | None:
    """Kind, size, files and mask token of a directory's tokenizer, as far as can be said without
    loading it; None if there is none. InputError for files that cannot be read."""
    files = vocabulary_files(path) if path is not None else ()
    if path is None or not files:
        return None
    names = " + ".join(f.name for f in files)
    if files[0].name != FORM:
        kind = next((k for end, k in _KINDS if names.startswith(end)), "")
        return {"kind": kind, "tokens": None, "file": names, "mask": _named_mask(path)}
    form = read_json(files[0], remedy=AGAIN)
    check_form(str(files[0]), form)
    added = [token.get("content") for token in form.get("added_tokens") or ()]
    usual = next((token for token in ("[MASK]", "<mask>") if token in added), None)
    return {"kind": kind_of(form), "tokens": token_count(form), "file": FORM,
            "mask": _named_mask(path) or usual}  # fmt: skip


_KINDS = (("vocab.txt", "WordPiece"), ("merges.txt", "BPE"), ("vocab.json", "BPE"),
          ("sp", "Unigram"), ("sentencepiece", "Unigram"))  # fmt: skip


def _named_mask(path: Path) -> str | None:
    """The mask token that the settings name."""
    for name in (SPECIAL, CONFIG):
        token = read_json(path / name).get("mask_token") if (path / name).is_file() else None
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str):
            return text
    return None


@contextmanager
def without_ignored(path: Path, inventory: Inventory) -> Iterator[Path]:
    """The directory, or a copy of its tokenizer without entries that were ignored on request."""
    ignored: dict[str, list[str]] = {}
    for finding in inventory.findings:
        if finding.note == IGNORED and finding.entry:
            ignored.setdefault(finding.file, []).append(finding.entry)
    names = [CONFIG, SPECIAL, ADDED, FORM, "config.json"]
    if not any(inventory.relative(path / name) in ignored for name in names):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="canao-") as folder:
        copy = Path(folder)
        for file in vocabulary_files(path):
            shutil.copyfile(file, copy / file.name)
        for name in names:
            if (path / name).is_file():
                values = read_json(path / name)
                for entry in ignored.get(inventory.relative(path / name), ()):
                    _remove(values, entry.split("."))
                if name == "config.json":
                    values = {k: v for k, v in values.items() if k in _OF_THE_MODEL}
                write_json(copy / name, values)
        yield copy


def _remove(values: Any, entry: list[str]) -> None:
    """Take the entry 'a.b' out of nested objects and lists."""
    for step in entry[:-1]:
        values = values[int(step)] if isinstance(values, list) else values.get(step)
    if isinstance(values, dict):
        values.pop(entry[-1], None)


def there(file: Path) -> bool:
    """Whether a file of that name is there, of whatever kind."""
    return os.path.lexists(file)
