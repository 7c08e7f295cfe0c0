"""What a student has to keep besides its latency: its size, its memory, and a least score."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from canao.artifact.certificate import CERTIFICATE_FILE
from canao.artifact.directory import Artifact
from canao.errors import InputError

_MB = 1e6  # a megabyte, as stores of apps count


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
        for name in ("size_mb", "memory_mb"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"search: {name} is {value:g}; give megabytes above 0")
        least = self.min_accuracy
        if least is not None and not -1 <= least <= 1:
            raise InputError(
                f"search: min_accuracy is {least:g}; give a value of the metric, such as 0.9 for "
                "90 %"
            )

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
        shares = self._shares(latency_ms, size, memory)
        said = [told for told, share in shares if share > 1]
        if score is not None and self.min_accuracy is not None and score < self.min_accuracy:
            said.append(f"a score of {score:.4f}, least is {self.min_accuracy:g}")
        return ", ".join(said)

    @property
    def further(self) -> bool:
        """Whether there is any besides that of latency."""
        return any(b is not None for b in (self.size_mb, self.memory_mb, self.min_accuracy))

    def told(self, latency_ms: float, size: int, memory: int, score: float) -> str:
        """All budgets, and what a finished student needs of each."""
        said = [told for told, _ in self._shares(latency_ms, size, memory)]
        if self.min_accuracy is not None:
            said.append(f"a score of {score:.4f}, least is {self.min_accuracy:g}")
        return ", ".join(said)

    def room(self, size: int, memory: int) -> float:
        """The bytes that are left of the budget of size or of memory, whichever is less; negative
        where one is missed, infinite where there is neither."""
        limits = ((self.size_mb, size), (self.memory_mb, memory))
        left = [limit * _MB - used for limit, used in limits if limit is not None]
        return min(left, default=math.inf)

    def least(self, latency_ms: float, size: int, memory: int) -> dict[str, float]:
        """The options of those budgets that are missed, and with what value they would be kept, by
        a twentieth."""
        needed = {"budget-ms": latency_ms, "size-mb": size / _MB, "memory-mb": memory / _MB}
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
        shares = [(f"{latency_ms:.4g} of {self.ms:g} ms", latency_ms / self.ms)]
        further = (("", size, self.size_mb), (" of memory", memory, self.memory_mb))
        for what, value, limit in further:
            if limit is not None:
                said = f"{value / _MB:.4g} of {limit:g} MB{what}"
                shares.append((said, value / _MB / limit))
        return shares


def size_of(artifact: Artifact) -> int:
    """Bytes of all files of an artifact, but for its certificate, which no application needs."""
    return sum(path.stat().st_size for path in artifact.path.iterdir()
               if path.is_file() and path.name != CERTIFICATE_FILE)  # fmt: skip
