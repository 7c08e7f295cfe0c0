"""Transport: how files and commands get to the machine that measures, and results back.

A new kind of machine is one class with the members of `Transport`; `BenchDevice` does the rest.
What all ways to another machine have in common is in remote.py; device/names.py is the table of
them.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from canao.artifact.temporary import WorkingDirectory

_SHELL_SIGNAL = 128  # a shell says so much and the number for a command that a signal ended


@dataclass(frozen=True, slots=True)
class Completed:
    """How a command ended: its exit code, or less 0 the signal that ended it."""

    code: int
    stdout: str
    stderr: str

    @classmethod
    def of_shell(cls, code: int, stdout: str, stderr: str) -> Completed:
        """Of a command that a shell ran, which has its own way to tell of signals."""
        signal = code - _SHELL_SIGNAL
        return cls(-signal if signal > 0 else code, stdout, stderr)


class Transport(Protocol):
    """A way to one machine. What it cannot do is an OSError, or a DeviceError where it knows what
    the user can do; TimeoutError for a command that did not end in time, and was stopped.

    name      what `--device` takes
    remote    whether files must be sent there; else the machine sees them where they are
    emulated  whether programs are emulated, so that their times say nothing
    folder    path there of a folder for this device's files alone, without spaces
    """

    name: str
    remote: bool
    emulated: bool

    @property
    def folder(self) -> str: ...

    def push(self, local: Path, remote: str) -> str:
        """Have a file there, which may be run, and give its path there: in the folder, with
        `remote` in its name, unless the machine sees the file where it is. What is there already
        need not be sent again, and what was pushed before under that name may go."""
        ...

    def run(self, command: Sequence[str], timeout: float) -> Completed:
        """Run a program there with arguments, and wait for it at most `timeout` seconds."""
        ...

    def pull(self, remote: str, local: Path) -> None:
        """Copy a file from its path there."""
        ...

    def close(self) -> None:
        """Remove the folder there."""
        ...


class LocalTransport:
    """This machine. Files are used where they are, so that nothing is copied."""

    name = "local"
    remote = False
    emulated = False

    def __init__(self) -> None:
        self._folder: WorkingDirectory | None = None

    @property
    def folder(self) -> str:
        if self._folder is None:
            self._folder = WorkingDirectory("canao-device")
        return str(self._folder.path)

    def push(self, local: Path, remote: str) -> str:
        return str(local)

    def run(self, command: Sequence[str], timeout: float) -> Completed:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{command[0]} did not end within {timeout:g} s") from None
        return Completed(done.returncode, done.stdout, done.stderr)

    def pull(self, remote: str, local: Path) -> None:
        shutil.copyfile(remote, local)

    def close(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
