"""Files and directories that are there whole or not at all, and digests of what is in them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from canao.artifact.temporary import (
    hold,
    new_directory,
    new_file,
    pattern_of,
    remove_leftovers,
    unowned,
)

# A fingerprint covers this many blocks of a large file, evenly spread from its first to its last.
_BLOCKS, _BLOCK = 64, 4096
_CHUNK = 1 << 20
# How the names end of what is being written, and of directories that are being replaced.
_NEW, _OLD = ".canao-new", ".canao-old"


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file to read. OSError if it is none: a pipe would never end, nor would a device."""
    # Without O_NONBLOCK a pipe that nobody writes to would hang before it can be looked at.
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
    with open(handle, "rb") as stream:
        yield stream


def file_digest(path: Path) -> str:
    """SHA-256 of a regular file, in hex; OSError if it is none or cannot be read."""
    h = hashlib.sha256()
    with opened(path) as stream:
        while chunk := stream.read(_CHUNK):
            h.update(chunk)
    return h.hexdigest()


def fingerprint(path: Path) -> str:
    """SHA-256, in hex, of a file's size and of blocks spread over it; of all of a small file."""
    with opened(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        h = hashlib.sha256(f"{size}\0".encode())
        for i in range(_BLOCKS):
            h.update(os.pread(stream.fileno(), _BLOCK, max(0, size - _BLOCK) * i // (_BLOCKS - 1)))
    return h.hexdigest()


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """A temporary file that takes the place of `path` once the block has written it.

    The file is there whole or not at all, even after a kill or a full disk.
    """
    remove_leftovers(path.parent, pattern_of(path.name, _NEW))
    temporary, lock = new_file(path.parent, f".{path.name}.", _NEW)
    try:
        yield temporary
        flush(temporary)
        temporary.chmod(0o644)
        os.replace(temporary, path)
        flush_names(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(lock)


@contextmanager
def staged_directory(path: Path) -> Iterator[Path]:
    """A temporary directory that takes the place of `path` once the block has filled it.

    Until then an earlier directory at `path` stays as it is; after an error it is still there and
    nothing else is.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    _recover(path)
    staged, lock = new_directory(path.parent, f".{path.name}.", _NEW)
    try:
        yield staged
        staged.chmod(0o755)
        flush_tree(staged)
        replace_directory(staged, path)
        flush_names(path.parent)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def replace_directory(staged: Path, path: Path) -> None:
    """Move the directory `staged` to `path`; what was at `path` is removed, or kept on failure.

    Both must be on one file system.
    """
    if not path.exists():
        os.replace(staged, path)
        return
    # A directory that is not empty cannot be replaced in one step: it is moved aside first.
    with _held(path):
        aside, lock = new_directory(path.parent, f".{path.name}.", _OLD)
        os.close(lock)
        os.replace(path, aside)  # which takes its place, and brings the lock of `path` with it
        try:
            os.replace(staged, path)
        except BaseException:
            os.replace(aside, path)
            raise
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Holds the lock of a directory, where there is one to hold, so that `_recover` of another
    process takes it for no leftover."""
    lock = None
    with contextlib.suppress(OSError):
        lock = hold(path)
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def _recover(path: Path) -> None:
    """Put right what a process left that was killed while it wrote the directory `path`: one that
    was moved aside for it goes back where nothing took its place."""
    for aside in path.parent.glob(pattern_of(path.name, _OLD)):
        with contextlib.suppress(OSError), unowned(aside) as free:
            if free and not path.exists():
                os.replace(aside, path)
    for ending in (_OLD, _NEW):
        remove_leftovers(path.parent, pattern_of(path.name, ending))


def write_whole(path: Path, data: bytes | str) -> None:
    """Write a file so that it is there whole or not at all, even after a kill or a full disk."""
    with staged_file(path) as temporary:
        temporary.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)


def flush(path: Path) -> None:
    """Have the content of a file on the disk."""
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())


def flush_names(folder: Path) -> None:
    """Have the names in a directory on the disk, where the file system does that."""
    with contextlib.suppress(PermissionError):
        handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        finally:
            os.close(handle)


def flush_tree(folder: Path) -> None:
    """Have all files of a directory on the disk, and their names."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            flush_names(path)
        elif path.is_file():
            flush(path)


def write_json(path: Path, value: Any) -> None:
    """A value as indented JSON, written whole; NaN is refused rather than written."""
    write_whole(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
