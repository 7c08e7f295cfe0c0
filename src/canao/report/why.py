"""Why a search ended with its architecture: what was left out and for what, in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from canao.artifact.certificate import Certificate
from canao.model.arch import Arch
from canao.search.candidates.trial import (
    DOMINATED,
    FAILED,
    MEASURED_OVER,
    PREDICTED_OVER,
    Trial,
    best_first,
)

_LEFT_OUT = {
    DOMINATED: "no smaller than one that missed a budget",
    PREDICTED_OVER: "too slow by the latency table",
    MEASURED_OVER: "measured over a budget",
    FAILED: "not to be measured or trained",
}
_RANKED_BY = {
    "short": "after a short distillation", "supernet": "as a part of the supernet",
    "fitted": "as it starts, with the teacher's weights", "pruning": "by what it keeps",
}  # fmt: skip


def why(
    arch: Arch, trials: Sequence[Trial], facts: Mapping[str, Any], certificate: Certificate | None
) -> tuple[str, ...]:
    """Sentences on how the student's architecture came out of the trials of a run with these
    facts; nothing if it is not among those that were ranked."""
    ranked = best_first(trials)
    own = next((trial for trial in ranked if trial.arch == arch), None)
    if own is None:
        return ()
    place = ranked.index(own)
    told = [_counted(trials, len(ranked)), _place(own, place, ranked, facts)]
    if place:
        told.append(f"Those that ranked higher missed a budget when they were checked or finished, "
                    f"or were put off because they came too near to it: {_listed(ranked[:place])}.")
    told.append(_used(own, certificate, float(facts["budget_ms"])))
    told.append(_beyond(trials))
    return tuple(line for line in told if line)


def _counted(trials: Sequence[Trial], ranked: int) -> str:
    counts = Counter(trial.verdict for trial in trials)
    left = [f"{counts[verdict]} {words}" for verdict, words in _LEFT_OUT.items() if counts[verdict]]
    out = f": {', '.join(left)}" if left else ""
    return (f"{len(trials)} architectures were judged. {len(trials) - ranked} were left out before "
            f"any training{out}; {ranked} kept the budgets and were ranked.")  # fmt: skip


def _place(
    own: Trial, place: int, ranked: Sequence[Trial], facts: Mapping[str, Any]
) -> str:
    ranker = str(facts.get("training.ranker", "short"))
    other = ranked[0] if place else next(iter(ranked[1:]), None)
    beside = ""
    if other is not None:
        beside = f", {other.arch}, the {'best' if place else 'next'} one, {_score(other)}"
    rank = f"number {place + 1}" if place else "best"
    return (f"{own.arch} ranked {rank}: it scored {_score(own)} "
            f"{_RANKED_BY.get(ranker, ranker)}{beside}.")  # fmt: skip


def _score(trial: Trial) -> str:
    return f"{trial.accuracy or 0.0:.4f}"


def _used(own: Trial, certificate: Certificate | None, budget_ms: float) -> str:
    ms = certificate.measured_ms if certificate is not None else own.latency_ms
    return "" if ms is None else f"Its library uses {ms / budget_ms:.0%} of the latency budget."


def _beyond(trials: Sequence[Trial]) -> str:
    """What was nearest to the budget on its other side."""
    over = [trial for trial in trials if trial.excess > 0 and trial.verdict == MEASURED_OVER]
    if not over:
        return ""
    nearest = min(over, key=lambda trial: trial.excess)
    return f"Nearest to the budgets, and over one of them, was {nearest.arch}: {nearest.reason}."


def _listed(trials: Sequence[Trial]) -> str:
    return ", ".join(str(trial.arch) for trial in trials)
