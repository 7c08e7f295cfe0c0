"""run.json: which search a run directory belongs to, and where it was measured last.

Only one process at a time may have the directory (`locked`), and a search with other options is
refused (`claim`). The file is not trusted: whatever is wrong with it is an InputError of one line.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec

from canao.artifact.files import write_whole
from canao.artifact.reading import fits, read_json
from canao.artifact.students import STUDENTS_FILE
from canao.defaults import PRECISION
from canao.errors import InputError
from canao.search.latency.place import Place
from canao.train.options import LATER

FORMAT = 1
RUN_FILE = "run.json"
STUDY_FILE = "study.db"
OTHER_RUN = "choose another run directory"

_OF_PLACE = {"target"}  # facts that may change: timings are kept apart by place
_MAY_CHANGE = {"min_accuracy"}  # facts that are there for reports only
ADDED = {"columns"}  # facts that runs of earlier versions do not have
# What those runs did where they do not say it.
BEFORE = {"precision": PRECISION, "training.quantized_epochs": str(None),
           **{f"training.{name}": str(value) for name, value in LATER.items()},
           "size_mb": None, "memory_mb": None, "min_accuracy": None}  # fmt: skip


class _Facts(msgspec.Struct):
    """Of the facts of a run, those that a report needs."""

    budget_ms: Annotated[float, msgspec.Meta(gt=0)]
    percentile: Annotated[float, msgspec.Meta(gt=0, le=100)]
    device: str
    controller: str
    size_mb: float | None = None
    memory_mb: float | None = None
    min_accuracy: float | None = None
    precision: str = PRECISION
    left_out: list[tuple[str, float, str]] = []


class RunFile(msgspec.Struct):
    """What run.json holds.

    facts   options that may not change when the run is resumed
    place   where it was measured last; None for runs of versions that did not say so
    data    how the data were understood, a line each
    study   where its trials are, as --study has it without a password; None: in the directory
    """

    format: int
    facts: dict[str, Any]
    place: dict[str, str] | None = None
    data: tuple[str, ...] = ()
    study: str | None = None


class BusyError(InputError):
    """Another process works in the run directory."""


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Lock the run directory, created if missing; InputError if another process holds the lock."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        # Without O_NONBLOCK a pipe of that name would hang.
        flags = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK
        handle = os.open(run_dir / ".lock", flags, 0o644)
    except OSError as error:
        raise InputError(f"{run_dir}: cannot be written ({error.strerror}); make it writable, or "
                         f"{OTHER_RUN}") from None  # fmt: skip
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise BusyError(f"{run_dir}: another search is running in it; wait or choose another "
                        "run directory") from None  # fmt: skip
    finally:
        os.close(handle)


def claim(
    run_dir: Path, facts: Mapping[str, Any], place: Place, data: Sequence[str] = (),
    study: str | None = None,
) -> str:  # fmt: skip
    """Write run.json if there is none; InputError if the directory belongs to a different search,
    or its trials are not in `study`.

    What comes back says in words how the place differs from that of the search so far; '' if it
    does not, or if the search is new. Where it differs, `settle` writes the new place.
    """
    path = run_dir / RUN_FILE
    if not os.path.lexists(path):
        if os.path.lexists(run_dir / STUDY_FILE):
            raise InputError(f"{run_dir}: has {STUDY_FILE} but no {RUN_FILE}; {OTHER_RUN}")
        settle(run_dir, facts, place, data, study)
        return ""
    held = read_run_file(run_dir)
    _require_study(run_dir, held.study, study)
    # Compared in JSON form, as the file holds it.
    asked, before = json.loads(json.dumps(dict(facts))), BEFORE | held.facts
    compared = (before.keys() | asked.keys()) - _OF_PLACE - (ADDED - before.keys())
    changed = {name for name in compared if before.get(name) != asked.get(name)}
    differing = [
        f"{name} was {before.get(name)!r}, now {asked.get(name)!r}"
        for name in sorted(changed - _MAY_CHANGE)
    ]
    if differing:
        raise InputError(f"{run_dir}: was started with other options ({'; '.join(differing)}); "
                         "give the same options or another run directory")  # fmt: skip
    moved = place.instead_of(held.place)
    if (changed or held.study != study) and not moved:
        settle(run_dir, facts, place, data, study)
    return moved


def _require_study(run_dir: Path, held: str | None, study: str | None) -> None:
    """InputError where a run would go on without its trials. A database may have several addresses,
    as those of its proxies."""
    if held is not None and study is None:
        raise InputError(f"{run_dir}: its trials are in {held}; give --study {held}, or "
                         f"{OTHER_RUN}")  # fmt: skip
    if held is None and study is not None:
        raise InputError(f"{run_dir}: its trials are in {STUDY_FILE} there; leave out --study, or "
                         f"{OTHER_RUN}")  # fmt: skip


def settle(
    run_dir: Path, facts: Mapping[str, Any], place: Place, data: Sequence[str] = (),
    study: str | None = None,
) -> None:  # fmt: skip
    """Write run.json: the run is at `place` from now on."""
    row = {"format": FORMAT, "facts": dict(facts), "place": place.to_dict(), "data": list(data)}
    row |= {} if study is None else {"study": study}
    write_whole(run_dir / RUN_FILE, json.dumps(row, indent=1) + "\n")


def turn(run_dir: Path, changed: Mapping[str, Any], gone: Collection[str] = ()) -> None:
    """Write other facts into run.json, and none of those in `gone`: the run goes on with them."""
    with locked(run_dir):
        held = read_run_file(run_dir)
        facts = {k: v for k, v in held.facts.items() if k not in gone} | dict(changed)
        row = msgspec.to_builtins(msgspec.structs.replace(held, facts=facts))
        write_whole(run_dir / RUN_FILE, json.dumps(row, indent=1) + "\n")


def read_run_file(run_dir: Path) -> RunFile:
    """What run.json holds; InputError if the directory has none, or it is damaged."""
    path = run_dir / RUN_FILE
    if os.path.lexists(run_dir / STUDENTS_FILE) and not os.path.lexists(path):
        raise InputError(f"{run_dir}: is of several budgets; give one of the directories in it")
    if not os.path.lexists(path):
        raise InputError(f"{run_dir}: no {RUN_FILE}; give a directory written by `canao search`")
    remedy = f"restore it, or {OTHER_RUN}"
    held = read_json(path, remedy=remedy)
    if held.get("format") != FORMAT:
        raise InputError(f"{path}: format {held.get('format')!r:.40}, this CANAO reads {FORMAT}; "
                         f"{remedy}")  # fmt: skip
    wrong = fits(held, RunFile) or fits(held["facts"], _Facts)
    if wrong is not None:
        raise InputError(f"{path}: {wrong}; {remedy}")
    return msgspec.convert(held, RunFile)


def read_run(run_dir: Path) -> dict[str, Any]:
    """The facts of a run; InputError if the directory holds none."""
    return read_run_file(run_dir).facts


def read_place(run_dir: Path) -> dict[str, str] | None:
    """Where a run was measured last; None for runs of versions that did not say so."""
    return read_run_file(run_dir).place
