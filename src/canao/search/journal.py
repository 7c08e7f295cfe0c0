"""The journal: an Optuna study and one run.json in the run directory.

Everything the loop has to know to go on is read from here, and nothing is kept elsewhere:
a run that was killed is resumed by opening its directory again. Each place that measures has a
study of its own, so that no controller sees timings of two machines.

Neither file is trusted: whatever is wrong with one of them is an InputError of one line.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import stat
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec, TypeVar

import msgspec
import optuna
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from canao.artifact.files import write_whole
from canao.artifact.reading import fits, parse_json, read_json
from canao.defaults import PRECISION
from canao.errors import CanaoError, InputError
from canao.model.arch import Arch
from canao.search.controller import LATENCY, objectives
from canao.search.options import LEFT_OUT, SearchOptions
from canao.search.place import Place
from canao.search.samplers import make_controller
from canao.search.space import Space
from canao.search.table import dominated
from canao.search.trial import Trial, best_first
from canao.train.options import LATER

FORMAT = 1
RUN_FILE = "run.json"
STUDY_FILE = "study.db"

_STUDY = "canao"
_OF_PLACE = {"target"}  # facts that may change: timings are kept apart by place
_MAY_CHANGE = {"min_accuracy"}  # facts that are there for reports only
ADDED = {"columns"}  # facts that runs of earlier versions do not have
# What those runs did where they do not say it.
BEFORE = {"precision": PRECISION, "training.quantized_epochs": str(None),
           **{f"training.{name}": str(value) for name, value in LATER.items()},
           "size_mb": None, "memory_mb": None, "min_accuracy": None}  # fmt: skip
_TRIAL = "trial"  # user attribute: the Trial in JSON form
_ARCH = "arch"  # user attribute: a proposal whose blocks differ, in JSON form
_REPEATS = "repeats"  # user attribute: set where the proposal had been judged before
_FIXED = "fixed_params"  # Optuna's name for the parameters of a trial that was suggested
_MISSES = "misses"
_PATIENCE = 12  # proposals in a row that lead to no training before a neighbour is tried
_OTHER_RUN = "choose another run directory"
# Of Optuna, in the order in which it makes them: a full disk or a kill may leave the first only.
_TABLES = {"studies", "version_info", "study_directions", "study_user_attributes", "trials",
           "alembic_version"}  # fmt: skip
# What SQLite says, and what the user can do about it.
_REMEDIES = {
    "is full": "free some space and give the same command again: it goes on",
    "disk I/O error": "free some space and give the same command again: it goes on",
    "readonly": "make it and its directory writable",
    "unable to open": "make it and its directory writable",
    "is locked": "close the program that has it open, and give the same command again",
}

_P = ParamSpec("_P")
_R = TypeVar("_R")


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
    """

    format: int
    facts: dict[str, Any]
    place: dict[str, str] | None = None
    data: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Proposal:
    """A proposed architecture that waits for its verdict: `Journal.tell` or `Journal.give_up`."""

    arch: Arch
    handle: optuna.Trial


