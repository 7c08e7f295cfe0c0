"""The search loop: controller, table, compiler, device and trainer in turn.

    ask -> table -> compile and measure -> proxy score -> tell

It owns all effects. Whatever it needs to continue after a kill is in the journal.
"""

from __future__ import annotations

from canao.defaults import silent
from canao.device.base import Device
from canao.errors import BudgetError, DeviceError
from canao.model.arch import Arch
from canao.search.allocate import widths
from canao.search.certification import SearchResult, certify_best
from canao.search.controller import BLOCKWISE
from canao.search.evaluation import TRIES, Evaluator, judge_next
from canao.search.journal import Journal
from canao.search.kernels import Kernels
from canao.search.options import Compile, Event, Finish, Progress, SearchOptions, Trainer
from canao.search.place import place_of
from canao.search.refine import polished, polishing
from canao.search.run_file import claim, locked, settle
from canao.search.sharing import take_times
from canao.search.space import Space
from canao.search.trial import FAILED, Trial, best_first
from canao.train.engine.storing import storing

_FAILURES = 3  # measurements that fail in a row before the device is given up
_BLOCKS = "blocks"  # note of the journal: for which widths blocks were chosen, and which
_TRIES_OF_BLOCKS = 2
_PROPOSALS = 10  # architectures judged, at most, for each proxy score that is asked for


def run_search(
    options: SearchOptions,
    trainer: Trainer,
    compile: Compile,
    device: Device,
    kernels: Kernels,
    progress: Progress = silent,
    finish: Finish | None = None,
) -> SearchResult:
    """Search, train and certify a student that keeps the budget on the device.

    `compile` makes libraries in the precision of the options, and `kernels` says which kernels they
    will have; `finish` makes that of a finished
    student, if it is also to be checked: what it returns is measured against the budget.

    Run again with the same `run_dir`, it goes on where it was; on another machine, or with other
    code, it measures again and trains nothing again. Raises InputError if that
    directory belongs to another search or cannot be written, BudgetError if nothing keeps the
    budget, and what the trainer, the compiler and the device raise.
    """
    for line in options.data_told:
        progress(Event("data", line))
    evaluator = Evaluator(options, trainer, compile, device, kernels, finish)
    teacher = trainer.teacher_arch()
    space = Space.of_teacher(teacher) if options.space is None else options.space
    with locked(options.run_dir), storing(options.run_dir):
        place = place_of(device)
        facts = options.facts() | {
            "device": device.name,
            "target": place.target,
            "teacher_arch": str(teacher),
            "space": str(space),
        }
        moved = claim(options.run_dir, facts, place, options.data_told)
        take_times(options.run_dir, options.times_of)
        journal = Journal(options, space, place)
        if moved:
            _take_over(journal, moved, progress)
            # Only now: if the run is killed before, the next one takes over as well.
            settle(options.run_dir, facts, place, options.data_told)
        elif options.left_out and not journal.trials:
            left = options.left_out[-1].precision
            _take_over(journal, f"in {options.precision} instead of {left}", progress)
        if journal.trials:
            done = sum(trial.trained for trial in journal.trials)
            text = f"resuming: {done} of {options.trials} trials done"
            progress(Event("resume", text, done=done, total=options.trials))
        _check_feasible(evaluator, journal, space, teacher, progress)
        _search(evaluator, journal, space, progress)
        return certify_best(evaluator, journal, space, progress)


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
    progress(Event("check", f"measuring the teacher's shape, {teacher}"))
    teacher_ms, *rest = evaluator.needs(teacher, options.search_measure)
    if not options.budgets.missed(teacher_ms, *rest) and space.contains(teacher):
        journal.suggest(teacher)  # the teacher keeps the budget as it is
    journal.set_note("teacher_ms", teacher_ms)


def _search(evaluator: Evaluator, journal: Journal, space: Space, progress: Progress) -> None:
    """Judge proposals until enough have a proxy score, time is up, or the space is exhausted. The
    last ones are neighbours of the best candidate, as long as any of them uses the budget."""
    failures, options = 0, evaluator.options
    while not _enough(options, journal.trials):
        # What waits was suggested before a kill, or on another machine: it comes first.
        if not journal.waiting and options.controller == BLOCKWISE:
            _suggest_blocks(evaluator, journal, space, progress)
        if not journal.waiting and polishing(journal.trials, options.trials, options.max_minutes):
            evaluator.survey(
                space, best_first(journal.trials)[0].arch, lambda s: progress(Event("search", s))
            )
            near = polished(
                space, journal.trials, evaluator.expected, options.budget_ms,
                evaluator.trainer.worth,
            )  # fmt: skip
            if near is not None:
                journal.suggest(near)
        trial = judge_next(evaluator, journal)
        if trial is None:
            progress(Event("search", "every architecture in the space has been judged"))
            return
        progress(_event(options, trial, journal.trials))
        failures = failures + 1 if trial.verdict == FAILED else 0
        if failures == _FAILURES:
            raise DeviceError(
                f"{evaluator.device.name}: {failures} libraries in a row could not be measured, "
                f"the last one with {trial.reason}; see `canao bench` on one of them"
            )


def _suggest_blocks(
    evaluator: Evaluator, journal: Journal, space: Space, progress: Progress
) -> None:
    """Suggest the student whose blocks lose least, of the widest width for which that was not done
    yet; nothing once it was done for all. Where its library missed the budget, it told how far
    the table is off, and blocks are chosen once more."""
    rows = list(journal.note(_BLOCKS) or ())  # of a width, what was chosen for it; '' if nothing
    judged = {trial.arch: trial for trial in journal.trials}
    for _, text in rows:  # a kill may have come between choosing and suggesting
        if text and Arch.from_json(text) not in judged:
            journal.suggest(Arch.from_json(text))
            return
    for hidden in widths(space):
        chosen = [text for width, text in rows if width == hidden]
        kept = any(text and judged[Arch.from_json(text)].trained for text in chosen)
        if kept or "" in chosen or len(chosen) >= _TRIES_OF_BLOCKS:
            continue
        progress(Event("search", f"choosing the blocks of a student of width {hidden}"))
        arch = evaluator.allocate(
            space, hidden, journal.trials, lambda line: progress(Event("search", line))
        )
        arch = None if arch in judged else arch
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
