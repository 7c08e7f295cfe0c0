"""A transport to another machine, as far as a device can tell: a folder of its own, whose paths
mean nothing elsewhere, and a shell in it that knows nothing of this process."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from canao.device.transports.transport import Completed

# What a command may name besides the folder's files: files that every Linux has.
_ANYWHERE = ("/proc/",)


class EchoTransport:
    """Sends everything back to this machine, by way of a folder and a shell."""

    name = "echo"
    remote = True
    emulated = False
    folder = "."

    def __init__(self, root: Path) -> None:
        self.root = root
        self.commands: list[tuple[str, ...]] = []
        root.mkdir()

    def push(self, local: Path, remote: str) -> str:
        shutil.copy(local, self.root / remote)
        return f"./{remote}"

    def run(self, command: Sequence[str], timeout: float) -> Completed:
        self.commands.append(tuple(command))
        for word in command:
            if word.startswith("/") and not word.startswith(_ANYWHERE):
                raise AssertionError(f"{word} is a path of this machine, not of the other one")
        started = subprocess.Popen(
            ["/bin/sh", "-c", f"{shlex.join(command)}; exit $?"], cwd=self.root, text=True,
            env={"PATH": os.defpath}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        try:
            out, err = started.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            started.communicate()
            raise TimeoutError(command[0]) from None
        return Completed.of_shell(started.returncode, out, err)

    def pull(self, remote: str, local: Path) -> None:
        if Path(remote).is_absolute():
            raise AssertionError(f"{remote} is a path of this machine, not of the other one")
        shutil.copyfile(self.root / remote, local)

    def close(self) -> None:
        shutil.rmtree(self.root)
