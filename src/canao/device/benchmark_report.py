"""The report of the benchmark program: every figure in it is checked before it counts.

The program runs elsewhere, beside the library that it measures. A report with fewer samples than
were asked for, or with what is no time, is no measurement.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from canao.artifact.measured import Clock
from canao.device.base import MeasureConfig
from canao.errors import DeviceError

_REMEDY = "measure again, after `canao cache --clear`"
_MOST = 10**18  # nanoseconds, or bytes
_WORD = re.compile(r"[\w.-]{1,31}\Z", re.ASCII)
# Lines by their first word, and the words after it.
Rows = Mapping[str, Sequence[Sequence[str]]]


@dataclass(frozen=True, slots=True)
class Times:
    """What a report says: milliseconds, bytes, the instruction set whose kernels ran, the clock."""

    samples_ms: tuple[float, ...]
    load_ms: float
    cold_ms: float
    peak_bytes: int
    isa: str
    clock: Clock


def read_times(rows: Rows, config: MeasureConfig, known: Sequence[str]) -> Times:
    """The times that were asked for by `config`, of a library for the instruction sets `known`;
    DeviceError if the report does not hold them."""
    samples = _numbers("samples", rows, least=1)
    few, more = len(samples) < config.samples, len(samples) > config.samples
    # `max_seconds` may end it early, `seconds` prolong it.
    if (few and not config.max_seconds) or (more and not config.seconds):
        raise _wrong(f"it has {len(samples)} samples, and {config.samples} were asked for")
    load, cold, peak = (_numbers(name, rows, least=1) for name in ("load", "cold", "peak"))
    if not len(load) == len(cold) == len(peak) == 1:
        raise _wrong("it has several numbers where one belongs")
    isas = rows.get("isa", [])
    if len(isas) != 1 or len(isas[0]) != 1 or isas[0][0] not in known:
        raise _wrong("it does not name the instruction set that ran")
    return Times(
        tuple(ns / 1e6 for ns in samples), load[0] / 1e6, cold[0] / 1e6, peak[0], isas[0][0],
        _clock(rows),
    )  # fmt: skip


def _clock(rows: Rows) -> Clock:
    found = {row[0]: row[1:] for row in rows.get("clock", []) if len(row) == 4}
    if found.keys() != {"begin", "end"}:
        raise _wrong("it has no line 'clock' from before and after the samples")
    both = [_checked("clock", words[:2], least=0) for words in found.values()]
    (before, khz), (after, khz_after) = both
    governor = found["end"][2]
    if min(before, after) < 1 or not _WORD.match(governor):
        raise _wrong("its line 'clock' tells nothing of a clock")
    return Clock((before, after), (khz, khz_after), "" if governor == "-" else governor)


def read_steps(rows: Rows, samples: int) -> list[tuple[str, tuple[float, ...]]]:
    """Each kernel in order with its times in milliseconds, `samples` of them."""
    names = [" ".join(row) for row in rows.get("step", [])]
    profile = [_checked("profile", row, least=0) for row in rows.get("profile", [])]
    if not names or not all(names) or any(len(row) != len(names) for row in profile):
        raise _wrong("it has not a time for each kernel")
    if len(profile) != samples:
        raise _wrong(f"it has {len(profile)} samples, and {samples} were asked for")
    columns = zip(*profile, strict=True)
    return [(name, tuple(ns / 1e6 for ns in column))
            for name, column in zip(names, columns, strict=True)]  # fmt: skip


def _numbers(name: str, rows: Rows, least: int) -> list[int]:
    """The numbers of the one line that begins with `name`."""
    found = rows.get(name, [])
    if len(found) != 1 or not found[0]:
        raise _wrong(f"it has {'several lines' if len(found) > 1 else 'no line'} '{name}'")
    return _checked(name, found[0], least)


def _checked(name: str, words: Sequence[str], least: int) -> list[int]:
    numbers = []
    for word in words:
        number = int(word) if word.isascii() and word.isdigit() and len(word) < 20 else -1
        if not least <= number <= _MOST:
            raise _wrong(f"'{word[:30]}' is no {'size' if name == 'peak' else 'time'}")
        numbers.append(number)
    return numbers


def _wrong(what: str) -> DeviceError:
    return DeviceError(f"the benchmark's report cannot be used: {what}; {_REMEDY}")
