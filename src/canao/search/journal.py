"""The journal: an Optuna study and one run.json in the run directory.

Everything the loop has to know to go on is read from here, and nothing is kept elsewhere:
a run that was killed is resumed by opening its directory again. Each place that measures has a
study of its own, so that no controller sees timings of two machines.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from canao.artifact.files import write_whole
from canao.errors import InputError
from canao.model.arch import Arch
from canao.search.controller import LATENCY, objectives
from canao.search.options import SearchOptions
from canao.search.place import Place
from canao.search.samplers import make_controller
from canao.search.space import Space
from canao.search.table import dominated
from canao.search.trial import Trial, best_first

FORMAT = 1
RUN_FILE = "run.json"
STUDY_FILE = "study.db"

_STUDY = "canao"
_OF_PLACE = {"target"}  # facts that may change: timings are kept apart by place
_TRIAL = "trial"  # user attribute: the Trial in JSON form
_REPEATS = "repeats"  # user attribute: set where the proposal had been judged before
_MISSES = "misses"
_PATIENCE = 12  # proposals in a row that lead to no training before a neighbour is tried


@dataclass(frozen=True, slots=True)
class Proposal:
    """A proposed architecture that waits for its verdict: `Journal.tell` or `Journal.give_up`."""

    arch: Arch
    handle: optuna.Trial


class Journal:
    """The study of one run: it proposes architectures not judged yet, and records the verdicts."""

    def __init__(self, options: SearchOptions, space: Space, place: Place) -> None:
        self._space = space
        self._budget_ms = options.budget_ms
        self._multi = len(objectives(options.controller)) > 1
        self._path = options.run_dir / STUDY_FILE
        sampler = make_controller(options.controller, space, options.seed)
        self._study = _open_study(options, sampler, _study_name(place.to_dict()))
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            # A kill left this trial open: its architecture may be proposed again.
            self._study.tell(trial.number, state=TrialState.FAIL)

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Every judged architecture once, in order."""
        return tuple(_record(done) for done in self._done() if _REPEATS not in done.user_attrs)

    def trained_elsewhere(self) -> tuple[Trial, ...]:
        """Architectures that were trained when the run was at other places, the best first."""
        with _storage_errors(self._path):
            storage = RDBStorage(f"sqlite:///{self._path}")
            names = optuna.get_all_study_names(storage)
            trials = [t for n in names if n != self._study.study_name for t in _judged(storage, n)]
        return best_first({trial.arch: trial for trial in trials}.values())

    @property
    def misses(self) -> tuple[tuple[float, float], ...]:
        """(predicted, measured) ms of finished libraries that missed the budget."""
        return tuple((float(p), float(m)) for p, m in self._study.user_attrs.get(_MISSES, ()))

    def add_miss(self, predicted_ms: float, measured_ms: float) -> None:
        self._study.set_user_attr(_MISSES, [*self.misses, (predicted_ms, measured_ms)])

    def note(self, name: str) -> Any:
        """The value that `set_note` stored under `name`, or None."""
        return self._study.user_attrs.get(f"note:{name}")

    def set_note(self, name: str, value: Any) -> None:
        """Store a JSON value with the study."""
        self._study.set_user_attr(f"note:{name}", value)

    def suggest(self, arch: Arch) -> None:
        """Make `arch` the next proposal."""
        self._study.enqueue_trial(self._space.encode(arch))

    def ask(self) -> Proposal | None:
        """The next architecture that was not judged yet; None when the space is exhausted.

        If the controller repeats itself, it is told the known result and asked again. After a
        dozen proposals in a row that were repeated or rejected, the untried architecture nearest
        to the best one is proposed instead, so that a search always makes progress.
        """
        judged = {trial.arch: trial for trial in self.trials}
        while self._proposals_since_training() < _PATIENCE:
            proposal = self._propose()
            if proposal.arch not in judged:
                return proposal
            self.tell(proposal, judged[proposal.arch], repeated=True)
        arch = self._nearest_untried(judged)
        if arch is None:
            return None
        self.suggest(arch)
        return self._propose()

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

    def give_up(self, proposal: Proposal) -> None:
        """Mark a proposal as failed; its architecture can be proposed again."""
        self._study.tell(proposal.handle, state=TrialState.FAIL)

    def _propose(self) -> Proposal:
        handle = self._study.ask(self._space.distributions())
        return Proposal(self._space.decode(handle.params), handle)

    def _done(self) -> list[optuna.trial.FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))

    def _lowest_accuracy(self) -> float:
        return min((t.accuracy for t in self.trials if t.accuracy is not None), default=0.0)

    def _proposals_since_training(self) -> int:
        count = 0
        for done in reversed(self._done()):
            if _REPEATS not in done.user_attrs and _record(done).trained:
                break
            count += 1
        return count

    def _nearest_untried(self, judged: Mapping[Arch, Trial]) -> Arch | None:
        """Searched breadth-first from the best trained architecture, or from the smallest one."""
        trials = tuple(judged.values())
        best = best_first(trials)
        start = best[0].arch if best else self._space.smallest
        queue, seen = deque([start]), {start}
        while queue:
            arch = queue.popleft()
            if arch not in judged and not dominated(arch, trials, self._budget_ms):
                return arch
            # Larger neighbours first: they are likely to be more accurate.
            for near in reversed(tuple(self._space.neighbours(arch))):
                if near not in seen:
                    seen.add(near)
                    queue.append(near)
        return None


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Lock the run directory, created if missing; InputError if another process holds the lock."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        handle = os.open(run_dir / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise InputError(f"{run_dir}: cannot be written ({error.strerror})") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise InputError(f"{run_dir}: another search is running in it; wait or choose another "
                         "run directory") from None  # fmt: skip
    finally:
        os.close(handle)


