"""Certification: the best candidates are trained in full until one keeps the budget."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from canao.artifact.budgets import size_of
from canao.artifact.certificate import CERTIFICATE_FILE, Certificate, write_certificate
from canao.artifact.directory import Artifact
from canao.artifact.files import replace_directory, write_whole
from canao.artifact.reading import read_json
from canao.defaults import PRECISION
from canao.device.base import Device, MeasureConfig
from canao.device.certify import UnsavedError, judge, saved_elsewhere
from canao.errors import BudgetError, DeviceError, DivergedError, InputError
from canao.model.arch import Arch
from canao.precision.quantize import precision_of
from canao.search.candidates.budgets import Budgets
from canao.search.candidates.refine import repaired
from canao.search.candidates.space import Space
from canao.search.candidates.trial import Trial, best_first, pareto
from canao.search.elsewhere import certified, publish
from canao.search.evaluation import Evaluator, disturbed, judge_next, workspace
from canao.search.options import Event, Finished, Progress
from canao.search.study.journal import Journal
from canao.train.metrics import Score

ARTIFACT_DIR = "artifact"
RESULT_FILE = "result.json"
PROFILE_FILE = "profile.json"
_AGAIN = "search again to write it"
# Notes of the journal, of students that were finished and missed a budget: their scores, and of
# those that took too long how long, at most.
_SCORES, _LATE = "scores", "late"
_REPAIRS = 3  # architectures that are judged because others missed the budget, at most each time


class KeptVocabulary(msgspec.Struct):
    """How many rows of the teacher's word embeddings the student has, of how many, and how many
    bytes of its library that saved."""

    kept: int
    before: int
    saved_bytes: int


@dataclass(frozen=True, slots=True)
class SearchResult:
    """A student whose library keeps the budget.

    artifact, certificate   the library in RUN/artifact, and the measurement of exactly these files
    model_dir, score        the student as a Hugging Face directory, and its score; that of the
                            library itself, if it was measured
    teacher, teacher_ms     the teacher's score, and the latency of the teacher compiled alike
    size_bytes              of all files of the artifact
    vocabulary              None where the student kept all of the teacher's
    elsewhere               its libraries for further devices, each with its certificate
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
    size_bytes: int
    budgets: Budgets
    vocabulary: KeptVocabulary | None = None
    elsewhere: tuple[tuple[Artifact, Certificate], ...] = ()

    @property
    def told(self) -> str:
        """All budgets, and what the student needs of each."""
        measured = self.certificate
        return self.budgets.told(
            measured.bound_ms, self.size_bytes, measured.peak_bytes, self.score.value
        )


class ScoreRow(msgspec.Struct):
    """Metrics in RUN/result.json."""

    metrics: dict[str, float]
    primary: str


class TeacherRow(ScoreRow):
    latency_ms: float | None


class Result(msgspec.Struct):
    """RUN/result.json: what `canao report` needs besides the journal and the artifact. `digest` is
    of the certificate's files, so that a result is never shown beside another library."""

    digest: str
    arch: dict[str, Any]
    model_dir: str
    student: ScoreRow
    teacher: TeacherRow
    vocabulary: KeptVocabulary | None = None


class ProfileFile(msgspec.Struct):
    """RUN/profile.json: [kernel name, median ms] in execution order, of the library with this
    digest. A report works without it."""

    digest: str
    kernels: list[tuple[str, float]]


def read_result(run_dir: Path) -> Result | None:
    """RUN/result.json; None until the run is finished, InputError if it is damaged."""
    path = run_dir / RESULT_FILE
    if not os.path.lexists(path):
        return None
    found = read_json(path, Result, remedy=_AGAIN)
    Arch.of(found.arch, f"{path}: 'arch'")  # which says what is wrong with it
    return found


def read_profile(run_dir: Path) -> ProfileFile | None:
    """RUN/profile.json; None if there is none, InputError if it is damaged."""
    path = run_dir / PROFILE_FILE
    return read_json(path, ProfileFile, remedy=_AGAIN) if os.path.lexists(path) else None


