"""Who uses what in the cache, so that nothing is removed that a living process was given.

Each process that was given an entry has a file `.in-use-XXXX`, which it keeps locked and in which
it writes the keys of its entries. It takes the cache's lock together with others to look for
entries; to move and remove them, a process takes it alone.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from canao.artifact.temporary import new_file, unowned

LOCK, TOOLCHAIN_LOCK = ".lock", ".toolchain-lock"
_USES = ".in-use-"
# For each cache the files of this process and of those that it was forked from: the process, the
# file, its handle, and what was written to it.
_own: dict[Path, tuple[int, Path, int, set[str]]] = {}


@contextlib.contextmanager
def locked(folder: Path, *, alone: bool, name: str = LOCK, wait: bool = True) -> Iterator[bool]:
    """The lock of a directory, together with others or alone; False where it is not had without
    waiting, or the file system has no locks or cannot be written."""
    try:
        handle = os.open(
            folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode=0o600
        )
    except OSError:
        yield False
        return
    try:
        kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        try:
            fcntl.flock(handle, kind if wait else kind | fcntl.LOCK_NB)
            had = True
        except OSError:
            had = False
        yield had
    finally:
        os.close(handle)


def note_use(folder: Path, key: str) -> None:
    """Write that this process uses an entry. The caller holds the directory's lock."""
    process, path, _, keys = _own.get(folder, (0, folder, -1, set[str]()))
    if process != os.getpid() or not path.exists():
        path, handle = new_file(folder, _USES)
        path.write_text("".join(f"{k}\n" for k in sorted(keys)), encoding="ascii")
        keys = set(keys)
        _own[folder] = os.getpid(), path, handle, keys
    if key not in keys:
        with open(path, "a", encoding="ascii") as stream:
            stream.write(f"{key}\n")
        keys.add(key)


def used_keys(folder: Path) -> set[str]:
    """The entries that living processes use; the files of those that are gone are removed. The
    caller holds the directory's lock alone."""
    keys: set[str] = set()
    for path in folder.glob(f"{_USES}*"):
        with contextlib.suppress(OSError), unowned(path) as free:
            if free:
                path.unlink(missing_ok=True)
            else:
                keys.update(path.read_text(encoding="ascii", errors="replace").split())
    return keys


def _forget() -> None:
    for process, path, _, _ in _own.values():
        if process == os.getpid():
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


atexit.register(_forget)