def claim(run_dir: Path, facts: Mapping[str, Any], place: Place) -> str:
    """Write run.json, or raise InputError if the directory belongs to a different search.

    What comes back says in words how the place differs from that of the search so far; '' if it
    does not, or if the search is new.
    """
    path = run_dir / RUN_FILE
    if not path.exists():
        if (run_dir / STUDY_FILE).exists():
            raise InputError(f"{run_dir}: has {STUDY_FILE} but no {RUN_FILE}; choose another "
                             "run directory")  # fmt: skip
        _write_run(path, facts, place)
        return ""
    held, was = read_run(run_dir), _read_place(run_dir)
    # Compared in JSON form, as the file holds it.
    asked = json.loads(json.dumps(dict(facts)))
    differing = [
        f"{name} was {held.get(name)!r}, now {asked.get(name)!r}"
        for name in sorted((held.keys() | asked.keys()) - _OF_PLACE)
        if held.get(name) != asked.get(name)
    ]
    if differing:
        raise InputError(f"{run_dir}: was started with other options ({'; '.join(differing)}); "
                         "give the same options or another run directory")  # fmt: skip
    moved = place.instead_of(was)
    if moved:
        _write_run(path, facts, place)
    return moved


def _write_run(path: Path, facts: Mapping[str, Any], place: Place) -> None:
    row = {"format": FORMAT, "facts": dict(facts), "place": place.to_dict()}
    write_whole(path, json.dumps(row, indent=1) + "\n")


def read_run(run_dir: Path) -> dict[str, Any]:
    """The facts of a run; InputError if the directory holds none."""
    return _read_file(run_dir)["facts"]


def _read_place(run_dir: Path) -> dict[str, Any] | None:
    """Where a run was measured last; None for runs of versions that did not say so."""
    return _read_file(run_dir).get("place")


def _read_file(run_dir: Path) -> dict[str, Any]:
    path = run_dir / RUN_FILE
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        if held["format"] != FORMAT:
            raise InputError(f"{path}: format {held['format']}, this CANAO reads {FORMAT}")
        place = {"place": dict(held["place"])} if "place" in held else {}
        return {"facts": dict(held["facts"]), **place}
    except FileNotFoundError:
        raise InputError(
            f"{run_dir}: no {RUN_FILE}; give a directory written by `canao search`"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({error!r})") from None


def read_trials(run_dir: Path) -> tuple[Trial, ...]:
    """The trials journaled so far where the run was last, for reports; nothing is changed."""
    path = run_dir / STUDY_FILE
    if not path.exists():
        return ()
    with _storage_errors(path):
        storage, name = RDBStorage(f"sqlite:///{path}"), _study_name(_read_place(run_dir))
        # A run that was moved and killed at once has no study there yet.
        known = name in optuna.get_all_study_names(storage)
        return _judged(storage, name) if known else ()


def _judged(storage: RDBStorage, name: str) -> tuple[Trial, ...]:
    """Every judged architecture of a study once, in order."""
    study = optuna.load_study(study_name=name, storage=storage)
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return tuple(_record(trial) for trial in done if _REPEATS not in trial.user_attrs)


def _study_name(place: Mapping[str, Any] | None) -> str:
    """The study of a place; runs of versions that told of none have one for all."""
    return _STUDY if place is None else " ".join([_STUDY, *map(str, place.values())])


def _open_study(
    options: SearchOptions, sampler: optuna.samplers.BaseSampler, name: str
) -> optuna.Study:
    path = options.run_dir / STUDY_FILE
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # Optuna announces every new study
    try:
        with _storage_errors(path):
            return optuna.create_study(
                storage=RDBStorage(f"sqlite:///{path}"),
                study_name=name,
                sampler=sampler,
                directions=list(objectives(options.controller)),
                load_if_exists=True,
            )
    finally:
        optuna.logging.set_verbosity(before)


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.OptunaError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: cannot be used as a study ({reason}); choose another run "
                         "directory") from None  # fmt: skip


def _record(done: optuna.trial.FrozenTrial) -> Trial:
    return Trial.from_json(done.user_attrs.get(_TRIAL, ""))
