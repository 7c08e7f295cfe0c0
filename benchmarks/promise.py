"""Whether certified libraries keep their budgets later: searches at random budgets, measured again.

    python benchmarks/promise.py --work DIR [--count 20]
    python benchmarks/promise.py --table

For each search a budget is drawn between what the smallest student and the teacher need, and a
precision; the search is on the spoken commands of `canao demo`, trained just enough to end (the
first one's teacher and students serve all). Ten minutes or more after its certificate, the library
is measured again in fresh processes under the protocol of a certificate: with nothing else running,
and beside a program that keeps the other cores and the memory busy. A record tells the budget, the
certificate's percentile and bound, and those of both later measurements.

Records go to results/promise.jsonl, unless badly measured (README.md); --table writes promise.md.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from peers.progress import say
from peers.records import Record
from peers.results import Results, add_options
from peers.script import ended, recorded
from promise_table import write_page

from canao import api
from canao.artifact.certificate import PERCENTILE, Certificate
from canao.artifact.certificate_file import load_certificate
from canao.artifact.directory import Artifact
from canao.artifact.files import write_json
from canao.cli.demo_command import commands, packaged_teacher
from canao.compiler.pipeline import compile_model
from canao.device.base import Device, MeasureConfig, Timing
from canao.device.bench import local_device
from canao.device.certify import judge
from canao.errors import BudgetError, DeviceError, InputError
from canao.machine import local_machine
from canao.search.candidates.trial import best_first
from canao.search.study.journal import read_trials

HERE = Path(__file__).resolve().parent
RECORDS = HERE / "results" / "promise.jsonl"
IDENTITY = ("number", "cpu", "seed")
LENGTH, LATER_S = 32, 600.0
# What students may lose in int8 matters as little here as what is trained.
LOSSES = {"float32": {}, "int8": {"max_loss": 100.0}}
# Latency does not depend on it.
QUICK = {"trials": 3, "quick_steps": 8, "epochs": 1, "teacher_epochs": 1, "teacher_lr": 1e-4}
LEAST, MOST = 0.04, 0.9  # of the teacher's latency, budgets are drawn between


def teacher_ms(device: Device, work: Path) -> float:
    """The teacher's p90 in float32, measured once: budgets are drawn by it."""
    place = work / "teacher_ms.json"
    if place.is_file():
        return float(json.loads(place.read_text("utf-8")))
    artifact = compile_model(packaged_teacher(), work / "teacher")
    timing = device.measure(artifact, MeasureConfig(length=LENGTH))
    if not isinstance(timing, Timing):
        raise DeviceError(f"the teacher cannot be measured: {timing.message}")
    write_json(place, timing.percentile(PERCENTILE))
    return timing.percentile(PERCENTILE)


def searched(number: int, seed: int, work: Path, whole_ms: float) -> Path:
    """The run directory of one search that ended with a certificate. Budgets that no student keeps
    are drawn again."""
    draw = random.Random(f"{seed}:{number}")  # noqa: S311 - it draws budgets
    run_dir = work / f"search-{number}"
    first = work / "search-0"
    while True:
        precision = draw.choice(tuple(LOSSES))
        share = math.exp(draw.uniform(math.log(LEAST), math.log(MOST)))
        budget, place = float(f"{share * whole_ms:.4g}"), run_dir / precision
        try:
            api.search(
                teacher=packaged_teacher(), data=commands(), budget_ms=budget, run_dir=place,
                precision=precision, length=LENGTH, seed=0, **LOSSES[precision],
                from_run=_other(first, precision, place),
                progress=lambda event: say(f"search {number}: {event.text}"), **QUICK,
            )  # fmt: skip
            return place
        except BudgetError as error:
            say(f"search {number}: {budget:g} ms in {precision} is not feasible ({error})")
            run_dir = work / f"search-{number}" / f"after-{budget:g}"


def _other(first: Path, precision: str, place: Path) -> Path | None:
    """The run whose teacher and students serve: the first in this precision."""
    found = first.parent / f"shared-{precision}"
    if not found.is_symlink():
        found.symlink_to(place)
    return None if found.resolve() == place.resolve() else found.resolve()


