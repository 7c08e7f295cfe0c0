"""A table of students that were all trained in full: what rankers and controllers are judged by.

    python benchmarks/landscape.py --work DIR [--processes 2] [--kinds latency,accuracy]
    python benchmarks/landscape.py --controllers [--seeds 30]
    python benchmarks/landscape.py --table

The task is that of `make run`: the spoken commands, with MiniLM as the teacher, at 32 tokens. A row
of results/landscape.jsonl is an architecture of a grid of 300: its accuracy after the full
training of a finalist, what each ranker says of it before, how long both took, and, of a second
kind, what its library takes and what the latency table foretold. Besides the grid, a few rows are
what the dynamic program of the controller `ziplm` proposes at the budgets below.

`--kinds accuracy` times nothing that is published but for the cost of a ranker; the others need
quiet cores. A run that was killed goes on where it was. `--controllers` trains and measures
nothing: it lets every controller search in the recorded table, from 30 seeds, and writes
results/controllers.json. `--table` writes landscape.md, docs/controllers.svg and
docs/deeper_or_wider.svg.

`unfused` and `int8` are latencies of other libraries of the same students: of the paper's question,
whether deeper or wider models are better. They are measured at one layer and at six, between which
they lie on a line.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from pathlib import Path
from typing import Any

import torch
from landscape_controllers import compare
from landscape_table import write_page
from peers.progress import say
from peers.records import Record, Records
from peers.results import Results, add_options, file_of
from peers.script import ended, recorded

from canao.artifact.directory import Artifact
from canao.artifact.temporary import WorkingDirectory
from canao.cli.demo_command import DemoOptions, commands, packaged_teacher
from canao.compiler.pipeline import compile_model
from canao.defaults import PRECISION, silent
from canao.device.base import Failure, MeasureConfig
from canao.device.bench import local_device
from canao.errors import DeviceError, InputError
from canao.machine import local_machine
from canao.model.arch import Arch
from canao.search.candidates.allocate import allocated
from canao.search.candidates.space import Space
from canao.search.latency.kernels import Imported, survey
from canao.search.latency.table import LatencyTable, table_key
from canao.train.data import load_data
from canao.train.options import RANKERS, TrainOptions
from canao.train.trainer import Trainer

HERE = Path(__file__).resolve().parent
RECORDS = HERE / "results" / "landscape.jsonl"
IDENTITY = ("kind", "arch")
ACCURACY, LATENCY = "accuracy", "latency"
# Latencies by kind, and how libraries of it are compiled.
TIMED: dict[str, dict[str, Any]] = {
    LATENCY: {}, "unfused": {"fusion": False}, "int8": {"precision": "int8"}
}  # fmt: skip
SPACE = Space(layers=6, hidden=320, hidden_step=64, head_sizes=(32,), ffn=1280, ffn_step=128)
SHARES = (1 / 3, 1 / 6, 1 / 12)  # budgets, of the teacher's latency
LENGTH, SAMPLES = 32, 256
_SEED = 0


def options(ranker: str) -> TrainOptions:
    """As `make run` trains, on one thread."""
    demo = DemoOptions()
    return TrainOptions(
        max_length=LENGTH, teacher_epochs=demo.teacher_epochs, teacher_lr=demo.teacher_lr,
        final_epochs=demo.epochs, quick_steps=demo.quick_steps, seed=_SEED, threads=1,
        ranker=ranker,
    )  # fmt: skip


@cache
def trainer(work: Path, ranker: str) -> Trainer:
    """The trainer of a process. All of a folder share its teacher."""
    data = load_data(commands(), seed=_SEED)
    return Trainer(packaged_teacher(), data, work / "train", options(ranker), silent)


@cache
def finisher(work: Path) -> Trainer:
    """The one that trains in full: it keeps other texts' targets than the rankers do."""
    data = load_data(commands(), seed=_SEED)
    return Trainer(packaged_teacher(), data, work / "train", options(RANKERS[0]), silent)


def prepare(work: Path) -> None:
    """In a process, what a search does once for all candidates: it counts for none of them."""
    torch.set_num_threads(1)
    for name in RANKERS:
        trainer(work, name).proxy_score(SPACE.smallest)


def trained(work: Path, text: str) -> Record:
    """The row of an architecture: its full training, and what each ranker says of it."""
    arch = Arch.from_json(text)
    scores, seconds = {}, {}
    for name in RANKERS:
        begun = time.monotonic()
        scores[name] = trainer(work, name).proxy_score(arch).value
        seconds[name] = round(time.monotonic() - begun, 2)
    begun = time.monotonic()
    student = finisher(work).finish(arch)
    seconds["full"] = round(time.monotonic() - begun, 2)
    shutil.rmtree(student.model_dir)
    return {"kind": ACCURACY, "arch": text, "accuracy": student.score.value, "scores": scores,
            "seconds": seconds, "cpu": local_machine().cpu}  # fmt: skip


