"""Whether the cores were busy with the work of others while a figure was taken.

The load average does not say it: it lags, and counts this process's own work. What does is the
time that the cores were busy, less the time of this process and all that it started.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from canao.errors import DeviceError

LIMIT = 0.05  # of the cores' time that others may use
LOOK_S = 1.0  # how long is looked at, before and after a measurement,
LOOKS = 5  # and how often at most, until others are within the limit
STRETCH_S = 30.0  # a measurement counts as busy as its busiest stretch of this length

_IDLE = (3, 4)  # columns of /proc/stat: idle, and waiting for a disk
_COUNTED = 8  # columns up to `steal`; those of guests are in `user` already
_TICK = os.sysconf("SC_CLK_TCK")
_WALKS = 5  # over the processes, at most


@dataclass(frozen=True)
class Clock:
    """Seconds so far: of the wall, of cores that were busy, of them by one tree of processes."""

    wall: float
    busy: float
    own: float

    @staticmethod
    def read(cores: Sequence[int], root: int) -> Clock:
        """DeviceError where the system does not tell."""
        try:
            own = _tree_seconds(root)
            busy = _busy_seconds(Path("/proc/stat").read_text("ascii"), cores)
            return Clock(time.monotonic(), busy, own)
        except (OSError, ValueError, IndexError) as error:
            raise DeviceError(
                f"cannot tell what else runs here ({error!r}): measure on a system with /proc"
            ) from None


def others(begin: Clock, end: Clock, cores: int) -> float:
    """Share of the cores' time between two readings that others used, 0 to 1."""
    spent = (end.busy - begin.busy) - (end.own - begin.own)
    return min(1.0, max(0.0, spent / (cores * max(end.wall - begin.wall, 1e-9))))


def _busy_seconds(text: str, cores: Sequence[int]) -> float:
    """Seconds in which these cores were not idle, time stolen by other guests included."""
    rows = (line.split() for line in text.splitlines() if line.startswith("cpu"))
    ticks = {row[0]: [int(x) for x in row[1 : 1 + _COUNTED]] for row in rows}
    counted = [ticks[f"cpu{core}"] for core in cores if f"cpu{core}" in ticks]
    if len(counted) != len(cores):
        raise ValueError("a core is missing in /proc/stat")
    return sum(sum(row) - sum(row[i] for i in _IDLE) for row in counted) / _TICK


def _tree_seconds(root: int) -> float:
    """CPU seconds of a process, of all that descend from it, and of those that have ended.

    A process that ends during a walk is missed, or counted twice, as its parent inherits its
    time: so walk until the processes stay the same.
    """
    tree = _tree(root)
    for _ in range(_WALKS):
        last, tree = tree, _tree(root)
        if last.keys() == tree.keys():
            break
    return sum(tree.values()) / _TICK


def _tree(root: int) -> dict[int, int]:
    """Ticks of each process of the tree and of those that it has waited for, by its id."""
    spent: dict[int, int] = {}
    children: dict[int, list[int]] = {}
    for pid, words in _processes():
        spent[pid] = sum(map(int, words[11:15]))
        children.setdefault(int(words[1]), []).append(pid)
    found, waiting = {}, [root]
    while waiting:
        pid = waiting.pop()
        found[pid] = spent.get(pid, 0)
        waiting += children.get(pid, [])
    return found


def _processes() -> Iterator[tuple[int, list[str]]]:
    """Each process with the fields of its stat file that follow its name."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                text = Path("/proc", name, "stat").read_text("utf-8", errors="replace")
            except OSError:
                continue  # it has ended
            yield int(name), text.rpartition(")")[2].split()


class Watch:
    """Looks at the cores, then follows them until `close`, which looks at them once more.

    The cores are those that this process may use when the watch begins. Own work is that of
    `root` and what it starts. A look is repeated while it finds others at work, so that a moment of
    it, such as writing to the disk what was just compiled, spoils nothing.
    """

    def __init__(
        self, root: int | None = None, look_s: float = LOOK_S, stretch_s: float = STRETCH_S,
        looks: int = LOOKS,
    ) -> None:  # fmt: skip
        self._cores = sorted(os.sched_getaffinity(0))
        self._root, self._look_s, self._stretch_s = root or os.getpid(), look_s, stretch_s
        self._looks = looks
        self.before = self._look()
        self._stretches: list[float] = []
        self._since = self._read()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def close(self) -> dict[str, float]:
        """Shares of the cores that others used: `before`, `during` (the busiest stretch), `after`,
        and the `limit` that each is held to."""
        self._closed.set()
        self._thread.join()
        last = self._read()
        # What is left over is a stretch of its own only if it is long enough to tell.
        if not self._stretches or last.wall - self._since.wall >= self._look_s:
            self._end_stretch(last)
        shares = {"before": self.before, "during": max(self._stretches), "after": self._look()}
        return {name: round(share, 4) for name, share in shares.items()} | {"limit": LIMIT}

    def _follow(self) -> None:
        while not self._closed.wait(self._stretch_s):
            self._end_stretch(self._read())

    def _end_stretch(self, now: Clock) -> None:
        self._stretches.append(others(self._since, now, len(self._cores)))
        self._since = now

    def _look(self) -> float:
        """The first share within the limit, or else the last."""
        share = 1.0
        for _ in range(self._looks):
            begin = self._read()
            time.sleep(self._look_s)
            share = others(begin, self._read(), len(self._cores))
            if share <= LIMIT:
                break
        return share

    def _read(self) -> Clock:
        return Clock.read(self._cores, self._root)

