"""Budgets besides that of latency: what a library may take of disk and memory, and how right it
must be."""

from __future__ import annotations

import math
from dataclasses import dataclass

from canao.artifact.directory import Artifact
from canao.errors import InputError

MB = 1e6  # a megabyte, as stores of apps count


@dataclass(frozen=True, slots=True)
class OtherBudgets:
    """None: there is none.

    size_mb        of all files of the artifact, in megabytes of a million bytes
    memory_mb      the most memory of a fresh process that runs the library, in the same
    min_accuracy   the least score of the library
    """

    size_mb: float | None = None
    memory_mb: float | None = None
    min_accuracy: float | None = None

    def __post_init__(self) -> None:
        """InputError for what is no limit."""
        for name in ("size_mb", "memory_mb"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} is {value:g}; give megabytes above 0")
        least = self.min_accuracy
        if least is not None and not -1 <= least <= 1:
            raise InputError(
                f"min_accuracy is {least:g}; give a value of the metric, such as 0.9 for 90 %"
            )

    def __bool__(self) -> bool:
        return any(b is not None for b in (self.size_mb, self.memory_mb, self.min_accuracy))

    def shares(self, size: int, memory: int) -> list[tuple[str, float]]:
        """In words what is needed of each limit of bytes, and as a share of it."""
        rows = (("", size, self.size_mb), (" of memory", memory, self.memory_mb))
        return [(f"{value / MB:.4g} of {limit:g} MB{what}", value / MB / limit)
                for what, value, limit in rows if limit is not None]  # fmt: skip

    def missed(self, size: int, memory: int, score: float | None) -> list[str]:
        """Which are missed, and with what. `score` is None where it is not known yet."""
        said = [told for told, share in self.shares(size, memory) if share > 1]
        if score is not None and self.min_accuracy is not None and score < self.min_accuracy:
            said += self._of_score(score)
        return said

    def told(self, size: int, memory: int, score: float | None) -> list[str]:
        """What is needed of each."""
        known = score is not None and self.min_accuracy is not None
        return [told for told, _ in self.shares(size, memory)] + (
            self._of_score(score) if known and score is not None else []
        )

    def _of_score(self, score: float) -> list[str]:
        return [f"a score of {score:.4f}, least is {self.min_accuracy:g}"]


@dataclass(frozen=True, slots=True)
class Scored:
    """How right the library's own predictions are on labelled text.

    metric      its name, and value 0..1 (correlations from -1)
    low, high   where the metric lies for all texts of this kind, with a confidence of 95 %
    examples    how many there are
    data        what they were read from, and the digest of what was read
    """

    metric: str
    value: float
    low: float
    high: float
    examples: int
    data: str
    digest: str

    def __str__(self) -> str:
        return (f"{self.metric} {self.value:.4f} (95% confidence: {self.low:.4f} to "
                f"{self.high:.4f}) on {self.examples} examples of {self.data}")


def size_of(artifact: Artifact) -> int:
    """Bytes of all files of an artifact, but for what was found of it, which no application needs.
    """
    return sum(path.stat().st_size for path in artifact.path.iterdir()
               if path.is_file() and path.name not in ("certificate.json", "verified.json"))
