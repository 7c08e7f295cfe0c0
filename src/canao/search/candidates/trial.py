"""Trial: the outcome of one proposed architecture."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import msgspec

from canao.artifact.reading import fits, parse_json
from canao.errors import InputError
from canao.model.arch import Arch

TRAINED = "trained"  # within the budget, and has a proxy score
DOMINATED = "dominated"  # no smaller in any dimension than one measured over the budget
PREDICTED_OVER = "predicted over"  # the table's lower bound is over the budget
MEASURED_OVER = "measured over"  # its library took longer, or more room, than a budget
FAILED = "failed"  # its library could not be measured, or its training diverged
# Fields that journals of earlier versions have under another name.
_RENAMED = {"layers_before": "operators", "layers_after": "kernels"}
_RESTORE = "restore the study, or choose another run directory"


class _Row(msgspec.Struct):
    """The types of a Trial in JSON form."""

    arch: dict[str, Any]
    verdict: Literal["trained", "dominated", "predicted over", "measured over", "failed"]
    excess: float
    accuracy: float | None = None
    metrics: dict[str, float] = {}
    latency_ms: float | None = None
    bound_ms: float | None = None
    median_ms: float | None = None
    predicted_ms: float | None = None
    operators: int | None = None
    kernels: int | None = None
    flops: int | None = None
    utilisation: float | None = None
    peak_bytes: int | None = None
    size_bytes: int | None = None
    reason: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Trial:
    """One judged architecture. Times in milliseconds except `seconds`; accuracy in 0..1.

    excess          latency / budget - 1: positive if the budget is missed; of several budgets the
                    one that is missed most
    verdict         one of TRAINED, DOMINATED, PREDICTED_OVER, MEASURED_OVER, FAILED
    accuracy        the proxy score, in the task's primary metric; None unless trained
    latency_ms      measured at the budget's percentile; None unless measured
    bound_ms        what that is at most, with a confidence of 95 %
    median_ms       measured median, from which the utilisation is computed
    predicted_ms    prediction of the latency table; None if it was not asked
    operators       number of operators before fusion
    kernels         number of kernels after fusion
    utilisation     time at the measured peaks, of each kernel's type of products its own / median
    peak_bytes      the most memory of a process that runs the library
    size_bytes      of all files of the artifact
    seconds         time that the trial took
    """

    arch: Arch
    verdict: str
    excess: float
    accuracy: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    latency_ms: float | None = None
    bound_ms: float | None = None
    median_ms: float | None = None
    predicted_ms: float | None = None
    operators: int | None = None
    kernels: int | None = None
    flops: int | None = None
    utilisation: float | None = None
    peak_bytes: int | None = None
    size_bytes: int | None = None
    reason: str = ""
    seconds: float = 0.0

    @property
    def trained(self) -> bool:
        return self.verdict == TRAINED

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"arch": self.arch.facts()}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_json(cls, text: str, place: str = "trial") -> Trial:
        """The trial that `to_json` wrote, in this version or an earlier one; InputError for text
        that is none."""
        row = parse_json(text, place, remedy=_RESTORE)
        row = {_RENAMED.get(name, name): value for name, value in row.items()}
        wrong = fits(row, _Row)
        if wrong is not None:
            raise InputError(f"{place}: cannot be read ({wrong}); {_RESTORE}")
        known = {entry.name for entry in fields(cls)}
        row = {name: value for name, value in row.items() if name in known}
        return cls(**row | {"arch": Arch.of(row["arch"], place)})


def best_first(trials: Iterable[Trial]) -> tuple[Trial, ...]:
    """The trained trials, highest accuracy first; of two equal ones the faster comes first."""
    return tuple(sorted((t for t in trials if t.trained), key=_rank))


def pareto(trials: Iterable[Trial]) -> tuple[Trial, ...]:
    """The trained trials that no other beats in both accuracy and latency, the fastest first."""
    front: list[Trial] = []
    for trial in best_first(trials):
        # Trials come by falling accuracy, so the next one on the front must be faster.
        if not front or (trial.latency_ms or 0.0) < (front[-1].latency_ms or 0.0):
            front.append(trial)
    return tuple(reversed(front))


def _rank(trial: Trial) -> tuple[float, float, Arch]:
    return -(trial.accuracy or 0.0), trial.latency_ms or 0.0, trial.arch
