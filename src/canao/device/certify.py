"""Certification of one library: it is measured on a device and held to its budgets.

`certify` is the whole of it; a search calls its two halves, `judge` and `keep`, by themselves.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from canao.artifact.budgets import OtherBudgets, Scored, size_of
from canao.artifact.certificate import (
    BY_HAND,
    BY_SEARCH,
    CERTIFICATE_FILE,
    CERTIFIED_SAMPLES,
    PERCENTILE,
    PROCESSES,
    SPREAD_S,
    Certificate,
    Earlier,
    Run,
    certificate_text,
    differences,
    protocol,
    write_certificate,
)
from canao.artifact.certificate_file import read_certificate
from canao.artifact.directory import Artifact
from canao.artifact.files import staged_file, write_whole
from canao.artifact.sustained import Minute
from canao.artifact.verification import verification_on
from canao.defaults import silent
from canao.device.base import Device, Failure, MeasureConfig, Timing, check_length
from canao.device.state import State, lowest_khz
from canao.errors import DeviceError, InputError

__all__ = ["CERTIFIED_SAMPLES", "OTHERS_LIMIT", "PERCENTILE", "DisturbedError", "Runs",
           "UnsavedError", "asked_of", "certify", "check_budget", "check_others_limit",
           "check_samples", "check_sustain", "judge", "keep", "measure_minutes", "measure_runs",
           "room_for",
           "saved_elsewhere"]  # fmt: skip

# Of a core that the library runs on, others may take so much before nothing is judged: it is the
# slowest tenth of the samples that sets p90 (docs/measurement.md).
OTHERS_LIMIT = 0.05
# Bytes of a certificate, at most: its samples, and all else that is in it.
_SAMPLE_BYTES, _OTHER_BYTES = 60, 1 << 16
MINUTE_S, MOST_MINUTES = 60.0, 24 * 60
_MORE = PROCESSES  # processes, at most, that are measured in the place of disturbed ones

Say = Callable[[str], None]


class DisturbedError(DeviceError):
    """Others took so much of a core that nothing can be said of the library.

    `certificate` is what would have been certified.
    """

    def __init__(self, message: str, certificate: Certificate) -> None:
        super().__init__(message)
        self.certificate = certificate


class UnsavedError(InputError):
    """A certificate could not be written to its place, which had looked well before.

    saved   where it was kept instead; None where there was no room for it anywhere
    """

    def __init__(self, message: str, certificate: Certificate, saved: Path | None) -> None:
        super().__init__(message)
        self.certificate, self.saved = certificate, saved


class _EnoughRoomError(Exception):
    """There is room for a certificate; what was written to find out is removed again."""


@dataclass(frozen=True, slots=True)
class Runs:
    """What fresh processes measured of one library, one after the other.

    kept, set_aside   those that count, and those in whose place others were measured
    environment       what the last of them was measured in
    """

    kept: tuple[Run, ...]
    set_aside: tuple[Run, ...]
    config: MeasureConfig
    environment: Mapping[str, Any]


def certify(
    artifact: Artifact,
    device: Device,
    budget_ms: float,
    config: MeasureConfig,
    *,
    percentile: float = PERCENTILE,
    others_limit: float = OTHERS_LIMIT,
    other_budgets: OtherBudgets = OtherBudgets(),  # noqa: B008 - it is frozen
    score: Scored | None = None,
    sustain: int = 0,
    out: Path | None = None,
    say: Say = silent,
) -> Certificate:
    """Measure the library of `artifact` and write its certificate, beside it or to the file `out`.
    With `sustain`, it runs for so many minutes without a pause as well.

    Raises InputError if its files differ from what was compiled, if the certificate cannot be
    written (found out before anything is measured, where that can be known), or if it would take
    the place of a search's certificate under another protocol; DeviceError if the library cannot
    be measured, and `DisturbedError` if others took more than `others_limit` of a core meanwhile. A
    missed budget is no error here: see `require_budget`.
    """
    check_budget(budget_ms, percentile)
    check_samples(config.samples)
    check_others_limit(others_limit)
    check_sustain(sustain)
    place = artifact.path / CERTIFICATE_FILE if out is None else out
    check_length(artifact, config)
    asked = asked_of(device, budget_ms, config, percentile, other_budgets, sustain)
    replaced = _replaced(place, artifact, asked)
    if score is None and replaced is not None:
        score = replaced.score  # the same files say the same
    room_for(place, config.samples)
    certificate = judge(
        artifact, device, budget_ms, config, percentile=percentile, others_limit=others_limit,
        other_budgets=other_budgets, score=score, sustain=sustain, say=say,
        predicted_ms=replaced.predicted_ms if replaced else None,
        made_by=replaced.made_by if replaced else BY_HAND,
    )  # fmt: skip
    if certificate.disturbed:
        raise DisturbedError(
            f"{artifact.path}: the measurement was disturbed: {certificate.others} (limit "
            f"{others_limit:.0%} of a core it runs on, {2 * others_limit:.0%} of the rest); "
            "nothing is judged: end other programs and certify again, or give a larger "
            "--others-limit",
            certificate,
        )
    if replaced is not None:
        certificate = replace(certificate, earlier=(*replaced.earlier, _in_short(replaced)))
    keep(certificate, place)
    return certificate


def asked_of(
    device: Device, budget_ms: float, config: MeasureConfig, percentile: float,
    other_budgets: OtherBudgets, sustain: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """The protocol of a certificate that is to be made."""
    stamp = device.machine.stamp
    return protocol(
        budget_ms, percentile, _form(config), device.name, stamp, other_budgets, sustain
    )


def judge(
    artifact: Artifact,
    device: Device,
    budget_ms: float,
    config: MeasureConfig,
    *,
    percentile: float = PERCENTILE,
    others_limit: float = OTHERS_LIMIT,
    other_budgets: OtherBudgets = OtherBudgets(),  # noqa: B008 - it is frozen
    score: Scored | None = None,
    predicted_ms: float | None = None,
    made_by: str = BY_SEARCH,
    sustain: int = 0,
    say: Say = silent,
) -> Certificate:
    """Measure the library of `artifact`, and certify what was found; nothing is written.

    The files are hashed before and after, so that the certificate is of what was measured. A
    library for GPUs has to be verified on the device before.
    """
    artifact.verify()
    verified: dict[str, Any] = {}
    if artifact.on_gpu:
        there = verification_on(artifact, device.name, device.machine.stamp, config.length)
        verified = {"verified": there.to_dict(), "on_cpu": list(artifact.on_cpu)}
    files, size, before = artifact.digests(), size_of(artifact), device.state()
    measured = measure_runs(artifact, device, config, others_limit, say)
    check_samples(sum(len(run.samples_ms) for run in measured.kept))  # `max_seconds` may end it
    minutes = measure_minutes(artifact, device, config, percentile, sustain, say)
    states = {"before": before.to_dict(), "after": device.state().to_dict()}
    if artifact.digests() != files:
        raise InputError(f"{artifact.path}: was changed while it was measured; certify again")
    return Certificate(
        precision=artifact.precision,
        budget_ms=float(budget_ms),
        percentile=float(percentile),
        other_budgets=other_budgets,
        predicted_ms=predicted_ms,
        runs=measured.kept,
        set_aside=measured.set_aside,
        size_bytes=size,
        score=score,
        others_limit=float(others_limit),
        config=_form(config),
        environment={"toolchain": artifact.manifest.get("toolchain"), **measured.environment,
                     **{f"state_{when}": state for when, state in states.items() if state},
                     **verified},
        device=device.name,
        made_by=made_by,
        earlier=(),
        files=files,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        sustained=minutes,
    )  # fmt: skip


def measure_minutes(
    artifact: Artifact, device: Device, config: MeasureConfig, percentile: float, count: int,
    say: Say = silent,
) -> tuple[Minute, ...]:  # fmt: skip
    """The library in runs without a pause, a process a minute, and what the machine says of itself
    after each. DeviceError if it cannot be measured."""
    whole = replace(config, samples=1, seconds=MINUTE_S, max_seconds=0.0)
    begun, minutes = device.timer.now(), list[Minute]()
    for number in range(1, count + 1):
        at = device.timer.now() - begun
        timing = _measured(artifact, device, whole, f"{artifact.path}: minute {number}")
        minutes.append(_minute(at, timing, percentile, device.state(), config.cores))
        say(f"minute {number} of {count}: {minutes[-1]}")
    return tuple(minutes)


def _minute(
    at_s: float, timing: Timing, percentile: float, state: State, cores: Sequence[int]
) -> Minute:
    clock, others = timing.clock, timing.others
    return Minute(
        at_s, len(timing.samples_ms), timing.percentile(percentile), timing.percentile(50),
        None if clock is None else clock.loop_ns[1], lowest_khz(state, cores), state.hottest,
        state.battery, state.charging, state.screen_on, state.battery_saver, state.throttling,
        None if others is None else others.most,
    )  # fmt: skip


def measure_runs(
    artifact: Artifact, device: Device, config: MeasureConfig, others_limit: float = OTHERS_LIMIT,
    say: Say = silent, what: str | None = None,
) -> Runs:  # fmt: skip
    """The library in fresh processes, spread over SPREAD_S seconds, that share out the samples and
    times of `config`.

    One that others disturbed is set aside whatever it measured, and another one takes its place; so
    long as there are not enough without, those count that were disturbed least. DeviceError if the
    library, called `what`, cannot be measured.
    """
    what = f"{artifact.path}:" if what is None else what
    share = replace(
        config, samples=math.ceil(config.samples / PROCESSES), seconds=config.seconds / PROCESSES,
        max_seconds=config.max_seconds / PROCESSES,
    )  # fmt: skip
    kept: list[Run] = []
    aside: list[Run] = []
    begun, environment = device.timer.now(), {}
    while len(kept) < PROCESSES and len(kept) + len(aside) < PROCESSES + _MORE:
        due = begun + (len(kept) + len(aside)) * SPREAD_S / (PROCESSES - 1)
        device.timer.wait(max(0.0, due - device.timer.now()))
        at = device.timer.now() - begun
        timing = _measured(artifact, device, share, what)
        environment = dict(timing.environment)
        run = _run(at, timing)
        (aside if run.disturbed(others_limit) else kept).append(run)
        how = f", disturbed: {run.others}" if run.disturbed(others_limit) else ""
        say(f"process {len(kept) + len(aside)}, {len(kept)} of {PROCESSES} measured{how}")
    return Runs(*_enough(kept, aside), config, environment)


def _enough(kept: Sequence[Run], aside: Sequence[Run]) -> tuple[tuple[Run, ...], tuple[Run, ...]]:
    """The processes that count, and the rest: all count, in order, if too few were undisturbed."""
    if len(kept) >= PROCESSES:
        return tuple(kept), tuple(aside)
    return tuple(sorted((*kept, *aside), key=lambda run: run.at_s)), ()


def _measured(artifact: Artifact, device: Device, config: MeasureConfig, what: str) -> Timing:
    measured = device.measure(artifact, config)
    if isinstance(measured, Failure):
        raise DeviceError(
            f"{what} could not be measured on {device.name} ({measured.stage}: {measured.message})"
        )
    return measured


def _run(at_s: float, timing: Timing) -> Run:
    return Run(at_s, timing.samples_ms, timing.load_ms, timing.cold_ms, timing.peak_bytes,
               timing.others, timing.clock)  # fmt: skip


def _in_short(certificate: Certificate) -> Earlier:
    measured, bound = certificate.measured_ms, certificate.bound_ms
    return Earlier(certificate.date, measured, bound, certificate.holds)


def keep(certificate: Certificate, place: Path) -> None:
    """Write a certificate. A measurement is not lost for want of room: it is kept among temporary
    files instead, and the UnsavedError says where."""
    try:
        write_certificate(place, certificate)
    except OSError as error:
        saved = saved_elsewhere(certificate)
        where = (
            f"it is kept in {saved}: copy it to its place" if saved
            else "free some space and certify again, or name another file with --out"
        )  # fmt: skip
        raise UnsavedError(
            f"{place}: the certificate cannot be written ({error.strerror or error}); {where}",
            certificate,
            saved,
        ) from None


def room_for(place: Path, samples: int) -> None:
    """InputError unless a certificate of so many samples can be written now: only trying tells."""
    if os.path.isdir(place):
        raise InputError(f"{place}: is a directory; name a file for the certificate with --out")
    try:
        with staged_file(place) as trial, open(trial, "wb") as stream:
            stream.write(bytes(samples * _SAMPLE_BYTES + _OTHER_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
            raise _EnoughRoomError  # so that it does not take the place of what is there
    except _EnoughRoomError:
        return
    except OSError as error:
        raise InputError(
            f"{place}: cannot be written ({error.strerror or error}); nothing was measured: name "
            "another file for the certificate with --out"
        ) from None


def check_budget(budget_ms: float, percentile: float) -> None:
    """InputError unless the budget is a positive number and the percentile lies in (0, 100]."""
    for name, value, most in (("budget", budget_ms, math.inf), ("percentile", percentile, 100.0)):
        if not _is_number(value) or not 0 < value <= most:
            bounds = "a number of milliseconds over 0" if most == math.inf else "over 0, up to 100"
            raise InputError(f"{name} {value!r} cannot be used; give {bounds}")


def check_samples(samples: int) -> None:
    """InputError if there are too few samples for a certificate."""
    if samples < CERTIFIED_SAMPLES:
        raise InputError(
            f"a certificate takes at least {CERTIFIED_SAMPLES} samples, not {samples}; for a quick "
            f"look at the latency run `canao bench --samples {samples}`"
        )


def check_sustain(minutes: int) -> None:
    """InputError unless these are minutes that a library can be run for."""
    if not 0 <= minutes <= MOST_MINUTES:
        raise InputError(f"--sustain {minutes}m: give 1 to {MOST_MINUTES} minutes, as 10m")


def check_others_limit(limit: float) -> None:
    """InputError unless it is a share of a core."""
    if not _is_number(limit) or not 0 <= limit <= 1:
        raise InputError(f"others-limit {limit!r} cannot be used; give a share of a core, 0 to 1")


def _is_number(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)  # type: ignore[arg-type]


def _form(config: MeasureConfig) -> dict[str, Any]:
    """A protocol as a certificate holds it."""
    return asdict(config) | {"cores": list(config.cores)}


def _replaced(place: Path, artifact: Artifact, asked: dict[str, Any]) -> Certificate | None:
    """The certificate of the same files that a new one is to replace; None if the place holds none.
    A search's certificate makes way for one under its own protocol only."""
    if not os.path.lexists(place):
        return None
    try:
        earlier = read_certificate(place)
    except InputError:
        if place.name == CERTIFICATE_FILE:
            return None  # damaged, or of an earlier format: of no use to anyone
        raise InputError(f"{place}: is not a certificate; name another file with --out") from None
    if earlier.files != artifact.digests():
        return None
    differing = differences(earlier.protocol, asked)
    if differing and earlier.made_by != BY_SEARCH:
        return None
    if differing:
        raise InputError(
            f"{place}: is the search's, under another protocol ({differing}), and is not replaced; "
            "name a file for the new one with --out, or give the search's options"
        )
    return earlier


def saved_elsewhere(certificate: Certificate) -> Path | None:
    """The certificate as a file among temporary files; None if it cannot be written there."""
    path = None
    try:
        handle, name = tempfile.mkstemp(prefix="canao-certificate-", suffix=".json")
        os.close(handle)
        path = Path(name)
        write_whole(path, certificate_text(certificate))
        return path
    except OSError:
        if path is not None:
            path.unlink(missing_ok=True)
        return None