class Latencies:
    """This machine's latency table for the grid, kept in the folder of --work."""

    def __init__(self, work: Path) -> None:
        self.work, self.device = work, local_device()
        self.measure = MeasureConfig(length=LENGTH, samples=SAMPLES)
        key = table_key(self.device, self.measure, PRECISION)
        self.trainer = trainer(work, RANKERS[0])
        kernels = Imported(self.trainer.blank, self.device.target, PRECISION)
        self.table = LatencyTable(work / "latency.json", key, kernels)

    def fill(self) -> None:
        """Time the kernels of every block of the grid's widths, and of the teacher's."""
        teacher = self.trainer.teacher_arch()
        widths = (*SPACE.choices()["hidden"], teacher.hidden)
        for width in widths:
            size = SPACE.head_sizes[0]
            base = Arch.uniform(1, width, width // size, SPACE.ffn_step)
            ffn = (*SPACE.choices()["ffn"], teacher.ffn)
            for one in survey(base, SPACE.blocks_at(base)["heads"], ffn, teacher.layers):
                if one not in self.table:
                    say(f"timing the kernels of {one}")
                    with WorkingDirectory("canao-landscape") as folder:
                        self.table.record(one, self.device.profile(
                            self.library(one, folder / "library"), self.measure))  # fmt: skip

    def library(self, arch: Arch, folder: Path, kind: str = LATENCY) -> Artifact:
        return compile_model(
            self.trainer.blank(arch), folder, target=self.device.target, **TIMED[kind]
        )

    def row(self, arch: Arch, kind: str) -> Record:
        """The row of an architecture: the p90 and median of its library."""
        with WorkingDirectory("canao-landscape") as folder:
            artifact = self.library(arch, folder / "library", kind)
            timing = self.device.measure(artifact, self.measure)
        if isinstance(timing, Failure):
            raise DeviceError(f"{arch}: {timing.stage}: {timing.message}")
        return {
            "kind": kind, "arch": arch.to_json(), "length": LENGTH, "threads": 1,
            "cpu": local_machine().cpu, "p90_ms": timing.percentile(90),
            "median_ms": timing.percentile(50),
            "predicted_ms": self.table.predict(arch) if kind == LATENCY else None,
        }  # fmt: skip

    def of_blocks(self, share: float) -> Iterator[Arch]:
        """What the dynamic program proposes at a share of the teacher's time, at each width."""
        teacher, errors = self.trainer.teacher_arch(), self.trainer.errors()
        whole = self.table.predict(teacher)
        assert whole is not None
        for width in SPACE.choices()["hidden"]:
            size = SPACE.head_sizes[0]
            base = Arch.uniform(1, width, width // size, SPACE.ffn_step)
            outside = self.table.outside(base)

            def time_of(block, base=base, outside=outside) -> float:  # noqa: ANN001
                found = self.table.recalled(Arch(base.hidden, base.head_size, (block,)))
                return float("inf") if found is None else found - outside

            choices = SPACE.blocks_at(base)
            found = allocated(
                base, (choices["heads"], choices["ffn"]), errors, teacher.layers,
                self.trainer.kept_layers, time_of, share * whole - outside,
            )  # fmt: skip
            if found is not None:
                yield found


def _of_blocks(work: Path) -> list[Arch]:
    """The architectures of the dynamic program, of all budgets; kept, as they follow from times."""
    kept = work / "blocks.txt"
    if not kept.is_file():
        latencies = Latencies(work)
        latencies.fill()
        found = dict.fromkeys(a for share in SHARES for a in latencies.of_blocks(share))
        kept.write_text("".join(f"{arch.to_json()}\n" for arch in found), encoding="utf-8")
    return [Arch.from_json(line) for line in kept.read_text("utf-8").splitlines()]


def _accuracies(results: Results, work: Path, archs: Sequence[Arch], processes: int) -> None:
    first = trainer(work, "supernet")
    first.teacher()
    first.errors()
    first.kept(SPACE.smallest)
    first.supernet()
    left = [a.to_json() for a in archs
            if not results.holds({"kind": ACCURACY, "arch": a.to_json()})]  # fmt: skip
    # In random order, so that what a part of them says is said of all.
    random.Random(_SEED).shuffle(left)
    with ProcessPoolExecutor(processes, initializer=prepare, initargs=(work,)) as pool:
        running = {pool.submit(trained, work, text): text for text in left}
        try:
            for done, future in enumerate(as_completed(running), start=1):
                name = Arch.from_json(running[future])
                results.put(f"{done} of {len(left)}: {name}", future.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _run(given: argparse.Namespace, results: Results) -> None:
    if given.work is None:
        raise InputError("no folder for the teacher and its students; give --work DIR")
    work = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    grid = [a for a in SPACE][: given.most or None]  # noqa: C416 - a Space is no sequence
    kinds = given.kinds.split(",")
    unknown = [kind for kind in kinds if kind not in (ACCURACY, *TIMED)]
    if unknown:
        raise InputError(f"kind '{unknown[0]}' is not one of {', '.join((ACCURACY, *TIMED))}")
    for kind in (kind for kind in TIMED if kind in kinds):
        latencies = Latencies(work)
        latencies.fill()
        teacher = latencies.trainer.teacher_arch()
        some = [a for a in grid if a.layers in (1, SPACE.layers)]
        for arch in (teacher, *((*grid, *_of_blocks(work)) if kind == LATENCY else some)):
            if not results.holds({"kind": kind, "arch": arch.to_json()}):
                results.take(f"{arch}, {kind}", lambda: latencies.row(arch, kind))  # noqa: B023
    if ACCURACY in kinds:
        blocks = [] if given.most else _of_blocks(work)
        _accuracies(results, work, [*grid, *blocks], given.processes)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, help="where the teacher and the table are kept")
    parser.add_argument("--processes", type=int, default=2, help="that train, a core each")
    parser.add_argument("--kinds", default=",".join((*TIMED, ACCURACY)))
    parser.add_argument("--most", type=int, default=0, help="architectures (0: all)")
    parser.add_argument("--controllers", action="store_true", help="compare controllers")
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--table", action="store_true", help="write landscape.md")
    add_options(parser, RECORDS)
    given = parser.parse_args(arguments)
    return ended("landscape", lambda: _work(given))


def _work(given: argparse.Namespace) -> None:
    if given.controllers:
        records = Records(file_of(given, RECORDS), IDENTITY).read()
        compare(records, SPACE, SHARES, given.seeds, say)
    else:
        recorded(given, RECORDS, IDENTITY, write_page, lambda results: _run(given, results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
