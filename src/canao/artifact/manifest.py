"""The manifest of an artifact: the one file that says what all others are.

It is read by the types below and by nothing else. Its checksum covers every entry: a manifest in
which anything was changed is refused, whatever was changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from canao.artifact.reading import fits, read_json, shown
from canao.errors import InputError

ARTIFACT_FORMAT = 5
MANIFEST = "manifest.json"
REMEDY = "compile the model again"
# The library where the manifest names none.
LIBRARY = "model.so"
# Entries that the library tells as well.
INTERFACE = ("inputs", "outputs", "max_length", "resumes")

Count = Annotated[int, Meta(ge=0, le=2**62)]
Number = Annotated[int, Meta(ge=0, lt=2**31)]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
FileName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*\Z", max_length=200)]


class _Strict(Struct, forbid_unknown_fields=True):
    """An object of which every entry is known."""


class TargetEntry(_Strict):
    """What the library was compiled for; `isa` is the widest instruction set of several, `features`
    what its kernels ask a processor for, by Linux' names, and `cpu` the one that was named."""

    name: str
    isa: str
    triple: str
    cpu: str | UnsetType = UNSET
    features: list[str] | UnsetType = UNSET


class InputEntry(_Strict):
    """An input: ids below `limit`, or any for 0."""

    name: str
    dtype: str
    shape: list[Count | str]
    limit: Number


class OutputEntry(_Strict):
    """An output; dimensions are whole numbers, or polynomials in s as text."""

    name: str
    dtype: str
    shape: list[Count | str]


class KernelEntry(_Strict):
    """A kernel, in the order in which they run. `product` is the row of an instruction set's tiles
    that its products are by; it is there only where these are not of float32. `beside` are narrow
    rows that it makes as well as `output`. `cpu`: the CPU runs it beside a GPU."""

    name: str
    plan: str
    tuned: bool
    ops: list[str]
    output: str
    flops: Count
    beside: str | UnsetType = UNSET
    product: str | UnsetType = UNSET
    cpu: bool | UnsetType = UNSET


class LevelEntry(_Strict):
    """An instruction set whose kernels the library has beside those of its target."""

    isa: str
    kernels: list[KernelEntry]
    features: list[str] | UnsetType = UNSET


class AgreementEntry(_Strict):
    """How near the outputs of random texts are to those in float32: precision/agreement.py."""

    cosine: float
    largest: float


class KvCacheEntry(_Strict):
    """Keys and values of earlier tokens: what they are kept in, and the bytes for the longest
    text."""

    precision: str
    bytes: Count


class CheckEntry(_Strict):
    """A check on labelled text: accuracy/gate.py. `metric` in float32 and compiled, the share of
    equal predictions, and the products that int8 costs most with how far they move the outputs."""

    data: str
    examples: Count
    metric: str
    float32: float
    compiled: float
    agreement: float
    hurting: list[tuple[str, float]]


class FlopsEntry(_Strict):
    """Floating-point operations of a sequence of `length` tokens."""

    length: Count
    total: Count


class Manifest(_Strict):
    """All entries. Those that have defaults belong to some models only."""

    format: int
    canao: str
    toolchain: str
    target: TargetEntry
    model: str
    task: str
    labels: list[str]
    problem_type: str
    pooling: dict[str, Any] | None
    stop_tokens: list[Number]
    left_padding: bool
    inputs: Annotated[list[InputEntry], Meta(min_length=1)]
    outputs: Annotated[list[OutputEntry], Meta(min_length=1)]
    max_length: Annotated[int, Meta(ge=1, lt=2**31)]
    resumes: bool
    fusion: bool
    precision: str
    smoothed: list[str]
    kept: dict[str, list[str]]
    agreement: AgreementEntry | None
    operators: Count
    parameters: Count
    flops: FlopsEntry
    rewrites: dict[str, Count]
    kernels: list[KernelEntry]
    tokenizer: dict[str, Any] | None
    files: dict[FileName, Digest]
    fingerprint: Digest
    checksum: Digest
    check: CheckEntry | UnsetType = UNSET
    tried: list[tuple[str, float | None, str]] | UnsetType = UNSET
    activation: str | UnsetType = UNSET
    cross_encoder: dict[str, Any] | None | UnsetType = UNSET
    generation: dict[str, Any] | None | UnsetType = UNSET
    kv_cache: KvCacheEntry | None | UnsetType = UNSET
    left_out: list[tuple[str, str]] | UnsetType = UNSET
    library: FileName | UnsetType = UNSET
    narrower: list[LevelEntry] | UnsetType = UNSET
    places: list[tuple[Count, Count]] | UnsetType = UNSET
    source: dict[str, Any] | None | UnsetType = UNSET


