"""The driver's side: workers started, asked, stopped and woken."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from canao.errors import DeviceError, InputError
from peers.catalog import ENVIRONMENTS, HERE, OWN
from peers.protocol import Job

ANSWER_S = 1800  # a worker silent for so long is ended
OFFLINE = {"HF_HUBOFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}


def python_of(environment: str) -> str:
    """The interpreter of an engine's environment."""
    if environment == OWN:
        return sys.executable
    path = ENVIRONMENTS / environment / "bin" / "python"
    if not path.is_file():
        raise InputError(f"environment '{environment}' is not set up; run: make bench-setup")
    return str(path)


def run_tool(environment: str, module: str, arguments: Sequence[str], log: Path) -> None:
    """Run a module of this package to its end; DeviceError with its last words."""
    command = [python_of(environment), "-m", f"peers.{module}", *arguments]
    with open(log, "w", encoding="utf-8") as stream:
        done = subprocess.run(
            command, cwd=HERE.parent, stdout=stream, stderr=stream, env=os.environ | OFFLINE
        )
    if done.returncode:
        raise DeviceError(last_words(log))


def last_words(log: Path) -> str:
    """The last line of a log, which is where a traceback has its message."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].strip()[:300] if lines else "it said nothing"


def without_folders(text: str) -> str:
    """A message without the folders of the machine that it came from."""
    return re.sub(r"(?:/[\w.+-]+)+/([\w.+-]+)", r"\1", text)


@contextmanager
def on_cores(cores: Sequence[int]) -> Iterator[None]:
    """What is started inside runs on these cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Worker:
    """A worker process. It is stopped (SIGSTOP) whenever it is not asked anything.

    Thread pools of idle engines would spin on the cores that another is measured on; stopping
    treats all alike, where settings against spinning would slow some down. DeviceError with the
    worker's last words when it fails.
    """

    def __init__(self, module: str, environment: str, job: Job, log: Path) -> None:
        self.log = log
        threads = str(job.threads)
        reading, writing = os.pipe()
        self.replies = os.fdopen(reading, encoding="utf-8")
        command = [python_of(environment), "-m", f"peers.{module}", str(writing)]
        with on_cores(job.cores), open(log, "w", encoding="utf-8") as stream:
            self.process = subprocess.Popen(
                command, cwd=HERE.parent, text=True, pass_fds=(writing,),
                stdin=subprocess.PIPE, stdout=stream, stderr=stream,
                env=os.environ | OFFLINE | {
                    "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads,
                    "TORCHINDUCTOR_COMPILE_THREADS": "1",
                },
            )  # fmt: skip
        os.close(writing)
        try:
            self.versions: dict[str, str] = self.ask({"do": "load", "job": asdict(job)})["versions"]
        except BaseException:
            self.close()
            raise

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The reply to one request; the worker runs meanwhile and is stopped after it."""
        source = self.process.stdin
        if source is None:
            raise DeviceError("the worker has no standard input")
        timer = threading.Timer(ANSWER_S, self.process.kill)
        timer.start()
        self.process.send_signal(signal.SIGCONT)
        try:
            source.write(json.dumps(request) + "\n")
            source.flush()
            line = self.replies.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            raise DeviceError(self._end())
        self.process.send_signal(signal.SIGSTOP)
        return dict(json.loads(line))

    def _end(self) -> str:
        """Why the process is gone."""
        code = self.process.wait()
        if code >= 0:
            return last_words(self.log)
        late = f", silent for {ANSWER_S} s or out of memory" if code == -signal.SIGKILL else ""
        return f"the worker ended with signal {-code}{late}"

    def close(self) -> None:
        """End the process, whatever its state."""
        self.process.kill()
        self.process.wait()
        self.replies.close()
        if self.process.stdin is not None:
            # What was not sent, because the worker was gone, is no loss now.
            with suppress(BrokenPipeError):
                self.process.stdin.close()