def certify_best(
    evaluator: Evaluator, journal: Journal, space: Space, progress: Progress
) -> SearchResult:
    """Train candidates in full, best proxy score first, until the library of one keeps the budget.

    Each candidate is measured under the protocol of a certificate before it is trained: the upper
    bound of its latency has to keep the budget, and so has that of its finished library, which is
    measured once. What missed the budget so is not measured again when the run is resumed: luck
    would select it. Of what misses a budget of latency, size or memory, the nearest architecture
    that fits becomes a candidate as well.
    Raises BudgetError if none keeps it, naming the nearest points of the Pareto front;
    DivergedError if every full training diverged; DeviceError if others took so much of a core
    that nobody can tell.
    """
    options, slack, finished, repairs = evaluator.options, 1.0, 0, 0
    told: list[str] = []
    lost: list[DivergedError] = []
    waiting = [trial for trial in best_first(journal.trials)
               if not _below(evaluator, journal, trial, told)]  # fmt: skip
    while waiting and finished < options.finalists:
        # After a miss, candidates that would miss with the same slowdown come after the others.
        waiting = list(best_first(waiting))
        waiting.sort(key=lambda t: slack * (t.latency_ms or 0.0) > options.budget_ms)
        trial = waiting.pop(0)
        progress(Event("finish", f"checking {trial.arch} under the full protocol", trial))
        missed = _checked(evaluator, trial, progress)
        if not missed.why:
            finished += 1
            try:
                result = _finish(evaluator, journal, trial, progress)
            except DivergedError as error:
                lost.append(error)
                progress(Event("finish", f"{trial.arch}: {error}", trial))
                continue
            missed = _missed(result)
            if not missed.why:
                with _written(options.run_dir, result.certificate):
                    _write_result(result)
                    _write_profile(evaluator.device, result, options.search_measure)
                return result
            _note(evaluator, journal, trial.arch, result)
        if missed.measured_ms <= options.budget_ms:  # which the points named in the end don't tell
            told.append(f"{trial.arch} has {missed.why}")
        progress(Event("certify", f"{trial.arch} misses a budget with {missed.why}", trial))
        if options.budgets.excess(missed.ms, missed.size, missed.memory) <= 0:
            continue  # it scores too little, and smaller ones would not score more
        if missed.ms > options.budget_ms:
            slack = max(slack, missed.ms / (trial.latency_ms or missed.ms))
        if missed.measured_ms > options.budget_ms and trial.predicted_ms:
            journal.add_miss(trial.predicted_ms, missed.measured_ms)
        if repairs < _REPAIRS:
            repairs += 1
            waiting += _repaired(evaluator, journal, space, trial, missed, progress)
    if lost and len(lost) == finished:  # no budget was missed
        raise lost[-1]
    raise BudgetError(_none_fits(options.budgets, journal.trials, told))


@dataclass(frozen=True, slots=True)
class _Needs:
    """What a library needs, and in words which budgets are missed with that, '' if none.

    measured_ms    latency at the budget's percentile
    ms             the latency that counts: that, or its upper bound
    size, memory   bytes
    """

    measured_ms: float
    ms: float
    size: int
    memory: int
    why: str


def _checked(evaluator: Evaluator, trial: Trial, progress: Progress) -> _Needs:
    """What the library of a candidate needs before it is trained, at most."""
    check = evaluator.checked(
        trial.arch, lambda line: progress(Event("finish", f"checking {trial.arch}: {line}", trial))
    )
    budgets, most, far = evaluator.options.budgets, check.most_ms, check.elsewhere
    why = budgets.missed(check.most_ms, check.size, check.memory)
    if check.ms <= budgets.ms < check.most_ms:
        why += f" (a latency at most, with 95 % confidence; measured are {check.ms:.4g} ms)"
    if far is not None and far.share > 1:
        why, most = str(far), max(most, far.share * budgets.ms)
    return _Needs(check.ms, most, check.size, check.memory, why)


def _missed(result: SearchResult) -> _Needs:
    """What a finished library needs."""
    certificate = result.certificate
    used = certificate.bound_ms, result.size_bytes, certificate.peak_bytes
    missed, most = result.budgets.missed(*used, result.score.value), certificate.bound_ms
    for _, further in result.elsewhere:
        if further.missed and not missed:
            missed = f"{further.missed} (on {further.device})"
        most = max(most, result.budgets.ms * further.bound_ms / further.budget_ms)
    return _Needs(certificate.measured_ms, most, *used[1:], missed)


def _below(evaluator: Evaluator, journal: Journal, trial: Trial, told: list[str]) -> bool:
    """Whether a candidate was finished before, and missed the budget or scored less than the least;
    which is told."""
    budgets, key = evaluator.options.budgets, _scored(evaluator, trial.arch)
    late = (journal.note(_LATE) or {}).get(key)
    if late is not None:
        told.append(f"{trial.arch} was finished before and missed the budget, with {late:.4g} ms")
        return True
    score = (journal.note(_SCORES) or {}).get(key)
    if score is None or budgets.min_accuracy is None or score >= budgets.min_accuracy:
        return False
    told.append(f"{trial.arch} has a score of {score:.4f}, least is {budgets.min_accuracy:g}")
    return True


