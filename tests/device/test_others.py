"""What others took of the cores during a measurement: from readings that are written out here, and
beside a program that really runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from canao.artifact.directory import Artifact
from canao.artifact.measured import Others
from canao.device.base import MeasureConfig, Timing
from canao.device.bench import local_device
from canao.device.others import others_of
from canao.machine import local_machine

TICK = 100  # a second
SECOND = 1_000_000_000


def rows(
    seconds: float,
    cores: dict[int, tuple[float, float, float]],
    threads: list[tuple[int, float, float]],
) -> dict[str, list[list[str]]]:
    """A report: of each core the seconds that it was busy, idle and stolen; of each thread its
    core, and the seconds that it ran and waited. Every counter starts somewhere."""
    told: dict[str, list[list[str]]] = {"at": [], "core": [], "thread": []}
    for when, factor in (("begin", 0.0), ("end", 1.0)):
        told["at"].append([when, str(int((5 + factor * seconds) * SECOND)), str(TICK)])
        for core, (busy, idle, stolen) in cores.items():
            ticks = [700 + round(factor * busy * TICK), 3, 90, 40 + round(factor * idle * TICK),
                     7, 0, 2, 11 + round(factor * stolen * TICK)]  # fmt: skip
            told["core"].append([when, str(core), *map(str, ticks)])
        for i, (core, ran, waited) in enumerate(threads):
            told["thread"].append([when, str(4000 + i), str(core),
                                   str(int((1 + factor * ran) * SECOND)),
                                   str(int((2 + factor * waited) * SECOND))])  # fmt: skip
    return told


def found(report: dict[str, list[list[str]]], *pinned: int) -> Others:
    got = others_of(report, pinned, (0, 1, 2, 3))
    assert got is not None
    return got


def test_alone() -> None:
    """The library's own threads are no others: not on its cores, nor beside them."""
    alone = rows(2.0, {0: (2.0, 0, 0), 1: (2.0, 0, 0), 2: (0, 2.0, 0)},
                 [(0, 1.999, 0.0), (1, 1.99, 0.0)])  # fmt: skip
    got = found(alone, 0, 1)
    assert got == Others({0: 0.0, 1: 0.0, 2: 0.0}, used=(0, 1), waited=0.0)
    assert got.of_its_cores == got.beside == 0 and not got.exceeds(0.0)
    assert str(got) == "others took under 1% of core 0 and under 1% of the rest"
    only = found(rows(2.0, {0: (2.0, 0, 0)}, [(0, 2.0, 0.0)]), 0)
    assert only.beside is None and str(only) == "others took under 1% of core 0"


def test_a_program_beside_it_and_one_on_its_core() -> None:
    shared = rows(2.0, {0: (2.0, 0, 0), 1: (1.5, 0.5, 0)}, [(0, 1.0, 0.9)])
    got = found(shared, 0)
    assert got.cores == {0: pytest.approx(0.49), 1: pytest.approx(0.74)}
    assert got.waited == pytest.approx(0.45) and got.of_its_cores == pytest.approx(0.49)
    assert got.beside == pytest.approx(0.74)
    assert str(got) == "others took 49% of core 0 and 74% of the rest"


def test_cores_beside_it_count_half() -> None:
    cores = {core: (0.24 if core else 2.0, 1.0, 0) for core in range(4)}
    got = found(rows(2.0, cores, [(0, 2.0, 0)]), 0)
    assert got.of_its_cores == 0 and got.beside == pytest.approx(0.11)
    assert got.exceeds(0.05) and not got.exceeds(0.06) and not got.exceeds(1.0)


def test_cores_that_it_may_not_use_are_not_its_own() -> None:
    """As in a container that was given two cores of a large machine."""
    cores = {core: (2.0, 0, 0) for core in range(8)}
    got = others_of(rows(2.0, cores, [(1, 2.0, 0)]), (1,), (0, 1))
    assert got is not None and got.cores == {0: pytest.approx(0.99), 1: 0.0}


