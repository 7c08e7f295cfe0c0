"""The guarantee: a latency is certified only for exactly the library that was measured.

A certificate names its library by digest and is written beside it, whether the budget is kept or
not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from typing import Any

from canao.artifact.directory import Artifact, write_whole
from canao.device.base import Device, Failure, MeasureConfig
from canao.errors import BudgetError, DeviceError, InputError
from canao.search.options import DEFAULTS, check_budget, check_samples

FORMAT = 1
CERTIFICATE_FILE = "certificate.json"


@dataclass(frozen=True, slots=True)
class Certificate:
    """What one library did on one device under one protocol. Times in milliseconds.

    holds          whether the measured percentile is within the budget
    measured_ms    latency at `percentile`
    predicted_ms   prediction of the latency table; None without a table
    error          measured / predicted - 1
    latency_ms     the summary of the samples: n, mean, percentiles and so on
    digest         of the library and its weights; the certificate is valid for no other
    date           UTC, ISO 8601
    """

    holds: bool
    budget_ms: float
    percentile: float
    measured_ms: float
    predicted_ms: float | None
    error: float | None
    latency_ms: Mapping[str, float]
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    device: str
    digest: str
    date: str

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}

    def __str__(self) -> str:
        return (
            f"p{self.percentile:g} {self.measured_ms:.4g} ms on {self.device} "
            f"({int(self.latency_ms['n'])} samples, {self.config['length']} tokens, "
            f"{self.config['threads']} threads), budget {self.budget_ms:g} ms"
        )


def certify(
    artifact: Artifact,
    device: Device,
    budget_ms: float,
    config: MeasureConfig,
    *,
    percentile: float = DEFAULTS.percentile,
    predicted_ms: float | None = None,
) -> Certificate:
    """Measure the library of `artifact` and write its certificate beside it.

    Raises InputError if its files differ from what was compiled, DeviceError if it cannot be
    measured. A missed budget is no error here: see `require`.
    """
    check_budget(budget_ms, percentile)
    check_samples(config.samples)
    artifact.verify()
    measured = device.measure(artifact, config)
    if isinstance(measured, Failure):
        raise DeviceError(
            f"{artifact.path}: could not be measured on {device.name} "
            f"({measured.stage}: {measured.message})"
        )
    check_samples(len(measured.samples_ms))  # `max_seconds` may have ended it early
    record, value = measured.to_dict(), measured.percentile(percentile)
    certificate = Certificate(
        holds=value <= budget_ms,
        budget_ms=float(budget_ms),
        percentile=float(percentile),
        measured_ms=value,
        predicted_ms=predicted_ms,
        error=value / predicted_ms - 1.0 if predicted_ms else None,
        latency_ms=record["latency_ms"],
        config=record["config"] | {"cores": list(measured.config.cores)},
        environment=record["environment"],
        device=device.name,
        digest=artifact.digest,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    text = json.dumps(certificate.to_dict(), indent=1, sort_keys=True) + "\n"
    write_whole(artifact.path / CERTIFICATE_FILE, text)
    return certificate


def require(certificate: Certificate) -> None:
    """Raise BudgetError unless the certificate holds."""
    if not certificate.holds:
        raise BudgetError(
            f"budget missed: {certificate}; search again for a smaller model, "
            "or give a larger budget"
        )


def load_certificate(artifact: Artifact) -> Certificate:
    """The certificate beside a library; InputError if there is none, or it is for another one."""
    path = artifact.path / CERTIFICATE_FILE
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        if row["format"] != FORMAT:
            raise InputError(f"{path}: format {row['format']}, this CANAO reads {FORMAT}; "
                             "run `canao certify` again")  # fmt: skip
        certificate = Certificate(**{entry.name: row[entry.name] for entry in fields(Certificate)})
    except FileNotFoundError:
        raise InputError(f"{artifact.path}: no {CERTIFICATE_FILE}; run `canao certify`") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({error!r}); run `canao certify` again") from None
    if certificate.digest != artifact.digest:
        raise InputError(f"{path}: is for another library; run `canao certify` again")
    return certificate
