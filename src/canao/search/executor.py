"""`--executor`: where proxy scores are computed, if not in the process of the search.

The search times candidates, one after the other, and hands those that keep the budget over; it has
as many of them under way as there is room for. An executor is anything that is one by its protocol;
`ray_executor.py` is that of a Ray cluster.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from canao.errors import CanaoError
from canao.model.arch import Arch
from canao.search.candidates.trial import TRAINED, Trial
from canao.search.evaluation import Evaluator, scored
from canao.search.study.journal import Journal, Proposal

if TYPE_CHECKING:
    from canao.train.metrics import Score


class Executor(Protocol):
    """Computes proxy scores of several candidates at once.

    places   how many, at most
    """

    places: int

    def submit(self, arch: Arch) -> None:
        """Begin to compute the proxy score of an architecture."""
        ...

    def landed(self, *, wait: bool) -> Sequence[tuple[Arch, Score, float]]:
        """The scores that are there by now, each once, and the seconds that each took; with `wait`
        one at least. Raises what the trainer raised there."""
        ...

    def close(self) -> None:
        """Give up what is under way."""
        ...


class Flights:
    """The candidates of which an executor computes the proxy scores."""

    def __init__(self, executor: Executor, evaluator: Evaluator, journal: Journal) -> None:
        self._executor, self._evaluator, self._journal = executor, evaluator, journal
        self.flying: dict[Arch, tuple[Proposal, Trial]] = {}

    @property
    def room(self) -> bool:
        return len(self.flying) < self._executor.places

    def started(self) -> tuple[Sequence[Trial], bool]:
        """Time the next candidate, and have its proxy score computed if it keeps the budget.
        Returns the trials that are judged by then, and whether there was a candidate at all."""
        proposal = self._journal.ask()
        if proposal is None:
            return (), False
        try:
            trial = self._evaluator.timed(
                proposal.arch, self._journal.trials, self._journal.misses
            )
            if trial.verdict == TRAINED:
                self._executor.submit(proposal.arch)
        except BaseException:
            with suppress(CanaoError):
                self._journal.give_up(proposal)
            raise
        if trial.verdict == TRAINED:
            self.flying[proposal.arch] = proposal, trial
            return self.landed(wait=False), True
        self._journal.tell(proposal, trial)
        return (trial, *self.landed(wait=False)), True

    def landed(self, *, wait: bool = True) -> Sequence[Trial]:
        """The trials whose proxy scores are there by now; with `wait` one at least."""
        found = []
        for arch, score, seconds in self._executor.landed(wait=wait):
            proposal, timed = self.flying.pop(arch)
            trial = scored(timed, score, seconds)
            self._journal.tell(proposal, trial)
            found.append(trial)
        return found

    def give_up(self) -> None:
        """Put back whatever has no score yet: it comes first when the search is resumed."""
        self._executor.close()
        for proposal, _ in self.flying.values():
            with suppress(CanaoError):
                self._journal.give_up(proposal)
        self.flying = {}
