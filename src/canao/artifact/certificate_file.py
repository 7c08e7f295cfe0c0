"""The file of a certificate: read, it is checked against its own samples and the files it is of."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from canao.artifact.budgets import OtherBudgets, Scored, size_of
from canao.artifact.certificate import (
    AGAIN,
    CERTIFICATE_FILE,
    CERTIFICATE_FORMAT,
    CERTIFIED_SAMPLES,
    PROCESSES,
    SPREAD_S,
    Certificate,
    Earlier,
    Run,
    check_machine,
)
from canao.artifact.directory import Artifact
from canao.artifact.files import file_digest
from canao.artifact.manifest import sealed
from canao.artifact.measured import Clock, Others
from canao.artifact.reading import fits, read_json, shown
from canao.artifact.sustained import Minute
from canao.errors import InputError

_MANIFEST = "manifest.json"
# Figures are written with all their digits; this leaves room for another way of adding up.
_SAME = 1e-9


def load_certificate(artifact: Artifact, machine: str | None = None) -> Certificate:
    """The certificate beside an artifact; InputError if there is none, if it says something that
    does not follow from its samples, if a file is not the one that was measured, or if `machine` is
    given, a stamp, and the library was measured on another one."""
    path = artifact.path / CERTIFICATE_FILE
    if not os.path.lexists(path):
        raise InputError(f"{artifact.path}: no {CERTIFICATE_FILE}; run `canao certify`")
    certificate = read_certificate(path)
    _check_files(certificate, path, artifact, artifact.digests())
    check_machine(certificate, path, machine)
    return certificate


def unfitting(artifact: Artifact, machine: str | None = None) -> str | None:
    """Why the certificate beside an artifact is not one of its files, or of the machine with this
    stamp; None if it is, or if there is no certificate. For an artifact that was just verified: its
    files are not hashed again."""
    path = artifact.path / CERTIFICATE_FILE
    if not os.path.lexists(path):
        return None
    try:
        manifest = {_MANIFEST: file_digest(artifact.path / _MANIFEST)}
        now = manifest | artifact.manifest["files"]
        certificate = read_certificate(path)
        _check_files(certificate, path, artifact, now)
        check_machine(certificate, path, machine)
    except InputError as error:
        return str(error)
    return None


def read_certificate(path: Path, remedy: str = AGAIN) -> Certificate:
    """The certificate in a file, whatever files it is of; InputError with what to do if it is
    damaged, of another format, or contradicts its own samples."""
    row = read_json(path, remedy=remedy)
    if row.get("format") != CERTIFICATE_FORMAT:
        raise InputError(
            f"{path}: format {shown(row.get('format'))}, this CANAO reads {CERTIFICATE_FORMAT}; "
            f"{remedy}"
        )
    wrong = fits(row, _Row)
    if wrong is not None:
        raise InputError(f"{path}: {wrong}; {remedy}")
    stored = msgspec.convert(row, _Row)
    certificate = _certificate(stored)
    for said in _contradictions(certificate, stored):
        raise InputError(f"{path}: {said}; {remedy}")
    if sealed(row)["checksum"] != stored.checksum:
        raise InputError(f"{path}: was changed after it was written; {remedy}")
    return certificate


# Times are in milliseconds; the bound keeps out infinity, which no measurement gives.
_Time = Annotated[float, Meta(ge=0, le=sys.float_info.max)]
_Sample = Annotated[float, Meta(gt=0, le=sys.float_info.max)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_Score = Annotated[float, Meta(ge=-1, le=1)]
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


class _Budgets(msgspec.Struct, forbid_unknown_fields=True):
    size_mb: _Sample | None
    memory_mb: _Sample | None
    min_accuracy: Annotated[float, Meta(ge=-1, le=1)] | None


class _Scored(msgspec.Struct, forbid_unknown_fields=True):
    metric: _Name
    value: _Score
    low: _Score
    high: _Score
    examples: Annotated[int, Meta(ge=1)]
    data: _Word
    digest: _Digest


class _Clock(msgspec.Struct, forbid_unknown_fields=True):
    loop_ns: Annotated[list[_Count], Meta(min_length=2, max_length=2)]
    khz: Annotated[list[_Count], Meta(min_length=2, max_length=2)]
    governor: Annotated[str, Meta(pattern=r"^[\w.-]{0,31}$")]


class _Others(msgspec.Struct, forbid_unknown_fields=True):
    cores: dict[Annotated[str, Meta(pattern="^[0-9]{1,6}$")], _Share]
    used: Annotated[list[_Count], Meta(min_length=1)]
    waited: _Share


class _Run(msgspec.Struct, forbid_unknown_fields=True):
    at_s: _Time
    samples_ms: Annotated[list[_Sample], Meta(min_length=1)]
    load_ms: _Time
    cold_ms: _Time
    peak_bytes: _Count
    others: _Others | None
    clock: _Clock | None


class _Minute(msgspec.Struct, forbid_unknown_fields=True):
    at_s: _Time
    samples: Annotated[int, Meta(ge=1)]
    measured_ms: _Sample
    median_ms: _Sample
    loop_ns: _Count | None
    khz: _Count | None
    celsius: Annotated[float, Meta(ge=-100, le=300)] | None
    battery: Annotated[int, Meta(ge=0, le=100)] | None
    charging: bool | None
    screen_on: bool | None
    battery_saver: bool | None
    throttling: Annotated[int, Meta(ge=0, le=6)] | None
    others: _Share | None


class _Earlier(msgspec.Struct, forbid_unknown_fields=True):
    date: _Word
    measured_ms: _Sample
    bound_ms: _Sample
    holds: bool


class _Row(msgspec.Struct, forbid_unknown_fields=True):
    """The file. What follows from the rest is here to be compared with it."""

    format: int
    holds: bool
    precision: _Name
    budget_ms: _Sample
    percentile: Annotated[float, Meta(gt=0, le=100)]
    other_budgets: _Budgets
    measured_ms: float
    bound_ms: float
    predicted_ms: _Sample | None
    error: float | None
    latency_ms: dict[str, float]
    runs: Annotated[list[_Run], Meta(min_length=1)]
    set_aside: list[_Run]
    size_bytes: _Count
    score: _Scored | None
    others_limit: _Share
    disturbed: bool
    config: _Config
    environment: dict[_Word, Any]
    device: _Word
    made_by: Literal["search", "certify"]
    earlier: list[_Earlier]
    files: dict[_Name, _Digest]
    digest: str
    date: str
    checksum: str
    sustained: list[_Minute] = []


def _certificate(row: _Row) -> Certificate:
    return Certificate(
        precision=row.precision,
        budget_ms=row.budget_ms,
        percentile=row.percentile,
        other_budgets=OtherBudgets(**msgspec.to_builtins(row.other_budgets)),
        predicted_ms=row.predicted_ms,
        runs=tuple(map(_run, row.runs)),
        set_aside=tuple(map(_run, row.set_aside)),
        size_bytes=row.size_bytes,
        score=None if row.score is None else Scored(**msgspec.to_builtins(row.score)),
        others_limit=row.others_limit,
        config=msgspec.to_builtins(row.config),
        environment=row.environment,
        device=row.device,
        made_by=row.made_by,
        earlier=tuple(Earlier(**msgspec.to_builtins(one)) for one in row.earlier),
        files=row.files,
        date=row.date,
        sustained=tuple(Minute(**msgspec.to_builtins(minute)) for minute in row.sustained),
    )


def _run(row: _Run) -> Run:
    others = clock = None
    if row.others is not None:
        cores = {int(core): share for core, share in row.others.cores.items()}
        others = Others(cores, tuple(row.others.used), row.others.waited)
    if row.clock is not None:
        (before, after), (khz, khz_after) = row.clock.loop_ns, row.clock.khz
        clock = Clock((before, after), (khz, khz_after), row.clock.governor)
    return Run(row.at_s, tuple(row.samples_ms), row.load_ms, row.cold_ms, row.peak_bytes, others,
               clock)  # fmt: skip


def _contradictions(certificate: Certificate, row: _Row) -> Iterator[str]:
    """What the file says that does not follow from its samples and files."""
    n, asked = len(certificate.samples_ms), row.config.samples
    if n < CERTIFIED_SAMPLES:
        yield f"has {n} samples, and a certificate takes at least {CERTIFIED_SAMPLES}"
        return
    if n < asked and not row.config.max_seconds:
        yield f"has {n} samples of {asked} that its protocol asks for"
    runs = certificate.runs
    if len(runs) < PROCESSES:
        yield f"is of {len(runs)} processes, and a certificate takes at least {PROCESSES}"
        return
    starts = [run.at_s for run in runs]
    if starts != sorted(starts) or starts[-1] - starts[0] < SPREAD_S - _SAME:
        yield (f"is of processes within {max(starts) - min(starts):.3g} s, and a certificate takes "
               f"at least {SPREAD_S:g} s from the first to the last")
    told = [run.others for run in (*runs, *certificate.set_aside) if run.others]
    if any(not set(others.used) <= others.cores.keys() for others in told):
        yield "'others' does not tell of every core that the library ran on"
        return
    if any(not run.disturbed(certificate.others_limit) for run in certificate.set_aside):
        yield "has set a process aside that nothing disturbed"
    try:
        datetime.fromisoformat(row.date)
    except ValueError:
        yield f"'date' is {shown(row.date)}, no date of ISO 8601"
    for name, value in certificate.derived().items():
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
            raise InputError(f"{path}: was made without {artifact.path / name}; {AGAIN}")
        if now.get(name) != certificate.files[name]:
            raise InputError(
                f"{path}: is not of {artifact.path / name} as it is now; restore the file, or "
                f"{AGAIN}"
            )
    if certificate.size_bytes != size_of(artifact):
        raise InputError(
            f"{path}: says {certificate.size_bytes} bytes, and the files have {size_of(artifact)}; "
            f"{AGAIN}"
        )
    if certificate.precision != artifact.precision:
        raise InputError(
            f"{path}: says precision {shown(certificate.precision)}, and the library's is "
            f"{artifact.precision}; {AGAIN}"
        )
