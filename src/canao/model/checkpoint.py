"""Reading a model directory, whose files are not trusted: JSON, and which files hold weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from canao.errors import InputError


def read_json(path: Path, kind: type = dict) -> Any:
    """The JSON object in a file (or the list, for `kind` list); InputError for anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); restore the file") from None
    if not isinstance(value, kind):
        wanted = "list" if kind is list else "object"
        raise InputError(f"{path}: not a JSON {wanted}; restore the file")
    return value


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
                f"{directory}: only pickled weights, which CANAO does not open; save the model "
                "with save_pretrained(..., safe_serialization=True)"
            )
        raise InputError(f"{directory}: no model.safetensors; save the model with save_pretrained")
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{index}: does not say for each weight which file of this directory holds it; "
            "restore it"
        ) from None
    files = tuple(directory / name for name in sorted(names))
    for file in files:
        if not file.is_file():
            raise InputError(f"{file}: no such file, though {index.name} names it; restore it")
    return files
