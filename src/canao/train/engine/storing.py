"""Disks that are full, read-only or gone while a run writes: one line each, and nothing lost."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from canao.errors import InputError

_AGAIN = "give the same command again: it goes on where it was"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)
_IN_THE_WAY = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY)


@contextmanager
def storing(place: Path) -> Iterator[None]:
    """Turn what the system says when something below `place` cannot be written into an InputError.

    Whatever CANAO writes is there whole or not at all, so that the same command goes on from what
    was written before.
    """
    try:
        yield
    except BrokenPipeError:  # of a terminal or a program that reads what is printed
        raise
    except SafetensorError as error:  # it has no errno, only the system's words
        reason = str(error).partition("\n")[0][:200]
        raise InputError(f"{place}: cannot be written ({reason}); free some space, or make it "
                         f"writable, and {_AGAIN}") from None  # fmt: skip
    except OSError as error:
        reason = error.strerror or str(error).partition("\n")[0][:200] or type(error).__name__
        verb, remedy = "used", "put that right"
        if error.errno in _FULL:
            verb, remedy = "written", "free some space"
        elif error.errno in _CLOSED:
            verb, remedy = "written", "make it writable"
        elif error.errno in _IN_THE_WAY:
            verb, remedy = "written", "move away what is there"
        raise InputError(f"{_named(error, place)}: cannot be {verb} ({reason}); {remedy}, and "
                         f"{_AGAIN}") from None  # fmt: skip


def _named(error: OSError, place: Path) -> str:
    """What the user knows of the file: the name that was to be written, not a temporary one."""
    name = error.filename2 or error.filename
    if not isinstance(name, str) or not Path(name).is_relative_to(place):
        return str(place)
    first = next((p for p in Path(name).relative_to(place).parts if p.startswith(".")), None)
    return str(place) if first is not None else name


def require_room(folder: Path, size: int) -> None:
    """InputError unless `size` bytes are free where `folder` is: said before hours of training."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise InputError(
            f"{folder}: {free / 1e6:.0f} MB are free, and a checkpoint of this training takes "
            f"{size / 1e6:.0f}; free some space, and {_AGAIN}"
        )