def _stored(
    method: Callable[Concatenate[Journal, _P], _R],
) -> Callable[Concatenate[Journal, _P], _R]:
    """A method of Journal in which an error of the database is an InputError of one line."""

    @wraps(method)
    def guarded(self: Journal, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        with _storage_errors(self.path):
            return method(self, *args, **kwargs)

    return guarded


class Journal:
    """The study of one run: it proposes architectures not judged yet, and records the verdicts."""

    def __init__(self, options: SearchOptions, space: Space, place: Place) -> None:
        self.path = options.run_dir / STUDY_FILE
        self._space = space
        self._budget_ms = options.budget_ms
        self._multi = len(objectives(options.controller)) > 1
        sampler = make_controller(options.controller, space, options.seed)
        with _unreadable(self.path):
            self._storage = _open_storage(self.path)
            own = options.precision if options.left_out else None
            self._study = _open_study(
                options, sampler, self._storage, _study_name(place.to_dict(), own)
            )
            self._check()
            for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                # A kill left this trial open: it is the next to be judged, as it would have been.
                self._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Every judged architecture once, in order."""
        done = self._done()
        return tuple(_record(one, self.path) for one in done if _REPEATS not in one.user_attrs)

    def trained_elsewhere(self) -> tuple[Trial, ...]:
        """Architectures that were trained when the run was at other places, or in a precision that
        was left out, the best first."""
        with _unreadable(self.path):
            names = optuna.get_all_study_names(self._storage)
            others = [name for name in names if name != self._study.study_name]
            trials = [trial for name in others for trial in _judged(self._storage, name, self.path)]
        return best_first({trial.arch: trial for trial in trials}.values())

    @property
    def misses(self) -> tuple[tuple[float, float], ...]:
        """(predicted, measured) ms of finished libraries that missed the budget."""
        return tuple((float(p), float(m)) for p, m in self._attribute(_MISSES, ()))

    @_stored
    def add_miss(self, predicted_ms: float, measured_ms: float) -> None:
        self._study.set_user_attr(_MISSES, [*self.misses, (predicted_ms, measured_ms)])

    def note(self, name: str) -> Any:
        """The value that `set_note` stored under `name`, or None."""
        return self._attribute(f"note:{name}", None)

    @_stored
    def set_note(self, name: str, value: Any) -> None:
        """Store a JSON value with the study."""
        self._study.set_user_attr(f"note:{name}", value)

    @_stored
    def suggest(self, arch: Arch) -> None:
        """Make `arch` the next proposal, after others that were suggested before and still wait.

        The controller is told of one whose blocks differ as of the nearest that it could propose.
        """
        if not self._space.admits(arch):
            raise InputError(f"architecture {arch} is not in the search space ({self._space})")
        params = self._space.encode(self._space.nearest(arch))
        own = {} if self._space.contains(arch) else {_ARCH: arch.to_json()}
        waiting = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        # A run that was killed between suggesting and judging finds its suggestion here.
        if all(trial.system_attrs.get(_FIXED) != params or _own(trial.user_attrs) != own
               for trial in waiting):  # fmt: skip
            self._study.enqueue_trial(params, user_attrs=own)

    @property
    def waiting(self) -> bool:
        """Whether something that was suggested was not proposed yet."""
        with _storage_errors(self.path):
            return bool(self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    @_stored
    def ask(self) -> Proposal | None:
        """The next architecture that was not judged yet; None when the space is exhausted.

        If the controller repeats itself, it is told the known result and asked again. After a
        dozen proposals in a row that were repeated or rejected, the untried architecture nearest
        to the best one is proposed instead, so that a search always makes progress.
        """
        judged = {trial.arch: trial for trial in self.trials}
        while self.waiting or self._proposals_since_training() < _PATIENCE:
            proposal = self._propose()
            if proposal.arch not in judged:
                return proposal
            self.tell(proposal, judged[proposal.arch], repeated=True)
        arch = self._nearest_untried(judged)
        if arch is None:
            return None
        self.suggest(arch)
        return self._propose()

    @_stored
    def tell(self, proposal: Proposal, trial: Trial, *, repeated: bool = False) -> None:
        """Record a verdict and pass it to the controller.

        The controller maximises the accuracy, under the constraint latency/budget - 1 <= 0. A
        candidate without a proxy score counts with the lowest accuracy so far: that attracts no
        further proposals, and does not distort a fitted model as a large penalty would.
        """
        proposal.handle.set_constraint(LATENCY, trial.excess)
        proposal.handle.set_user_attr(_TRIAL, trial.to_json())
        if repeated:
            proposal.handle.set_user_attr(_REPEATS, True)
        accuracy = self._lowest_accuracy() if trial.accuracy is None else trial.accuracy
        latency_ms = (1.0 + trial.excess) * self._budget_ms
        self._study.tell(proposal.handle, [accuracy, latency_ms] if self._multi else accuracy)

    @_stored
    def give_up(self, proposal: Proposal) -> None:
        """Put a proposal back: it is the next one when the run is resumed."""
        self._storage.set_trial_state_values(proposal.handle._trial_id, TrialState.WAITING)

    def _check(self) -> None:
        """InputError if what the study holds of this run is not what was put there."""
        for name, kind in ((_MISSES, list[tuple[float, float]] | None),
                           ("note:teacher_ms", float | None),
                           ("note:blocks", list[tuple[int, str]] | None),
                           ("note:scores", dict[str, float] | None)):  # fmt: skip
            wrong = fits(self._attribute(name, None), kind)
            if wrong is not None:
                raise InputError(f"{self.path}: '{name}' {wrong}; restore it, or {_OTHER_RUN}")
        for done in self._done():
            _record(done, self.path)

    def _attribute(self, name: str, default: Any) -> Any:
        with _storage_errors(self.path):
            return self._study.user_attrs.get(name, default)

    def _propose(self) -> Proposal:
        with _quiet():  # a model that cannot be fitted yet is told of in several lines
            handle = self._study.ask(self._space.distributions())
        held = handle.user_attrs.get(_ARCH)
        if held is None:
            return Proposal(self._space.decode(handle.params), handle)
        place = f"{self.path}: trial {handle.number}"
        arch = Arch.of(parse_json(str(held), place, remedy=_OTHER_RUN), place)
        if not self._space.admits(arch):
            raise InputError(f"{place}: {arch} is not in the search space; {_OTHER_RUN}")
        return Proposal(arch, handle)

    @_stored
    def _done(self) -> list[optuna.trial.FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))

    def _lowest_accuracy(self) -> float:
        return min((t.accuracy for t in self.trials if t.accuracy is not None), default=0.0)

    def _proposals_since_training(self) -> int:
        count = 0
        for done in reversed(self._done()):
            if _REPEATS not in done.user_attrs and _record(done, self.path).trained:
                break
            count += 1
        return count

    def _nearest_untried(self, judged: Mapping[Arch, Trial]) -> Arch | None:
        """Searched breadth-first from the best trained architecture, or from the smallest one."""
        trials = tuple(judged.values())
        best = best_first(trials)
        start = self._space.nearest(best[0].arch) if best else self._space.smallest
        queue, seen = deque([start]), {start}
        while queue:
            arch = queue.popleft()
            if arch not in judged and not dominated(arch, trials):
                return arch
            # Larger neighbours first: they are likely to be more accurate.
            for near in reversed(tuple(self._space.neighbours(arch))):
                if near not in seen:
                    seen.add(near)
                    queue.append(near)
        return None


def _own(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if name == _ARCH}


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
                         f"{_OTHER_RUN}") from None  # fmt: skip
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise InputError(f"{run_dir}: another search is running in it; wait or choose another "
                         "run directory") from None  # fmt: skip
    finally:
        os.close(handle)


def claim(
    run_dir: Path, facts: Mapping[str, Any], place: Place, data: Sequence[str] = ()
) -> str:
    """Write run.json if there is none; InputError if the directory belongs to a different search.

    What comes back says in words how the place differs from that of the search so far; '' if it
    does not, or if the search is new. Where it differs, `settle` writes the new place.
    """
    path = run_dir / RUN_FILE
    if not os.path.lexists(path):
        if os.path.lexists(run_dir / STUDY_FILE):
            raise InputError(f"{run_dir}: has {STUDY_FILE} but no {RUN_FILE}; {_OTHER_RUN}")
        settle(run_dir, facts, place, data)
        return ""
    held = read_run_file(run_dir)
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
    if changed and not moved:
        settle(run_dir, facts, place, data)
    return moved


def settle(
    run_dir: Path, facts: Mapping[str, Any], place: Place, data: Sequence[str] = ()
) -> None:
    """Write run.json: the run is at `place` from now on."""
    row = {"format": FORMAT, "facts": dict(facts), "place": place.to_dict(), "data": list(data)}
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
    if not os.path.lexists(path):
        raise InputError(f"{run_dir}: no {RUN_FILE}; give a directory written by `canao search`")
    remedy = f"restore it, or {_OTHER_RUN}"
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


def read_trials(run_dir: Path) -> tuple[Trial, ...]:
    """The trials journaled so far where the run was last, for reports; nothing is changed."""
    path = run_dir / STUDY_FILE
    held = read_run_file(run_dir)
    own = str(held.facts.get("precision")) if held.facts.get(LEFT_OUT) else None
    name = _study_name(held.place, own)
    with _unreadable(path):
        if not _has_study(path):
            return ()
        storage = _open_storage(path)
        # A run that was moved and killed at once has no study there yet.
        known = name in optuna.get_all_study_names(storage)
        return _judged(storage, name, path) if known else ()


def _judged(storage: RDBStorage, name: str, path: Path) -> tuple[Trial, ...]:
    """Every judged architecture of a study once, in order."""
    study = optuna.load_study(study_name=name, storage=storage)
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return tuple(_record(trial, path) for trial in done if _REPEATS not in trial.user_attrs)


def _study_name(place: Mapping[str, Any] | None, precision: str | None = None) -> str:
    """The study of a place; runs of versions that told of none have one for all. A run that left a
    precision out has one for each `precision` that it went on in."""
    parts = [_STUDY, *map(str, (place or {}).values()), *([precision] if precision else [])]
    return " ".join(parts)


def _has_study(path: Path) -> bool:
    """Whether there is a database of Optuna's; InputError for one that is damaged or another
    program's, into which Optuna would write its tables."""
    try:
        held = path.stat()
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(held.st_mode):
        raise InputError(f"{path}: is not a regular file; remove it, or {_OTHER_RUN}")
    if held.st_size == 0:
        return False
    with closing(sqlite3.connect(path)) as database:
        found = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        state = database.execute("PRAGMA quick_check(1)").fetchone()
    if found and not _TABLES & {name for (name,) in found}:
        raise InputError(f"{path}: is the database of another program, with no study in it; "
                         f"{_OTHER_RUN}")  # fmt: skip
    if state != ("ok",):
        raise sqlite3.DatabaseError(str(state[0]))
    return bool(found)


def _open_storage(path: Path) -> RDBStorage:
    _has_study(path)
    # A path may have characters that have a meaning in a URL, such as a question mark.
    connect = partial(sqlite3.connect, path, check_same_thread=False)
    return RDBStorage("sqlite:///study.db", engine_kwargs={"creator": connect})


def _open_study(
    options: SearchOptions, sampler: optuna.samplers.BaseSampler, storage: RDBStorage, name: str
) -> optuna.Study:
    with _quiet():  # Optuna announces every new study
        return optuna.create_study(
            storage=storage,
            study_name=name,
            sampler=sampler,
            directions=list(objectives(options.controller)),
            load_if_exists=True,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside the block Optuna logs errors only."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    """What a database raises while it is used: it is full, locked, or was damaged meanwhile."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, optuna.exceptions.OptunaError) as error:
        raise _unusable(path, error) from None


@contextmanager
def _unreadable(path: Path) -> Iterator[None]:
    """What reading a study raises, of which nothing is known yet."""
    try:
        yield
    except CanaoError:
        raise
    except Exception as error:  # noqa: BLE001 - Optuna trusts what is in its tables
        raise _unusable(path, error) from None


def _unusable(path: Path, error: Exception) -> InputError:
    told = str(getattr(error, "orig", None) or error) or type(error).__name__
    reason = told.partition("\n")[0][:200]
    remedy = next((r for said, r in _REMEDIES.items() if said in reason), "restore the file, or "
                  f"{_OTHER_RUN}")  # fmt: skip
    return InputError(f"{path}: cannot be used as a study ({reason}); {remedy}")


def _record(done: optuna.trial.FrozenTrial, path: Path) -> Trial:
    held = done.user_attrs.get(_TRIAL)
    place = f"{path}: trial {done.number}"
    return Trial.from_json(held if isinstance(held, str) else json.dumps(held), place)
