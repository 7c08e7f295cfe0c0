"""Reading files that are not trusted: regular files of a limited size, and JSON by a schema.

Every JSON file that CANAO reads, be it of a model, an artifact or a run, is read here. A file that
is damaged, hostile or of another kind is an InputError of one line that names it and the remedy.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, overload

import msgspec

from canao.errors import InputError

T = TypeVar("T")
RESTORE = "restore the file"
# A settings file has kilobytes, the largest tokenizers' JSON some tens of megabytes.
MAX_BYTES = 256 << 20
# Of settings, which take some twenty times as much memory once they are read.
SETTINGS_BYTES = 32 << 20
MAX_DEPTH = 64
# Of a message of another library, or of a value in a file, at most this much is shown.
_SHOWN = 200


def read_bytes(path: Path, *, limit: int = MAX_BYTES, remedy: str = RESTORE) -> bytes:
    """What a regular file holds.

    InputError if it cannot be read, is no regular file (a pipe would never end, nor would a device)
    or has more than `limit` bytes.
    """
    try:
        # Without O_NONBLOCK a pipe that nobody writes to would hang before it can be looked at.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(handle, "rb") as stream:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise InputError(f"{path}: is not a regular file; {remedy}")
            data = stream.read(limit + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    except ValueError as error:  # a path with a null character
        raise InputError(f"{path!r}: cannot be read ({error}); {remedy}") from None
    if len(data) > limit:
        raise InputError(f"{path}: has more than {limit} bytes; {remedy}")
    return data


def read_text(path: Path, *, limit: int = MAX_BYTES, remedy: str = RESTORE) -> str:
    """The text of a regular UTF-8 file; InputError as for `read_bytes`."""
    try:
        return read_bytes(path, limit=limit, remedy=remedy).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 ({error.reason}); {remedy}") from None


@overload
def read_json(path: Path, *, remedy: str = ..., limit: int = ...) -> dict[str, Any]: ...
@overload
def read_json(path: Path, kind: type[T], *, remedy: str = ..., limit: int = ...) -> T: ...


def read_json(path: Path, kind: Any = dict[str, Any], *, remedy: str = RESTORE,
              limit: int = MAX_BYTES) -> Any:  # fmt: skip
    """The JSON value of a regular file, as the type `kind`: a Python or msgspec type.

    InputError for a file that is no JSON, holds NaN, a key twice or half a surrogate pair, is
    nested deeper than MAX_DEPTH, or does not fit the type.
    """
    data = read_bytes(path, limit=limit, remedy=remedy)
    return parse_json(data, str(path), kind, remedy=remedy)


def parse_json(data: bytes | str, place: str, kind: Any = dict[str, Any], *,
               remedy: str = RESTORE) -> Any:  # fmt: skip
    """As `read_json`, for text that was read already; `place` names it in messages."""
    try:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_refused_constant)
        _check(value)
        return msgspec.convert(value, kind)
    except RecursionError:
        raise InputError(f"{place}: is nested too deeply to be JSON of ours; {remedy}") from None
    except msgspec.ValidationError as error:
        raise InputError(f"{place}: {_plain(error)}; {remedy}") from None
    except ValueError as error:
        said = first_line(error)
        raise InputError(f"{place}: cannot be read as JSON ({said}); {remedy}") from None


def fits(value: object, kind: Any) -> str | None:
    """None if `value` fits the type `kind`, else what is wrong with it, as in "is 3, not a str"."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        return _plain(error)
    return None


def shown(value: object) -> str:
    """A value of a JSON file as it may stand in a message: JSON, and not much of it."""
    text = json.dumps(value, ensure_ascii=True, default=repr)
    return text if len(text) <= 60 else f"{text[:57]}..."


def first_line(error: BaseException) -> str:
    """The first line of what an error says, as it may stand within a message; its type if it says
    nothing."""
    lines = str(error).strip().splitlines()
    return lines[0][:_SHOWN].rstrip(".") if lines else type(error).__name__


def first_repeated(names: Iterable[str]) -> str | None:
    """The first name that stood before; None if all differ. One pass: there may be a million."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = first_repeated(name for name, _ in pairs)
        raise ValueError(f"key {shown(twice)} stands twice")
    return found


def _refused_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _check(value: object) -> None:
    """Refuse what would break later: nesting without end, and strings that no file can hold."""
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        below: list[object] = []
        for item in level:
            if isinstance(item, dict):
                below += item.keys()
                below += item.values()
            elif isinstance(item, list):
                below += item
            elif isinstance(item, float) and not math.isfinite(item):
                raise ValueError("a number is too large")  # 1e999
            elif isinstance(item, str) and not item.isascii():
                item.encode("utf-8")  # a lone surrogate is a UnicodeEncodeError, a ValueError
        if not below:
            return
        level = below
    raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")


def _plain(error: msgspec.ValidationError) -> str:
    """A message of msgspec in one line of a bounded length, with its path as 'a.b' in place of
    '$.a.b'."""
    text = "".join(c if c.isprintable() else "?" for c in str(error))
    said, _, where = text.partition(" - at `")
    key, _, above = where.partition("` in `")
    if key == "key":
        said, where = f"has a key of another kind: {said}", above
    said = said[:1].lower() + said[1:].replace("`", "")
    place = where.rstrip("`").removeprefix("$").removeprefix(".")
    return (f"'{place[:_SHOWN]}' " if place else "") + said[:_SHOWN]
