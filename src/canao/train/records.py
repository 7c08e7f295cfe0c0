"""Records: what lies beside a result of training, and says what it depends on."""

from __future__ import annotations

import errno
import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec

from canao.artifact.files import fingerprint, write_whole
from canao.artifact.reading import read_json
from canao.errors import InputError
from canao.train.engine.storing import storing
from canao.train.metrics import Score


def digest(*parts: Any) -> str:
    """The key of a result that depends on these JSON values, and on nothing else."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8")).hexdigest()


class Record(msgspec.Struct):
    """What lies beside a result: the key of all that it depends on, its score if it has one, the
    fingerprints of the files of its directory if it has one, and how it was made where that was
    found out on the way."""

    key: str
    metrics: dict[str, float] = {}
    primary: str | None = None
    files: dict[str, str] | None = None
    recipe: dict[str, Any] | None = None


def write_record(
    path: Path, key: str, found: Score | None = None, directory: Path | None = None,
    recipe: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    row: dict[str, Any] = {"key": key}
    if found is not None:
        row |= {"metrics": dict(found.metrics), "primary": found.primary}
    if recipe is not None:
        row["recipe"] = recipe
    with storing(path):
        if directory is not None:
            row["files"] = _fingerprints(directory)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(row, indent=2) + "\n")


def read_record(path: Path, key: str, directory: Path | None = None) -> Record | None:
    """What was stored under `key`; None if nothing was, it is damaged, or its directory is. Then
    the result is made again."""
    try:
        record = read_json(path, Record)
        if directory is not None:
            found = _fingerprints(directory)
            # Runs of earlier versions have none.
            if found != (record.files or found):
                return None
    except (InputError, OSError):
        return None
    return record if record.key == key else None


def _fingerprints(directory: Path) -> dict[str, str]:
    """Of every file of a directory, and of its folders; OSError if there is none, or one cannot be
    read."""
    files = [f for f in sorted(directory.rglob("*")) if not f.is_dir()]
    irregular = next((f for f in (directory, *files) if not (f.is_file() or f.is_dir())), None)
    if irregular is not None:
        raise OSError(errno.EINVAL, "is not a regular file", str(irregular))
    return {str(file.relative_to(directory)): fingerprint(file) for file in files}


def score_of(record: Record | None) -> Score | None:
    if record is None or record.primary not in record.metrics:
        return None
    return Score(record.metrics, record.primary)