@contextmanager
def busy_beside(cores: Sequence[int]) -> Iterator[None]:
    """A program that keeps these cores and the memory busy meanwhile."""
    workers = [multiprocessing.get_context("spawn").Process(target=_burn, args=(core,), daemon=True)
               for core in cores]  # fmt: skip
    for worker in workers:
        worker.start()
    time.sleep(2.0)  # until they are imported and under way
    try:
        yield
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def _burn(core: int) -> None:
    os.sched_setaffinity(0, {core})
    data = np.ones(1 << 24, np.float32)  # 64 MiB: more than caches hold
    while True:
        data *= np.float32(1.0000001)


def measured_again(artifact: Artifact, device: Device, certificate: Certificate) -> dict[str, Any]:
    """The figures of a later measurement under the protocol of a certificate."""
    config = MeasureConfig(**certificate.config | {"cores": tuple(certificate.config["cores"])})
    found = judge(artifact, device, certificate.budget_ms, config, others_limit=1.0)
    return {"measured_ms": found.measured_ms, "bound_ms": found.bound_ms,
            "runs_ms": [float(np.percentile(run.samples_ms, PERCENTILE)) for run in found.runs],
            "others": None if found.others is None else found.others.to_dict()}  # fmt: skip


def record(place: Path, number: int, seed: int, device: Device) -> Record:
    """One library, measured again. `place` is the run directory of its search."""
    artifact = Artifact.load(place / "artifact")
    certificate = load_certificate(artifact, device.machine.stamp)
    quiet = measured_again(artifact, device, certificate)
    own = device.machine.cores[: certificate.config["threads"]]
    with busy_beside([core for core in device.machine.cores if core not in own]):
        beside = measured_again(artifact, device, certificate)
    best = best_first(read_trials(place))[0]
    return {
        "kind": "promise", "number": number, "seed": seed, "cpu": local_machine().cpu,
        "threads": 1, "length": LENGTH, "precision": certificate.precision,
        "arch": json.loads((place / "result.json").read_text("utf-8"))["arch"],
        "best": str(best.arch), "budget_ms": certificate.budget_ms,
        "certified": {"measured_ms": certificate.measured_ms, "bound_ms": certificate.bound_ms,
                      "date": certificate.date, "set_aside": len(certificate.set_aside)},
        "quiet": quiet, "beside": beside,
    }  # fmt: skip


def _run(options: argparse.Namespace, results: Results) -> None:
    if options.work is None:
        raise InputError("no folder for the searches; give --work DIR")
    options.work.mkdir(parents=True, exist_ok=True)
    device, waiting = local_device(), list[tuple[int, Path, float]]()
    whole = teacher_ms(device, options.work)
    for number in range(options.count):
        identity = {"number": number, "cpu": local_machine().cpu, "seed": options.seed}
        if results.holds(identity):
            continue
        waiting.append((number, searched(number, options.seed, options.work, whole),
                        time.monotonic()))  # fmt: skip
        _remeasure(waiting, options, results, device, wait=False)
    _remeasure(waiting, options, results, device, wait=True)


def _remeasure(
    waiting: list[tuple[int, Path, float]], options: argparse.Namespace, results: Results,
    device: Device, *, wait: bool,
) -> None:  # fmt: skip
    """Measure those again whose ten minutes have passed; with `wait`, all, when they have."""
    while waiting and (wait or time.monotonic() - waiting[0][2] >= LATER_S):
        number, place, since = waiting.pop(0)
        time.sleep(max(0.0, since + LATER_S - time.monotonic()))
        results.take(f"search {number}", lambda: record(place, number, options.seed, device))  # noqa: B023


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, help="where searches are kept")
    parser.add_argument("--count", type=int, default=20, help="searches")
    parser.add_argument("--seed", type=int, default=0, help="of the budgets")
    parser.add_argument("--table", action="store_true", help="write promise.md")
    add_options(parser, RECORDS)
    options = parser.parse_args(arguments)
    return ended("promise", lambda: recorded(
        options, RECORDS, IDENTITY, write_page, lambda results: _run(options, results)
    ))  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
