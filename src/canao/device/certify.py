"""Certification of one library: it is measured on a device and held to a latency budget.

`certify` is the whole of it; a search calls its two halves, `judge` and `keep`, by themselves.
"""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from canao.artifact.certificate import (
    BY_HAND,
    BY_SEARCH,
    CERTIFICATE_FILE,
    CERTIFIED_SAMPLES,
    PERCENTILE,
    Certificate,
    certificate_text,
    differences,
    protocol,
    read_certificate,
    write_certificate,
)
from canao.artifact.directory import Artifact
from canao.artifact.files import staged_file, write_whole
from canao.device.base import Device, Failure, MeasureConfig
from canao.errors import DeviceError, InputError

__all__ = ["CERTIFIED_SAMPLES", "OTHERS_LIMIT", "PERCENTILE", "DisturbedError", "UnsavedError",
           "certify", "check_budget", "check_others_limit", "check_samples", "judge", "keep",
           "room_for", "saved_elsewhere"]  # fmt: skip

# Of a core that the library runs on, others may take so much before nothing is judged: it is the
# slowest tenth of the samples that sets p90 (docs/measurement.md).
OTHERS_LIMIT = 0.05
# Bytes of a certificate, at most: its samples, and all else that is in it.
_SAMPLE_BYTES, _OTHER_BYTES = 30, 1 << 16


class DisturbedError(DeviceError):
    """Others took so much of a core that nothing can be said of the library.

    `certificate` is what would have been certified.
    """

    def __init__(self, message: str, certificate: Certificate) -> None:
        super().__init__(message)
        self.certificate = certificate


class UnsavedError(InputError):
    """A certificate could not be written to its place, which had looked well before.

    saved   where it was kept instead; None where there was no room for it anywhere
    """

    def __init__(self, message: str, certificate: Certificate, saved: Path | None) -> None:
        super().__init__(message)
        self.certificate, self.saved = certificate, saved


class _EnoughRoomError(Exception):
    """There is room for a certificate; what was written to find out is removed again."""


def certify(
    artifact: Artifact,
    device: Device,
    budget_ms: float,
    config: MeasureConfig,
    *,
    percentile: float = PERCENTILE,
    others_limit: float = OTHERS_LIMIT,
    out: Path | None = None,
) -> Certificate:
    """Measure the library of `artifact` and write its certificate, beside it or to the file `out`.

    Raises InputError if its files differ from what was compiled, if the certificate cannot be
    written (found out before anything is measured, where that can be known), or if it would take
    the place of a search's certificate under another protocol; DeviceError if the library cannot
    be measured, and `DisturbedError` if others took more than `others_limit` of a core meanwhile. A
    missed budget is no error here: see `require_budget`.
    """
    check_budget(budget_ms, percentile)
    check_samples(config.samples)
    check_others_limit(others_limit)
    place = artifact.path / CERTIFICATE_FILE if out is None else out
    asked = protocol(budget_ms, percentile, _form(config), device.name, device.machine.stamp)
    earlier = _replaced(place, artifact, asked)
    room_for(place, config.samples)
    certificate = judge(
        artifact, device, budget_ms, config, percentile=percentile, others_limit=others_limit,
        predicted_ms=earlier.predicted_ms if earlier else None,
        made_by=earlier.made_by if earlier else BY_HAND,
    )  # fmt: skip
    if certificate.disturbed:
        raise DisturbedError(
            f"{artifact.path}: the measurement was disturbed: {certificate.others} (limit "
            f"{others_limit:.0%} of a core it runs on, {2 * others_limit:.0%} of the rest); "
            "nothing is judged: end other programs and certify again, or give a larger "
            "--others-limit",
            certificate,
        )
    keep(certificate, place)
    return certificate


