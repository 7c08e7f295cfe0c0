"""How commands end: 1 is a missed budget and nothing else, and nothing ends in a traceback."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from canao.cli.app import app
from canao.cli.ending import INTERRUPTED, UNEXPECTED, USAGE, end
from canao.errors import BudgetError, CanaoError, DeviceError, InputError, ToolchainError

COMMANDS = sorted(c.name or c.callback.__name__ for c in app.registered_commands)


def deep() -> None:
    deep()


def raising(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


ENDINGS: dict[str, tuple[Callable[[], Any], int, str]] = {
    "no memory": (raising(MemoryError()), UNEXPECTED, "not enough memory; close other programs"),
    "recursion": (deep, UNEXPECTED, "RecursionError: "),
    "no room": (raising(OSError(errno.ENOSPC, "No space left on device", "/x/y")), UNEXPECTED,
                "/x/y: No space left on device; free space"),
    "no such place": (lambda: Path("/proc/no/x").write_text(""), UNEXPECTED, "/proc/no/x: No such"),
    "OSError of a library": (raising(OSError("weird")), UNEXPECTED, "OSError: weird; this is a f"),
    "fault": (lambda: [].pop(), UNEXPECTED, "IndexError: pop from empty list; this is a fault of"),
    "no message": (raising(AssertionError()), UNEXPECTED, "AssertionError: no message"),
    "several lines": (raising(ValueError("a\nb\tc\x1b[2J\u2028d")), UNEXPECTED, "a b c [2J d"),
    "exit of a library": (raising(SystemExit(1)), UNEXPECTED, "ended early (1)"),
    "text as exit code": (raising(SystemExit("bye\nbye")), UNEXPECTED, "ended early (bye bye)"),
    "no package": (lambda: __import__("no_such_package"), UNEXPECTED, "No module named"),
    "budget": (raising(BudgetError("missed")), 1, "missed"),
    "input": (raising(InputError("two\nlines")), 2, "two lines"),
    "toolchain": (raising(ToolchainError("x")), 4, "x"),
    "device": (raising(DeviceError("x")), 5, "x"),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDINGS)
def test_every_error_is_a_line(
    name: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command, code, words = ENDINGS[name]
    monkeypatch.delenv("CANAO_TRACEBACK", raising=False)
    with pytest.raises(SystemExit) as left:
        end(command)
    said = capfd.readouterr()
    assert left.value.code == code and not said.out
    assert said.err.startswith("canao: error: ") and said.err.endswith("\n")
    assert said.err.count("\n") == 1 and words in said.err and "\x1b" not in said.err
    hint = "CANAO_TRACEBACK=1 shows where" in said.err
    assert hint == (code == UNEXPECTED and "ended early" not in said.err)


def test_the_traceback_is_shown_when_asked_for(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANAO_TRACEBACK", "1")
    with pytest.raises(SystemExit) as left:
        end(lambda: [].pop())
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback") and "test_ending.py" in "".join(lines)
    assert lines[-1].startswith("canao: error: IndexError") and left.value.code == UNEXPECTED


def test_only_a_missed_budget_has_the_code_1() -> None:
    kinds = {CanaoError}
    for kind in list(kinds):
        kinds |= set(kind.__subclasses__())
    assert {kind for kind in kinds if kind.exit_code in (0, 1)} == {BudgetError}
    assert 1 not in (UNEXPECTED, USAGE, INTERRUPTED)


@pytest.mark.parametrize(
    ("result", "code"),
    [(None, 0), (0, 0), (3, 3), (INTERRUPTED, INTERRUPTED)],
)
def test_without_an_error(result: int | None, code: int) -> None:
    with pytest.raises(SystemExit) as left:
        end(lambda: result)
    assert left.value.code == code


def canao(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "canao", *arguments], text=True,
                          stderr=subprocess.PIPE, timeout=300, **options)  # fmt: skip


def one_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode not in (0, 1), done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("canao: error: "), done.stderr
    assert all(word in lines[0] for word in words), lines[0]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("arguments", [["--nonsense"], ["/proc/nowhere/x", "y", "z"]])
def test_no_command_ends_with_1(
    command: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from canao.cli.app import main

    monkeypatch.setattr(sys, "argv", ["canao", command, *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code not in (0, 1)
    said = capfd.readouterr().err
    assert said.startswith("canao: error: ") and said.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_output_that_cannot_be_written() -> None:
    with open("/dev/full", "w") as full:
        done = canao("cache", stdout=full)
    one_line(done, "No space left on device")
    assert done.returncode == UNEXPECTED


def test_without_an_output() -> None:
    command = f"{sys.executable} -m canao cache >&- 2>&-"
    assert subprocess.run(["/bin/sh", "-c", command]).returncode in (0, UNEXPECTED)


def test_no_memory() -> None:
    """A process that may not have the memory that Python's packages take."""
    most = 200 << 20

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (most, most))

    program = "from canao.cli.ending import end\nend(lambda: bytearray(1 << 30))"
    done = subprocess.run([sys.executable, "-c", program], preexec_fn=limit, text=True,
                          capture_output=True)  # fmt: skip
    one_line(done, "not enough memory")


def test_a_package_that_cannot_be_imported(tmp_path: Path) -> None:
    """Also before there are commands: not 1, which would be a missed budget."""
    (tmp_path / "typer.py").write_text("raise ImportError('typer is broken')\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = canao("cache", env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.DEVNULL)
    one_line(done, "typer is broken")
    assert done.returncode == UNEXPECTED
