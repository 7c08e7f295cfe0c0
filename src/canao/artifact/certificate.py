"""Certificate: what one compiled library was measured to take, kept beside it as JSON.

A certificate names its library by digest: it is valid for no other one. It is written whether the
budget was kept or not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from canao.artifact.directory import Artifact
from canao.artifact.files import write_whole
from canao.errors import BudgetError, InputError

CERTIFICATE_FORMAT = 1
CERTIFICATE_FILE = "certificate.json"


@dataclass(frozen=True, slots=True)
class Certificate:
    """One library measured against a budget, on one device under one protocol; times in ms.

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
        return {"format": CERTIFICATE_FORMAT, **asdict(self)}

    def __str__(self) -> str:
        return (
            f"p{self.percentile:g} {self.measured_ms:.4g} ms on {self.device} "
            f"({int(self.latency_ms['n'])} samples, {self.config['length']} tokens, "
            f"{self.config['threads']} threads), budget {self.budget_ms:g} ms"
        )


def write_certificate(artifact: Artifact, certificate: Certificate) -> None:
    """Write the certificate beside its library, in place of an earlier one."""
    text = json.dumps(certificate.to_dict(), indent=1, sort_keys=True) + "\n"
    write_whole(artifact.path / CERTIFICATE_FILE, text)


def load_certificate(artifact: Artifact) -> Certificate:
    """The certificate beside a library; InputError if there is none, or it is for another one."""
    path = artifact.path / CERTIFICATE_FILE
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        if row["format"] != CERTIFICATE_FORMAT:
            raise InputError(
                f"{path}: format {row['format']}, this CANAO reads {CERTIFICATE_FORMAT}; "
                "run `canao certify` again"
            )
        certificate = Certificate(**{entry.name: row[entry.name] for entry in fields(Certificate)})
    except FileNotFoundError:
        raise InputError(f"{artifact.path}: no {CERTIFICATE_FILE}; run `canao certify`") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({error!r}); run `canao certify` again") from None
    if certificate.digest != artifact.digest:
        raise InputError(f"{path}: is for another library; run `canao certify` again")
    return certificate


def require_budget(certificate: Certificate) -> None:
    """Raise BudgetError unless the certificate says that the budget was kept."""
    if not certificate.holds:
        raise BudgetError(
            f"budget missed: {certificate}; search again for a smaller model, "
            "or give a larger budget"
        )
