"""Optuna's storage of a run: one database with a study for each place that measures.

The database is not trusted: whatever is wrong with it is an InputError of one line, with what the
user can do.
"""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from canao.errors import CanaoError, InputError
from canao.search.controller import objectives
from canao.search.options import SearchOptions
from canao.search.run_file import OTHER_RUN

_STUDY = "canao"
# Of Optuna, in the order in which it makes them: a full disk or a kill may leave the first only.
_TABLES = {"studies", "version_info", "study_directions", "study_user_attributes", "trials",
           "alembic_version"}  # fmt: skip
# What SQLite says, and what the user can do about it.
_REMEDIES = {
    "is full": "free some space and give the same command again: it goes on",
    "disk I/O error": "free some space and give the same command again: it goes on",
    "readonly": "make it and its directory writable",
    "unable to open": "make it and its directory writable",
    "is locked": "close the program that has it open, and give the same command again",
}


def study_name(place: Mapping[str, Any] | None, precision: str | None = None) -> str:
    """The study of a place; runs of versions that told of none have one for all. A run that left a
    precision out has one for each `precision` that it went on in."""
    parts = [_STUDY, *map(str, (place or {}).values()), *([precision] if precision else [])]
    return " ".join(parts)


def has_study(path: Path) -> bool:
    """Whether there is a database of Optuna's; InputError for one that is damaged or another
    program's, into which Optuna would write its tables."""
    try:
        held = path.stat()
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(held.st_mode):
        raise InputError(f"{path}: is not a regular file; remove it, or {OTHER_RUN}")
    if held.st_size == 0:
        return False
    with closing(sqlite3.connect(path)) as database:
        found = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        state = database.execute("PRAGMA quick_check(1)").fetchone()
    if found and not _TABLES & {name for (name,) in found}:
        raise InputError(f"{path}: is the database of another program, with no study in it; "
                         f"{OTHER_RUN}")  # fmt: skip
    if state != ("ok",):
        raise sqlite3.DatabaseError(str(state[0]))
    return bool(found)


def open_storage(path: Path) -> RDBStorage:
    has_study(path)
    # A path may have characters that have a meaning in a URL, such as a question mark.
    connect = partial(sqlite3.connect, path, check_same_thread=False)
    return RDBStorage("sqlite:///study.db", engine_kwargs={"creator": connect})


def open_study(
    options: SearchOptions, sampler: optuna.samplers.BaseSampler, storage: RDBStorage, name: str
) -> optuna.Study:
    with quiet():  # Optuna announces every new study
        return optuna.create_study(
            storage=storage,
            study_name=name,
            sampler=sampler,
            directions=list(objectives(options.controller)),
            load_if_exists=True,
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Inside the block Optuna logs errors only."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """What a database raises while it is used: it is full, locked, or was damaged meanwhile."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, optuna.exceptions.OptunaError) as error:
        raise _unusable(path, error) from None


@contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """What reading a study raises, of which nothing is known yet."""
    try:
        yield
    except CanaoError:
        raise
    except Exception as error:  # noqa: BLE001 - Optuna trusts what is in its tables
        raise _unusable(path, error) from None


def _unusable(path: Path, error: Exception) -> InputError:
    told = str(getattr(error, "orig", None) or error) or type(error).__name__
    reason = told.partition("\n")[0][:200]
    remedy = next((r for said, r in _REMEDIES.items() if said in reason), "restore the file, or "
                  f"{OTHER_RUN}")  # fmt: skip
    return InputError(f"{path}: cannot be used as a study ({reason}); {remedy}")
