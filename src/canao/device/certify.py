"""Certification of one library: it is measured on a device and held to a latency budget."""

from __future__ import annotations

import math
from datetime import datetime, timezone

from canao.artifact.certificate import Certificate, write_certificate
from canao.artifact.directory import Artifact
from canao.device.base import Device, Failure, MeasureConfig
from canao.errors import DeviceError, InputError

# The percentile of the samples that a budget limits, and the least number of samples that MLPerf
# Mobile takes for it (single inferences).
PERCENTILE = 90.0
CERTIFIED_SAMPLES = 1024


def certify(
    artifact: Artifact,
    device: Device,
    budget_ms: float,
    config: MeasureConfig,
    *,
    percentile: float = PERCENTILE,
    predicted_ms: float | None = None,
) -> Certificate:
    """Measure the library of `artifact` and write its certificate beside it.

    Raises InputError if its files differ from what was compiled, DeviceError if it cannot be
    measured. A missed budget is no error here: see `require_budget`.
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
    write_certificate(artifact, certificate)
    return certificate


def check_budget(budget_ms: float, percentile: float) -> None:
    """InputError unless the budget is a positive number and the percentile lies in (0, 100]."""
    for name, value, most in (("budget", budget_ms, math.inf), ("percentile", percentile, 100.0)):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or not 0 < value <= most:
            bounds = "a number of milliseconds over 0" if most == math.inf else "over 0, up to 100"
            raise InputError(f"{name} {value!r} cannot be used; give {bounds}")


def check_samples(samples: int) -> None:
    """InputError if there are too few samples for a certificate."""
    if samples < CERTIFIED_SAMPLES:
        raise InputError(
            f"a certificate takes at least {CERTIFIED_SAMPLES} samples, not {samples}; for a quick "
            f"look at the latency run `canao bench --samples {samples}`"
        )
