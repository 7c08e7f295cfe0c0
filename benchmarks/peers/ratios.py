"""How many times faster CANAO is than another engine, and how surely one run tells that."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from math import comb
from typing import Any

from canao.precision.quantize import FLOAT32
from peers.catalog import CANAO, OWN_LABELS

Record = Mapping[str, Any]
CONFIDENCE = 0.95
# A median ratio that is less sure than this, to either side, is no result: differences between
# engines are of this size. Guests of the same host, which no statistic of this machine shows,
# can slow one engine's turn to half its speed.
UNCERTAINTY = 0.05
NEAR = 1.5  # nobody asks by how many percent an engine is behind that takes longer than this


def is_own(label: str) -> bool:
    """Whether a contestant is CANAO, in whatever way it takes part."""
    return label.partition(",")[0] in OWN_LABELS


def reduced(engine: Mapping[str, Any]) -> bool:
    """Whether a contestant computes in fewer bits than float32."""
    return bool(engine.get("precision", FLOAT32) != FLOAT32)


def median_ms(engine: Mapping[str, Any]) -> float:
    """Median over all samples, milliseconds."""
    return statistics.median(chain(*engine["samples_us"])) / 1e3


def mean_ms(engine: Mapping[str, Any]) -> float:
    """Mean over all samples, milliseconds: for texts, which differ."""
    return statistics.fmean(chain(*engine["samples_us"])) / 1e3


def by_round(record: Record, slow: str, fast: str) -> list[float]:
    """In each round, how many times faster one contestant is than another.

    That is the ratio of medians; of sums where the samples are different texts, the same ones for
    all.
    """
    pair = (record["engines"][label]["samples_us"] for label in (slow, fast))
    of = statistics.median if record["length"] else sum
    return [of(a) / of(b) for a, b in zip(*pair, strict=True)]


def ratio(record: Record, slow: str, fast: str) -> float:
    """The median over the rounds of the ratio in each round."""
    return statistics.median(by_round(record, slow, fast))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Two of the values between which the median of all possible ones is, with 95 % confidence.

    The number of values below the true median has a binomial distribution with p = 1/2, so the
    values of rank k from either end hold it unless fewer than k fall on one side. Of five values
    or fewer it is all of them, which is less sure.
    """
    ordered, n = sorted(values), len(values)
    left_out, outside = 0, 1 / 2**n  # the chance that all values are on one side
    while left_out + 1 < n // 2:
        outside += comb(n, left_out + 1) / 2**n
        if 2 * outside > 1 - CONFIDENCE:
            break
        left_out += 1
    return ordered[left_out], ordered[n - 1 - left_out]


def fastest(record: Record, own: bool, case: str = "") -> str | None:
    """The label of the fastest right contestant, among CANAO's own or the others.

    None where there is none. The fastest has the smallest median; of texts, the smallest mean.
    case: what labels begin with where a run has several models, as 'bert-base/'.
    """
    key = median_ms if record["length"] else mean_ms
    right = _right(record, own, case)
    return min(right, key=lambda label: key(record["engines"][label]), default=None)


def _right(record: Record, own: bool, case: str) -> list[str]:
    """The contestants of a case with right outputs, among CANAO's own or the others."""
    return [
        label
        for label, engine in record["engines"].items()
        if label.startswith(case) and engine["right"] and any(engine["samples_us"])
        and is_own(label.removeprefix(case)) == own
    ]  # fmt: skip


def uncertain(record: Record) -> Iterator[str]:
    """What the rounds do not tell surely: in each case, CANAO against each that comes near it."""
    for case in dict.fromkeys(_case(label) for label in record.get("engines") or {}):
        own = fastest(record, True, case)
        plain = f"{case}{CANAO}"
        pairs = [(other, own) for other in _others(record, own, case)] if own else []
        if own not in (None, plain) and record.get("kind") == "generation":
            # Its table also sets CANAO in float32 beside peers in float32.
            pairs += [(other, plain) for other, _ in pairs
                      if other != plain and not reduced(record["engines"][other])]  # fmt: skip
        if own == plain and not pairs:  # CANAO alone, slower in fewer bits
            pairs = [(other, plain) for other in record["engines"]
                     if _case(other) == case and other != plain]  # fmt: skip
        for other, own in pairs:
            values = by_round(record, other, own)
            low, high = interval(values)
            middle = statistics.median(values)
            near = middle < NEAR or is_own(other.removeprefix(case))
            if near and max(high - middle, middle - low) > UNCERTAINTY * middle:
                yield (f"in {len(values)} rounds {other} took {low:.2f} to {high:.2f} times as "
                       f"long as {own}, which does not tell the median to {UNCERTAINTY:.0%}: it "
                       "takes more rounds, or a quieter machine")  # fmt: skip


def _others(record: Record, own: str, case: str) -> list[str]:
    """Those that CANAO's fastest is compared with: right peers, those in fewer bits however far off
    they are; and CANAO in float32, if this is in fewer bits."""
    engines = record["engines"]
    peers = [
        label for label, engine in engines.items()
        if label.startswith(case) and not is_own(label.removeprefix(case))
        and (engine["right"] or reduced(engine)) and any(engine["samples_us"])
    ]  # fmt: skip
    plain = f"{case}{CANAO}"
    return [*peers, plain] if reduced(engines[own]) and plain in engines else peers


def _case(label: str) -> str:
    head, slash, _ = label.rpartition("/")
    return head + slash
