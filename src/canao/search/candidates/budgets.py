"""What a student has to keep besides its latency: its size, its memory, and a least score."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from canao.artifact.budgets import MB, OtherBudgets


@dataclass(frozen=True, slots=True)
class Budgets:
    """Limits of one search. None: there is none.

    ms             latency at the search's percentile
    size_mb        of all files of the artifact, in megabytes of a million bytes
    memory_mb      the most memory of a fresh process that runs the library, in the same
    min_accuracy   the least score of the finished student, in the metric that ranks candidates
    """

    ms: float
    size_mb: float | None = None
    memory_mb: float | None = None
    min_accuracy: float | None = None

    def __post_init__(self) -> None:
        _ = self.other_budgets  # which refuses what is no limit

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Budgets:
        """Those of a run's facts."""
        further = (facts.get(name) for name in ("size_mb", "memory_mb", "min_accuracy"))
        return cls(facts["budget_ms"], *further)

    def excess(self, latency_ms: float, size: int, memory: int) -> float:
        """By how much of itself the budget is missed that is missed most; negative where all are
        kept. Sizes are in bytes."""
        return max(share for _, share in self._shares(latency_ms, size, memory)) - 1.0

    def missed(
        self, latency_ms: float, size: int, memory: int, score: float | None = None
    ) -> str:
        """Which budgets are missed, and with what; '' where all are kept. `score` is that of a
        finished student."""
        late = [told for told, share in self._latency(latency_ms) if share > 1]
        return ", ".join([*late, *self.other_budgets.missed(size, memory, score)])

    @property
    def other_budgets(self) -> OtherBudgets:
        """Those besides latency."""
        return OtherBudgets(self.size_mb, self.memory_mb, self.min_accuracy)

    @property
    def further(self) -> bool:
        """Whether there is any besides that of latency."""
        return bool(self.other_budgets)

    def told(self, latency_ms: float, size: int, memory: int, score: float) -> str:
        """All budgets, and what a finished student needs of each."""
        late = [told for told, _ in self._latency(latency_ms)]
        return ", ".join([*late, *self.other_budgets.told(size, memory, score)])

    def room(self, size: int, memory: int) -> float:
        """The bytes that are left of the budget of size or of memory, whichever is less; negative
        where one is missed, infinite where there is neither."""
        given = ((self.size_mb, size), (self.memory_mb, memory))
        left = [limit * MB - used for limit, used in given if limit is not None]
        return min(left, default=math.inf)

    def least(self, latency_ms: float, size: int, memory: int) -> dict[str, float]:
        """The options of those budgets that are missed, and with what value they would be kept, by
        a twentieth."""
        needed = {"budget-ms": latency_ms, "size-mb": size / MB, "memory-mb": memory / MB}
        given = {"budget-ms": self.ms, "size-mb": self.size_mb, "memory-mb": self.memory_mb}
        return {name: 1.05 * value for name, value in needed.items()
                if (limit := given[name]) is not None and value > limit}  # fmt: skip

    def __str__(self) -> str:
        parts = [f"{self.ms:g} ms"]
        parts += [f"{self.size_mb:g} MB"] if self.size_mb is not None else []
        parts += [f"{self.memory_mb:g} MB of memory"] if self.memory_mb is not None else []
        parts += [f"a score of {self.min_accuracy:g}"] if self.min_accuracy is not None else []
        return ", ".join(parts)

    def _shares(self, latency_ms: float, size: int, memory: int) -> list[tuple[str, float]]:
        return [*self._latency(latency_ms), *self.other_budgets.shares(size, memory)]

    def _latency(self, latency_ms: float) -> list[tuple[str, float]]:
        return [(f"{latency_ms:.4g} of {self.ms:g} ms", latency_ms / self.ms)]
