"""What ways to another machine have in common: a folder there, files that are sent once, programs
that can be stopped.

The folder has a name of its own for each process. It is removed with `close`, which happens at the
latest when Python ends. A process that is killed leaves it; the next one that comes to the machine
removes folders in which nothing has run for a day.
"""

from __future__ import annotations

import errno
import os
import secrets
import shlex
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from canao.artifact.files import file_digest
from canao.device.transports.transport import Completed
from canao.errors import DeviceError

_PREFIX = "canao-device-"
_SHORT_S = 60.0  # for what takes a moment
_ROOM = 1 << 30  # bytes of files there, beyond which those go that were used longest ago
_IN_USE = 4  # files that a run needs: the benchmark, a library, weights, inputs
_OF_NAME = 32  # hexadecimal digits of a file's hash that are in its name there


class RemoteTransport(ABC):
    """A way to another machine that has a POSIX shell, find and sha256sum. It runs one program at a
    time. A subclass says how a script is run there, and how a file gets there and back.

    name     what `--device` takes
    parent   the folder there in which this one makes its own; the shell there expands it
    """

    remote = True
    emulated = False

    def __init__(self, name: str, parent: str) -> None:
        self.name, self._parent = name, parent
        self._token, self._owner = secrets.token_hex(8), os.getpid()
        self._folder = ""
        self._there: OrderedDict[str, int] = OrderedDict()  # names and sizes, last used last
        self._digests: dict[tuple[int, ...], str] = {}  # of files here, by what stat says of them
        self._one_at_a_time = threading.RLock()

    @property
    def folder(self) -> str:
        if not self._folder:
            self._folder = self._made_folder()
        return self._folder

    def push(self, local: Path, remote: str) -> str:
        with self._one_at_a_time:
            digest, size = self._digest(local)
            name = f"{digest[:_OF_NAME]}-{remote}"
            there = f"{self.folder}/{name}"
            if name not in self._there and not self._has(there, digest):
                self._make_room(size)
                self._sent(local, there, digest)
            self._there[name] = size
            self._there.move_to_end(name)
            return there

    def run(self, command: Sequence[str], timeout: float) -> Completed:
        with self._one_at_a_time:
            running = f"{self.folder}/running"
            # The shell's number is that of the program which takes its place. The folder is touched
            # so that nobody takes it for one that was left.
            script = f"touch -c {self.folder}; echo $$ > {running}; exec {shlex.join(command)}"
            try:
                return self._shell(script, timeout)
            except TimeoutError:
                self._stop(running)
                raise TimeoutError(f"{command[0]} did not end within {timeout:g} s") from None
            except (KeyboardInterrupt, SystemExit):
                self._stop(running)
                raise

    def pull(self, remote: str, local: Path) -> None:
        with self._one_at_a_time:
            self._fetch(remote, local)

    def close(self) -> None:
        """Remove the folder there. What cannot be reached any more stays, until the next process
        finds it."""
        with self._one_at_a_time:
            # A forked process has not made it.
            if self._folder and os.getpid() == self._owner:
                with suppress(OSError, DeviceError):
                    self._shell(f"rm -rf {self._folder}", _SHORT_S)
                    self._disconnect()
            self._forget()
            self._folder = ""

    @abstractmethod
    def _shell(self, script: str, timeout: float) -> Completed:
        """Run a script with sh there. TimeoutError if it takes longer, and then it goes on."""

    @abstractmethod
    def _send(self, local: Path, there: str) -> None:
        """Write a file there, which only its owner can read and run."""

    @abstractmethod
    def _fetch(self, there: str, local: Path) -> None:
        """Write a file here."""

    def _disconnect(self) -> None:  # noqa: B027 - where nothing stays open, there is nothing to do
        """Give up the connection."""

    def _forget(self) -> None:
        """Look again at what lies there, as after the connection was lost."""
        self._there.clear()

    def _made_folder(self) -> str:
        """A folder that nobody else can look into; folders that killed processes left are gone."""
        leftovers = (
            f'find "$base" -maxdepth 1 -name "{_PREFIX}*" -type d -user "$(id -u)" -mtime +0 '
            "-exec rm -rf {} + 2> /dev/null"
        )
        made = self._asked(
            f'base={self._parent}; {leftovers}; umask 077; mkdir -p "$base/{_PREFIX}{self._token}" '
            f'&& cd "$base/{_PREFIX}{self._token}" && pwd'
        ).strip()
        if not made.startswith("/") or any(c.isspace() for c in made):
            raise DeviceError(f"{self.name}: the folder {made!r} for temporary files there cannot "
                              "be used; name one without spaces in TMPDIR there")  # fmt: skip
        return made

    def _has(self, there: str, digest: str) -> bool:
        told = self._shell(f"sha256sum {there} 2> /dev/null", _SHORT_S)
        return told.stdout.split()[:1] == [digest]

    def _sent(self, local: Path, there: str, digest: str) -> None:
        """Write a file whole or not at all: under another name, which is changed when it is right.
        """
        new = f"{there}.new"
        # The machine may have been started anew since, with all of these files gone.
        self._asked(f"umask 077; mkdir -p {self.folder}")
        try:
            self._send(local, new)
            if not self._has(new, digest):
                raise OSError(errno.EIO, "it arrived damaged, or there is no sha256sum there")
            self._asked(f"chmod 700 {new} && mv -f {new} {there}")
        except OSError:
            with suppress(OSError, DeviceError):
                self._shell(f"rm -f {new}", _SHORT_S)
            raise

    def _make_room(self, size: int) -> None:
        """Remove what was used longest ago, where there would be too much."""
        while len(self._there) >= _IN_USE and sum(self._there.values()) + size > _ROOM:
            name, _ = self._there.popitem(last=False)
            self._asked(f"rm -f {self.folder}/{name}")

    def _asked(self, script: str) -> str:
        """What a script says there; OSError if it fails."""
        done = self._shell(script, _SHORT_S)
        if done.code:
            raise failed(done)
        return done.stdout

    def _stop(self, running: str) -> None:
        """End the program that runs there, and what it started: it has a process group of its own.
        """
        with suppress(OSError, DeviceError):
            self._shell(f"p=$(cat {running}) && kill -9 -$p $p", _SHORT_S)

    def _digest(self, local: Path) -> tuple[str, int]:
        info = os.stat(local)
        key = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
        if key not in self._digests:
            self._digests[key] = file_digest(local)
        return self._digests[key], info.st_size


def failed(done: Completed) -> OSError:
    """The error that a script tells of."""
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    if any("no space left" in line.lower() for line in said):
        return OSError(errno.ENOSPC, "no space left there; free some")
    return OSError(errno.EIO, said[-1] if said else f"exit code {done.code}")