class PoolingEntry(Struct):
    """`pooling`, as `model/sentence/sentence.py` writes it; other entries are its readers'."""

    modes: list[str]
    dense: list[tuple[Count, str]]
    normalize: bool
    max_tokens: Annotated[int, Meta(ge=1, lt=2**31)] | None
    lowercase: bool
    prompt: str


class TokenizerEntry(Struct):
    """`tokenizer`, as `model/tokenizing/tokenizer.py` writes it; other entries are its readers'."""

    kind: str
    file: str
    tokens: Count | None = None
    mask: str | None = None
    truncation_side: str | None = None
    padding_side: str | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None


_PARTS = {"pooling": PoolingEntry, "tokenizer": TokenizerEntry}


def sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest with the checksum of all its other entries, as it is written."""
    entries = {name: value for name, value in manifest.items() if name != "checksum"}
    return entries | {"checksum": _checksum(entries)}


def read_manifest(folder: Path) -> dict[str, Any]:
    """The entries of the manifest in an artifact's directory.

    InputError if there is none, or it is of another format, does not fit the types, or is not as it
    was written.
    """
    path = folder / MANIFEST
    if not _exists(path):
        raise InputError(f"{folder}: no {MANIFEST}; give a directory written by `canao compile`")
    entries = read_json(path, remedy=REMEDY)
    # First of all: another format has other entries.
    if type(entries.get("format")) is not int or entries["format"] != ARTIFACT_FORMAT:
        raise InputError(
            f"{folder}: artifact format {shown(entries.get('format'))}, this CANAO reads "
            f"{ARTIFACT_FORMAT}; {REMEDY}"
        )
    wrong = _wrong(entries)
    if wrong:
        raise InputError(f"{path}: {wrong}; {REMEDY}")
    if sealed(entries)["checksum"] != entries["checksum"]:
        raise InputError(f"{path}: was changed after it was written; {REMEDY}")
    return entries


def _wrong(entries: Mapping[str, Any]) -> str | None:
    """What is wrong with a manifest's entries, each by itself."""
    found = fits(entries, Manifest)
    if found:
        return found
    for name, kind in _PARTS.items():
        found = fits(entries[name], kind | None)
        if found:
            return f"'{name}': {found}"
    for slot in entries["outputs"]:
        if not all(isinstance(d, int) or is_dimension(d) for d in slot["shape"]):
            return f"output {shown(slot['name'])} has a shape that cannot be read"
    return None


def is_dimension(text: str) -> bool:
    """Whether a dimension is a polynomial in s as manifests write it, such as '4*s + 2'."""
    terms = [term.strip().split("*") for term in text.split("+")]
    return all(f == "s" or (f.isascii() and f.isdigit() and len(f) < 19) for t in terms for f in t)


def _checksum(entries: Mapping[str, Any]) -> str:
    text = json.dumps(entries, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _exists(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError):
        return True  # and reading it says what is wrong
    return True


def otherwise(manifest: Mapping[str, Any]) -> Iterator[str]:
    """In words, what products and tables have another precision than the library's, and which read
    smoothed values."""
    for precision, places in manifest["kept"].items():
        if places:
            yield f"in {precision} stay {', '.join(places)}"
    if manifest["smoothed"]:
        yield f"smoothed is what is read at {', '.join(manifest['smoothed'])}"
