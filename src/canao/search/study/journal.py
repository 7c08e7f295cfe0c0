"""The journal: an Optuna study in the run directory, beside its run.json (run_file.py), or in a
database that several processes reach (team.py).

Everything the loop has to know to go on is read from here, and nothing is kept elsewhere:
a run that was killed is resumed by opening its directory again. Each place that measures has a
study of its own, so that no controller sees timings of two machines.

Where several processes judge, a trial that is under way has an owner. One whose owner is lost is
closed, which only one process can do, and proposed anew.

The study is not trusted: whatever is wrong with it is an InputError of one line.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from canao.artifact.reading import fits, parse_json
from canao.errors import InputError
from canao.model.arch import Arch
from canao.search.candidates.space import Space
from canao.search.candidates.trial import FAILED, Trial, best_first
from canao.search.controllers.controller import LATENCY, objectives
from canao.search.controllers.samplers import make_controller
from canao.search.controllers.turns import REPEATS
from canao.search.latency.place import Place
from canao.search.latency.table import dominated
from canao.search.options import LEFT_OUT, SearchOptions
from canao.search.study.run_file import OTHER_RUN, STUDY_FILE, read_run_file
from canao.search.study.storage import (
    has_study,
    open_shared,
    open_storage,
    open_study,
    quiet,
    storage_errors,
    study_name,
    unreadable,
)
from canao.search.study.team import Team
from canao.search.study.url import NAME, parse_study

_TRIAL = "trial"  # user attribute: the Trial in JSON form
_ARCH = "arch"  # user attribute: a proposal whose blocks differ, in JSON form
_OWNER = "owner"  # user attribute: the process that judges a trial, or did
_FIXED = "fixed_params"  # Optuna's name for the parameters of a trial that was suggested
_MISSES = "misses"
_PATIENCE = 12  # proposals in a row that lead to no training before a neighbour is tried
_CLASHES = 3  # in a row that another process judges already, before a neighbour is tried
_MOST_LOSSES = 3  # processes that a candidate may cost
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

    def __init__(
        self, options: SearchOptions, space: Space, place: Place, team: Team | None = None
    ) -> None:
        """`team`: other processes judge, too, and the study is in their database."""
        self.path = options.run_dir / STUDY_FILE if team is None else team.shown
        self.team = team
        self._space = space
        self._budget_ms = options.budget_ms
        self._multi = len(objectives(options.controller)) > 1
        self._records: dict[int, Trial] = {}  # of finished trials, which change no more
        sampler = make_controller(options.controller, space, options.seed)
        with unreadable(self.path):
            self._storage = open_storage(Path(self.path)) if team is None else team.storage
            own = options.precision if options.left_out else None
            self._name = NAME if team is None else team.study.name
            self._study = open_study(
                options, sampler, self._storage, study_name(place.to_dict(), own, self._name)
            )
            self._check()
            for trial in self._in_state(TrialState.RUNNING):
                # A kill left this trial open: it is the next to be judged, as it would have been.
                if team is None or trial.user_attrs.get(_OWNER) == team.id:
                    self._put_back(trial._trial_id)

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Every judged architecture once, in order."""
        return _once(self._recorded(one) for one in self._done() if REPEATS not in one.user_attrs)

    def trained_elsewhere(self) -> tuple[Trial, ...]:
        """Architectures that were trained when the run was at other places, or in a precision that
        was left out, the best first."""
        with unreadable(self.path):
            names = optuna.get_all_study_names(self._storage)
            others = [name for name in names if name != self._study.study_name
                      and (self.team is None or name.startswith(f"{self._name} "))]  # fmt: skip
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
        # A run that was killed between suggesting and judging finds its suggestion here.
        if all(trial.system_attrs.get(_FIXED) != params or _own(trial.user_attrs) != own
               for trial in self._in_state(TrialState.WAITING)):  # fmt: skip
            self._study.enqueue_trial(params, user_attrs=own)

    @property
    def waiting(self) -> bool:
        """Whether something that was suggested was not proposed yet."""
        with storage_errors(self.path):
            return bool(self._in_state(TrialState.WAITING))

    @property
    def under_way(self) -> tuple[Arch, ...]:
        """What is being judged at the moment, by this process or by others."""
        with storage_errors(self.path):
            running = self._in_state(TrialState.RUNNING)
        found = (self._arch_of(trial) for trial in running)
        return tuple(arch for arch in found if arch is not None)

    @_stored
    def count_under_way(self) -> int:
        """How many trials are begun and not judged, by this process or by others."""
        return len(self._in_state(TrialState.RUNNING))

    @_stored
    def ask(self) -> Proposal | None:
        """The next architecture that was not judged yet; None when the space is exhausted.

        If the controller repeats itself, it is told the known result and asked again. After a
        dozen proposals in a row that were repeated or rejected, the untried architecture nearest
        to the best one is proposed instead, so that a search always makes progress. So it is
        where others judge already what is proposed.
        """
        clashes = 0
        while True:
            judged = {trial.arch: trial for trial in self.trials}
            tired = self._proposals_since_training() >= _PATIENCE or clashes >= _CLASHES
            if tired and not self.waiting:
                arch = self._nearest_untried(judged, self.under_way)
                if arch is None:
                    return None
                self.suggest(arch)
            try:
                proposal = self._propose()
            except UpdateFinishedTrialError:
                if self.team is None:
                    raise
                continue  # others took this process for lost
            if proposal.arch in judged:
                self.tell(proposal, judged[proposal.arch], repeated=True)
            elif self._losses()[proposal.arch] >= _MOST_LOSSES:
                reason = f"{_MOST_LOSSES} processes were lost that judged it"
                self.tell(proposal, Trial(proposal.arch, FAILED, 1.0, reason=reason))
            elif self._clashing(proposal):
                clashes += 1
            else:
                return proposal

    @_stored
    def tell(self, proposal: Proposal, trial: Trial, *, repeated: bool = False) -> None:
        """Record a verdict and pass it to the controller.

        The controller maximises the accuracy, under the constraint latency/budget - 1 <= 0. A
        candidate without a proxy score counts with the lowest accuracy so far: that attracts no
        further proposals, and does not distort a fitted model as a large penalty would.
        """
        try:
            proposal.handle.set_constraint(LATENCY, trial.excess)
            proposal.handle.set_user_attr(_TRIAL, trial.to_json())
            if repeated:
                proposal.handle.set_user_attr(REPEATS, True)
            accuracy = self._lowest_accuracy() if trial.accuracy is None else trial.accuracy
            latency_ms = (1.0 + trial.excess) * self._budget_ms
            self._study.tell(
                proposal.handle, [accuracy, latency_ms] if self._multi else accuracy
            )
        except (UpdateFinishedTrialError, ValueError):
            # The database went away before it answered, or others took this process for lost.
            held = self._storage.get_trial(proposal.handle._trial_id)
            if held.state == TrialState.FAIL and self.team is not None:
                self.team.say(f"{trial.arch}: was given to another process while this one stood "
                              "still; its verdict is not used")  # fmt: skip
            elif held.state != TrialState.COMPLETE:
                raise

    @_stored
    def give_up(self, proposal: Proposal) -> None:
        """Put a proposal back: it is the next one when the run is resumed, or of another process.
        """
        self._put_back(proposal.handle._trial_id)

    @_stored
    def take_from_lost(self) -> None:
        """Propose anew what processes were judging that are lost."""
        if self.team is None:
            return
        for trial in self._in_state(TrialState.RUNNING):
            owner = trial.user_attrs.get(_OWNER)
            if self.team.lost(owner, trial._trial_id) and self._closed(trial):
                self.team.say(f"trial {trial.number} of {self.team.name_of(owner)} is judged anew")
        known = set(self.under_way)
        known |= {trial.arch for trial in self.trials}
        for arch in self._losses():
            if arch not in known:
                self.suggest(arch)

    def _losses(self) -> Counter[Arch]:
        """How many processes were lost that judged an architecture."""
        closed = self._in_state(TrialState.FAIL)
        found = (self._arch_of(trial) for trial in closed if REPEATS not in trial.user_attrs)
        return Counter(arch for arch in found if arch is not None)

    def _closed(self, trial: FrozenTrial) -> bool:
        """Whether this process closed a trial that is under way: one can."""
        with suppress(UpdateFinishedTrialError):
            return self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        return False

    def _put_back(self, trial: int) -> None:
        """InputError at once where the database is away: then others find it in a while."""
        storage = self._storage if self.team is None else self.team.hasty
        with unreadable(self.path), suppress(UpdateFinishedTrialError):
            if self.team is not None:  # of nobody until who takes it says so
                storage.set_trial_user_attr(trial, _OWNER, "")
            storage.set_trial_state_values(trial, TrialState.WAITING)

    def _clashing(self, proposal: Proposal) -> bool:
        """Whether another process began to judge the same earlier; then the proposal is closed, as
        one that the controller need not be told of."""
        mine = proposal.handle
        if not any(trial.number < mine.number and self._arch_of(trial) == proposal.arch
                   for trial in self._in_state(TrialState.RUNNING)):  # fmt: skip
            return False
        with suppress(UpdateFinishedTrialError):
            mine.set_user_attr(REPEATS, True)
            self._storage.set_trial_state_values(mine._trial_id, TrialState.FAIL)
        return True

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
            self._recorded(done)

    def _attribute(self, name: str, default: Any) -> Any:
        with storage_errors(self.path):
            return self._study.user_attrs.get(name, default)

    def _propose(self) -> Proposal:
        with quiet():  # a model that cannot be fitted yet is told of in several lines
            handle = self._study.ask()
            try:
                if self.team is not None:
                    handle.set_user_attr(_OWNER, self.team.id)
                for name, distribution in self._space.distributions().items():
                    handle._suggest(name, distribution)
            except KeyboardInterrupt:
                with suppress(Exception):  # of a database that is away; then it is put back later
                    self._put_back(handle._trial_id)
                raise
        held = handle.user_attrs.get(_ARCH)
        if held is None:
            return Proposal(self._space.decode(handle.params), handle)
        return Proposal(self._named(held, handle.number), handle)

    def _named(self, held: object, number: int) -> Arch:
        """The architecture of a proposal whose blocks differ."""
        place = f"{self.path}: trial {number}"
        arch = Arch.of(parse_json(str(held), place, remedy=OTHER_RUN), place)
        if not self._space.admits(arch):
            raise InputError(f"{place}: {arch} is not in the search space; {OTHER_RUN}")
        return arch

    def _arch_of(self, trial: FrozenTrial) -> Arch | None:
        """The architecture of a trial; None while its process is still choosing it."""
        held = trial.user_attrs.get(_ARCH)
        if held is not None:
            return self._named(held, trial.number)
        params = trial.system_attrs.get(_FIXED) or trial.params
        if any(name not in params for name in self._space.choices()):
            return None
        return self._space.decode(params)

    @_stored
    def _done(self) -> list[FrozenTrial]:
        return self._in_state(TrialState.COMPLETE)

    def _in_state(self, state: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=(state,))

    def _recorded(self, done: FrozenTrial) -> Trial:
        held = self._records.get(done.number)
        if held is None:
            held = self._records[done.number] = _record(done, self.path)
        return held

    def _lowest_accuracy(self) -> float:
        return min((t.accuracy for t in self.trials if t.accuracy is not None), default=0.0)

    def _proposals_since_training(self) -> int:
        count = 0
        for done in reversed(self._done()):
            if REPEATS not in done.user_attrs and self._recorded(done).trained:
                break
            count += 1
        return count

    def _nearest_untried(
        self, judged: Mapping[Arch, Trial], under_way: Collection[Arch]
    ) -> Arch | None:
        """Searched breadth-first from the best trained architecture, or from the smallest one."""
        trials, taken = tuple(judged.values()), judged.keys() | set(under_way)
        best = best_first(trials)
        start = self._space.nearest(best[0].arch) if best else self._space.smallest
        queue, seen = deque([start]), {start}
        while queue:
            arch = queue.popleft()
            if arch not in taken and not dominated(arch, trials):
                return arch
            # Larger neighbours first: they are likely to be more accurate.
            for near in reversed(tuple(self._space.neighbours(arch))):
                if near not in seen:
                    seen.add(near)
                    queue.append(near)
        return None


