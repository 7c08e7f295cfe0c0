"""What else ran on a machine while the benchmark took its samples, from its two readings of the
scheduler's statistics (`runtime/bench_others.h`).

Of a core, others took the time in which it was busy, less that of the library's own threads. The
kernel counts busy time in ticks, so this is blind to the last two of them. It is exact where a
thread of the library is alone on a core: how long it waited to run is counted in nanoseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from canao.artifact.measured import Others

# Lines of the benchmark's report, by their first word.
Rows = Mapping[str, Sequence[Sequence[str]]]

_IDLE = (3, 4)  # columns of a core: idle, and waiting for a disk
_BLIND_TICKS = 2  # one at each reading
_DIGITS = 4


@dataclass(frozen=True, slots=True)
class _Thread:
    core: int
    ran: int
    waited: int


@dataclass(frozen=True, slots=True)
class _Reading:
    """Nanoseconds so far: of the clock, that each core was busy, of each thread of the library."""

    at: int
    tick: int
    busy: Mapping[int, int]
    threads: Mapping[int, _Thread]


def others_of(rows: Rows, pinned: Sequence[int], allowed: Sequence[int]) -> Others | None:
    """What others took, of a report; None where the system does not tell.

    pinned    the cores that the threads were pinned to, if they were
    allowed   the cores that they may use
    """
    try:
        begin, end = _reading(rows, "begin"), _reading(rows, "end")
    except (KeyError, ValueError, IndexError, ZeroDivisionError):
        return None
    used = tuple(dict.fromkeys(pinned or allowed))
    if not used or not begin.threads or any(core not in begin.busy or core not in end.busy
                                            for core in used):  # fmt: skip
        return None
    wall = max(1, end.at - begin.at)
    taken = _taken(begin, end, used if pinned else ())
    if not pinned:  # threads move about: what they ran is known of all these cores together
        mean = (sum(taken[core] for core in used) - _ran(begin, end)) // len(used)
        taken |= dict.fromkeys(used, mean)
    blind = _BLIND_TICKS * end.tick
    alone = len(pinned) == len(set(pinned)) > 0
    counted = [core for core in taken if core in allowed or core in used]
    return Others(
        cores={core: _share(taken[core] - blind, wall) for core in counted},
        used=used,
        waited=_share(_waited(begin, end) if alone else 0, wall),
    )


def _taken(begin: _Reading, end: _Reading, pinned: Sequence[int]) -> dict[int, int]:
    """How long each core was busy without the threads that are pinned to it."""
    taken = {core: end.busy[core] - begin.busy[core] for core in end.busy if core in begin.busy}
    for id, thread in end.threads.items():
        if thread.core in pinned:
            taken[thread.core] -= thread.ran - _before(begin, id).ran
    return taken


def _ran(begin: _Reading, end: _Reading) -> int:
    return sum(thread.ran - _before(begin, id).ran for id, thread in end.threads.items())


def _waited(begin: _Reading, end: _Reading) -> int:
    """The longest that a thread waited."""
    return max(thread.waited - _before(begin, id).waited for id, thread in end.threads.items())


def _before(begin: _Reading, id: int) -> _Thread:
    return begin.threads.get(id, _Thread(-1, 0, 0))


def _share(ns: int, wall: int) -> float:
    return round(min(1.0, max(0.0, ns / wall)), _DIGITS)


def _reading(rows: Rows, when: str) -> _Reading:
    (at,) = _lines(rows, "at", when)
    tick = 1_000_000_000 // at[1]
    cores = {core: ticks for core, *ticks in _lines(rows, "core", when)}
    threads = {id: _Thread(*facts) for id, *facts in _lines(rows, "thread", when)}
    busy = {core: (sum(ticks) - sum(ticks[i] for i in _IDLE)) * tick
            for core, ticks in cores.items()}  # fmt: skip
    return _Reading(at[0], tick, busy, threads)


def _lines(rows: Rows, kind: str, when: str) -> list[list[int]]:
    return [[int(word) for word in line[1:]] for line in rows[kind] if line[0] == when]
