"""Several budgets, or several devices: a search for each of them, which share teacher, supernet and
students."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from canao.artifact.files import write_whole
from canao.artifact.students import STUDENTS_FILE, Student, Students
from canao.device.base import Device
from canao.errors import BudgetError, InputError
from canao.search.certification import SearchResult
from canao.search.options import Event, Progress

# Of a budget, its run directory, and the run that it shares training with.
One = Callable[[float, Path, Path | None], SearchResult]
# The same of a device and its budget.
OneOn = Callable[[Device, float, Path, Path | None], SearchResult]


def search_each(
    budgets: Sequence[float], run_dir: Path, other: Path | None, one: One, progress: Progress
) -> tuple[dict[float, SearchResult], list[Student]]:
    """A student for each budget, in run directories of their own below `run_dir`, the largest
    budget first. Later ones take the teacher and all training from the first, or from the run
    `other`.

    RUN/students.json names them, the best first. BudgetError, once all were tried, if a budget is
    kept by none.
    """
    found: dict[float, SearchResult] = {}
    students: list[Student] = []
    for budget in sorted(check_budgets(budgets), reverse=True):
        place = run_dir / f"{budget:g}ms"
        progress(Event("search", f"budget {budget:g} ms, in {place}"))
        try:
            found[budget] = one(budget, place, other)
            students.append(_student(budget, found[budget], run_dir))
        except BudgetError as error:
            students.append(Student(budget, "", str(error)))
            progress(Event("certify", f"budget {budget:g} ms: {error}"))
        _write(run_dir, students)
        other = place if other is None else other
    without = [one for one in students if not one.artifact]
    if without:
        why = "; ".join(one.why.replace("--budget-ms", "--budgets") for one in without)
        raise BudgetError(f"{why} ({run_dir / STUDENTS_FILE} has {len(found)} of {len(students)} "
                          "students)")  # fmt: skip
    return found, sorted(students, key=_rank)


def search_each_device(
    devices: Sequence[tuple[Device, float]], run_dir: Path, other: Path | None, one: OneOn,
    progress: Progress,
) -> dict[str, SearchResult]:  # fmt: skip
    """A student for each device and its budget, in run directories of their own below `run_dir`.
    Later ones take the teacher and all training from the first, or from the run `other`.

    BudgetError, once all were tried, if a budget is kept by none; InputError for a device twice.
    """
    names = [device.name for device, _ in devices]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"device {name} is named twice; name each once")
    found: dict[str, SearchResult] = {}
    missed: list[str] = []
    for device, budget in devices:
        place = run_dir / re.sub(r"[^\w.-]+", "-", device.name, flags=re.ASCII)
        progress(Event("search", f"device {device.name}, {budget:g} ms, in {place}"))
        try:
            found[device.name] = one(device, budget, place, other)
        except BudgetError as error:
            missed.append(f"{device.name}: {error}")
            progress(Event("certify", missed[-1]))
        other = place if other is None else other
    if missed:
        raise BudgetError(f"{'; '.join(missed)} ({len(found)} of {len(devices)} devices have a "
                          "student)")  # fmt: skip
    return found


def check_budgets(budgets: Sequence[float]) -> Sequence[float]:
    """InputError unless these are several different numbers of milliseconds."""
    for budget in budgets:
        if not (math.isfinite(budget) and budget > 0):
            raise InputError(f"--budgets: {budget:g} cannot be used; give milliseconds over 0")
    if len(budgets) < 2 or len({f"{b:g}" for b in budgets}) != len(budgets):
        raise InputError("--budgets: give two different numbers of milliseconds at least, as 4,8")
    return budgets


def _student(budget: float, result: SearchResult, run_dir: Path) -> Student:
    return Student(
        budget, str(result.artifact.path.relative_to(run_dir)), "", result.score.primary,
        result.score.value, result.certificate.bound_ms,
    )  # fmt: skip


def _rank(student: Student) -> tuple[float, float]:
    score = -math.inf if student.score is None else student.score
    return -score, student.bound_ms or math.inf


def _write(run_dir: Path, students: Sequence[Student]) -> None:
    row = msgspec.to_builtins(Students(1, sorted(students, key=_rank)))
    write_whole(run_dir / STUDENTS_FILE, json.dumps(row, indent=1) + "\n")
