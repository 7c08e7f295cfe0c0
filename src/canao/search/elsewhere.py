"""More devices on which a student has to keep a budget of latency, beside the one that the search
is for: its libraries for these are compiled and measured there.

The search finds its way by the first device's times. A candidate that keeps its budget there is
measured on the others, and what it misses by there counts as if it missed by as much of itself on
the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from canao.artifact.certificate import CERTIFICATE_FILE, Certificate, write_certificate
from canao.artifact.directory import Artifact
from canao.artifact.files import replace_directory
from canao.artifact.measured import upper_bound_of_runs
from canao.artifact.temporary import WorkingDirectory
from canao.defaults import silent
from canao.device.base import Device, Failure, MeasureConfig
from canao.device.certify import judge, measure_runs
from canao.errors import DeviceError
from canao.search.options import Compile, Finish, SearchOptions

Say = Callable[[str], None]


@dataclass(frozen=True)
class Elsewhere:
    """One more device.

    budget_ms   limit for the latency there
    cores       that threads are pinned to there; (): the fastest
    compile, finish   make libraries for it, of candidates and of a finished student
    """

    device: Device
    budget_ms: float
    cores: tuple[int, ...]
    compile: Compile
    finish: Finish

    @property
    def facts(self) -> tuple[str, str, float, tuple[int, ...]]:
        """What must not change of it when a run is resumed, in JSON form."""
        return self.device.name, self.device.machine.stamp, self.budget_ms, self.cores

    def config(self, config: MeasureConfig) -> MeasureConfig:
        """A protocol as it is on this device."""
        return replace(config, cores=self.cores)


@dataclass(frozen=True, slots=True)
class Latency:
    """What a library takes on another device: the milliseconds that count, of how many."""

    device: str
    ms: float
    budget_ms: float

    @property
    def share(self) -> float:
        return self.ms / self.budget_ms

    def __str__(self) -> str:
        return f"{self.ms:.4g} of {self.budget_ms:g} ms on {self.device}"


def worst(latencies: Sequence[Latency]) -> Latency | None:
    """That which uses most of its budget; None of none."""
    return max(latencies, key=lambda one: one.share, default=None)


def latencies(
    places: Sequence[Elsewhere], model_dir: Path, options: SearchOptions
) -> Iterator[Latency]:
    """What the library of a candidate takes on each device, at the budget's percentile. DeviceError
    if it cannot be measured on one."""
    for place in places:
        with _skeleton(place, model_dir, options.run_dir) as artifact:
            found = place.device.measure(artifact, place.config(options.search_measure))
        if isinstance(found, Failure):
            raise DeviceError(f"{place.device.name}: {found.stage}: {found.message}")
        yield Latency(place.device.name, found.percentile(options.percentile), place.budget_ms)


def bounds(
    places: Sequence[Elsewhere], model_dir: Path, options: SearchOptions, say: Say = silent
) -> Iterator[Latency]:
    """The same under the protocol of a certificate: what counts is the upper bound of the latency.
    """
    q = options.percentile
    for place in places:
        with _skeleton(place, model_dir, options.run_dir) as artifact:
            runs = measure_runs(
                artifact, place.device, place.config(options.measure), options.others_limit,
                lambda line, name=place.device.name: say(f"{name}: {line}"),  # type: ignore[misc]
            ).kept  # fmt: skip
        bound = upper_bound_of_runs([run.samples_ms for run in runs], q)
        yield Latency(place.device.name, bound, place.budget_ms)


@contextmanager
def _skeleton(place: Elsewhere, model_dir: Path, run_dir: Path) -> Iterator[Artifact]:
    with WorkingDirectory("work", run_dir) as folder:
        yield replace(place.compile(model_dir, folder / "artifact"), timed_only=True)


def certified(
    place: Elsewhere, model_dir: Path, out: Path, options: SearchOptions, say: Say = silent
) -> Certificate:
    """The library of a finished student for another device, with its certificate, in the directory
    `out`, whether it keeps its budget or not."""
    finished = place.finish(model_dir, out, say)
    others = options.budgets.other_budgets
    if finished.scored is None:  # a certificate is of the library's own predictions
        others = replace(others, min_accuracy=None)
    certificate = judge(
        finished.artifact, place.device, place.budget_ms, place.config(options.measure),
        percentile=options.percentile, others_limit=options.others_limit, other_budgets=others,
        score=finished.scored, say=lambda line: say(f"{place.device.name}: {line}"),
    )  # fmt: skip
    write_certificate(finished.artifact.path / CERTIFICATE_FILE, certificate)
    return certificate


def publish(made: Sequence[Path], run_dir: Path, first: str) -> tuple[Path, ...]:
    """Put the libraries for further devices beside the first one's, as artifact-2, -3, ..."""
    places = tuple(run_dir / f"{first}-{number}" for number, _ in enumerate(made, 2))
    for source, place in zip(made, places, strict=True):
        replace_directory(source, place)
    return places

