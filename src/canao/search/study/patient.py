"""A storage of Optuna's that waits for a database that went away, for a bounded time.

Whatever is done again after an error leaves the study as if it had been done once: attributes are
overwritten with the same, and a trial that was begun and not answered for has no owner, so that it
is given up after a while (team.py).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from canao.errors import InputError

REACH_S = 600.0  # for which a database that is away is waited for
_PAUSES_S = (0.2, 0.5, 1.0, 2.0)  # between two attempts, the last one from then on
# What a proxy answers while it, or the database behind it, is away. UNKNOWN is any error there.
_AWAY = frozenset(("UNAVAILABLE", "UNKNOWN", "DEADLINE_EXCEEDED", "CANCELLED"))


def patient(
    storage: BaseStorage, shown: str, say: Callable[[str], None], reach_s: float = REACH_S
) -> BaseStorage:
    """The same storage, each of whose calls is repeated while the database cannot be reached.

    shown     its address in messages
    say       is called with a line when it went away, and when it is back
    reach_s   seconds after which an InputError gives up
    """
    methods = {name: _repeated(name) for name in BaseStorage.__abstractmethods__}
    kind = type("Patient", (_Patience, BaseStorage), methods)
    made: BaseStorage = kind(storage, shown, say, reach_s)
    return made


class _Patience:
    def __init__(
        self, storage: BaseStorage, shown: str, say: Callable[[str], None], reach_s: float
    ) -> None:
        self.storage, self.shown, self.say, self.reach_s = storage, shown, say, reach_s

    def remove_session(self) -> None:
        self.storage.remove_session()

    def kept_at(self, call: Callable[[], Any]) -> Any:
        begun, tries = 0.0, 0
        while True:
            try:
                found = call()
            except Exception as error:  # noqa: BLE001 - raised again, unless the database is away
                if not is_away(error):
                    if _status(error) is None:
                        raise
                    # As Optuna's, which callers know.
                    told = f"{_status(error)}: {reason_of(error)}"
                    raise StorageInternalError(told) from error
                begun = begun or time.monotonic()
                self._wait(time.monotonic() - begun, tries, reason_of(error))
                tries += 1
            else:
                if tries:
                    self.say(f"{self.shown}: reached again after {time.monotonic() - begun:.0f} s")
                return found

    def _wait(self, waited: float, tries: int, reason: str) -> None:
        if waited >= self.reach_s:
            raise InputError(
                f"{self.shown}: the study cannot be reached for {waited:.0f} s ({reason}); once "
                "the database is back, the same command continues where it stopped"
            )
        if tries == 0:
            self.say(f"{self.shown}: the study cannot be reached ({reason}); trying again for "
                     f"{self.reach_s:.0f} s")  # fmt: skip
        time.sleep(_PAUSES_S[min(tries, len(_PAUSES_S) - 1)])


def _repeated(name: str) -> Callable[..., Any]:
    def method(self: _Patience, *args: Any, **kwargs: Any) -> Any:
        return self.kept_at(lambda: getattr(self.storage, name)(*args, **kwargs))

    return method


def is_away(error: BaseException) -> bool:
    """Whether an error says that the database, or the proxy, cannot be reached at the moment."""
    for cause in _causes(error):
        if isinstance(getattr(cause, "orig", None), sqlite3.Error):
            return "locked" in str(cause)  # by another process, for longer than SQLite waits
        if isinstance(cause, OperationalError | InterfaceError | PoolTimeout | ConnectionError):
            return True
        if isinstance(cause, DBAPIError) and cause.connection_invalidated:
            return True
        if _status(cause) in _AWAY:
            return True
    return False


def reason_of(error: BaseException) -> str:
    """What an error says in the end, in a line."""
    causes = _causes(error)
    last = next((c for c in causes if getattr(c, "orig", None) or _status(c)), causes[-1])
    told = getattr(last, "details", None)
    text = str((told() if callable(told) else None) or getattr(last, "orig", None) or last)
    lines = text.strip().splitlines()
    return lines[0].strip().rstrip(".")[:160] if lines else type(last).__name__


def _causes(error: BaseException) -> list[BaseException]:
    """An error, what it was raised for, and so on."""
    found: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in found:
        found.append(following)
        following = following.__cause__ or following.__context__
    return found


def _status(error: BaseException) -> str | None:
    """The status of an error of gRPC's, which is imported by those alone who use it."""
    if all(kind.__name__ != "RpcError" for kind in type(error).__mro__):
        return None
    code = getattr(error, "code", None)
    return str(getattr(code() if callable(code) else None, "name", "UNKNOWN"))