def judge(
    artifact: Artifact,
    device: Device,
    budget_ms: float,
    config: MeasureConfig,
    *,
    percentile: float = PERCENTILE,
    others_limit: float = OTHERS_LIMIT,
    predicted_ms: float | None = None,
    made_by: str = BY_SEARCH,
) -> Certificate:
    """Measure the library of `artifact`, and certify what was found; nothing is written.

    The files are hashed before and after, so that the certificate is of what was measured.
    """
    artifact.verify()
    files = artifact.digests()
    measured = device.measure(artifact, config)
    if isinstance(measured, Failure):
        raise DeviceError(
            f"{artifact.path}: could not be measured on {device.name} "
            f"({measured.stage}: {measured.message})"
        )
    check_samples(len(measured.samples_ms))  # `max_seconds` may have ended it early
    if artifact.digests() != files:
        raise InputError(f"{artifact.path}: was changed while it was measured; certify again")
    return Certificate(
        precision=artifact.precision,
        budget_ms=float(budget_ms),
        percentile=float(percentile),
        predicted_ms=predicted_ms,
        samples_ms=measured.samples_ms,
        load_ms=measured.load_ms,
        cold_ms=measured.cold_ms,
        peak_bytes=measured.peak_bytes,
        others=measured.others,
        others_limit=float(others_limit),
        config=_form(measured.config),
        environment=dict(measured.environment),
        device=device.name,
        made_by=made_by,
        files=files,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def keep(certificate: Certificate, place: Path) -> None:
    """Write a certificate. A measurement is not lost for want of room: it is kept among temporary
    files instead, and the UnsavedError says where."""
    try:
        write_certificate(place, certificate)
    except OSError as error:
        saved = saved_elsewhere(certificate)
        where = (
            f"it is kept in {saved}: copy it to its place" if saved
            else "free some space and certify again, or name another file with --out"
        )  # fmt: skip
        raise UnsavedError(
            f"{place}: the certificate cannot be written ({error.strerror or error}); {where}",
            certificate,
            saved,
        ) from None


def room_for(place: Path, samples: int) -> None:
    """InputError unless a certificate of so many samples can be written now: only trying tells."""
    if os.path.isdir(place):
        raise InputError(f"{place}: is a directory; name a file for the certificate with --out")
    try:
        with staged_file(place) as trial, open(trial, "wb") as stream:
            stream.write(bytes(samples * _SAMPLE_BYTES + _OTHER_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
            raise _EnoughRoomError  # so that it does not take the place of what is there
    except _EnoughRoomError:
        return
    except OSError as error:
        raise InputError(
            f"{place}: cannot be written ({error.strerror or error}); nothing was measured: name "
            "another file for the certificate with --out"
        ) from None


def check_budget(budget_ms: float, percentile: float) -> None:
    """InputError unless the budget is a positive number and the percentile lies in (0, 100]."""
    for name, value, most in (("budget", budget_ms, math.inf), ("percentile", percentile, 100.0)):
        if not _is_number(value) or not 0 < value <= most:
            bounds = "a number of milliseconds over 0" if most == math.inf else "over 0, up to 100"
            raise InputError(f"{name} {value!r} cannot be used; give {bounds}")


def check_samples(samples: int) -> None:
    """InputError if there are too few samples for a certificate."""
    if samples < CERTIFIED_SAMPLES:
        raise InputError(
            f"a certificate takes at least {CERTIFIED_SAMPLES} samples, not {samples}; for a quick "
            f"look at the latency run `canao bench --samples {samples}`"
        )


def check_others_limit(limit: float) -> None:
    """InputError unless it is a share of a core."""
    if not _is_number(limit) or not 0 <= limit <= 1:
        raise InputError(f"others-limit {limit!r} cannot be used; give a share of a core, 0 to 1")


def _is_number(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)  # type: ignore[arg-type]


def _form(config: MeasureConfig) -> dict[str, Any]:
    """A protocol as a certificate holds it."""
    return asdict(config) | {"cores": list(config.cores)}


def _replaced(place: Path, artifact: Artifact, asked: dict[str, Any]) -> Certificate | None:
    """The search's certificate that a new one is to replace, measured again; None if the place
    holds none. A search's certificate makes way for one under its own protocol only."""
    if not os.path.lexists(place):
        return None
    try:
        earlier = read_certificate(place)
    except InputError:
        if place.name == CERTIFICATE_FILE:
            return None  # damaged, or of an earlier format: of no use to anyone
        raise InputError(f"{place}: is not a certificate; name another file with --out") from None
    if earlier.made_by != BY_SEARCH or earlier.files != artifact.digests():
        return None
    differing = differences(earlier.protocol, asked)
    if differing:
        raise InputError(
            f"{place}: is the search's, under another protocol ({differing}), and is not replaced; "
            "name a file for the new one with --out, or give the search's options"
        )
    return earlier


def saved_elsewhere(certificate: Certificate) -> Path | None:
    """The certificate as a file among temporary files; None if it cannot be written there."""
    path = None
    try:
        handle, name = tempfile.mkstemp(prefix="canao-certificate-", suffix=".json")
        os.close(handle)
        path = Path(name)
        write_whole(path, certificate_text(certificate))
        return path
    except OSError:
        if path is not None:
            path.unlink(missing_ok=True)
        return None
