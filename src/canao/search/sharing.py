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
from canao.search.journal import BEFORE, locked, read_run

TRAINED, TIMED = "train", "latency.json"  # in a run directory
# Facts of a search that have no part in what is trained: budgets, and how candidates are found.
_OWN = frozenset((
    "budget_ms", "size_mb", "memory_mb", "percentile", "controller", "seed", "search_samples",
    "device", "target", "teacher_arch", "space",
))  # fmt: skip
_OWN_MEASURE = "measure."
_MOST = 1 << 26  # bytes of a latency table


@contextmanager
def sharing(other: Path | None) -> Iterator[None]:
    """Lock the run whose training another one uses, if there is one; InputError if it is none, or
    is running."""
    if other is None:
        yield
        return
    read_run(other)  # before anything is written there
    with locked(other):
        yield


def trained_in(run_dir: Path, other: Path | None, facts: Mapping[str, Any]) -> Path:
    """Where a run of these facts trains: in its own directory, or in that of the other run, which
    must have been started with the same teacher, data and options of training. Kernel times of the
    other run are copied where this one has none. InputError names what differs.
    """
    if other is None:
        return run_dir / TRAINED
    if other.resolve() == run_dir.resolve():
        raise InputError(f"--from {other}: is the run itself; leave it out")
    held = BEFORE | read_run(other)
    differing = [
        f"{name} was {held.get(name)!r}, now {value!r}"
        for name, value in sorted(facts.items())
        if not _own(name) and held.get(name) != value
    ]
    if differing:
        raise InputError(
            f"--from {other}: was trained with other options ({'; '.join(differing)}); give the "
            "same, or leave it out"
        )
    times = other / TIMED
    if times.is_file() and not (run_dir / TIMED).exists():
        run_dir.mkdir(parents=True, exist_ok=True)
        write_whole(run_dir / TIMED, read_bytes(times, limit=_MOST, remedy="remove it"))
    return other / TRAINED


def _own(name: str) -> bool:
    return name in _OWN or name.startswith(_OWN_MEASURE)
