"""What a run takes from another one of the same teacher and data: all that was trained and timed.

A second budget needs no second teacher, no second supernet, and no second training of the students
that both propose.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from canao.artifact.files import write_whole
from canao.artifact.reading import read_bytes
from canao.errors import InputError
from canao.search.options import LEFT_OUT
from canao.search.study.run_file import ADDED, BEFORE, locked, read_run

TRAINED, TIMED = "train", "latency.json"  # in a run directory
FROM = "from"  # the fact that names the run where another one trains
# Facts of a search that have no part in what is trained: budgets, and how candidates are found.
_OWN = frozenset((
    "budget_ms", "size_mb", "memory_mb", "min_accuracy", "percentile", "controller", "seed",
    "search_samples", "device", "target", "teacher_arch", "space", LEFT_OUT, FROM,
))  # fmt: skip
_OWN_MEASURE = "measure."
_MOST = 1 << 26  # bytes of a latency table


@contextmanager
def sharing(run_dir: Path, other: Path | None) -> Iterator[Path | None]:
    """Lock the run whose training another one in `run_dir` uses, if there is one, and say which it
    is: the other run, or that where the other one trains itself. InputError if it is none, is the
    run itself, or is running."""
    if other is None:
        yield None
        return
    # Both are read before anything is written there.
    place = Path(str(read_run(other).get(FROM) or other)).resolve()
    read_run(place)
    if run_dir.resolve() in (other.resolve(), place):
        raise InputError(f"--from {other}: is the run itself, or uses its training; leave it out")
    with locked(place):
        yield place


def trained_in(run_dir: Path, other: Path | None, facts: Mapping[str, Any]) -> Path:
    """Where a run of these facts trains: in its own directory, or in that of the other run, which
    must have been started with the same teacher, data and options of training. InputError names
    what differs.
    """
    if other is None:
        return run_dir / TRAINED
    held = read_run(other)
    known = BEFORE | held
    names = (known.keys() | facts.keys()) - _OWN - (ADDED - held.keys())
    differing = [
        f"{name} was {known.get(name)!r}, now {facts.get(name)!r}"
        for name in sorted(names)
        if not name.startswith(_OWN_MEASURE) and known.get(name) != facts.get(name)
    ]
    if differing:
        raise InputError(
            f"--from {other}: was trained with other options ({'; '.join(differing)}); give the "
            "same, or leave it out"
        )
    return other / TRAINED


def take_times(run_dir: Path, other: Path | None) -> None:
    """Copy the kernel times of another run where this one has none."""
    if other is None or (run_dir / TIMED).exists() or not (other / TIMED).is_file():
        return
    times = read_bytes(other / TIMED, limit=_MOST, remedy="remove it")
    write_whole(run_dir / TIMED, times)
