"""`--precision auto` of a search: the precision in which the teacher is fastest, and where a
finished library loses too much in it, the next one that is more precise.

Which precisions were left out is a fact of the run (`LEFT_OUT` in run.json), so that a resumed run
stays where it was. Each precision has a study of its own; what was trained is used by all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from canao.defaults import PRECISION
from canao.errors import AccuracyError, BudgetError, NotFiniteError
from canao.search.options import LEFT_OUT, Event, LeftOut, Progress, SearchOptions
from canao.search.study.run_file import RUN_FILE, read_run, turn

if TYPE_CHECKING:
    from canao.search.certification import SearchResult


@dataclass(frozen=True, slots=True)
class Precisions:
    """What `auto` chooses among.

    known     the precisions that may be fastest on the device, the most precise first
    fastest   the one of some of them, in that order, in which the teacher takes least time there;
              what is called with lines of progress comes second
    """

    known: Sequence[str]
    fastest: Callable[[Sequence[str], Callable[[str], None]], str]


def left_out(run_dir: Path) -> tuple[LeftOut, ...]:
    """The precisions that a run under way has left out; none of a new one."""
    return LeftOut.of(read_run(run_dir)) if (run_dir / RUN_FILE).is_file() else ()


def chosen(
    asked: SearchOptions, other: Path | None, among: Precisions, progress: Progress
) -> SearchOptions:
    """The options in the precision of a run that is under way, or of the other run whose training
    is used; else in the one in which the teacher is fastest on the device.

    Where more may be lost now than when a precision was left out, that is tried again.
    """
    if (asked.run_dir / RUN_FILE).is_file():
        return _resumed(asked, progress)
    if other is not None:
        return like(asked, other)
    return _measured(asked, among, among.known, progress)


def like(asked: SearchOptions, run_dir: Path) -> SearchOptions:
    """The options in the precision of a run."""
    return asked.in_precision(str(read_run(run_dir).get("precision", PRECISION)))


def in_turn(
    searched: Callable[[SearchOptions, Progress], SearchResult], options: SearchOptions,
    progress: Progress, after: Callable[[tuple[LeftOut, ...]], SearchOptions],
) -> SearchResult:  # fmt: skip
    """A search in the precision of the options; where a finished library loses too much in it, in
    the one that comes `after` those left out, until one loses little enough: float32 loses nothing.
    What was trained is used again, and only timings are taken anew.

    BudgetError names the precisions that were left out, if what is left keeps no budget."""
    told_of = progress
    while True:
        try:
            return searched(options, told_of)
        except NotFiniteError:  # which no precision mends
            raise
        except BudgetError as error:
            if not options.left_out:
                raise
            names = " and ".join(one.precision for one in options.left_out)
            raise BudgetError(
                f"{error}; {names} lost more than --max-loss, which a larger one may allow"
            ) from None
        except AccuracyError as error:
            lost = LeftOut(options.precision, options.max_loss, str(error))
            progress(Event("finish", str(lost)))
            options, told_of = after((*options.left_out, lost)), _but_data(progress)


def after(
    left: tuple[LeftOut, ...], asked: SearchOptions, among: Precisions, progress: Progress
) -> SearchOptions:
    """The options in the fastest of the precisions that are more precise than all that were left
    out; the run goes on in it, also when it is resumed."""
    gone = {one.precision for one in left}
    first = next((i for i, name in enumerate(among.known) if name in gone), 1)
    names = among.known[:first] or (PRECISION,)
    options = replace(_measured(asked, among, names, progress), left_out=left)
    _turned(options)
    return options


def _resumed(asked: SearchOptions, progress: Progress) -> SearchOptions:
    again = next((i for i, one in enumerate(asked.left_out) if asked.max_loss > one.max_loss), None)
    if again is None:
        for one in asked.left_out:
            progress(Event("resume", str(one)))
        return like(asked, asked.run_dir)
    name, left = asked.left_out[again].precision, asked.left_out[:again]
    progress(Event("resume", f"{name} is tried again with --max-loss {asked.max_loss:g}"))
    options = replace(asked.in_precision(name), left_out=left)
    _turned(options)
    return options


def _measured(
    asked: SearchOptions, among: Precisions, names: Sequence[str], progress: Progress
) -> SearchOptions:
    """The options in the precision in which the teacher is fastest, of those named."""
    found = names[0]
    if len(names) > 1:
        progress(Event("check", "measuring the teacher's shape in each precision"))
        found = among.fastest(names, lambda line: progress(Event("check", line)))
    progress(Event("check", f"libraries are in {found}"))
    return asked.in_precision(found)


def _turned(options: SearchOptions) -> None:
    """Write into run.json that the run is in the precision of the options from now on."""
    facts, names = options.facts(), ("precision", "training.quantized_epochs", LEFT_OUT)
    turn(options.run_dir, {name: facts[name] for name in names if name in facts}, {LEFT_OUT})


def _but_data(progress: Progress) -> Progress:
    """Without what was said of the data before."""
    return lambda event: None if event.stage == "data" else progress(event)
