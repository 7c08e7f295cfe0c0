"""How a command ends: whatever was raised becomes one line on standard error and an exit code.

    0     done
    1     a budget is missed; nothing else ever ends with 1
    2-5   an error of `errors.py`, or a wrong option (2)
    70    anything else: no memory, no room, a fault of CANAO's own
    130   interrupted

With CANAO_TRACEBACK=1 the traceback is printed before the line.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from canao.errors import BudgetError, CanaoError

USAGE, UNEXPECTED, INTERRUPTED = 2, 70, 130
_MISSED = BudgetError.exit_code
_SHOWN = 300
_REMEDIES = {
    errno.ENOSPC: "free space, or name another place",
    errno.EDQUOT: "free space, or name another place",
    errno.EACCES: "change its permissions, or name another place",
    errno.EPERM: "change its permissions, or name another place",
    errno.EROFS: "name a place that can be written",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


def end(command: Callable[[], object]) -> NoReturn:
    """Run a command and leave Python with its exit code."""
    code = _outcome(command)
    # What cannot be written now would fail again when Python ends, with a code of its own.
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        _silence_stdout()
    sys.exit(code)


def _outcome(command: Callable[[], object]) -> int:
    try:
        code = command()
        if code == INTERRUPTED:  # some versions of Typer turn the interrupt into a code
            raise KeyboardInterrupt
        if sys.stdout is not None:
            sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        _silence_stdout()
        return 0
    except SystemExit as left:
        # If the reader of a pipe stops, as head does, Typer exits with 1, which is a missed budget.
        if isinstance(left.__context__, BrokenPipeError) or left.code is None:
            return 0
        if isinstance(left.code, int) and left.code != _MISSED:
            return left.code
        return _say(f"ended early ({left.code})", UNEXPECTED)
    except KeyboardInterrupt:
        return _interrupted()
    except CanaoError as error:
        return _say(str(error), error.exit_code)
    except Exception as error:  # noqa: BLE001  the last line of defence
        return _other(error)


def _other(error: Exception) -> int:
    """What no part of CANAO has foreseen, and what Typer raises."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "Abort" in kinds:
        return _interrupted()
    if "NoArgsIsHelpError" in kinds:
        sys.stderr.write(f"{error.format_message()}\n")  # type: ignore[attr-defined]
        return USAGE
    # Typer brings a click of its own in some versions and uses the installed one in others.
    if "ClickException" in kinds:
        return _say(error.format_message(), USAGE)  # type: ignore[attr-defined]
    if os.environ.get("CANAO_TRACEBACK", "") not in ("", "0"):
        traceback.print_exception(error)
        return _say(_described(error), UNEXPECTED)
    return _say(f"{_described(error)} (CANAO_TRACEBACK=1 shows where)", UNEXPECTED)


def _described(error: Exception) -> str:
    said = str(error).strip()[:_SHOWN]
    if isinstance(error, MemoryError):
        return "not enough memory; close other programs, or take a smaller model"
    if isinstance(error, OSError) and error.strerror:
        place = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        remedy = _REMEDIES.get(error.errno or 0, "check the file and its directory")
        return f"{place}{error.strerror}; {remedy}"
    if isinstance(error, RecursionError):
        said = said or "nested too deeply"
    return (
        f"{type(error).__name__}: {said or 'no message'}; this is a fault of CANAO's, please report"
        " it with the command and the model"
    )


def _say(message: str, code: int) -> int:
    """Print one line, whatever is in the message."""
    line = "".join(c if c.isprintable() else " " for c in " ".join(message.split()))
    with contextlib.suppress(OSError, ValueError, AttributeError):  # then nobody can be told
        sys.stderr.write(f"canao: error: {line}\n")
    return code


def _interrupted() -> int:
    sys.stderr.write("canao: interrupted; the same command continues where it can\n")
    return INTERRUPTED


def _silence_stdout() -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
