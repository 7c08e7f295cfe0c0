"""What `canao verify` found of a library on a GPU, kept beside it as JSON. Drivers of GPUs get
kernels wrong, so that a library is certified on none that was not verified there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from canao.artifact.directory import Artifact
from canao.artifact.files import write_whole
from canao.artifact.manifest import sealed
from canao.artifact.reading import fits, read_json, shown
from canao.errors import InputError

VERIFIED_FILE, VERIFIED_FORMAT = "verified.json", 1


@dataclass(frozen=True, slots=True)
class Verification:
    """A library beside float32, and whether each load gave the same bits. All of it held.

    device, machine   where; the machine's stamp names the GPU and its driver
    digest            of the library's files
    loads             how many gave the same bits, each in a process of its own
    compared          tokens, least cosine and largest difference (in standard deviations) of the
                      outputs for texts of several lengths
    date              UTC, ISO 8601
    """

    device: str
    machine: str
    digest: str
    loads: int
    compared: tuple[tuple[int, float, float], ...]
    date: str

    def to_dict(self) -> dict[str, Any]:
        rows = [list(row) for row in self.compared]
        return {"format": VERIFIED_FORMAT, **asdict(self), "compared": rows}


_Word = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]*$", max_length=300)]
_Compared = tuple[Annotated[int, Meta(ge=1)], Annotated[float, Meta(ge=-1, le=1)],
                  Annotated[float, Meta(ge=0)]]  # fmt: skip


class _Row(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    device: _Word
    machine: _Word
    digest: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    loads: Annotated[int, Meta(ge=1)]
    compared: Annotated[list[_Compared], Meta(min_length=1)]
    date: _Word
    checksum: str


def write_verification(artifact: Artifact, found: Verification) -> None:
    """Put it beside the library; InputError if that cannot be."""
    path = artifact.path / VERIFIED_FILE
    try:
        write_whole(path, json.dumps(sealed(found.to_dict()), indent=1, sort_keys=True) + "\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error}); free some space, "
                         "or make the directory writable") from None  # fmt: skip


def verification_on(artifact: Artifact, device: str, machine: str, length: int) -> Verification:
    """What was found of these files on the machine of a stamp; InputError, with the remedy, if
    they were not verified there, or not with texts of so many tokens."""
    path = artifact.path / VERIFIED_FILE
    again = f"run `canao verify {artifact.path} --model MODEL --device {device}`"
    if not os.path.lexists(path):
        raise InputError(f"{artifact.path}: was not verified on {device}, and a GPU's driver may "
                         f"get kernels wrong; {again} first")  # fmt: skip
    found = _read(path, again)
    if found.digest != artifact.digest:
        raise InputError(f"{path}: is of other files than are there now; {again} again")
    if found.machine != machine:
        raise InputError(f"{path}: is of another device or driver than {device} is now; {again}")
    if (most := max(tokens for tokens, _, _ in found.compared)) < length:
        raise InputError(f"{path}: is of texts up to {most} tokens, and a certificate of {length}; "
                         f"{again} --length {length}")  # fmt: skip
    return found


def _read(path: Path, again: str) -> Verification:
    row: Mapping[str, Any] = read_json(path, remedy=again)
    if row.get("format") != VERIFIED_FORMAT:
        raise InputError(f"{path}: format {shown(row.get('format'))}, this CANAO reads "
                         f"{VERIFIED_FORMAT}; {again}")  # fmt: skip
    wrong = fits(row, _Row)
    if wrong is not None:
        raise InputError(f"{path}: {wrong}; {again}")
    if sealed(row)["checksum"] != row["checksum"]:
        raise InputError(f"{path}: was changed after it was written; {again}")
    stored = msgspec.convert(row, _Row)
    return Verification(stored.device, stored.machine, stored.digest, stored.loads,
                        tuple(stored.compared), stored.date)  # fmt: skip
