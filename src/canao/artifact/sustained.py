"""What a library takes minute by minute while it runs without a pause, as a certificate holds it:
a phone that gets warm lowers its clocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

# A minute is throttled where a fixed loop takes so much longer than in the first one.
_SLOWER = 1.05


@dataclass(frozen=True, slots=True)
class Minute:
    """One minute of uninterrupted runs; times in ms. What the system does not tell is None.

    at_s           seconds from the start of the first minute to that of this one
    samples        runs in this minute
    measured_ms    their percentile that a budget limits
    median_ms      their median
    loop_ns        how long a fixed loop took at the end of it, which follows from the clock alone
    khz            the slowest clock of the library's cores then
    celsius        of the hottest part
    battery        its charge in percent
    charging, screen_on, battery_saver
    throttling     the system's own thermal status, 0 to 6
    others         the most that others took of a core, as a share
    """

    at_s: float
    samples: int
    measured_ms: float
    median_ms: float
    loop_ns: int | None = None
    khz: int | None = None
    celsius: float | None = None
    battery: int | None = None
    charging: bool | None = None
    screen_on: bool | None = None
    battery_saver: bool | None = None
    throttling: int | None = None
    others: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        told = [f"{self.measured_ms:.4g} ms"]
        told += [f"{self.khz / 1e6:.2f} GHz"] if self.khz else []
        told += [f"{self.celsius:.0f} °C"] if self.celsius is not None else []
        told += [f"battery {self.battery} %"] if self.battery is not None else []
        return ", ".join(told)


def worst(minutes: Sequence[Minute]) -> float:
    """The slowest minute's percentile, which a budget limits; 0 of none."""
    return max((minute.measured_ms for minute in minutes), default=0.0)


def throttled(minutes: Sequence[Minute]) -> tuple[int, ...]:
    """The minutes, from 1, in which the clock was lower than in the first, or the system says that
    it throttles."""
    first = minutes[0].loop_ns if minutes else None
    return tuple(
        number
        for number, minute in enumerate(minutes, 1)
        if minute.throttling
        or (first and minute.loop_ns and minute.loop_ns > _SLOWER * first)
    )


def sustained_text(minutes: Sequence[Minute], percentile: float) -> list[str]:
    """In words, a line each: the first and the worst minute, and whether the device throttled."""
    if not minutes:
        return []
    slowest = max(range(len(minutes)), key=lambda i: minutes[i].measured_ms)
    lines = [f"sustained for {len(minutes)} min: p{percentile:g} in the first minute "
             f"({minutes[0]}), in the worst, minute {slowest + 1} ({minutes[slowest]})"]
    if slow := throttled(minutes):
        when = ", ".join(map(str, slow))
        lines.append(f"throttled in minute{'s' if len(slow) > 1 else ''} {when}: its clock was "
                     "lower than in the first, or its system says so")  # fmt: skip
    return lines
