"""Files and directories that are there whole or not at all, and digests of what is in them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# A fingerprint covers this many blocks of a large file, evenly spread from its first to its last.
_BLOCKS, _BLOCK = 64, 4096


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() if hasattr(
            hashlib, "file_digest"
        ) else hashlib.sha256(stream.read()).hexdigest()


def fingerprint(path: Path) -> str:
    """SHA-256, in hex, of a file's size and of blocks spread over it; of all of a small file."""
    size = path.stat().st_size
    h = hashlib.sha256(f"{size}\0".encode())
    with open(path, "rb", buffering=0) as stream:
        for i in range(_BLOCKS):
            stream.seek(max(0, size - _BLOCK) * i // (_BLOCKS - 1))
            h.update(stream.read(_BLOCK))
    return h.hexdigest()


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """A temporary file that takes the place of `path` once the block has written it.

    The file is there whole or not at all, even after a kill or a full disk.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _flush(temporary)
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def staged_directory(path: Path) -> Iterator[Path]:
    """A temporary directory that takes the place of `path` once the block has filled it.

    Until then an earlier directory at `path` stays as it is; after an error it is still there and
    nothing else is.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield staged
        staged.chmod(0o755)
        for file in staged.rglob("*"):
            if file.is_file():
                _flush(file)
        replace_directory(staged, path)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise


def replace_directory(staged: Path, path: Path) -> None:
    """Move the directory `staged` to `path`; what was at `path` is removed, or kept on failure.

    Both must be on one file system.
    """
    if not path.exists():
        os.replace(staged, path)
        return
    # A directory that is not empty cannot be replaced in one step: it is moved aside first.
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    os.replace(path, aside)
    try:
        os.replace(staged, path)
    except BaseException:
        os.replace(aside, path)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def write_whole(path: Path, data: bytes | str) -> None:
    """Write a file so that it is there whole or not at all, even after a kill or a full disk."""
    with staged_file(path) as temporary:
        temporary.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)


def _flush(path: Path) -> None:
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())


def write_json(path: Path, value: Any) -> None:
    """A value as indented JSON, written whole; NaN is refused rather than written."""
    write_whole(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
