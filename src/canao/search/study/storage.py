"""Optuna's storage of a run: one database with a study for each place that measures. It is a file
in the run directory, or a database that several processes reach (`--study`).

The database is not trusted: whatever is wrong with it is an InputError of one line, with what the
user can do.
"""

from __future__ import annotations

import sqlite3
import stat
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import BaseStorage, get_storage
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError

from canao.errors import CanaoError, InputError
from canao.search.controllers.controller import objectives
from canao.search.options import SearchOptions
from canao.search.study.bulk_storage import BulkStorage
from canao.search.study.patient import is_away, reason_of
from canao.search.study.run_file import OTHER_RUN
from canao.search.study.url import FORMS, NAME, StudyUrl

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
_CONNECT_S = 10  # for which a database or a proxy is waited for when it is opened
_ANSWER_S = 60.0  # for which an answer of a proxy is waited for
# Tries to open a database whose tables another process is making, and the time between two.
_MEETINGS, _MEETING_S = 20, 0.1
# Words of errors about Optuna's tables, of which none or not all are there.
_NO_TABLE = ("version_info", "no such table", 'relation "')
_LOCKED_S = 30.0  # for which another process may hold an SQLite file
_EXTRA = "install it with: pip install 'canao[workers]'"
# A module's package may have another name, which only its makers' pages tell.
_OTHER = "install the package that has it, or name another driver, as mysql+pymysql://"
_OF_EXTRA = ("psycopg", "grpc")


def study_name(
    place: Mapping[str, Any] | None, precision: str | None = None, run: str = NAME
) -> str:
    """The study of a place; runs of versions that told of none have one for all. A run that left a
    precision out has one for each `precision` that it went on in. `run` is the name of the search,
    of which a database that is shared may have several."""
    parts = [run, *map(str, (place or {}).values()), *([precision] if precision else [])]
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


def open_storage(path: Path) -> BaseStorage:
    """The storage in a run directory. It does not read again what it read of finished trials."""
    has_study(path)
    # A path may have characters that have a meaning in a URL, such as a question mark.
    connect = partial(sqlite3.connect, path, check_same_thread=False)
    return get_storage(BulkStorage("sqlite:///study.db", engine_kwargs={"creator": connect}))


def open_shared(study: StudyUrl, *, new: bool) -> BaseStorage:
    """The storage that `--study` names; with `new`, an empty database gets Optuna's tables.

    InputError if it cannot be reached, belongs to another version of Optuna, or has no study.
    """
    shown = f"--study {study.shown}"
    try:
        storage = _opened(study, new) if study.address is None else _proxy(*study.address)
        storage.get_all_studies()  # whether it answers, and in a form that is understood
        return storage
    except CanaoError:
        raise
    except ImportError as error:
        missing = getattr(error.__cause__, "name", None) or error.name or "a driver"
        how = _EXTRA if missing.partition(".")[0] in _OF_EXTRA else _OTHER
        raise InputError(f"{shown}: {missing} is not installed; {how}") from None
    except sqlalchemy.exc.NoSuchModuleError:
        raise InputError(f"{shown}: no kind of database that SQLAlchemy has; {FORMS}") from None
    except Exception as error:  # noqa: BLE001 - drivers have errors of their own
        raise _refused(shown, error) from None


def _refused(shown: str, error: Exception) -> InputError:
    reason = reason_of(error)
    if "table schema" in str(error):
        return InputError(
            f"{shown}: belongs to another version of Optuna than {optuna.__version__}; install "
            "that one, or run: optuna storage upgrade --storage URL"
        )
    if is_away(error):
        return InputError(f"{shown}: cannot be reached ({reason}); start it, or correct the "
                          "address")  # fmt: skip
    if "unable to open" in reason:
        return InputError(f"{shown}: cannot be opened; make its directory, or name another file")
    if any(words in reason for words in _NO_TABLE):
        return InputError(f"{shown}: holds no search; start one with `canao search --study` first")
    return InputError(f"{shown}: has no study of this version ({reason}); start one with `canao "
                      "search --study`, or name another database")  # fmt: skip


