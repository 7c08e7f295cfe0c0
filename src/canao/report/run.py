"""A run directory as reports see it: read, and its certificate compared with library and search."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from canao.artifact.budgets import size_of
from canao.artifact.certificate import Certificate, differences
from canao.artifact.certificate_file import load_certificate
from canao.artifact.directory import Artifact
from canao.defaults import PRECISION
from canao.errors import InputError
from canao.search.candidates.budgets import Budgets
from canao.search.candidates.trial import Trial
from canao.search.certification import (
    ARTIFACT_DIR,
    RESULT_FILE,
    Result,
    read_profile,
    read_result,
)
from canao.search.study.journal import read_trials
from canao.search.study.run_file import read_run_file


@dataclass(frozen=True, slots=True)
class Run:
    """The content of a run directory. Until the run is finished, and where its certificate is
    refused, the last four fields are empty; `refused` says why it was, in a line."""

    facts: Mapping[str, Any]
    data: Sequence[str]
    trials: tuple[Trial, ...]
    refused: str | None = None
    result: Result | None = None
    artifact: Artifact | None = None
    certificate: Certificate | None = None
    profile: tuple[tuple[str, float], ...] = ()

    @property
    def precision(self) -> str:
        """Of the library, or of the run until there is one; runs of earlier versions name none."""
        if self.certificate is not None:
            return self.certificate.precision
        return str(self.facts.get("precision", PRECISION))

    @property
    def state(self) -> str:
        """'certified', 'missed' for a library that misses a budget now, as it was measured again or
        the least score was raised, 'refused' or 'unfinished'."""
        if self.certificate is None:
            return "unfinished" if self.refused is None else "refused"
        return "missed" if self.missed else "certified"

    @property
    def missed(self) -> str:
        """Which budgets the library misses, and with what; '' where it keeps all, or there is none.
        """
        if self.certificate is None or self.artifact is None or self.result is None:
            return ""
        student = self.result.student
        return Budgets.of(self.facts).missed(
            self.certificate.bound_ms, size_of(self.artifact), self.certificate.peak_bytes,
            student.metrics.get(student.primary),
        )  # fmt: skip


def read(run_dir: Path) -> Run:
    """Read a run directory; InputError if there is no run in it, or a file is damaged."""
    held, trials = read_run_file(run_dir), read_trials(run_dir)
    result, profile = read_result(run_dir), read_profile(run_dir)
    unfinished, place = Run(held.facts, held.data, trials), held.place or {}
    if result is None and not os.path.lexists(run_dir / ARTIFACT_DIR):
        return unfinished
    try:
        artifact = Artifact.load(run_dir / ARTIFACT_DIR)
        certificate = load_certificate(artifact)
        _require_own(certificate, held.facts, run_dir)
    except InputError as error:
        return replace(unfinished, refused=str(error))
    if place.get("machine") not in (None, certificate.environment.get("machine")):
        return unfinished  # the run went on elsewhere, and has not come to a library there
    if result is None or result.digest != certificate.digest:
        # The search ended between the two files: of the library that is there, nothing else is.
        return replace(unfinished, refused=f"{run_dir}: {RESULT_FILE} is not of the library in "
                       f"{ARTIFACT_DIR}/; the command of the search finishes it")  # fmt: skip
    own = profile is not None and profile.digest == certificate.digest
    kernels = tuple(profile.kernels) if profile is not None and own else ()
    return replace(
        unfinished, result=result, artifact=artifact, certificate=certificate, profile=kernels
    )


def _require_own(certificate: Certificate, facts: Mapping[str, Any], run_dir: Path) -> None:
    """InputError unless the certificate answers the question of this search."""
    measure = {name.removeprefix("measure."): value for name, value in facts.items()
               if name.startswith("measure.")}  # fmt: skip
    asked = {"budget": facts["budget_ms"], "percentile": facts["percentile"],
             "device": facts["device"], **measure,
             **{name: facts.get(name) for name in ("size_mb", "memory_mb")}}  # fmt: skip
    # The least score may change while a run is resumed.
    found = {name: value for name, value in certificate.protocol.items()
             if name not in ("machine", "min_accuracy", "sustain")}  # fmt: skip
    differing = differences(asked, found)
    if differing:
        raise InputError(
            f"{run_dir / ARTIFACT_DIR}: its certificate is under another protocol than the search "
            f"({differing}); certify with the search's options"
        )
