"""`--study`: a database that several processes reach, and the name of a search in it.

    postgresql://USER@HOST/DATABASE#NAME   any URL of SQLAlchemy's
    grpc://HOST:PORT#NAME                  Optuna's gRPC proxy in front of a database

The name is `canao` unless one is given.

The text comes from a user or from a run directory, and is not trusted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from canao.errors import InputError

NAME = "canao"  # of a search, unless it has one of its own
GRPC = "grpc"
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,60}")
_GRPC = re.compile(r"grpc://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):(\d{1,5})/?")
FORMS = "give postgresql://USER@HOST/DATABASE, sqlite:///FILE or grpc://HOST:PORT"
# SQLAlchemy's own choice of a driver for PostgreSQL is one that the extra `workers` does not have.
_DRIVERS = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}


@dataclass(frozen=True, slots=True)
class StudyUrl:
    """A search in a database. `url` has the password, if one was given; `shown` has not.

    address   host and port of a proxy; None for a database
    """

    url: str
    name: str
    shown: str
    address: tuple[str, int] | None = None

    @property
    def kept(self) -> str:
        """What a run directory says of it: all but the password, as `--study` takes it."""
        return self.shown if self.name == NAME else f"{self.shown}#{self.name}"


def parse_study(text: str) -> StudyUrl:
    """The search that `--study` names; InputError if it is none."""
    url, _, name = text.partition("#")
    name = name or NAME
    if not _NAME.fullmatch(name):
        raise InputError(f"--study: '{name:.60}' behind # is not a name of letters, digits, ._-; "
                         "give another one")  # fmt: skip
    if url.startswith(f"{GRPC}:"):
        found = _GRPC.fullmatch(url)
        if found is None or not 0 < int(found[2]) < 65536:
            raise InputError(f"--study {url:.100}: is no address of a proxy; give grpc://HOST:PORT")
        return StudyUrl(url, name, url, (found[1].strip("[]"), int(found[2])))
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise InputError(f"--study: no URL of a database; {FORMS}") from None
    driver = parsed.drivername
    parsed = parsed.set(drivername=_DRIVERS.get(driver, driver))
    if driver.startswith("sqlite") and parsed.database in (None, "", ":memory:"):
        raise InputError(f"--study {url:.100}: a database in memory is of one process; {FORMS}")
    if driver.startswith("sqlite") and not str(parsed.database).startswith("file:"):
        parsed = parsed.set(database=str(Path(str(parsed.database)).resolve()))
    shown = parsed._replace(drivername=driver, password=None)
    return StudyUrl(
        parsed.render_as_string(hide_password=False), name,
        shown.render_as_string(hide_password=False),
    )  # fmt: skip
