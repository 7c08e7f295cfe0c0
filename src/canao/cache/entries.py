"""Entries of the build cache: a directory for each, named by the hash of all it was made from.

An entry holds the product of a build, and the digest of it. What is not as the digest says, as
after a full disk or a crash, counts as not there and is built again.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from canao.artifact.files import file_digest, flush_names, flush_tree
from canao.artifact.temporary import WorkingDirectory
from canao.cache.locks import locked, note_use
from canao.cache.place import own_directory, require_own

BUILDS = "build"
# Part of every key: entries of another format are other entries.
ENTRY_FORMAT = "canao-entry-1"
_DIGESTS = "digest.json"
_MOST_BYTES = 4096  # of the file with the digest


class _Digest(msgspec.Struct, forbid_unknown_fields=True):
    """What `digest.json` says: the file name of the product and its SHA-256."""

    product: str
    sha256: str


def builds() -> Path:
    """The directory of all entries. ToolchainError if others could write there, OSError if it
    cannot be made."""
    return own_directory(BUILDS).absolute()


def find(key: str, product: str) -> Path | None:
    """The product that is cached under a key, from now on in use; None if there is none, or it is
    damaged. ToolchainError if it is not this user's alone."""
    folder = builds()
    with locked(folder, alone=False):
        if not _is_whole(folder / key, product):
            return None
        with contextlib.suppress(OSError):  # a cache that can only be read is not pruned either
            note_use(folder, key)
            os.utime(folder / key)
        return folder / key / product


def add(key: str, product: str, built: Path) -> Path:
    """Move a directory that holds a product into the cache; the product's path, from now on in
    use. Where another process was first, it is the product of that one."""
    # Whatever the user's umask is.
    built.chmod(0o700)
    (built / product).chmod(0o700)
    digest = _Digest(product, file_digest(built / product))
    (built / _DIGESTS).write_bytes(msgspec.json.encode(digest))
    (built / _DIGESTS).chmod(0o600)
    flush_tree(built)
    folder = builds()
    place = folder / key
    with WorkingDirectory("damaged", folder) as aside, locked(folder, alone=True):
        note_use(folder, key)
        if not _is_whole(place, product):
            if os.path.lexists(place):
                os.replace(place, aside / key)
            os.replace(built, place)
            flush_names(folder)
    return place / product


def _is_whole(place: Path, product: str) -> bool:
    """Whether an entry is there and its product is what was built."""
    if not os.path.lexists(place):
        return False
    for path in (place, place / product, place / _DIGESTS):
        try:
            require_own(path)
        except FileNotFoundError:
            return False
    try:
        with open(place / _DIGESTS, "rb") as stream:
            said = msgspec.json.decode(stream.read(_MOST_BYTES), type=_Digest)
        return said.product == product and said.sha256 == file_digest(place / product)
    except (OSError, msgspec.MsgspecError):
        return False
