"""How many threads PyTorch computes with on a CPU, as many as others leave cores for.

All threads of PyTorch wait for the slowest at the end of each operation. So one thread that shares
its core with another program makes all of them as slow, and a single thread would be faster.
Therefore the number of threads follows the cores that are free, looked at every few seconds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from canao.machine import local_machine

_EVERY_S = 3.0  # between two looks
_SPARE = 0.35  # of a core: what others may take of one on which a thread still runs
_STAT = Path("/proc/stat")
_IDLE = (3, 4)  # columns of a core: idle, and waiting for a disk
_GUESTS = 8  # columns from here on are counted in earlier ones as well


@dataclass(frozen=True, slots=True)
class Reading:
    """Seconds so far: of the clock, that cores were busy in all, and of this process."""

    at: float
    busy: float
    own: float


def read(cores: Collection[int]) -> Reading | None:
    """A reading of these cores; None where the system does not tell."""
    try:
        lines = _STAT.read_text(encoding="ascii").splitlines()
        tick = 1.0 / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return None
    busy, seen = 0.0, 0
    for line in lines:
        name, *words = line.split()
        if name.startswith("cpu") and name[3:].isdecimal() and int(name[3:]) in cores:
            ticks = [int(word) for word in words[:_GUESTS]]
            busy += tick * (sum(ticks) - sum(ticks[i] for i in _IDLE if i < len(ticks)))
            seen += 1
    return Reading(time.monotonic(), busy, time.process_time()) if seen == len(cores) else None


class FreeCores:
    """Looks how many of the cores that this process may use others leave free."""

    def __init__(
        self, cores: Collection[int], most: int,
        reading: Callable[[Collection[int]], Reading | None] = read,
    ) -> None:  # fmt: skip
        """`most` threads are taken at most, however many cores are free."""
        self._cores, self._most, self._reading = cores, most, reading
        self._last = reading(cores)
        self.threads = max(1, min(most, len(cores)))
        self._more = False  # whether the last look would have allowed more threads

    def look(self) -> int:
        """How many threads to compute with, from now on. Fewer at once; more only if two looks in a
        row say so, since others may pause."""
        if self._last is None or time.monotonic() - self._last.at < _EVERY_S:
            return self.threads
        now, before = self._reading(self._cores), self._last
        if now is None:
            return self.threads
        self._last = now
        wall = max(now.at - before.at, 1e-3)
        others = max(0.0, (now.busy - before.busy) - (now.own - before.own)) / wall
        free = max(1, min(self._most, int(len(self._cores) - others + _SPARE)))
        if free < self.threads or (free > self.threads and self._more):
            self.threads, self._more = free, False
        else:
            self._more = free > self.threads
        return self.threads


_watching: FreeCores | None = None


class Way(Protocol):
    """What training makes way for, such as a measurement of another process on the machine."""

    def working(self) -> AbstractContextManager[None]:
        """A block in which it computes; waits until it may."""
        ...

    def pause(self) -> None:
        """Wait in such a block while it may not compute."""
        ...


_way: Way | None = None


def adapt() -> None:
    """Between two steps of training. Inside of `making_way`: wait where it has to. Inside of
    `threads(None)`: take as many threads as there are free cores. Else nothing."""
    if _way is not None:
        _way.pause()
    if _watching is not None:
        wanted = _watching.look()
        if wanted != torch.get_num_threads():
            torch.set_num_threads(wanted)


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Let PyTorch compute with `count` threads inside the block. None: with as many as it is set to
    and, wherever `adapt` is called, with fewer while others use the cores. Inside of
    `making_way` it waits where it has to."""
    global _watching
    before, watched = torch.get_num_threads(), _watching
    torch.set_num_threads(count or before)
    cores = local_machine().cores if count is None and before > 1 else ()
    _watching = FreeCores(cores, before) if cores else None
    try:
        with nullcontext() if _way is None else _way.working():
            yield
    finally:
        torch.set_num_threads(before)
        _watching = watched


@contextmanager
def making_way(way: Way) -> Iterator[None]:
    """Inside the block, whatever computes makes way."""
    global _way
    before, _way = _way, way
    try:
        yield
    finally:
        _way = before
