"""Students of several budgets, as a search for all of them leaves them: RUN/students.json."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from canao.artifact.reading import fits, read_json
from canao.errors import InputError

STUDENTS_FILE = "students.json"
_REMEDY = "search again with --budgets, or give the artifacts' directories"


class Student(msgspec.Struct):
    """One student of RUN/students.json; the best comes first.

    artifact     its directory below RUN; '' where no student keeps the budget
    why          what is missing then
    bound_ms     the upper bound of its latency, by its certificate
    """

    budget_ms: Annotated[float, Meta(gt=0)]
    artifact: Annotated[str, Meta(pattern=r"^([\w.-]+(/[\w.-]+)*)?$", max_length=200)]
    why: str = ""
    metric: str = ""
    score: float | None = None
    bound_ms: float | None = None


class Students(msgspec.Struct):
    """RUN/students.json."""

    format: int
    students: list[Student]


def read_students(run_dir: Path) -> list[Student]:
    """The students of a run with several budgets; InputError if the file is damaged."""
    path = run_dir / STUDENTS_FILE
    row = read_json(path, remedy=_REMEDY)
    wrong = fits(row, Students)
    if wrong is not None:
        raise InputError(f"{path}: {wrong}; {_REMEDY}")
    found = msgspec.convert(row, Students)
    if found.format != 1 or any(".." in one.artifact.split("/") for one in found.students):
        raise InputError(f"{path}: is of another format, or names a directory elsewhere; {_REMEDY}")
    return found.students
