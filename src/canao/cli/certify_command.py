"""`canao certify`: a library measured against a budget, and what came of it."""

from __future__ import annotations

from pathlib import Path

from canao.api import get_device
from canao.artifact.certificate import require_budget
from canao.artifact.directory import Artifact
from canao.cli.printing import print_certificate
from canao.device.base import MeasureConfig
from canao.device.certify import UnsavedError, certify


def certify_and_print(
    artifact: Path, device: str, budget_ms: float, config: MeasureConfig, *,
    percentile: float, others_limit: float, out: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Certify a library and print its certificate; BudgetError if it misses the budget."""
    try:
        certificate = certify(
            Artifact.load(artifact), get_device(device), budget_ms, config,
            percentile=percentile, others_limit=others_limit, out=out,
        )  # fmt: skip
    except UnsavedError as error:  # what was measured is shown all the same
        print_certificate(error.certificate, as_json=as_json, whole=error.saved is None)
        raise
    print_certificate(certificate, as_json=as_json)
    require_budget(certificate)
