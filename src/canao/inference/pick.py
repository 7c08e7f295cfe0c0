"""A self-check: which of several students that an application carries is right for this device."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from canao.artifact.certificate import PERCENTILE
from canao.artifact.manifest import MANIFEST
from canao.artifact.students import STUDENTS_FILE, read_students
from canao.errors import CanaoError, DeviceError, InputError
from canao.inference.compiled_model import CompiledModel, check_threads, check_time

RUN_ARTIFACT = "artifact"  # in the run directory of a search


@dataclass(frozen=True, slots=True)
class Picked:
    """What was picked.

    model   loaded and open
    keeps   whether it keeps the budget; if not, none does, and it is the fastest
    ms      the percentile of its times on this machine
    tried   of each student that was looked at its directory, and its time or why it has none
    """

    model: CompiledModel
    keeps: bool
    ms: float
    tried: tuple[tuple[Path, float | str], ...]


def pick(
    students: str | Path | Sequence[str | Path], budget_ms: float, *, length: int = 128,
    threads: int = 1, cores: Sequence[int] = (), percentile: float = PERCENTILE, runs: int = 256,
) -> Picked:  # fmt: skip
    """The first of several students that keeps a latency budget on this machine, loaded; the
    fastest, if none does.

    students     the run directory of `canao search --budgets`, or artifact directories, the best
                 first
    budget_ms    for the latency at `percentile`, of `runs` runs with sequences of `length` tokens

    DeviceError if none of them runs here, InputError if an argument cannot be used, or no artifact
    is where they are said to be.
    """
    check_time(length, runs, percentile)
    check_threads(threads, cores)
    number = isinstance(budget_ms, int | float) and not isinstance(budget_ms, bool)
    if not number or not budget_ms > 0:
        raise InputError(f"budget {budget_ms!r} cannot be used; give milliseconds over 0")
    tried: list[tuple[Path, float | str]] = []
    best: Picked | None = None
    for place in _places(students):
        try:
            model = CompiledModel(place, threads, cores)
            ms = model.time(length, runs, percentile)
        except CanaoError as error:  # of another processor, for one: the next may run
            tried.append((place, str(error)))
            continue
        tried.append((place, ms))
        if best is not None and ms >= max(best.ms, budget_ms):
            model.close()
            continue
        if best is not None:
            best.model.close()
        best = Picked(model, ms <= budget_ms, ms, ())
        if best.keeps:
            break
    if best is None:
        raise DeviceError(f"none of {len(tried)} students runs here: {tried[0][1]}")
    return Picked(best.model, best.keeps, best.ms, tuple(tried))


def _places(students: str | Path | Sequence[str | Path]) -> list[Path]:
    if not isinstance(students, str | Path):
        places = [Path(one) for one in students]
    elif os.path.lexists(Path(students) / STUDENTS_FILE):
        places = [Path(students) / one.artifact for one in read_students(Path(students))
                  if one.artifact]  # fmt: skip
    elif (Path(students) / RUN_ARTIFACT).is_dir():
        places = [Path(students) / RUN_ARTIFACT]
    else:
        places = [Path(students)]
    if not places:
        raise InputError("no students; give the directories of artifacts")
    for place in places:
        if not (place / MANIFEST).is_file():
            raise InputError(f"{place}: holds no library; give a run directory of `canao search "
                             "--budgets`, or directories written by `canao compile`")  # fmt: skip
    return places