def test_time_that_the_host_gave_to_other_guests_counts() -> None:
    got = found(rows(2.0, {0: (1.2, 0, 0.8)}, [(0, 1.2, 0.0)]), 0)
    assert got.of_its_cores == pytest.approx(0.39)


def test_a_short_measurement_is_judged_by_what_its_thread_waited() -> None:
    """Ticks tell nothing of 20 ms; and a tick more or less is no program."""
    assert found(rows(0.02, {0: (0.03, 0, 0)}, [(0, 0.02, 0)]), 0).of_its_cores == 0
    waiting = rows(0.02, {0: (0.02, 0, 0)}, [(0, 0.01, 0.009)])
    assert found(waiting, 0).of_its_cores == pytest.approx(0.45)


def test_threads_that_are_not_pinned_share_the_cores() -> None:
    """Three threads on two cores wait for each other: that is not the work of others."""
    cores = {0: (2.0, 0, 0), 1: (2.0, 0, 0)}
    own = [(0, 1.34, 0.66), (1, 1.33, 0.66), (0, 1.33, 0.66)]
    got = others_of(rows(2.0, cores, own), (), (0, 1))
    assert got is not None and got.used == (0, 1) and got.of_its_cores == 0
    own = [(0, 0.7, 0.66), (1, 0.7, 0), (0, 0.6, 0.66)]
    half = others_of(rows(2.0, cores, own), (), (0, 1))
    assert half is not None and half.of_its_cores == pytest.approx(0.49, abs=0.011)


def test_threads_on_the_same_core_wait_for_each_other() -> None:
    got = found(rows(2.0, {0: (2.0, 0, 0)}, [(0, 1.0, 1.0), (0, 1.0, 1.0)]), 0, 0)
    assert got.used == (0,) and got.of_its_cores == 0


def test_a_thread_that_began_later_counts_whole() -> None:
    report = rows(2.0, {0: (2.0, 0, 0)}, [(0, 1.0, 0.0)])
    report["thread"].append(["end", "4100", "0", str(SECOND), "0"])
    assert found(report, 0).of_its_cores == 0


@pytest.mark.parametrize("missing", ["at", "core", "thread"])
def test_systems_that_do_not_tell(missing: str) -> None:
    report = rows(2.0, {0: (2.0, 0, 0)}, [(0, 2.0, 0)])
    assert others_of({k: v for k, v in report.items() if k != missing}, (0,), (0,)) is None
    assert others_of(report, (5,), (0,)) is None
    assert others_of(report, (), ()) is None


@contextmanager
def burning(core: int) -> Iterator[None]:
    """A program that does nothing but use a core."""
    code = f"import os; os.sched_setaffinity(0, {{{core}}}); print(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        program.stdout.readline()
        try:
            yield
        finally:
            program.kill()


def test_a_program_on_its_core_is_seen(encoder: Artifact) -> None:
    """And one beside it, where there is a second core, is told of but does not count."""
    core, *more = local_machine().cores
    config = MeasureConfig(length=128, samples=300, seconds=0.5)
    for other in (core, *more[:1]):
        with burning(other):
            got = local_device().measure(encoder, config)
        assert isinstance(got, Timing) and got.others is not None
        assert got.others.used == (core,)
        # It had half of the core, and all of the other one; other tests may run there as well.
        assert got.others.cores[other] > (0.3 if other == core else 0.5)
        if other == core:
            assert got.others.of_its_cores > 0.3 and got.others.waited > 0.3


def test_others_are_told_of_a_token_after_a_text_too(continuing: Artifact) -> None:
    got = local_device().measure_next(continuing, MeasureConfig(length=8, samples=20))
    assert isinstance(got, Timing) and got.others is not None
    assert set(got.others.cores) >= set(os.sched_getaffinity(0))
