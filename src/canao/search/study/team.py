"""The processes that work on one search: what they know of it and of each other, by its study.

In the database of `--study`, a study that bears the search's name holds no trials, but

    search       what a worker must know to do the same: facts, place, options, contents (`Record`)
    phase        how far the search is
    teacher      what says that two fine-tuned teachers are the same bits
    beat:ID      of each process a number that grows every few seconds, and who it is

A process is lost whose number did not grow for half a minute, by the clock of who looks: no clocks
of two machines are compared, and while the database is away nobody grows old. What a lost process
was judging is judged by another. Nothing of this is trusted.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import optuna
from optuna.study import StudyDirection

from canao.artifact.files import write_whole
from canao.artifact.reading import fits, read_text
from canao.defaults import silent
from canao.errors import InputError
from canao.search.latency.place import Place
from canao.search.study.patient import REACH_S, patient
from canao.search.study.storage import open_shared, quiet, storage_errors
from canao.search.study.url import StudyUrl

FORMAT = 1
PREPARING, SEARCHING, FINISHING, ENDED = "preparing", "searching", "finishing", "ended"
_SEARCH, _PHASE, _TEACHER, _BEAT = "search", "phase", "teacher", "beat:"
_ID_FILE = ".process"  # in a run directory: who works there, also after a kill
_GONE = -1  # the number of a process that ended
# Facts that differ where machines do: what is in the files is compared instead.
_PATHS = frozenset((
    "teacher", "teacher_commit", "data", "unlabelled_text", "training.augment_model", "from",
))  # fmt: skip
_MAY_DIFFER = frozenset(("min_accuracy",))


@dataclass(frozen=True, slots=True)
class Waits:
    """Seconds: between two beats, without one until a process is lost, between two looks at trials
    of others, and for which a database that went away is waited for."""

    beat_s: float = 5.0
    lost_s: float = 30.0
    look_s: float = 1.0
    reach_s: float = REACH_S


class Record(msgspec.Struct):
    """What a search says of itself.

    facts, place   as in its run.json
    options        the arguments of `canao.search`, by name, with whole paths
    contents       what says that teacher and data are the same, by what they are called
    work, host, run, id   where it trains, on which machine, in which run directory, and who it is
    left_out       precisions that `--precision auto` left out: see options.LeftOut
    """

    format: int
    facts: dict[str, Any]
    place: dict[str, str]
    options: dict[str, Any]
    contents: dict[str, str]
    work: str
    host: str
    run: str
    id: str
    left_out: list[tuple[str, float, str]] = []


@dataclass(frozen=True, slots=True)
class Offer:
    """Of a Record, what only the caller of a search knows."""

    options: Mapping[str, Any]
    contents: Mapping[str, str]
    work: str


@dataclass(slots=True)
class _Member:
    number: int
    who: str
    unchanged_s: float = 0.0


class Team:
    """A process's part in a search that several work on.

    say   is called with lines: what is wrong with the database, and who comes and goes
    """

    def __init__(
        self, study: StudyUrl, say: Callable[[str], None] = silent, *, new: bool = False,
        waits: Waits = Waits(),
    ) -> None:  # fmt: skip
        """`new`: the search may be new there. InputError for a database that cannot be used, or,
        without `new`, that has no search of that name."""
        self.study, self.say, self.waits = study, say, waits
        self.shown = study.kept
        self.id, self.who = "", f"{socket.gethostname()}, process {os.getpid()}"
        self.hasty = open_shared(study, new=new)  # which does not wait for a database
        self.storage = patient(self.hasty, study.shown, say, waits.reach_s)
        self._head = self._found(new)
        self._members: dict[str, _Member] = {}
        self._looks, self._looked_at, self._strange = 0, time.monotonic(), dict[int, int]()
        self._news: list[str] = []
        self._ended = threading.Event()

    def _found(self, new: bool) -> int:
        name = self.study.name
        with storage_errors(self.shown), quiet():
            try:
                return self.storage.get_study_id_from_name(name)
            except KeyError:
                if not new:
                    raise InputError(
                        f"--study {self.shown}: no search called '{name}'; start it with `canao "
                        "search --study`, or correct the name behind #"
                    ) from None
            with suppress(optuna.exceptions.DuplicatedStudyError):
                return self.storage.create_new_study([StudyDirection.MAXIMIZE], name)
            return self.storage.get_study_id_from_name(name)

    @contextmanager
    def present(self, run_dir: Path) -> Iterator[None]:
        """Inside the block the others see that this process is there. It is known by its run
        directory, which it has for itself."""
        self.id, self._ended = _id_in(run_dir), threading.Event()
        self._beat(0)
        self.look()
        thread = threading.Thread(target=self._beating, name="canao-beat", daemon=True)
        thread.start()
        try:
            with quiet():  # what a database that goes away makes Optuna say is said in one line
                yield
        finally:
            self._ended.set()
            thread.join(2 * self.waits.beat_s)
            with suppress(Exception):  # of a database that is away; then it is lost in a while
                self._beat(_GONE)

    def publish(
        self, facts: Mapping[str, Any], place: Place, offer: Offer, run_dir: Path,
        left_out: Sequence[tuple[str, float, str]] = (),
    ) -> None:  # fmt: skip
        """Say what is searched, before anybody can join; InputError if the name is that of a search
        in another run directory."""
        held = self._record()
        if held is not None and held.id != self.id and not self._follows(held.id):
            raise InputError(
                f"--study {self.shown}: is of the search in {held.run} on {held.host}; join it "
                "with `canao worker --study`, go on there, or give another name behind #"
            )
        row = Record(
            FORMAT, dict(facts), place.to_dict(), dict(offer.options), dict(offer.contents),
            offer.work, socket.gethostname(), str(run_dir.resolve()), self.id, list(left_out),
        )  # fmt: skip
        self.set_phase(PREPARING)
        self._write(_SEARCH, json.loads(json.dumps(msgspec.to_builtins(row))))

    def _follows(self, id: str) -> bool:
        """Whether this process works in the run directory of another one, which is there no more:
        on a machine that has another name by now."""
        if id.split()[0] != self.id.split()[0]:
            return False
        self.say(f"waiting whether {self.name_of(id)} is still there")
        number = self._members[id].number if id in self._members else _GONE
        while not self._gone(id):
            self.wait()
            if self._members[id].number not in (number, _GONE):
                return False
        return True

    @property
    def record(self) -> Record:
        """What the search says of itself; InputError if nobody has begun one, or it is damaged."""
        held = self._record()
        if held is None:
            raise InputError(
                f"--study {self.shown}: no search has begun; start it with `canao search --study`"
            )
        return held

    def require_same(
        self, facts: Mapping[str, Any], place: Place, contents: Mapping[str, str]
    ) -> None:
        """InputError that names what differs between this process and the search."""
        held = self.record
        told = place.instead_of(held.place)
        if told:
            raise InputError(
                f"--study {self.shown}: this worker would measure {told}, and its times could not "
                f"be compared with those of the search; start it on a machine as {held.host}, with "
                "the same version of CANAO"
            )
        for what, digest in contents.items():
            if held.contents.get(what) != digest:
                raise InputError(
                    f"--study {self.shown}: {what} of this worker is not that of the search on "
                    f"{held.host}; give the same"
                )
        asked = json.loads(json.dumps(dict(facts)))
        differing = [
            f"{name} is {held.facts.get(name)!r} there, {asked.get(name)!r} here"
            for name in sorted((held.facts.keys() | asked.keys()) - _PATHS - _MAY_DIFFER)
            if held.facts.get(name) != asked.get(name)
        ]
        if differing:
            raise InputError(f"--study {self.shown}: the search has other options "
                             f"({'; '.join(differing)}); start the worker with the same version "
                             "of CANAO")  # fmt: skip

    @property
    def phase(self) -> str:
        return str(self._attributes().get(_PHASE, PREPARING))

    def set_phase(self, phase: str) -> None:
        self._write(_PHASE, phase)

    def open_to_all(self, teacher: str) -> None:
        """Let workers begin, who need the same teacher."""
        self._write(_TEACHER, teacher)
        self.set_phase(SEARCHING)

    @property
    def teacher(self) -> str:
        return str(self._attributes().get(_TEACHER, ""))

    @property
    def led(self) -> bool:
        """Whether the process that began the search is there."""
        return not self._gone(self.record.id)

    def lost(self, owner: object, trial: int) -> bool:
        """Whether nobody judges a trial any more that is under way; `owner` is who began to."""
        if owner == self.id:
            return False
        if isinstance(owner, str) and owner in self._members:
            return self._gone(owner)
        # It was begun a moment ago, or by a process that was lost in that moment.
        since = self._looks - self._strange.setdefault(trial, self._looks)
        return since * self.waits.beat_s >= self.waits.lost_s

    def name_of(self, owner: object) -> str:
        held = self._members.get(owner) if isinstance(owner, str) else None
        return "an unknown process" if held is None else held.who

    def news(self) -> list[str]:
        """Who came and went since this was asked last, a line each."""
        told, self._news = self._news, []
        return told

    def wait(self) -> None:
        """A pause before trials of others are looked at again."""
        time.sleep(self.waits.look_s)

    def look(self) -> None:
        """See who is there."""
        found = self.hasty.get_study_user_attrs(self._head)
        now, beats = time.monotonic(), {k: v for k, v in found.items() if k.startswith(_BEAT)}
        # While nothing could be seen, nobody grows old.
        passed = min(now - self._looked_at, 2 * self.waits.beat_s)
        self._looked_at, self._looks = now, self._looks + 1
        for name, row in beats.items():
            if fits(row, tuple[int, str]) is None:
                self._saw(name.removeprefix(_BEAT), int(row[0]), str(row[1])[:100], passed)

    def _saw(self, id: str, number: int, who: str, passed: float) -> None:
        held = self._members.get(id)
        if held is None or held.number != number:
            was_there = held is not None and not self._gone(id)
            self._members[id] = _Member(number, who)
            if number == _GONE and was_there:
                self._tell(id, f"{who} works no longer on the search")
            elif number != _GONE and not was_there:
                self._tell(id, f"{who} works on the search")
            return
        before = self._gone(id)
        held.unchanged_s += passed
        if self._gone(id) and not before:
            self._tell(id, f"{who} has not been heard of for {held.unchanged_s:.0f} s")

    def _tell(self, id: str, line: str) -> None:
        if id != self.id and self._looks > 1:
            self._news.append(line)

    def _gone(self, id: str) -> bool:
        held = self._members.get(id)
        return held is None or held.number == _GONE or held.unchanged_s >= self.waits.lost_s

    def _beating(self) -> None:
        number = 1
        while not self._ended.wait(self.waits.beat_s):
            with suppress(Exception):  # the database is away: whoever needs it now says so
                self._beat(number)
                self.look()
            number += 1

    def _beat(self, number: int) -> None:
        self.hasty.set_study_user_attr(self._head, f"{_BEAT}{self.id}", [number, self.who])

    def _record(self) -> Record | None:
        row = self._attributes().get(_SEARCH)
        if row is None:
            return None
        held = row.get("format") if isinstance(row, dict) else None
        if held != FORMAT:
            raise InputError(f"--study {self.shown}: is of format {held!r:.40}, this CANAO reads "
                             f"{FORMAT}; use the same version for all")  # fmt: skip
        wrong = fits(row, Record)
        if wrong is not None:
            raise InputError(f"--study {self.shown}: what it says of the search {wrong}; name "
                             "another search behind #")  # fmt: skip
        return msgspec.convert(row, Record)

    def _attributes(self) -> dict[str, Any]:
        with storage_errors(self.shown):
            return self.storage.get_study_user_attrs(self._head)

    def _write(self, name: str, value: Any) -> None:
        with storage_errors(self.shown):
            self.storage.set_study_user_attr(self._head, name, value)


def _id_in(run_dir: Path) -> str:
    """Who works in a run directory: the same after a kill, another one on another machine."""
    path = run_dir / _ID_FILE
    if not path.is_file():
        write_whole(path, secrets.token_hex(8))
    held = read_text(path, limit=64, remedy="remove it")
    return f"{held.strip()} {socket.gethostname()}"
