"""Certificate: what one compiled library was measured to take, kept beside it as JSON.

A certificate is of files: it holds the digest of each file of its artifact, and is of no use with
others. It holds every sample as well. Its verdict and its figures follow from the samples: they are
computed anew when it is read, and one that says something else is refused.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from canao.artifact.directory import Artifact, digest_of
from canao.artifact.files import file_digest, write_whole
from canao.artifact.measured import CONFIDENCE, Others, are_enough, percentile, summary, upper_bound
from canao.artifact.reading import fits, read_json, shown
from canao.errors import BudgetError, InputError

CERTIFICATE_FORMAT = 3
CERTIFICATE_FILE = "certificate.json"
# The percentile of the samples that a budget limits, and the least number of samples that MLPerf
# Mobile takes for it (single inferences).
PERCENTILE = 90.0
CERTIFIED_SAMPLES = 1024
# Who had a certificate made. One of a search belongs to its run, and to the report of it.
BY_SEARCH, BY_HAND = "search", "certify"

_MANIFEST = "manifest.json"
_AGAIN = "run `canao certify` again"
# Figures are written with all their digits; this leaves room for another way of adding up.
_SAME = 1e-9


@dataclass(frozen=True, slots=True)
class Certificate:
    """One library measured against a budget, on one device under one protocol; times in ms.

    precision      of the library's products, as its manifest says it
    predicted_ms   prediction of the latency table; None without a table
    samples_ms     every sample, in the order in which they were taken
    load_ms        time to open the library; cold_ms the first inference after that
    others         what else ran meanwhile; None where the device does not tell
    others_limit   the share of a core that others were allowed to take
    config         the measurement protocol
    made_by        BY_SEARCH or BY_HAND
    files          digest of each file of the artifact; the certificate is valid for no others
    date           UTC, ISO 8601
    """

    precision: str
    budget_ms: float
    percentile: float
    predicted_ms: float | None
    samples_ms: tuple[float, ...]
    load_ms: float
    cold_ms: float
    peak_bytes: int
    others: Others | None
    others_limit: float
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    device: str
    made_by: str
    files: Mapping[str, str]
    date: str

    @property
    def measured_ms(self) -> float:
        """The latency that the budget limits."""
        return percentile(self.samples_ms, self.percentile)

    @property
    def bound_ms(self) -> float:
        """What that latency is at most for all runs, with a confidence of 95 %, by the samples. The
        budget limits the measured one."""
        return upper_bound(self.samples_ms, self.percentile)

    @property
    def bound_is(self) -> str:
        """What `bound_ms` is, in words: there may be too few samples for a bound."""
        if are_enough(len(self.samples_ms), self.percentile):
            return f"at most, with {CONFIDENCE:.0%} confidence"
        return "at most, of these samples"

    @property
    def holds(self) -> bool:
        """Whether the measured percentile is within the budget."""
        return self.measured_ms <= self.budget_ms

    @property
    def error(self) -> float | None:
        """measured / predicted - 1."""
        return self.measured_ms / self.predicted_ms - 1.0 if self.predicted_ms else None

    @property
    def latency_ms(self) -> dict[str, float]:
        """The summary of the samples, with opening, cold start and peak memory."""
        more = {"load": self.load_ms, "cold": self.cold_ms, "peak_bytes": self.peak_bytes}
        return summary(self.samples_ms) | more

    @property
    def disturbed(self) -> bool:
        """Whether others took more of a core than the limit."""
        return self.others is not None and self.others.exceeds(self.others_limit)

    @property
    def digest(self) -> str:
        """One hash of all the files, as `Artifact.digest` has it."""
        return digest_of(self.files)

    @property
    def protocol(self) -> dict[str, Any]:
        """What was asked, and of which machine: figures under another protocol say other things."""
        machine = self.environment.get("machine")
        return protocol(self.budget_ms, self.percentile, self.config, self.device, machine)

    def to_dict(self, *, raw: bool = True) -> dict[str, Any]:
        """JSON form, with verdict and figures; without the samples unless `raw`."""
        row: dict[str, Any] = {"format": CERTIFICATE_FORMAT, **asdict(self), **self._derived()}
        row["samples_ms"] = list(self.samples_ms)
        if self.others is not None:
            row["others"] = self.others.to_dict()
        if not raw:
            del row["samples_ms"]
        return row

    def _derived(self) -> dict[str, Any]:
        """What follows from the rest, and is written for those who read the file themselves."""
        return {"holds": self.holds, "measured_ms": self.measured_ms, "error": self.error,
                "latency_ms": self.latency_ms, "disturbed": self.disturbed,
                "digest": self.digest}  # fmt: skip

    def __str__(self) -> str:
        others = "what others did is not told" if self.others is None else str(self.others)
        return (
            f"p{self.percentile:g} {self.measured_ms:.4g} ms on {self.device} "
            f"({self.precision}, {len(self.samples_ms)} samples, {self.config['length']} tokens, "
            f"{self.config['threads']} threads; {others}), budget {self.budget_ms:g} ms"
        )


def protocol(
    budget_ms: float, q: float, config: Mapping[str, Any], device: str, machine: str | None
) -> dict[str, Any]:
    """What tells one certificate's question from another's, by name."""
    asked = {"budget": float(budget_ms), "percentile": float(q), "device": device,
             "machine": machine}  # fmt: skip
    return asked | {name: value for name, value in config.items() if name != "cores"} | {
        "cores": list(config["cores"])
    }


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """In words, how two protocols differ; '' if they are the same."""
    return ", ".join(
        f"{name} {was.get(name)}, now {now.get(name)}"
        for name in sorted(was.keys() | now.keys())
        if was.get(name) != now.get(name)
    )


def write_certificate(path: Path, certificate: Certificate) -> None:
    """Write a certificate, whole or not at all; OSError if it cannot be written."""
    write_whole(path, certificate_text(certificate))


def certificate_text(certificate: Certificate) -> str:
    """A certificate as its file holds it."""
    return json.dumps(certificate.to_dict(), indent=1, sort_keys=True, allow_nan=False) + "\n"


def load_certificate(artifact: Artifact) -> Certificate:
    """The certificate beside an artifact; InputError if there is none, if it says something that
    does not follow from its samples, or if a file is not the one that was measured."""
    path = artifact.path / CERTIFICATE_FILE
    if not os.path.lexists(path):
        raise InputError(f"{artifact.path}: no {CERTIFICATE_FILE}; run `canao certify`")
    certificate = read_certificate(path)
    _check_files(certificate, path, artifact, artifact.digests())
    return certificate


def unfitting(artifact: Artifact) -> str | None:
    """Why the certificate beside an artifact is not one of its files; None if it is, or if there is
    no certificate. For an artifact that was just verified: its files are not hashed again."""
    path = artifact.path / CERTIFICATE_FILE
    if not os.path.lexists(path):
        return None
    try:
        manifest = {_MANIFEST: file_digest(artifact.path / _MANIFEST)}
        now = manifest | artifact.manifest["files"]
        _check_files(read_certificate(path), path, artifact, now)
    except InputError as error:
        return str(error)
    return None


def read_certificate(path: Path) -> Certificate:
    """The certificate in a file, whatever files it is of; InputError if it is damaged, of another
    format, or contradicts its own samples."""
    row = read_json(path, remedy=_AGAIN)
    if row.get("format") != CERTIFICATE_FORMAT:
        raise InputError(
            f"{path}: format {shown(row.get('format'))}, this CANAO reads {CERTIFICATE_FORMAT}; "
            f"{_AGAIN}"
        )
    wrong = fits(row, _Row)
    if wrong is not None:
        raise InputError(f"{path}: {wrong}; {_AGAIN}")
    stored = msgspec.convert(row, _Row)
    certificate = _certificate(stored)
    for said in _contradictions(certificate, stored):
        raise InputError(f"{path}: {said}; {_AGAIN}")
    return certificate


def require_budget(certificate: Certificate) -> None:
    """Raise BudgetError unless the certificate says that the budget was kept."""
    if not certificate.holds:
        raise BudgetError(
            f"budget missed: {certificate}; search again for a smaller model, "
            "or give a larger budget"
        )


# Times are in milliseconds; the bound keeps out infinity, which no measurement gives.
_Time = Annotated[float, Meta(ge=0, le=sys.float_info.max)]
_Sample = Annotated[float, Meta(gt=0, le=sys.float_info.max)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_Count = Annotated[int, Meta(ge=0, le=1 << 62)]
_Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
# What is printed as it stands.
_Word = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]*$", max_length=300)]
_Name = Annotated[str, Meta(pattern=r"^[^/\x00-\x1f\x7f]+$", max_length=300)]


class _Config(msgspec.Struct, forbid_unknown_fields=True):
    length: Annotated[int, Meta(ge=1)]
    threads: Annotated[int, Meta(ge=1)]
    warmup: _Count
    samples: Annotated[int, Meta(ge=1)]
    seconds: _Time
    max_seconds: _Time
    cores: list[_Count]


class _Others(msgspec.Struct, forbid_unknown_fields=True):
    cores: dict[Annotated[str, Meta(pattern="^[0-9]{1,6}$")], _Share]
    used: Annotated[list[_Count], Meta(min_length=1)]
    waited: _Share


class _Row(msgspec.Struct, forbid_unknown_fields=True):
    """The file. What follows from the rest is here to be compared with it."""

    format: int
    holds: bool
    precision: _Name
    budget_ms: _Sample
    percentile: Annotated[float, Meta(gt=0, le=100)]
    measured_ms: float
    predicted_ms: _Sample | None
    error: float | None
    latency_ms: dict[str, float]
    samples_ms: list[_Sample]
    load_ms: _Time
    cold_ms: _Time
    peak_bytes: _Count
    others: _Others | None
    others_limit: _Share
    disturbed: bool
    config: _Config
    environment: dict[_Word, Any]
    device: _Word
    made_by: Literal["search", "certify"]
    files: dict[_Name, _Digest]
    digest: str
    date: str


def _certificate(row: _Row) -> Certificate:
    others = None
    if row.others is not None:
        cores = {int(core): share for core, share in row.others.cores.items()}
        others = Others(cores, tuple(row.others.used), row.others.waited)
    return Certificate(
        precision=row.precision,
        budget_ms=row.budget_ms,
        percentile=row.percentile,
        predicted_ms=row.predicted_ms,
        samples_ms=tuple(row.samples_ms),
        load_ms=row.load_ms,
        cold_ms=row.cold_ms,
        peak_bytes=row.peak_bytes,
        others=others,
        others_limit=row.others_limit,
        config=msgspec.to_builtins(row.config),
        environment=row.environment,
        device=row.device,
        made_by=row.made_by,
        files=row.files,
        date=row.date,
    )


def _contradictions(certificate: Certificate, row: _Row) -> Iterator[str]:
    """What the file says that does not follow from its samples and files."""
    n, asked = len(certificate.samples_ms), row.config.samples
    if n < CERTIFIED_SAMPLES:
        yield f"has {n} samples, and a certificate takes at least {CERTIFIED_SAMPLES}"
        return
    if n < asked and not row.config.max_seconds:
        yield f"has {n} samples of {asked} that its protocol asks for"
    if certificate.others and not set(certificate.others.used) <= certificate.others.cores.keys():
        yield "'others' does not tell of every core that the library ran on"
        return
    try:
        datetime.fromisoformat(row.date)
    except ValueError:
        yield f"'date' is {shown(row.date)}, no date of ISO 8601"
    for name, value in certificate._derived().items():
        said = getattr(row, name)
        if not _same(said, value):
            yield f"says '{name}' {shown(said)}, and its samples and files make it {shown(value)}"


def _same(said: Any, value: Any) -> bool:
    if isinstance(value, dict):
        return said.keys() == value.keys() and all(_same(said[k], value[k]) for k in value)
    if isinstance(value, float) and isinstance(said, int | float):
        return math.isclose(said, value, rel_tol=_SAME, abs_tol=_SAME)
    return bool(said == value)


def _check_files(
    certificate: Certificate, path: Path, artifact: Artifact, now: Mapping[str, str]
) -> None:
    """InputError unless the files whose digests are `now` are those that were measured, and are
    what the certificate says of them."""
    for name in sorted(now.keys() | certificate.files.keys()):
        if name not in certificate.files:
            raise InputError(f"{path}: was made without {artifact.path / name}; {_AGAIN}")
        if now.get(name) != certificate.files[name]:
            raise InputError(
                f"{path}: is not of {artifact.path / name} as it is now; restore the file, or "
                f"{_AGAIN}"
            )
    if certificate.precision != artifact.precision:
        raise InputError(
            f"{path}: says precision {shown(certificate.precision)}, and the library's is "
            f"{artifact.precision}; {_AGAIN}"
        )
