"""Trial: what became of one proposed architecture."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from canao.errors import InputError
from canao.model.arch import Arch

TRAINED = "trained"  # within the budget, quick accuracy known
DOMINATED = "dominated"  # no smaller in any size than one that was measured over the budget
PREDICTED_OVER = "predicted over"  # the table's optimistic prediction is over the budget
MEASURED_OVER = "measured over"  # its library was measured over the budget
FAILED = "failed"  # its library could not be measured


@dataclass(frozen=True, slots=True)
class Trial:
    """One judged architecture. Times in milliseconds except `seconds`; accuracy in 0..1.

    excess          latency over budget, less 1: over 0 where the budget is not kept
    verdict         one of TRAINED, DOMINATED, PREDICTED_OVER, MEASURED_OVER, FAILED
    accuracy        quick value of the task's primary metric; None unless trained
    latency_ms      measured at the budget's percentile; None unless measured
    median_ms       measured median, of which the utilisation is computed
    predicted_ms    what the latency table said before; None if it was not asked
    layers_before, layers_after   operators before fusion, kernels after it
    utilisation     achieved over measured peak FLOP/s
    seconds         what the trial cost
    """

    arch: Arch
    verdict: str
    excess: float
    accuracy: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    latency_ms: float | None = None
    median_ms: float | None = None
    predicted_ms: float | None = None
    layers_before: int | None = None
    layers_after: int | None = None
    flops: int | None = None
    utilisation: float | None = None
    peak_bytes: int | None = None
    reason: str = ""
    seconds: float = 0.0

    @property
    def trained(self) -> bool:
        return self.verdict == TRAINED

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Trial:
        try:
            row = json.loads(text)
            known = {entry.name for entry in fields(cls)}
            row = {name: value for name, value in row.items() if name in known}
            return cls(**row | {"arch": Arch(**row["arch"])})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"trial: cannot read {text[:80]!r}: {error!r}") from None


def best_first(trials: Iterable[Trial]) -> tuple[Trial, ...]:
    """The trained trials, most accurate first; of equals the faster one first."""
    return tuple(sorted((t for t in trials if t.trained), key=_inaccuracy))


def pareto(trials: Iterable[Trial]) -> tuple[Trial, ...]:
    """The trained trials that no other one beats in both accuracy and latency, fastest first."""
    front: list[Trial] = []
    for trial in best_first(trials):
        # The front is walked from its most accurate end: only a faster one is on it.
        if not front or (trial.latency_ms or 0.0) < (front[-1].latency_ms or 0.0):
            front.append(trial)
    return tuple(reversed(front))


def _inaccuracy(trial: Trial) -> tuple[float, float, Arch]:
    return -(trial.accuracy or 0.0), trial.latency_ms or 0.0, trial.arch
