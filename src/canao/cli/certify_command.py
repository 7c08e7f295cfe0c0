"""`canao certify`: a library measured against its budgets, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from canao.api import get_device
from canao.artifact.budgets import Scored
from canao.artifact.certificate import Certificate, check_machine, require_baseline, require_budget
from canao.artifact.certificate_file import read_certificate
from canao.artifact.directory import Artifact
from canao.cli.printing import print_certificate, shown_live, timed
from canao.defaults import silent
from canao.device.certify import UnsavedError, certify
from canao.device.lease import leased
from canao.errors import InputError


def certify_and_print(
    artifact: Path, device: str, budget_ms: float | None, *, baseline: Path | None,
    max_regression: float, check: str | None, metric: str | None, columns: Mapping[str, Any],
    as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Certify a library and print its certificate; BudgetError if it misses a budget, or takes more
    than `max_regression` percent more than the certificate `baseline` says. `options` as for
    `certify`."""
    if not 0 <= max_regression < float("inf"):
        raise InputError(f"--max-regression {max_regression:g}: give a percentage from 0")
    say, live = (silent, silent) if as_json else (timed(), shown_live())
    where, loaded = leased(get_device(device), say), Artifact.load(artifact)
    before = None
    if baseline is not None:  # what is wrong with it is said before anything is measured
        before = read_certificate(baseline)
        check_machine(before, baseline, where.machine.stamp)
    budget = before.budget_ms if budget_ms is None and before is not None else budget_ms
    if budget is None:
        raise InputError("no budget; give --budget-ms, or a certificate with --baseline")
    score = None if check is None else _scored(loaded, check, metric, columns, say)
    try:
        certificate = certify(loaded, where, budget, score=score, say=live, **options)
    except UnsavedError as error:  # what was measured is shown all the same
        print_certificate(error.certificate, as_json=as_json, whole=error.saved is None)
        raise
    print_certificate(certificate, as_json=as_json)
    _judge(certificate, before, max_regression)


def _judge(certificate: Certificate, before: Certificate | None, most: float) -> None:
    require_budget(certificate)
    if before is not None:
        require_baseline(certificate, before, most)


def _scored(
    artifact: Artifact, data: str, metric: str | None, columns: Mapping[str, Any],
    say: Callable[[str], None],
) -> Scored:  # fmt: skip
    from canao.accuracy.certified import scored
    from canao.accuracy.measure import labelled_text, require_there

    require_there(data)
    artifact.verify()
    texts = labelled_text(data, artifact.manifest, **columns)
    for line in texts.told:
        say(line)
    return scored(artifact, texts, metric)[1]
