"""Which files of a model directory hold its weights, and what tells one content from another."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

from canao.artifact.files import file_digest
from canao.artifact.reading import read_json
from canao.errors import InputError
from canao.model.inventory.tables.files import READ


def content(directory: Path) -> dict[str, str]:
    """The SHA-256 of every file that decides what a model computes, by its name: weights, settings
    and tokenizer, of the directory itself and of the folders of its modules. InputError where its
    weights are missing.
    """
    weights = weight_files(directory)
    inside = sorted(f for f in (*directory.glob("*"), *directory.glob("*/*")) if f.is_file())
    read = {f for f in inside if any(fnmatchcase(f.name, pattern) for pattern in READ)}
    return {
        f.relative_to(directory).as_posix(): file_digest(f) for f in sorted(read.union(weights))
    }


def weight_files(directory: Path) -> tuple[Path, ...]:
    """The safetensors files that hold a model's weights.

    InputError if there are none, or if a file that the index names is missing.
    """
    whole, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if whole.is_file():
        return (whole,)
    if not index.is_file():
        if any(directory.glob("*.bin")):
            raise InputError(
                f"{directory}: only pickled weights, which CANAO does not open; save the model as "
                "safetensors, with save_pretrained of Transformers"
            )
        raise InputError(f"{directory}: no model.safetensors; save the model with save_pretrained")
    held = read_json(index, remedy="restore it").get("weight_map")
    named = list(held.values()) if isinstance(held, dict) else []
    if not named or not all(isinstance(n, str) and Path(n).name == n for n in named):
        raise InputError(
            f"{index}: does not say for each weight which file of this directory holds it; "
            "restore it"
        )
    names = set(named)
    files = tuple(directory / name for name in sorted(names))
    for file in files:
        if not file.is_file():
            raise InputError(f"{file}: no such file, though {index.name} names it; restore it")
    return files
