"""A search or a worker of formulas in a process of its own, to be watched and killed.

Each event is a line on standard output; the last one says how it ended.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from canao.device.lease import Lease, Leased
from tests.search.databases import until
from tests.search.landscape import (
    FormulaTrainer,
    compile_by_formula,
    device,
    kernels_by_formula,
    options,
)

WAITS = {"beat_s": 0.2, "lost_s": 3.0, "look_s": 0.05, "reach_s": 120.0}
CONTENTS = {"the teacher": "one", "the text": "one"}


@dataclass
class SlowTrainer(FormulaTrainer):
    """Takes a while for each proxy score, from the second on until a file `hold` is gone, and has
    something in common with other processes."""

    seconds: float = 0.0
    hold: str = ""

    def __post_init__(self) -> None:
        self.on_proxy = self._sleep

    def _sleep(self, count: int) -> None:
        print("in training", flush=True)
        time.sleep(self.seconds)
        while count > 1 and self.hold and os.path.exists(self.hold):
            time.sleep(0.02)

    def prepare(self) -> None:
        pass

    def shared(self) -> str:
        return "the same"

    def take(self, work: str, shared: str, host: str) -> None:
        assert shared == self.shared() and host


def hold_device(cache: str) -> None:
    """Hold the device, as who measures and does not end."""
    os.environ["CANAO_CACHE"] = cache
    with Lease("null").alone():
        print("held", flush=True)
        time.sleep(600)


def run(
    role: str, study: str, run_dir: str, seconds: float = 0.2, hold: str = "", cache: str = "",
    **more: Any,
) -> str:
    """A search's outcome, or how many candidates a worker judged; prints what happens."""
    from canao.search.loop import Shared, run_search, run_worker
    from canao.search.study.team import Offer, Team, Waits
    from canao.search.study.url import parse_study

    def say(line: str) -> None:
        print(line, flush=True)

    waits, contents = Waits(**WAITS | more.pop("waits", {})), CONTENTS | more.pop("contents", {})
    asked, place = options(Path(run_dir), **more), Path(run_dir)
    trainer = SlowTrainer(place.parent / f"{place.name}-work", seconds=seconds, hold=hold)
    team = Team(parse_study(study), say, new=role == "search", waits=waits)
    shared = Shared(team, Offer({}, contents, str(trainer.work)))
    where: Any = device()
    if cache:
        os.environ["CANAO_CACHE"] = cache
        where = Leased(where, Lease("null", say, told_s=(0.2, 60.0)))
    given = (asked, trainer, compile_by_formula, where, kernels_by_formula)
    if role == "worker":
        place.mkdir(parents=True, exist_ok=True)
        judged = run_worker(*given, lambda event: say(event.text), shared)
        return f"judged {judged}"
    result = run_search(*given, lambda event: say(event.text), shared=shared)
    return f"found {result.arch}"


def main(given: dict[str, Any]) -> None:
    from canao.errors import CanaoError

    # Who runs tests in the background may have it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if given["role"] == "device":
            hold_device(given["cache"])
        print("END", run(**given), flush=True)
    except CanaoError as error:
        print("END error:", error, flush=True)
    except KeyboardInterrupt:
        print("END interrupted", flush=True)


_CONTEXT = multiprocessing.get_context("forkserver")
# Loaded once, and not by each process: that takes seconds.
_CONTEXT.set_forkserver_preload(["tests.search.team_process", "canao.search.loop"])


def logged(log: str, given: dict[str, Any]) -> None:
    """In the process."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(handle, stream)
    main(given)


class Started:
    """Such a process; `lines` is what it said so far."""

    def __init__(self, folder: Path, role: str, study: str, name: str, **more: Any) -> None:
        self.log = folder / f"{name}-{time.monotonic_ns()}.log"
        self.log.touch()
        given = {"role": role, "study": study, "run_dir": str(folder / name), **more}
        self.process = _CONTEXT.Process(target=logged, args=(str(self.log), given), daemon=True)
        self.process.start()

    @property
    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()

    def says(self, text: str, seconds: float = 60.0) -> Started:
        """Wait until a line has that text."""
        until(lambda: self.ended or any(text in line for line in self.lines), text, seconds)
        assert any(text in line for line in self.lines), self.lines
        return self

    @property
    def ended(self) -> bool:
        return not self.process.is_alive()

    @property
    def outcome(self) -> str:
        """How it ended, once it has."""
        until(lambda: self.ended, f"the end of {self.lines[-3:]}")
        assert self.lines and self.lines[-1].startswith("END "), self.lines
        return self.lines[-1].removeprefix("END ")

    def send(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
