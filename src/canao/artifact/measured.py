"""What a measurement consists of, wherever it is kept: figures of its samples, what else ran on the
machine meanwhile, and how fast its clock was."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist, fmean, stdev
from typing import Any

from canao.errors import InputError

PERCENTILES = (50, 90, 95, 99)  # of a summary, if no others are asked for
CONFIDENCE = 0.95  # of an upper bound


def percentile(samples: Sequence[float], q: float) -> float:
    """The smallest sample that at least q percent of the samples do not exceed."""
    if not 0 < q <= 100:
        raise InputError(f"percentile {q:g} is outside (0, 100]")
    ordered = sorted(samples)
    rank = max(1, math.ceil(q / 100 * len(ordered) - 1e-9))
    return ordered[rank - 1]


def upper_bound(samples: Sequence[float], q: float, confidence: float = CONFIDENCE) -> float:
    """What the q-th percentile of all runs is at most, with a confidence of 95 % if no other is
    asked for, by these samples.

    It is the smallest sample that this can be said of, whatever runs are distributed like: the k-th
    smallest of n is below the percentile only if k samples are, and the number of those is binomial
    of n and q (David and Nagaraja 2003, Order Statistics, section 7.1). Of 1,024 samples and q = 90
    it is the 938th, a percentile of 91.6. It takes samples to be independent. Where there are too
    few for that confidence (`are_enough`), it is the largest.
    """
    ordered, n, share = sorted(samples), len(samples), q / 100
    if not 0 < share <= 1:
        raise InputError(f"percentile {q:g} is outside (0, 100]")
    k, tail = n, share**n  # the probability that all n are below
    while k > 1 and (more := tail + _binomial(n, k - 1, share)) <= 1 - confidence:
        k, tail = k - 1, more
    return ordered[k - 1]


def upper_bound_of_runs(
    runs: Sequence[Sequence[float]], q: float, confidence: float = CONFIDENCE
) -> float:
    """What the q-th percentile is at most, with a confidence of 95 % if no other is asked for, by
    the samples of several processes (at least two).

    Samples of one process are alike: it has its own pages of memory, and its own minute. So a
    process counts as one observation of how many runs are at most x, and x is a bound if the lower
    confidence bound of the mean of these shares is q (Woodruff 1952, Confidence intervals for
    medians and other position measures, with processes as clusters). Where processes happen to
    agree better than their own samples could, the bound is that of all samples as if they were
    independent, `upper_bound`.
    """
    everything = [ms for run in runs for ms in run]
    bound = upper_bound(everything, q, confidence)
    many, factor = len(runs), student_t(len(runs) - 1, confidence) / math.sqrt(len(runs))
    below = [len(run) for run in runs]  # samples that are at most the one that is looked at
    ordered = sorted(((ms, i) for i, run in enumerate(runs) for ms in run), reverse=True)
    highest = ordered[0][0]
    for place, (ms, i) in enumerate(ordered):
        if place == 0 or ms < ordered[place - 1][0]:  # equal samples are looked at once
            shares = [below[k] / len(runs[k]) for k in range(many)]
            if fmean(shares) - factor * stdev(shares) < q / 100 - 1e-9 or ms < bound:
                break
            highest = ms
        below[i] -= 1
    return max(bound, highest)


def student_t(freedom: int, confidence: float) -> float:
    """The quantile of Student's t, to a thousandth from 4 degrees of freedom on (Abramowitz and
    Stegun 1964, 26.7.5)."""
    z = NormalDist().inv_cdf(confidence)
    terms = ((z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96,
             (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)  # fmt: skip
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))


def are_enough(n: int, q: float) -> bool:
    """Whether so many samples can bound the q-th percentile with a confidence of 95 %."""
    return bool((q / 100) ** n <= 1 - CONFIDENCE)


def _binomial(n: int, k: int, share: float) -> float:
    """The probability of k out of n, each with the probability `share`; k is less than n."""
    if share == 1:
        return 0.0
    ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(ways + k * math.log(share) + (n - k) * math.log1p(-share))


def summary(
    samples: Sequence[float], percentiles: Sequence[float] = PERCENTILES
) -> dict[str, float]:
    """n, min, mean, the asked percentiles and max; the same digits on every machine."""
    row: dict[str, float] = {"n": len(samples), "min": min(samples)}
    row["mean"] = math.fsum(samples) / len(samples)
    row |= {f"p{q:g}": percentile(samples, q) for q in percentiles}
    return row | {"max": max(samples)}


@dataclass(frozen=True, slots=True)
class Clock:
    """How fast the clock of the library's first core was, before and after samples were taken.

    loop_ns    of a fixed loop before and after: it takes longer where the clock is slower
    khz        what the system says of it, before and after; 0: it does not say
    governor   who sets it, as the system calls it; '' if that is not told
    """

    loop_ns: tuple[int, int]
    khz: tuple[int, int] = (0, 0)
    governor: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self) | {"loop_ns": list(self.loop_ns), "khz": list(self.khz)}


@dataclass(frozen=True, slots=True)
class Others:
    """What others took of the cores while samples were taken, as shares of that time, 0 to 1.

    Others are programs, the system itself, other guests of the same host, and a limit that a
    container is held to; the measured process, all its threads included, is none.

    cores    of each core that the measuring process may use, by its number
    used     the cores that the library ran on
    waited   the longest that one of its threads waited for its core while it had work
    """

    cores: Mapping[int, float]
    used: tuple[int, ...]
    waited: float

    @property
    def of_its_cores(self) -> float:
        """The most that was taken of a core that the library ran on."""
        return max(self.waited, *(self.cores[core] for core in self.used))

    @property
    def beside(self) -> float | None:
        """What was taken of the other cores, on average; None if there are none."""
        rest = [share for core, share in self.cores.items() if core not in self.used]
        return sum(rest) / len(rest) if rest else None

    @property
    def most(self) -> float:
        """What a limit is compared with: the most that was taken of a core that the library ran on,
        or half of that of those beside it. They share caches and memory with it, and in virtual
        machines often the very core."""
        return max(self.of_its_cores, (self.beside or 0.0) / 2)

    def exceeds(self, limit: float) -> bool:
        """Whether this is more than `limit` of a core, by `most`."""
        return self.most > limit

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        cores = {str(core): share for core, share in self.cores.items()}
        return {"cores": cores, "used": list(self.used), "waited": self.waited}

    def __str__(self) -> str:
        busiest = max(self.used, key=lambda core: self.cores[core])
        rest = "" if self.beside is None else f" and {_percent(self.beside)} of the rest"
        return f"others took {_percent(self.of_its_cores)} of core {busiest}{rest}"


def _percent(share: float) -> str:
    return "under 1%" if share < 0.01 else f"{share:.0%}"
