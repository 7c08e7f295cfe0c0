"""How large the cache is, and making it smaller: what was used longest ago goes first, and nothing
that a living process was given."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from canao.artifact.temporary import WorkingDirectory, remove, remove_leftovers
from canao.cache.entries import builds
from canao.cache.locks import TOOLCHAIN_LOCK, locked, used_keys
from canao.cache.place import cache_directory, cache_limit, own_directory

TOOLCHAIN = "zig"
# What processes make for themselves in the directory of entries; and what earlier versions did.
_TEMPORARY = (".building-*", ".damaged-*", ".removed-*", ".staged-*")


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the cache: its key, its size, when it was last used, whether a living process
    was given it."""

    key: str
    bytes: int
    used: float
    in_use: bool


@dataclass(frozen=True, slots=True)
class Usage:
    """What is in the cache.

    place             its directory
    limit             the bytes that entries and toolchain may take
    entries           the builds, the one that was used longest ago first
    toolchain_bytes   what the toolchain keeps: its own libraries, for each target
    tuning_bytes      what `canao tune` measured; it counts for no limit and is never pruned
    """

    place: Path
    limit: int
    entries: tuple[Entry, ...]
    toolchain_bytes: int
    tuning_bytes: int

    @property
    def bytes(self) -> int:
        """What counts for the limit."""
        return sum(entry.bytes for entry in self.entries) + self.toolchain_bytes


def usage() -> Usage:
    """What is in the cache now. ToolchainError if others could write there, OSError if it cannot
    be read."""
    folder = builds()
    with locked(folder, alone=True) as had:
        entries = _entries(folder, used_keys(folder) if had else None)
    tuning = (size(p) for p in cache_directory().glob("tuning-*.sqlite*"))
    return Usage(cache_directory(), cache_limit(), entries, size(own_directory(TOOLCHAIN)),
                 sum(tuning))  # fmt: skip


def prune(limit: int | None = None) -> int:
    """Make the cache as small as `limit`, by default its own; the bytes that were freed.

    What killed processes left goes in any case. More may remain: what is in use.
    """
    most = cache_limit() if limit is None else limit
    folder, toolchain = builds(), own_directory(TOOLCHAIN)
    for pattern in _TEMPORARY:
        remove_leftovers(folder, pattern)
    freed = 0
    kept = size(toolchain)
    if kept > most / 2:
        # Entries are worth more: the toolchain makes its libraries again in seconds.
        freed += _clear_toolchain(toolchain)
        kept -= freed
    with WorkingDirectory("removed", folder) as bin_, locked(folder, alone=True) as had:
        entries = _entries(folder, used_keys(folder)) if had else ()
        total = kept + sum(entry.bytes for entry in entries)
        for entry in entries:
            if total <= most:
                break
            if not entry.in_use:
                os.replace(folder / entry.key, bin_ / entry.key)
                total -= entry.bytes
                freed += entry.bytes
    # Where builds in use take more by themselves, each build would make the toolchain's files anew.
    if total > most and (total - kept <= most or not most):
        freed += _clear_toolchain(toolchain)
    return freed


def clear() -> int:
    """Remove all that is not in use; the bytes that were freed."""
    return prune(0)


def _entries(folder: Path, used: set[str] | None) -> tuple[Entry, ...]:
    """All entries, the one that was used longest ago first; without locks, all count as in use."""
    found = []
    for path in folder.iterdir():
        if not path.name.startswith("."):
            with contextlib.suppress(FileNotFoundError):
                in_use = used is None or path.name in used
                found.append(Entry(path.name, size(path), path.lstat().st_mtime, in_use))
    return tuple(sorted(found, key=lambda entry: (entry.used, entry.key)))


def _clear_toolchain(toolchain: Path) -> int:
    """Remove what the toolchain keeps, unless a compilation is under way; the bytes freed."""
    before = size(toolchain)
    with locked(builds(), alone=True, name=TOOLCHAIN_LOCK, wait=False) as had:
        if had:
            for path in toolchain.iterdir():
                remove(path)
    return before - size(toolchain)


def size(path: Path) -> int:
    """The bytes of a file, or of all files of a directory, as the disk counts them."""
    total = 0
    with contextlib.suppress(OSError):
        total += path.lstat().st_blocks * 512
    if path.is_dir() and not path.is_symlink():
        with contextlib.suppress(OSError):
            total += sum(size(inner) for inner in path.iterdir())
    return total
