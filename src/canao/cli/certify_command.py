"""`canao certify`: a library measured against its budgets, and what came of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from canao.api import get_device
from canao.artifact.budgets import OtherBudgets, Scored
from canao.artifact.certificate import (
    CERTIFICATE_FILE,
    Certificate,
    check_baseline,
    compared,
    require_baseline,
    require_budget,
)
from canao.artifact.certificate_file import read_certificate
from canao.artifact.directory import Artifact
from canao.cli.printing import out as console
from canao.cli.printing import print_certificate, shown_live, timed
from canao.defaults import silent
from canao.device.base import Device, MeasureConfig, check_length
from canao.device.certify import UnsavedError, asked_of, certify
from canao.device.cores import named_cores
from canao.device.lease import leased
from canao.errors import InputError

_BASELINE = "give --baseline what `canao certify` of this version wrote of an earlier library"


def certify_and_print(
    artifact: Path, device: str, budget_ms: float | None, config: MeasureConfig, *,
    cores: str, sustain: int, percentile: float, others_limit: float,
    other_budgets: OtherBudgets, baseline: Path | None,
    max_regression: float, check: str | None, metric: str | None, columns: Mapping[str, Any],
    out: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Certify a library and print its certificate; BudgetError if it misses a budget, or takes more
    than `max_regression` percent more than the certificate `baseline` says, whose budgets count
    where none are given."""
    if not 0 <= max_regression < float("inf"):
        raise InputError(f"--max-regression {max_regression:g}: give a percentage from 0")
    say, live = (silent, silent) if as_json else (timed(), shown_live())
    where, loaded = leased(get_device(device), say), Artifact.load(artifact)
    check_length(loaded, config)
    config = replace(config, cores=named_cores(cores, where.machine, config.threads))
    before = None
    if baseline is not None:  # what is wrong with it is said before anything is measured
        before = _baseline(baseline, out or artifact / CERTIFICATE_FILE)
        budget_ms = before.budget_ms if budget_ms is None else budget_ms
        other_budgets = _also(other_budgets, before, checked=check is not None)
        asked = asked_of(where, budget_ms, config, percentile, other_budgets, sustain)
        check_baseline(before, baseline, asked)
    if budget_ms is None:
        raise InputError("no budget; give --budget-ms, or a certificate with --baseline")
    score = None if check is None else _scored(loaded, where, check, metric, columns, say)
    try:
        certificate = certify(
            loaded, where, budget_ms, config, percentile=percentile, others_limit=others_limit,
            other_budgets=other_budgets, score=score, sustain=sustain, out=out, say=live,
        )  # fmt: skip
    except UnsavedError as error:  # what was measured is shown all the same
        print_certificate(error.certificate, as_json=as_json, whole=error.saved is None)
        raise
    print_certificate(certificate, as_json=as_json, baseline=before)
    if before is not None and not as_json:
        grown = ", ".join(f"{one.name} {one.grown:+.1%}" for one in compared(certificate, before))
        missed = "" if before.holds else ", which missed its own budget"
        console.print(f"against {baseline}{missed}: {grown}", soft_wrap=True, markup=False)
    require_budget(certificate)
    if before is not None:
        require_baseline(certificate, before, max_regression)


def _baseline(path: Path, place: Path) -> Certificate:
    """The certificate to compare with; InputError if the new one would take its place, and the next
    comparison would be with that."""
    found = read_certificate(path, _BASELINE)
    if os.path.exists(place) and os.path.samefile(path, place):
        raise InputError(f"{path}: is the baseline, which the new certificate would replace; name "
                         "another file with --out")  # fmt: skip
    return found


def _also(given: OtherBudgets, before: Certificate, *, checked: bool) -> OtherBudgets:
    """The budgets that are given, and the baseline's where none are."""
    held = before.other_budgets
    least = held.min_accuracy if checked and given.min_accuracy is None else given.min_accuracy
    return replace(
        given, size_mb=given.size_mb or held.size_mb, memory_mb=given.memory_mb or held.memory_mb,
        min_accuracy=least,
    )  # fmt: skip


def _scored(
    artifact: Artifact, device: Device, data: str, metric: str | None, columns: Mapping[str, Any],
    say: Callable[[str], None],
) -> Scored:  # fmt: skip
    from canao.accuracy.certified import scored
    from canao.accuracy.measure import labelled_text, require_there
    from canao.device.device_model import opened_on

    require_there(data)
    artifact.verify()
    texts = labelled_text(data, artifact.manifest, **columns)
    for line in texts.told:
        say(line)
    return scored(artifact, texts, metric, opened=opened_on(device))[1]
