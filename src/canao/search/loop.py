"""The search loop: controller, table, compiler, device and trainer in turn.

    ask -> table -> compile and measure -> proxy score -> tell

It owns all effects. Whatever it needs to continue after a kill is in the journal. Several processes
may run it on one journal (study/team.py): one of them, which `run_search` is, begins and ends the
search, and the others, which `run_worker` are, judge candidates meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from canao.defaults import silent
from canao.device.base import Device
from canao.errors import BudgetError, CanaoError, DeviceError, DivergedError, InputError
from canao.model.arch import Arch
from canao.search.candidates.allocate import widths
from canao.search.candidates.refine import polished, polishing
from canao.search.candidates.space import Space
from canao.search.candidates.trial import FAILED, Trial, best_first
from canao.search.certification import SearchResult, certify_best
from canao.search.controllers.controller import BLOCKWISE
from canao.search.elsewhere import Elsewhere, latencies
from canao.search.evaluation import TRIES, Evaluator, judge_next
from canao.search.executor import Executor, Flights
from canao.search.latency.kernels import Kernels
from canao.search.latency.place import Place, place_of
from canao.search.options import (
    Compile,
    Event,
    Finish,
    Progress,
    SearchOptions,
    Trainer,
)
from canao.search.study.journal import Journal
from canao.search.study.run_file import claim, locked, settle
from canao.search.study.sharing import take_times
from canao.search.study.team import ENDED, FINISHING, SEARCHING, Offer, Team
from canao.train.engine.storing import storing

_FAILURES = 3  # measurements that fail in a row before the device is given up
_BLOCKS = "blocks"  # note of the journal: for which widths blocks were chosen, and which
_TRIES_OF_BLOCKS = 2
_PROPOSALS = 10  # architectures judged, at most, for each proxy score that is asked for


@dataclass(frozen=True)
class Shared:
    """What a search has beside its own process: others that judge, or others that train.

    team       the processes that work on its study; `offer` is what they are told of it
    executor   where proxy scores are computed; None: in this process
    """

    team: Team | None = None
    offer: Offer | None = None
    executor: Executor | None = None


def run_search(
    options: SearchOptions,
    trainer: Trainer,
    compile: Compile,
    device: Device,
    kernels: Kernels,
    progress: Progress = silent,
    finish: Finish | None = None,
    shared: Shared = Shared(),
    elsewhere: tuple[Elsewhere, ...] = (),
) -> SearchResult:
    """Search, train and certify a student that keeps the budget on the device.

    `compile` makes libraries in the precision of the options, and `kernels` says which kernels they
    will have; `finish` makes that of a finished
    student, if it is also to be checked: what it returns is measured against the budget. It has to
    keep the budgets of the devices `elsewhere` as well.

    Run again with the same `run_dir`, it goes on where it was; on another machine, or with other
    code, it measures again and trains nothing again. Raises InputError if that
    directory belongs to another search or cannot be written, BudgetError if nothing keeps the
    budget, and what the trainer, the compiler and the device raise.
    """
    for line in options.data_told:
        progress(Event("data", line))
    evaluator = Evaluator(options, trainer, compile, device, kernels, finish, elsewhere)
    space, team = _space(options, trainer), shared.team
    study = None if team is None else team.shown
    with locked(options.run_dir), storing(options.run_dir):
        place = place_of(device)
        facts = _facts(evaluator, place, space)
        moved = claim(options.run_dir, facts, place, options.data_told, study)
        take_times(options.run_dir, options.times_of)
        with _leading(evaluator, shared, facts, place):
            journal = Journal(options, space, place, team)
            if moved:
                _take_over(journal, moved, progress)
                # Only now: if the run is killed before, the next one takes over as well.
                settle(options.run_dir, facts, place, options.data_told, study)
            elif options.left_out and not journal.trials:
                left = options.left_out[-1].precision
                _take_over(journal, f"in {options.precision} instead of {left}", progress)
            if journal.trials:
                done = sum(trial.trained for trial in journal.trials)
                text = f"resuming: {done} of {options.trials} trials done"
                progress(Event("resume", text, done=done, total=options.trials))
            _check_feasible(evaluator, journal, space, trainer.teacher_arch(), progress)
            _Search(evaluator, journal, space, progress, shared, leads=True).run()
            if team is not None:
                team.set_phase(FINISHING)
            return certify_best(evaluator, journal, space, progress)


def run_worker(
    options: SearchOptions,
    trainer: Trainer,
    compile: Compile,
    device: Device,
    kernels: Kernels,
    progress: Progress,
    shared: Shared,
) -> int:
    """Judge candidates of a search that another process runs, until it has enough of them; returns
    how many. The caller holds the lock of `run_dir`, which is the worker's own.

    Raises InputError, naming what differs, if this process would not judge as the others do, and
    what the trainer, the compiler and the device raise: the trial under way is another's then.
    """
    team, offer = shared.team, shared.offer
    assert team is not None and offer is not None
    evaluator = Evaluator(options, trainer, compile, device, kernels)
    space, place = _space(options, trainer), place_of(device)
    with storing(options.run_dir):
        team.require_same(_facts(evaluator, place, space), place, offer.contents)
        with team.present(options.run_dir):
            if not _begun(team, progress):
                return 0
            take_times(options.run_dir, options.times_of)
            trainer.take(offer.work, team.teacher, team.record.host)
            journal = Journal(options, space, place, team)
            return _Search(evaluator, journal, space, progress, shared, leads=False).run()


def _begun(team: Team, progress: Progress) -> bool:
    """Wait until candidates are judged; False if they were already. InputError if nobody will."""
    told = False
    while (phase := team.phase) != SEARCHING:
        if phase in (FINISHING, ENDED):
            progress(Event("search", "the search has enough candidates; nothing is left to do"))
            return False
        if not team.led:
            raise InputError(f"--study {team.shown}: the search on {team.record.host} was stopped "
                             "before it began; start it again there")  # fmt: skip
        if not told:
            progress(Event("check", f"waiting for the search on {team.record.host} to begin"))
        told = True
        team.wait()
    return True


def _space(options: SearchOptions, trainer: Trainer) -> Space:
    return Space.of_teacher(trainer.teacher_arch()) if options.space is None else options.space


def _facts(evaluator: Evaluator, place: Place, space: Space) -> dict[str, object]:
    """What must not change when the run is resumed, and not differ between its processes."""
    return evaluator.options.facts() | {
        "device": evaluator.device.name,
        "target": place.target,
        "teacher_arch": str(evaluator.trainer.teacher_arch()),
        "space": str(space),
        **({"elsewhere": [list(one.facts) for one in evaluator.elsewhere]}
           if evaluator.elsewhere else {}),
    }  # fmt: skip


@contextmanager
def _leading(
    evaluator: Evaluator, shared: Shared, facts: dict[str, object], place: Place
) -> Iterator[None]:
    """Inside the block others may join the search, if it is in a study that they reach."""
    team, options = shared.team, evaluator.options
    if team is None or shared.offer is None:
        yield
        return
    left = [(one.precision, one.max_loss, one.why) for one in options.left_out]
    with team.present(options.run_dir):
        team.publish(facts, place, shared.offer, options.run_dir, left)
        try:
            yield
        except CanaoError as error:
            # Of a miss the search knows by itself; anything else may be put right and gone on with.
            if isinstance(error, BudgetError):
                team.set_phase(ENDED)
            raise
        team.set_phase(ENDED)


def _take_over(journal: Journal, moved: str, progress: Progress) -> None:
    """Have what was trained elsewhere judged first: the trainer keeps its accuracy, and only its
    latency is taken anew."""
    judged = {trial.arch for trial in journal.trials}
    known = [trial for trial in journal.trained_elsewhere() if trial.arch not in judged]
    for trial in known:
        journal.suggest(trial.arch)
    progress(Event(
        "resume",
        f"resuming {moved}: timings taken before are not used, and {len(known)} trained "
        f"{'architecture is' if len(known) == 1 else 'architectures are'} measured again",
    ))  # fmt: skip


def _check_feasible(
    evaluator: Evaluator, journal: Journal, space: Space, teacher: Arch, progress: Progress
) -> None:
    """Measure the smallest student and the teacher before anything is trained."""
    options = evaluator.options
    if journal.note("teacher_ms") is not None:
        return
    progress(Event("check", f"measuring the smallest student, {space.smallest}"))
    least = evaluator.needs(space.smallest, options.search_measure, TRIES, final=True)
    missed = options.budgets.missed(*least)
    if missed:
        enough = options.budgets.least(*least)
        remedies = [f"--{name} {value:.4g}" for name, value in enough.items()]
        raise BudgetError(
            f"no student keeps {options.budgets} on {evaluator.device.name}: the smallest "
            f"in the space, {space.smallest}, takes {missed} (p{options.percentile:g}); "
            f"give {' and '.join(remedies)} or more, a shorter --length or another --precision"
        )
    for far in latencies(evaluator.elsewhere, evaluator.trainer.skeleton(space.smallest), options):
        if far.share > 1:
            raise BudgetError(
                f"no student keeps the budget on {far.device}: the smallest in the space, "
                f"{space.smallest}, takes {far} (p{options.percentile:g}); give a budget of "
                f"{1.05 * far.ms:.4g} ms or more there"
            )
    progress(Event("check", f"measuring the teacher's shape, {teacher}"))
    teacher_ms, *rest = evaluator.needs(teacher, options.search_measure)
    if not options.budgets.missed(teacher_ms, *rest) and space.contains(teacher):
        journal.suggest(teacher)  # the teacher keeps the budget as it is
    journal.set_note("teacher_ms", teacher_ms)


class _Search:
    """Judges proposals until enough have a proxy score, time is up, or the space is exhausted. The
    last ones are neighbours of the best candidate, as long as any of them uses the budget."""

    def __init__(
        self, evaluator: Evaluator, journal: Journal, space: Space, progress: Progress,
        shared: Shared, *, leads: bool,
    ) -> None:  # fmt: skip
        self.evaluator, self.journal, self.space = evaluator, journal, space
        self.progress, self.leads, self.team = progress, leads, shared.team
        self.options = evaluator.options
        self.flights = None if shared.executor is None else Flights(
            shared.executor, evaluator, journal
        )  # fmt: skip
        self.shares = self.team is not None or self.flights is not None
        self.judged, self.failures, self.exhausted, self.waited = 0, 0, False, False
        if shared.executor is not None or (leads and self.team is not None):
            evaluator.trainer.prepare()  # what all of them need is made once
        if leads and self.team is not None:
            self.team.open_to_all(evaluator.trainer.shared())

    def run(self) -> int:
        """How many candidates this process judged."""
        try:
            while self._goes_on():
                for trial in self._step():
                    self._note(trial)
        finally:
            if self.flights is not None:
                self.flights.give_up()  # there are some after an error only
        return self.judged

    def _goes_on(self) -> bool:
        """Whether there is, or may be, more to judge."""
        if self.team is not None:
            for line in self.team.news():
                self.progress(Event("team", line))
            self.journal.take_from_lost()
            if not self.leads and self.team.phase != SEARCHING:
                self.progress(Event("search", "the search has enough candidates"))
                return False
        enough = _enough(self.options, self.journal.trials)
        if not enough and not self.exhausted:
            return True
        # What is under way may be the best one, or come back from a process that is lost.
        under_way = self.shares and self.journal.count_under_way() > 0
        if under_way and (self.leads or not enough):
            return True
        if not enough and self.shares and self.journal.waiting:
            return True
        if not enough:
            self.progress(Event("search", "every architecture in the space has been judged"))
        elif not self.leads:
            self.progress(Event("search", "the search has enough candidates"))
        return False

    def _step(self) -> Sequence[Trial]:
        """Judge one candidate, or see to those under way where there is no room for more."""
        if self.shares and not self._room():
            return self._awaited()
        self._suggest()
        if self.flights is not None:
            # Where nothing is left to propose, what is under way may still change that.
            found, left = self.flights.started()
        else:
            trial = judge_next(self.evaluator, self.journal)
            found, left = (() if trial is None else (trial,)), trial is not None
        self.exhausted = not left
        return found if left or not self.shares else (*found, *self._awaited())

    def _room(self) -> bool:
        """Whether one more is to be begun: no more than it takes, if all under way are trained."""
        journal, options = self.journal, self.options
        if _enough(options, journal.trials):
            return False
        if self.flights is not None and not self.flights.room:
            return False
        trained = sum(trial.trained for trial in journal.trials)
        return trained + journal.count_under_way() < options.trials

    def _awaited(self) -> Sequence[Trial]:
        """What was judged elsewhere meanwhile, of what this process asked for."""
        if self.flights is not None and self.flights.flying:
            return self.flights.landed()
        if self.team is not None:
            if not self.waited:
                self.progress(Event("search", "waiting for the trials of other processes"))
            self.waited = True
            self.team.wait()
        return ()

    def _suggest(self) -> None:
        """Suggest the blocks that lose least, and neighbours of the best candidate, when it is time
        for them."""
        evaluator, journal, options = self.evaluator, self.journal, self.options
        # What waits was suggested before a kill, or on another machine: it comes first.
        if not journal.waiting and options.controller == BLOCKWISE and self.leads:
            _suggest_blocks(evaluator, journal, self.space, self.progress)
        if not journal.waiting and polishing(journal.trials, options.trials, options.max_minutes):
            evaluator.survey(
                self.space, best_first(journal.trials)[0].arch,
                lambda line: self.progress(Event("search", line)),
            )  # fmt: skip
            near = polished(
                self.space, journal.trials, evaluator.expected, options.budget_ms,
                evaluator.trainer.worth, journal.under_way,
            )  # fmt: skip
            if near is not None:
                journal.suggest(near)

    def _note(self, trial: Trial) -> None:
        self.judged, self.waited = self.judged + 1, False
        self.progress(_event(self.options, trial, self.journal.trials))
        self.failures = self.failures + 1 if trial.verdict == FAILED else 0
        if self.failures == _FAILURES:
            if trial.latency_ms is not None:  # it was measured, and its training diverged
                raise DivergedError(f"the last of {self.failures} candidates in a row that failed: "
                                    f"{trial.reason}")  # fmt: skip
            raise DeviceError(
                f"{self.evaluator.device.name}: {self.failures} libraries in a row could not be "
                f"measured, the last one with {trial.reason}; see `canao bench` on one of them"
            )


def _suggest_blocks(
    evaluator: Evaluator, journal: Journal, space: Space, progress: Progress
) -> None:
    """Suggest the student whose blocks lose least, of the widest width for which that was not done
    yet; nothing once it was done for all. Where its library missed the budget, it told how far
    the table is off, and blocks are chosen once more."""
    rows = list(journal.note(_BLOCKS) or ())  # of a width, what was chosen for it; '' if nothing
    under_way = set(journal.under_way)
    judged = {trial.arch: trial for trial in journal.trials}
    known = judged.keys() | under_way
    for _, text in rows:  # a kill may have come between choosing and suggesting
        if text and Arch.from_json(text) not in known:
            journal.suggest(Arch.from_json(text))
            return
    for hidden in widths(space):
        texts = [text for width, text in rows if width == hidden]
        chosen = [Arch.from_json(text) if text else None for text in texts]
        if any(arch in under_way for arch in chosen):
            continue  # its library tells more
        kept = any(arch is not None and judged[arch].trained for arch in chosen)
        if kept or None in chosen or len(chosen) >= _TRIES_OF_BLOCKS:
            continue
        progress(Event("search", f"choosing the blocks of a student of width {hidden}"))
        arch = evaluator.allocate(
            space, hidden, journal.trials, lambda line: progress(Event("search", line))
        )
        arch = None if arch in known else arch
        rows.append((hidden, "" if arch is None else arch.to_json()))
        journal.set_note(_BLOCKS, rows)
        if arch is not None:
            journal.suggest(arch)
            return


def _enough(options: SearchOptions, trials: tuple[Trial, ...]) -> bool:
    spent = sum(trial.seconds for trial in trials)
    return (
        sum(trial.trained for trial in trials) >= options.trials
        or len(trials) >= _PROPOSALS * options.trials
        or 0 < 60 * options.max_minutes <= spent
    )


def _event(options: SearchOptions, trial: Trial, trials: tuple[Trial, ...]) -> Event:
    done, best = sum(one.trained for one in trials), best_first(trials)[:1]
    # The time of rejected candidates counts towards that of each one with a proxy score.
    left = sum(one.seconds for one in trials) / done * (options.trials - done) if done else None
    outcome = f"{trial.verdict} ({trial.reason})"
    if trial.trained:
        outcome = f"{trial.accuracy:.4f} at {trial.latency_ms:.4g} ms"
    best_text = f", best {best[0].accuracy:.4f}" if best else ""
    return Event(
        "search",
        f"trial {done} of {options.trials}: {trial.arch} {outcome}{best_text}",
        trial=trial,
        best=best[0] if best else None,
        done=done,
        total=options.trials,
        seconds_left=left,
    )