def _note(evaluator: Evaluator, journal: Journal, arch: Arch, result: SearchResult) -> None:
    """Note the score of a finished student, and its latency where that misses the budget."""
    key, bound = _scored(evaluator, arch), result.certificate.bound_ms
    journal.set_note(_SCORES, (journal.note(_SCORES) or {}) | {key: result.score.value})
    if bound > result.budgets.ms:
        journal.set_note(_LATE, (journal.note(_LATE) or {}) | {key: bound})


def _scored(evaluator: Evaluator, arch: Arch) -> str:
    """What a score is noted for: in another precision than float32 it is that of a library, which
    depends on what that may lose."""
    options = evaluator.options
    return arch.to_json() + ("" if options.precision == PRECISION else f" {options.max_loss:g}")


def _repaired(
    evaluator: Evaluator, journal: Journal, space: Space, missed: Trial, needs: _Needs,
    progress: Progress,
) -> tuple[Trial, ...]:  # fmt: skip
    """The nearest architecture to one whose library missed a budget with `needs` that keeps all,
    with its proxy score; nothing if there is none so near, or if it keeps them by the table only.
    Whatever else was suggested and not judged yet comes with it."""
    evaluator.survey(space, missed.arch, lambda line: progress(Event("finish", line)))
    # What is expected of its neighbours follows from what it needed now.
    late = replace(
        missed, latency_ms=needs.ms, size_bytes=needs.size, peak_bytes=needs.memory
    )  # fmt: skip
    near = repaired(
        space, late, journal.trials, evaluator.expected, evaluator.options.budget_ms
    )  # fmt: skip
    if near is None:
        return ()
    progress(Event("finish", f"trying {near}, the nearest to {missed.arch} that should fit"))
    journal.suggest(near)
    found: list[Trial] = []
    # After what waited already; it may be that another process took it in that moment.
    while near not in {trial.arch for trial in journal.trials}:
        trial = judge_next(evaluator, journal)
        if trial is None:
            break
        found.append(trial)
    return tuple(trial for trial in found if trial.trained)


def _finish(
    evaluator: Evaluator, journal: Journal, trial: Trial, progress: Progress
) -> SearchResult:
    """Train a candidate in full, compile it and measure its library; publish it if it keeps all
    budgets."""
    options = evaluator.options
    progress(Event("finish", f"training {trial.arch} in full", trial))
    student = evaluator.trainer.finish(trial.arch)
    with workspace(options.run_dir) as folder:
        with _written(options.run_dir):
            finished = evaluator.finished(
                student.model_dir, folder / ARTIFACT_DIR,
                lambda line: progress(Event("finish", line, trial)),
            )  # fmt: skip
        artifact = finished.artifact
        progress(Event("certify", f"measuring the library of {trial.arch}", trial))
        certificate = _judged(evaluator, finished, trial, progress)
        further = tuple(_judged_elsewhere(evaluator, student.model_dir, folder, trial, progress)
                        if certificate.holds else ())  # fmt: skip
        result = SearchResult(
            run_dir=options.run_dir,
            arch=trial.arch,
            artifact=artifact,
            certificate=certificate,
            model_dir=student.model_dir,
            score=finished.score or student.score,
            teacher=evaluator.trainer.teacher().score,
            teacher_ms=journal.note("teacher_ms"),
            trials=journal.trials,
            size_bytes=size_of(artifact),
            budgets=options.budgets,
            vocabulary=_vocabulary(evaluator, trial.arch),
            elsewhere=further,
        )
        if not _missed(result).why:
            result = _published(result)
    return result


def _published(result: SearchResult) -> SearchResult:
    """The libraries in the run directory, each with its certificate."""
    run_dir, certificate = result.run_dir, result.certificate
    with _written(run_dir, certificate):
        write_certificate(result.artifact.path / CERTIFICATE_FILE, certificate)
        replace_directory(result.artifact.path, run_dir / ARTIFACT_DIR)
        places = publish([made.path for made, _ in result.elsewhere], run_dir, ARTIFACT_DIR)
    further = tuple((Artifact.load(place), said)
                    for place, (_, said) in zip(places, result.elsewhere, strict=True))  # fmt: skip
    return replace(result, artifact=Artifact.load(run_dir / ARTIFACT_DIR), elsewhere=further)


def _judged_elsewhere(
    evaluator: Evaluator, model_dir: Path, folder: Path, trial: Trial, progress: Progress
) -> Iterator[tuple[Artifact, Certificate]]:
    """The libraries of a finished student for further devices; DeviceError if others disturbed what
    misses a budget."""
    for number, place in enumerate(evaluator.elsewhere, 2):
        out = folder / f"{ARTIFACT_DIR}-{number}"
        said = certified(
            place, model_dir, out, evaluator.options,
            lambda line: progress(Event("certify", f"certifying {trial.arch}: {line}", trial)),
        )  # fmt: skip
        if said.disturbed and not said.holds:
            raise disturbed(
                f"the library of {trial.arch} on {place.device.name}", said.others,
                f"in {len(said.runs)} processes",
            )  # fmt: skip
        yield Artifact.load(out), said


