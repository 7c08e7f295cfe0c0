"""Certification: the best candidates are trained in full until one keeps the budget."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from canao.artifact.certificate import Certificate
from canao.artifact.directory import Artifact
from canao.artifact.files import replace_directory, write_whole
from canao.device.base import Device, MeasureConfig
from canao.device.certify import certify
from canao.errors import BudgetError, DeviceError
from canao.model.arch import Arch
from canao.search.evaluation import TRIES, Evaluator, workspace
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

    artifact, certificate   the library in RUN/artifact, and the measurement of exactly these files
    model_dir, score        the student as a Hugging Face directory, and its score
    teacher, teacher_ms     the teacher's score, and the latency of the teacher compiled alike
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


def certify_best(evaluator: Evaluator, journal: Journal, progress: Progress) -> SearchResult:
    """Train candidates in full, best proxy score first, until the library of one keeps the budget.

    Each candidate is measured under the full protocol before it is trained. A finished library
    that misses the budget is measured once more, because another program may have been running.
    Raises BudgetError if none keeps it, naming the nearest points of the Pareto front.
    """
    options, slack, finished = evaluator.options, 1.0, 0
    waiting = list(best_first(journal.trials))
    while waiting and finished < options.finalists:
        # After a miss, candidates that would miss with the same slowdown come after the others.
        waiting.sort(key=lambda t: slack * (t.latency_ms or 0.0) > options.budget_ms)
        trial = waiting.pop(0)
        progress(Event("finish", f"checking {trial.arch} under the full protocol", trial))
        latency = evaluator.latency(trial.arch, options.measure, TRIES)
        if latency <= options.budget_ms:
            finished += 1
            result = _finish(evaluator, journal, trial, progress)
            latency = result.certificate.measured_ms
            if result.certificate.holds:
                _write_result(result)
                _write_profile(evaluator.device, result.artifact, options.search_measure)
                return result
        progress(Event("certify", f"{trial.arch} misses the budget with {latency:.4g} ms", trial))
        slack = max(slack, latency / (trial.latency_ms or latency))
        if trial.predicted_ms:
            journal.add_miss(trial.predicted_ms, latency)
    raise BudgetError(_none_fits(options.budget_ms, journal.trials))


def _finish(
    evaluator: Evaluator, journal: Journal, trial: Trial, progress: Progress
) -> SearchResult:
    """Train a candidate in full, compile it and measure its library; publish it if it holds."""
    options = evaluator.options
    progress(Event("finish", f"training {trial.arch} in full", trial))
    student = evaluator.trainer.finish(trial.arch)
    with workspace(options.run_dir) as folder:
        artifact = evaluator.compile(student.model_dir, folder / ARTIFACT_DIR)
        progress(Event("certify", f"measuring the library of {trial.arch}", trial))
        certificate = _certify(evaluator, artifact, trial)
        if not certificate.holds:  # it was trained in full, which is worth a second measurement
            certificate = _certify(evaluator, artifact, trial)
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
        teacher=evaluator.trainer.teacher().score,
        teacher_ms=journal.note("teacher_ms"),
        trials=journal.trials,
    )


def _certify(evaluator: Evaluator, artifact: Artifact, trial: Trial) -> Certificate:
    options = evaluator.options
    return certify(
        artifact,
        evaluator.device,
        options.budget_ms,
        options.measure,
        percentile=options.percentile,
        predicted_ms=trial.predicted_ms,
    )


def _write_result(result: SearchResult) -> None:
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
    """RUN/profile.json: [kernel name, median ms] in execution order. A report works without it."""
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
