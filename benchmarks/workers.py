"""How much faster the training part of a search is with a second worker that has a core of its own.

    python benchmarks/workers.py --work DIR [--rounds 2]
    python benchmarks/workers.py --table

The search is on the spoken commands of `canao demo`, on the null device, so that nothing but
compiling and training takes time: ten candidates that get 100 steps of distillation each, in a
study in a SQLite file. In each round it runs once alone, pinned to one core with one thread, and
once with a `canao worker` pinned to a second core. What counts is the time from the beginning of
the first candidate to the end of the eighth. These eight are drawn at random, and are the same with
a worker, which is checked; the last two follow from the results that are there when they begin, and
so may differ.

Records go to results/workers.jsonl, unless badly measured (README.md); --table writes the table of
docs/search.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from marks import footnotes
from pages import fill, table
from peers.progress import say
from peers.records import Record
from peers.results import Results, add_options
from peers.script import ended, recorded

from canao.errors import DeviceError, InputError
from canao.machine import local_machine

HERE = Path(__file__).resolve().parent
RECORDS, PAGE = HERE / "results" / "workers.jsonl", HERE.parent / "docs" / "search.md"
IDENTITY = ("cpu", "number")
ASKED, TRIALS, STEPS = 10, 8, 100  # the last quarter of those asked for is not drawn at random
# Prints a line of JSON for each candidate that this process judged: which, from when to when.
CHILD = """
import json, os, sys, time
core, study, run_dir = int(sys.argv[1]), sys.argv[2], sys.argv[3]
os.sched_setaffinity(0, {core})
import canao
from canao.cli.demo_command import commands, packaged_teacher
def told(event):
    if event.trial is not None and event.trial.trained and event.stage == "search":
        now = time.time()
        print(json.dumps([str(event.trial.arch), now - event.trial.seconds, now]), flush=True)
if sys.argv[4] == "search":
    canao.search(
        teacher=packaged_teacher(), data=commands(), budget_ms=2.0, device="null", study=study,
        run_dir=run_dir, controller="random", trials=ASKED, quick_steps=STEPS, epochs=1, length=32,
        teacher_epochs=1, teacher_lr=1e-4, train_dtype="float32", progress=told)
else:
    begun = time.time()
    while True:  # the search has to be there first
        try:
            canao.worker(study=study, run_dir=run_dir, progress=told)
            break
        except canao.InputError as error:
            if "canao search --study" not in str(error) or time.time() > begun + 300:
                raise
            time.sleep(0.2)
""".replace("ASKED", str(ASKED)).replace("STEPS", str(STEPS))


def judged(work: Path, cores: Sequence[int]) -> list[tuple[str, float, float]]:
    """The candidates of one search with a process on each core: which, from when to when."""
    study, one = f"sqlite:///{work / 'study.db'}", {"OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(core), study, str(work / f"run-{core}"), kind],
            stdout=subprocess.PIPE, text=True, env={**os.environ, **one},
        )
        for core, kind in zip(cores, ("search", "worker"), strict=False)
    ]  # fmt: skip
    rows = [line for process in running for line in process.communicate()[0].splitlines()]
    if any(process.returncode for process in running):
        raise DeviceError(f"a process of the search in {work} failed; look at what it said")
    return [tuple(json.loads(row)) for row in rows]  # type: ignore[misc]


def measured(number: int, work: Path, cores: Sequence[int]) -> Record:
    alone = judged(_made(work / f"alone-{number}"), cores[:1])
    both = judged(_made(work / f"both-{number}"), cores)
    alone = sorted(alone, key=lambda row: row[1])[:TRIALS]
    names = sorted(name for name, _, _ in alone)
    both = [row for row in both if row[0] in names]
    if len(both) < TRIALS:
        missing = set(names).difference(name for name, _, _ in both)
        raise DeviceError(f"with a worker these candidates were not judged: {sorted(missing)}")
    spans = [max(end for _, _, end in rows) - min(begin for _, begin, _ in rows)
             for rows in (alone, both)]  # fmt: skip
    return {"kind": "workers", "cpu": local_machine().cpu, "number": number, "trials": TRIALS,
            "steps": STEPS, "alone_s": spans[0], "both_s": spans[1], "candidates": names,
            "each_s": [end - begin for _, begin, end in alone]}  # fmt: skip


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def rows(records: Sequence[Record]) -> str:
    """A row for each processor: the median of its rounds."""
    lines = [["processor", "candidates", "one process, s", "with a worker, s", "times as fast"],
             ["---", "--:", "--:", "--:", "--:"]]  # fmt: skip
    for cpu in dict.fromkeys(r["cpu"] for r in records):
        of = [r for r in records if r["cpu"] == cpu]
        lines.append([
            cpu, str(of[0]["trials"]), *(f"{median(r[name] for r in of):.1f}"
                                         for name in ("alone_s", "both_s")),
            f"{median(r['alone_s'] / r['both_s'] for r in of):.2f}",
        ])  # fmt: skip
    return table(lines) + footnotes(records) if records else "No records yet.\n"


def write_page(records: Sequence[Record]) -> None:
    fill(PAGE, {"workers": rows(records)})


def _run(options: argparse.Namespace, results: Results) -> None:
    cores = local_machine().cores[:2]
    if options.work is None or len(cores) < 2:
        raise InputError("give --work DIR, on a machine with two cores")
    for number in range(options.rounds):
        if results.holds({"cpu": local_machine().cpu, "number": number}):
            continue
        say(f"round {number}")
        results.take(f"round {number}", lambda: measured(number, options.work, cores))  # noqa: B023


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, help="an empty folder for the searches")
    parser.add_argument("--rounds", type=int, default=2, help="of both")
    parser.add_argument("--table", action="store_true", help="write the table of docs/search.md")
    add_options(parser, RECORDS)
    options = parser.parse_args(arguments)
    return ended("workers", lambda: recorded(
        options, RECORDS, IDENTITY, write_page, lambda results: _run(options, results)
    ))  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
