"""From trials to a certified student: the candidates take their turn until one holds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from canao.artifact.directory import Artifact, replace_directory, write_whole
from canao.device.base import Device, MeasureConfig
from canao.errors import BudgetError, DeviceError
from canao.model.arch import Arch
from canao.search.evaluation import TRIES, Bench, workspace
from canao.search.guarantee import Certificate, certify
from canao.search.journal import Journal
from canao.search.options import Event, Progress
from canao.search.trial import Trial, best_first, pareto
from canao.train.metrics import Score

ARTIFACT_DIR = "artifact"
RESULT_FILE = "result.json"
PROFILE_FILE = "profile.json"


@dataclass(frozen=True, slots=True)
class SearchResult:
    """A student whose library keeps the budget.

    artifact, certificate   the library in RUN/artifact, and the measurement of that very one
    model_dir, score        the student as a Hugging Face directory, and its score
    teacher, teacher_ms     the teacher's score, and its latency from the same compiler
    """

    run_dir: Path
    arch: Arch
    artifact: Artifact
    certificate: Certificate
    model_dir: Path
    score: Score
    teacher: Score
    teacher_ms: float | None
    trials: tuple[Trial, ...]


def settle(bench: Bench, journal: Journal, progress: Progress) -> SearchResult:
    """Train candidates in full, most accurate first, until the library of one holds the budget.

    Each is measured under the full protocol before it is trained, and its finished library once
    more if it misses: a second full measurement, for something else may have been running.
    Raises BudgetError if none holds, naming the nearest points of the Pareto front.
    """
    options, slack, finished = bench.options, 1.0, 0
    waiting = list(best_first(journal.trials))
    while waiting and finished < options.finalists:
        # After a miss, those that would miss by the same ratio stand back behind the others.
        waiting.sort(key=lambda t: slack * (t.latency_ms or 0.0) > options.budget_ms)
        trial = waiting.pop(0)
        progress(Event("finish", f"checking {trial.arch} under the full protocol", trial))
        latency = bench.latency(trial.arch, options.measure, TRIES)
        if latency <= options.budget_ms:
            finished += 1
            result = _finish(bench, journal, trial, progress)
            latency = result.certificate.measured_ms
            if result.certificate.holds:
                _write(result)
                _write_profile(bench.device, result.artifact, options.search_measure)
                return result
        progress(Event("certify", f"{trial.arch} misses the budget with {latency:.4g} ms", trial))
        slack = max(slack, latency / (trial.latency_ms or latency))
        if trial.predicted_ms:
            journal.add_miss(trial.predicted_ms, latency)
    raise BudgetError(_none_fits(options.budget_ms, journal.trials))


def _finish(bench: Bench, journal: Journal, trial: Trial, progress: Progress) -> SearchResult:
    options = bench.options
    progress(Event("finish", f"training {trial.arch} in full", trial))
    student = bench.trainer.finish(trial.arch)
    with workspace(options.run_dir) as folder:
        artifact = bench.compile(student.model_dir, folder / ARTIFACT_DIR)
        progress(Event("certify", f"measuring the library of {trial.arch}", trial))
        certificate = _certify(bench, artifact, trial)
        if not certificate.holds:  # trained in full: worth a second look
            certificate = _certify(bench, artifact, trial)
        if certificate.holds:
            replace_directory(artifact.path, options.run_dir / ARTIFACT_DIR)
            artifact = Artifact.load(options.run_dir / ARTIFACT_DIR)
    return SearchResult(
        run_dir=options.run_dir,
        arch=trial.arch,
        artifact=artifact,
        certificate=certificate,
        model_dir=student.model_dir,
        score=student.score,
        teacher=bench.trainer.teacher().score,
        teacher_ms=journal.note("teacher_ms"),
        trials=journal.trials,
    )


def _certify(bench: Bench, artifact: Artifact, trial: Trial) -> Certificate:
    options = bench.options
    return certify(
        artifact,
        bench.device,
        options.budget_ms,
        options.measure,
        percentile=options.percentile,
        predicted_ms=trial.predicted_ms,
    )


def _write(result: SearchResult) -> None:
    """RUN/result.json: what `canao report` needs besides the journal and the artifact."""
    row: dict[str, Any] = {
        "arch": asdict(result.arch),
        "model_dir": str(result.model_dir),
        "student": _score_row(result.score),
        "teacher": _score_row(result.teacher) | {"latency_ms": result.teacher_ms},
    }
    write_whole(result.run_dir / RESULT_FILE, json.dumps(row, indent=1, sort_keys=True) + "\n")


def _score_row(score: Score) -> dict[str, Any]:
    metrics: Mapping[str, float] = score.metrics
    return {"metrics": dict(metrics), "primary": score.primary}


def _write_profile(device: Device, artifact: Artifact, config: MeasureConfig) -> None:
    """RUN/profile.json, [kernel name, median ms] in execution order; a report does without."""
    path = artifact.path.parent / PROFILE_FILE
    try:
        profile = device.profile(artifact, config)
    except DeviceError:
        path.unlink(missing_ok=True)
        return
    write_whole(path, json.dumps([list(entry) for entry in profile], indent=1) + "\n")


def _none_fits(budget_ms: float, trials: Sequence[Trial]) -> str:
    front = pareto(trials)[:3]
    if not front:
        return (f"no candidate kept {budget_ms:g} ms and was trained; give more --trials, "
                "or a larger budget")  # fmt: skip
    points = ", ".join(f"{t.arch} {t.latency_ms:.4g} ms at {t.accuracy:.4f}" for t in front)
    return (f"no finished library kept {budget_ms:g} ms; nearest points measured in the search: "
            f"{points}; give a larger budget, or resume with more --trials")  # fmt: skip
