"""Temporary files and directories of which a killed process leaves nothing behind for long.

Their owner holds a lock on each, which the system takes away when the owner is gone, however it
went. Whoever makes the next one in the same place first removes those of the same kind that nobody
holds. So none is removed while it is used, and no clock or process id decides.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import shutil
import stat
import tempfile
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

# File systems without locks: what is older than this has no owner any more.
_OLD_S = 24 * 3600
_NO_LOCKS = (errno.EBADF, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class WorkingDirectory:
    """A temporary directory `.KIND-XXXX` in `parent`, by default in that for temporary files.

    It is removed with `cleanup`, with the object, at the end of a `with` block, or when Python
    ends; if the process is killed, by the next that makes one of the kind in the same place.
    """

    def __init__(self, kind: str, parent: Path | None = None) -> None:
        parent = Path(tempfile.gettempdir()) if parent is None else parent
        remove_leftovers(parent, f".{kind}-*")
        self.path, handle = new_directory(parent, f".{kind}-")
        self._end = weakref.finalize(self, _discard, self.path, handle, os.getpid())

    def cleanup(self) -> None:
        self._end()

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.cleanup()


def new_directory(parent: Path, prefix: str, ending: str = "") -> tuple[Path, int]:
    """A new temporary directory, and the handle that holds its lock."""
    while True:
        path = Path(tempfile.mkdtemp(dir=parent, prefix=prefix, suffix=ending))
        handle = _owned(path)
        if handle is not None:
            return path, handle


def new_file(parent: Path, prefix: str, ending: str = "") -> tuple[Path, int]:
    """A new temporary file, and the handle that holds its lock."""
    while True:
        made, name = tempfile.mkstemp(dir=parent, prefix=prefix, suffix=ending)
        os.close(made)
        handle = _owned(Path(name))
        if handle is not None:
            return Path(name), handle


def _owned(path: Path) -> int | None:
    """The lock of a new file or directory; None if somebody took it for a leftover before it was
    locked, and removes it."""
    try:
        handle = hold(path)
    except FileNotFoundError:
        return None
    if handle is not None and not _same(path, handle):
        os.close(handle)
        return None
    return handle


def _discard(path: Path, handle: int, owner: int) -> None:
    # A forked process ends without having made it.
    if os.getpid() == owner:
        shutil.rmtree(path, ignore_errors=True)
    os.close(handle)


def hold(path: Path) -> int | None:
    """A handle that holds the lock of a file or directory until it is closed; None if another
    process holds it."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            os.close(handle)
            raise
    return handle


def remove_leftovers(parent: Path, pattern: str) -> None:
    """Remove the files and directories of a pattern, in `parent`, whose owners are gone."""
    for path in parent.glob(pattern):
        with contextlib.suppress(OSError), unowned(path) as free:
            if free:
                remove(path)


@contextlib.contextmanager
def unowned(path: Path) -> Iterator[bool]:
    """Whether a temporary file or directory of this user has no owner any more; nobody else may
    decide so while the block runs."""
    info = os.lstat(path)
    mine = info.st_uid == os.geteuid()
    if not mine or not (stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode)):
        yield mine and stat.S_ISLNK(info.st_mode)
        return
    handle = hold(path)
    try:
        locked = handle is not None and _locks_work(handle)
        old = handle is not None and time.time() - info.st_mtime > _OLD_S
        yield handle is not None and _same(path, handle) and (locked or old)
    finally:
        if handle is not None:
            os.close(handle)


def remove(path: Path) -> None:
    """Remove a file, a link, or a directory with all that is in it, as far as that is allowed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def pattern_of(name: str, ending: str) -> str:
    """The pattern of what `tempfile` makes with the prefix `.NAME.` and an ending."""
    return f".{glob.escape(name)}.*{ending}"


def _same(path: Path, handle: int) -> bool:
    """Whether a path still leads to what a handle was opened for."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _locks_work(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
