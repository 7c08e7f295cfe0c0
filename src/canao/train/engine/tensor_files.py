"""Tensors in safetensors files, written whole or not at all, under a key of what they depend on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from canao.artifact.files import staged_file
from canao.errors import InputError
from canao.train.engine.storing import storing


class KeyedTensors:
    """What a dataclass has whose fields are tensors: it is kept in a file under a key."""

    def save(self, path: Path, key: str) -> None:
        """Write to a safetensors file under `key`."""
        write_tensors(path, dict(vars(self)), {"key": key})


def write_tensors(path: Path, tensors: dict[str, Tensor], note: dict[str, str]) -> None:
    """Write a safetensors file with `note` in its header; the file is there whole or not at all.

    InputError if it cannot be written, as where the disk is full; what was there before stays.
    """
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with staged_file(path) as temporary:
            held = {n: t.cpu().contiguous() for n, t in tensors.items()}
            save_file(held, temporary, metadata=note)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file and the note in its header; InputError if damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            # Cloned: the file may be replaced while its memory map is in use.
            names = file.keys()
            return {n: file.get_tensor(n).clone() for n in names}, file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({error}); remove it") from None


def read_keyed(
    path: Path, key: str, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor] | None:
    """The tensors of a file whose note names `key`; None if it is missing, damaged, another one's,
    or holds tensors of other names or shapes."""
    if not path.is_file():
        return None
    try:
        tensors, note = read_tensors(path)
    except InputError:
        return None
    whole = {name: tuple(tensor.shape) for name, tensor in tensors.items()} == dict(shapes)
    return tensors if whole and note.get("key") == key else None