def _own(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if name == _ARCH}


def _once(trials: Iterable[Trial]) -> tuple[Trial, ...]:
    """Each architecture's first verdict: two processes may have judged one at the same time."""
    found: dict[Arch, Trial] = {}
    for trial in trials:
        found.setdefault(trial.arch, trial)
    return tuple(found.values())


def read_trials(run_dir: Path) -> tuple[Trial, ...]:
    """The trials journaled so far where the run was last, for reports; nothing is changed."""
    held = read_run_file(run_dir)
    own = str(held.facts.get("precision")) if held.facts.get(LEFT_OUT) else None
    if held.study is not None:
        study = parse_study(held.study)
        storage = open_shared(study, new=False)
        return _known(storage, study_name(held.place, own, study.name), study.kept)
    path = run_dir / STUDY_FILE
    with unreadable(path):
        return _known(open_storage(path), study_name(held.place, own), path) if has_study(
            path) else ()  # fmt: skip


def _known(storage: BaseStorage, name: str, path: Path | str) -> tuple[Trial, ...]:
    """The trials of a study. A run that was moved and killed at once has none there yet."""
    with unreadable(path):
        known = name in optuna.get_all_study_names(storage)
        return _judged(storage, name, path) if known else ()


def _judged(storage: BaseStorage, name: str, path: Path | str) -> tuple[Trial, ...]:
    """Every judged architecture of a study once, in order."""
    study = optuna.load_study(study_name=name, storage=storage)
    done: Sequence[FrozenTrial] = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return _once(_record(trial, path) for trial in done if REPEATS not in trial.user_attrs)


def _record(done: FrozenTrial, path: Path | str) -> Trial:
    held = done.user_attrs.get(_TRIAL)
    place = f"{path}: trial {done.number}"
    return Trial.from_json(held if isinstance(held, str) else json.dumps(held), place)