def _opened(study: StudyUrl, new: bool) -> BaseStorage:
    """A database; again if another process makes Optuna's tables in a new one at the same moment,
    as workers do that are started with their search."""
    for _ in range(_MEETINGS):
        try:
            return _database(study, new)
        except (IntegrityError, OperationalError, ProgrammingError) as error:
            if not (isinstance(error, IntegrityError) or "already exists" in str(error)):
                raise
        time.sleep(_MEETING_S)
    return _database(study, new)


def _database(study: StudyUrl, new: bool) -> BaseStorage:
    url = sqlalchemy.make_url(study.url)
    sqlite = url.get_backend_name() == "sqlite"
    options: dict[str, Any] = {"pool_pre_ping": True}
    if sqlite:
        path = Path(str(url.database))
        if not has_study(path) and not new:
            raise InputError(f"--study {study.shown}: holds no search; start one with `canao "
                             "search --study` first")  # fmt: skip
        connect = partial(
            sqlite3.connect, path, timeout=_LOCKED_S, check_same_thread=False, isolation_level=None
        )
        options = {"creator": connect}
    elif url.get_backend_name() == "postgresql":
        options["connect_args"] = {"connect_timeout": _CONNECT_S}
    # Optuna fills in what stands between braces.
    text = study.url.replace("{", "{{").replace("}", "}}")
    storage = BulkStorage(text, engine_kwargs=options, skip_table_creation=not new)
    if sqlite:
        # SQLite has no locks of rows: who begins to read what it will write waits for the others.
        sqlalchemy.event.listen(storage.engine, "begin", _immediately)
    return get_storage(storage)


def _immediately(connection: sqlalchemy.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _proxy(host: str, port: int) -> BaseStorage:
    """Optuna's proxy, but for how long an answer may take, and how soon it is looked for again."""
    import grpc
    from optuna.storages import GrpcStorageProxy

    class Bounded(grpc.UnaryUnaryClientInterceptor):
        """A proxy that hangs would be waited for without end."""

        def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            return continuation(details._replace(timeout=_ANSWER_S), request)

    class Proxy(GrpcStorageProxy):
        def _setup(self) -> None:
            super()._setup()
            self._channel.close()
            options = [("grpc.max_receive_message_length", -1),
                       ("grpc.initial_reconnect_backoff_ms", 200),
                       ("grpc.max_reconnect_backoff_ms", 2000)]  # fmt: skip
            channel = grpc.insecure_channel(f"{self._host}:{self._port}", options=options)
            self._channel = grpc.intercept_channel(channel, Bounded())
            self._stub = type(self._stub)(self._channel)
            self._cache.grpc_client = self._stub

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = Proxy(host=host, port=port)
    storage.wait_server_ready(timeout=_CONNECT_S)
    return storage


def open_study(
    options: SearchOptions, sampler: optuna.samplers.BaseSampler, storage: BaseStorage, name: str
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
def storage_errors(path: Path | str) -> Iterator[None]:
    """What a database raises while it is used: it is full, locked, or was damaged meanwhile."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, optuna.exceptions.OptunaError) as error:
        raise _unusable(path, error) from None


@contextmanager
def unreadable(path: Path | str) -> Iterator[None]:
    """What reading a study raises, of which nothing is known yet."""
    try:
        yield
    except CanaoError:
        raise
    except Exception as error:  # noqa: BLE001 - Optuna trusts what is in its tables
        raise _unusable(path, error) from None


def _unusable(path: Path | str, error: Exception) -> InputError:
    told = str(getattr(error, "orig", None) or error) or type(error).__name__
    reason = told.partition("\n")[0][:200]
    usual = f"restore the file, or {OTHER_RUN}"
    if isinstance(path, str):  # of a database that is shared
        usual = "look after the database, or name another search behind # in --study"
    remedy = next((r for said, r in _REMEDIES.items() if said in reason), usual)
    return InputError(f"{path}: cannot be used as a study ({reason}); {remedy}")