def _vocabulary(evaluator: Evaluator, arch: Arch) -> KeptVocabulary | None:
    sizes = evaluator.trainer.vocabulary()
    if sizes is None:
        return None
    width = evaluator.trainer.word_width(arch)
    row = width * precision_of(evaluator.options.precision).weights.bytes
    kept, before = sizes
    return KeptVocabulary(kept, before, (before - kept) * row)


def _judged(
    evaluator: Evaluator, finished: Finished, trial: Trial, progress: Progress
) -> Certificate:
    """The measurement of a finished library.

    Others can only make a library slower. So one that keeps the budget in spite of them keeps it,
    and its certificate says what they took; DeviceError if it misses the budget beside them.
    """
    options, other_budgets = evaluator.options, evaluator.options.budgets.other_budgets
    if finished.scored is None:  # a certificate is of the library's own predictions
        other_budgets = replace(other_budgets, min_accuracy=None)
    certificate = judge(
        finished.artifact, evaluator.device, options.budget_ms, options.measure,
        percentile=options.percentile, others_limit=options.others_limit,
        other_budgets=other_budgets, score=finished.scored, predicted_ms=trial.predicted_ms,
        say=lambda line: progress(Event("certify", f"certifying {trial.arch}: {line}", trial)),
    )  # fmt: skip
    if certificate.disturbed and not certificate.holds:
        often = f"in {len(certificate.runs)} processes"
        raise disturbed(f"the library of {trial.arch}", certificate.others, often)
    if certificate.disturbed:
        told = f"{trial.arch} was disturbed: {certificate.others} while it was measured"
        progress(Event("certify", f"{told}, and it keeps the budget in spite of that", trial))
    return certificate


@contextmanager
def _written(run_dir: Path, certificate: Certificate | None = None) -> Iterator[None]:
    """Whatever cannot be written in the context is an error of one line; a measurement is kept
    elsewhere then."""
    try:
        yield
    except OSError as error:
        reason = f"{error.filename or run_dir}: cannot be written ({error.strerror or error})"
        remedy = "free some space, then the same command continues where it stopped"
        if certificate is None:
            raise InputError(f"{reason}; {remedy}") from None
        saved = saved_elsewhere(certificate)
        where = f"its certificate is kept in {saved}" if saved else f"measured was {certificate}"
        raise UnsavedError(f"{reason}; {where}; {remedy}", certificate, saved) from None


def _write_result(result: SearchResult) -> None:
    row: dict[str, Any] = {
        "digest": result.certificate.digest,
        "arch": result.arch.facts(),
        "model_dir": str(result.model_dir),
        "student": _score_row(result.score),
        "teacher": _score_row(result.teacher) | {"latency_ms": result.teacher_ms},
    }
    if result.vocabulary is not None:
        row["vocabulary"] = msgspec.to_builtins(result.vocabulary)
    write_whole(result.run_dir / RESULT_FILE, json.dumps(row, indent=1, sort_keys=True) + "\n")


def _score_row(score: Score) -> dict[str, Any]:
    return {"metrics": dict(score.metrics), "primary": score.primary}


def _write_profile(device: Device, result: SearchResult, config: MeasureConfig) -> None:
    path = result.run_dir / PROFILE_FILE
    try:
        profile = device.profile(result.artifact, config)
    except DeviceError:
        path.unlink(missing_ok=True)
        return
    row = {"digest": result.certificate.digest, "kernels": [list(entry) for entry in profile]}
    write_whole(path, json.dumps(row, indent=1) + "\n")


def _none_fits(budgets: Budgets, trials: Sequence[Trial], told: Sequence[str]) -> str:
    front = pareto(trials)[:3]
    if not front:
        return (f"no candidate kept {budgets} and was trained; give more --trials, or a larger "
                "budget")  # fmt: skip
    points = ", ".join(f"{t.arch} {t.latency_ms:.4g} ms at {t.accuracy:.4f}" for t in front)
    finished = f": {'; '.join(told)}" if told else ""
    lower = ", or a lower --min-accuracy" if budgets.min_accuracy is not None else ""
    return (f"no finished library kept {budgets}{finished}; nearest points measured in the search: "
            f"{points}; give a larger budget, or resume with more --trials{lower}")  # fmt: skip
