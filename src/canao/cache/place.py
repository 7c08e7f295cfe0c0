"""Where the cache is, who may write there, and how large it may become.

What lies in the cache is run: whoever can write there decides what CANAO runs. So its directories
and files must belong to this user, and nobody else may be able to write to them.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from canao.errors import InputError, ToolchainError

# A library of a BERT has about 1 MB and the toolchain's own libraries for a target some 20 MB: this
# is room for hundreds of builds, and little of a disk.
DEFAULT_BYTES = 512_000_000
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,9})?) ?(?:([KMGT]?)B?|([KMGT])iB)",
                   re.IGNORECASE | re.ASCII)  # fmt: skip
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_ELSEWHERE = "or name a directory of your own in CANAO_CACHE"


def cache_directory() -> Path:
    """Where built libraries are kept: $CANAO_CACHE, or canao below the user's cache directory."""
    named = os.environ.get("CANAO_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "canao"


def cache_limit() -> int:
    """The bytes that builds and the toolchain may take: $CANAO_CACHE_MAX, or 512 MB."""
    named = os.environ.get("CANAO_CACHE_MAX")
    return parse_size(named, "CANAO_CACHE_MAX") if named else DEFAULT_BYTES


def parse_size(text: str, name: str) -> int:
    """Bytes, from text such as '300M', which is 300,000,000, or '300MiB', of 1,048,576 bytes each;
    InputError names the option or variable that it is of."""
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise InputError(f"{name} is '{text}'; give bytes, or a number with K, M, G or T")
    if found[3]:
        return int(float(found[1]) * 1024 ** _POWERS[found[3].upper()])
    return int(float(found[1]) * 1000 ** _POWERS[found[2].upper()])


def own_directory(name: str) -> Path:
    """A directory of this user alone in the cache; made if it is not there.

    ToolchainError if others could write there, OSError if it cannot be made.
    """
    root = cache_directory()
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    _require_safe_root(root)
    place = root / name
    place.mkdir(mode=0o700, exist_ok=True)
    require_own(place)
    if stat.S_IMODE(place.stat().st_mode) & 0o077:
        place.chmod(0o700)  # so that what is in it need not be looked at one by one
    return place


def require_own(path: Path) -> os.stat_result:
    """The status of a file or directory in the cache. ToolchainError unless it belongs to this user
    and nobody else can write to it."""
    info = path.lstat()
    if not (stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode)):
        raise ToolchainError(f"{path}: is neither a file nor a directory; remove it, {_ELSEWHERE}")
    if info.st_uid != os.geteuid():
        raise ToolchainError(
            f"{path}: belongs to another user (number {info.st_uid}), whose programs would be run; "
            f"remove it, {_ELSEWHERE}"
        )
    _require_closed(path, info.st_mode)
    return info


def _require_safe_root(root: Path) -> None:
    info = root.stat()
    if info.st_uid not in (os.geteuid(), 0):
        raise ToolchainError(
            f"{root}: belongs to another user (number {info.st_uid}), whose programs would be run; "
            f"change its owner, {_ELSEWHERE}"
        )
    # Where only owners may remove entries, as in /tmp, nobody can replace those that are ours.
    if not info.st_mode & stat.S_ISVTX:
        _require_closed(root, info.st_mode)


def _require_closed(path: Path, mode: int) -> None:
    if mode & _OTHERS_WRITE:
        raise ToolchainError(
            f"{path}: others may write to it (mode {stat.S_IMODE(mode):o}), and so have programs "
            f"run here; run: chmod -R go-w '{path}', {_ELSEWHERE}"
        )
