"""The journal: an Optuna study in the run directory, beside its run.json (run_file.py).

Everything the loop has to know to go on is read from here, and nothing is kept elsewhere:
a run that was killed is resumed by opening its directory again. Each place that measures has a
study of its own, so that no controller sees timings of two machines.

The study is not trusted: whatever is wrong with it is an InputError of one line.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import optuna
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from canao.artifact.reading import fits, parse_json
from canao.errors import InputError
from canao.model.arch import Arch
from canao.search.controller import LATENCY, objectives
from canao.search.options import LEFT_OUT, SearchOptions
from canao.search.place import Place
from canao.search.run_file import OTHER_RUN, STUDY_FILE, read_run_file
from canao.search.samplers import make_controller
from canao.search.space import Space
from canao.search.study_storage import (
    has_study,
    open_storage,
    open_study,
    quiet,
    storage_errors,
    study_name,
    unreadable,
)
from canao.search.table import dominated
from canao.search.trial import Trial, best_first

_TRIAL = "trial"  # user attribute: the Trial in JSON form
_ARCH = "arch"  # user attribute: a proposal whose blocks differ, in JSON form
_REPEATS = "repeats"  # user attribute: set where the proposal had been judged before
_FIXED = "fixed_params"  # Optuna's name for the parameters of a trial that was suggested
_MISSES = "misses"
_PATIENCE = 12  # proposals in a row that lead to no training before a neighbour is tried
_P = ParamSpec("_P")
_R = TypeVar("_R")


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
        with storage_errors(self.path):
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
        with unreadable(self.path):
            self._storage = open_storage(self.path)
            own = options.precision if options.left_out else None
            self._study = open_study(
                options, sampler, self._storage, study_name(place.to_dict(), own)
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
        with unreadable(self.path):
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
        with storage_errors(self.path):
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
                           ("note:scores", dict[str, float] | None),
                           ("note:late", dict[str, float] | None)):  # fmt: skip
            wrong = fits(self._attribute(name, None), kind)
            if wrong is not None:
                raise InputError(f"{self.path}: '{name}' {wrong}; restore it, or {OTHER_RUN}")
        for done in self._done():
            _record(done, self.path)

    def _attribute(self, name: str, default: Any) -> Any:
        with storage_errors(self.path):
            return self._study.user_attrs.get(name, default)

    def _propose(self) -> Proposal:
        with quiet():  # a model that cannot be fitted yet is told of in several lines
            handle = self._study.ask(self._space.distributions())
        held = handle.user_attrs.get(_ARCH)
        if held is None:
            return Proposal(self._space.decode(handle.params), handle)
        place = f"{self.path}: trial {handle.number}"
        arch = Arch.of(parse_json(str(held), place, remedy=OTHER_RUN), place)
        if not self._space.admits(arch):
            raise InputError(f"{place}: {arch} is not in the search space; {OTHER_RUN}")
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


def read_trials(run_dir: Path) -> tuple[Trial, ...]:
    """The trials journaled so far where the run was last, for reports; nothing is changed."""
    path = run_dir / STUDY_FILE
    held = read_run_file(run_dir)
    own = str(held.facts.get("precision")) if held.facts.get(LEFT_OUT) else None
    name = study_name(held.place, own)
    with unreadable(path):
        if not has_study(path):
            return ()
        storage = open_storage(path)
        # A run that was moved and killed at once has no study there yet.
        known = name in optuna.get_all_study_names(storage)
        return _judged(storage, name, path) if known else ()


def _judged(storage: RDBStorage, name: str, path: Path) -> tuple[Trial, ...]:
    """Every judged architecture of a study once, in order."""
    study = optuna.load_study(study_name=name, storage=storage)
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return tuple(_record(trial, path) for trial in done if _REPEATS not in trial.user_attrs)


def _record(done: optuna.trial.FrozenTrial, path: Path) -> Trial:
    held = done.user_attrs.get(_TRIAL)
    place = f"{path}: trial {done.number}"
    return Trial.from_json(held if isinstance(held, str) else json.dumps(held), place)
