"""The paper's Table 1: students at a third, a sixth and a twelfth of the teacher's time.

    python benchmarks/table1.py --data DIR --work DIR [--tasks MRPC,STS-B,RTE,CoLA] [--seeds 0,1,2]
    python benchmarks/table1.py --table

DIR of --data holds glue/{MRPC,STS-B,RTE,CoLA}/ and banking77/. For each task the teacher is
fine-tuned once a seed, and compiled in float32: budgets are shares of its p90 at 128 tokens, on one
thread. Rows of each budget:

    search         what `canao search --precision auto` finds, once, with the first seed
    lower layers   the teacher's lowest layers, as many as keep the budget, distilled
    flops          a uniform BERT that TPE finds when FLOPs stand for latency, distilled

With `--deep DIR`, the directory of a deep and narrow student of `canao distil`, there are two more
rows, at whatever time their libraries take: `deep-narrow` is its shape with random weights,
fine-tuned on the labels alone, `deep-narrow, distilled` the student, fine-tuned alike.

`lower layers` and `flops` are what a user would do instead; all are trained in full alike, once a
seed, from the teacher of that seed, compiled in the same precision, and measured. A record has the
library's score on the task's dev file, its p90 at 128 tokens, and its mean time for the dev texts
at their own lengths.

Records go to results/table1.jsonl, unless badly measured (README.md); a run that was killed goes on
where it was. --table writes table1.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from peers.progress import say
from peers.records import Record
from peers.results import Results, add_options
from peers.script import ended, recorded
from table1_table import write_page
from teacher import TASKS, Task

from canao import api
from canao.accuracy.gate import compile_checked
from canao.accuracy.measure import predictions
from canao.artifact.directory import Artifact
from canao.artifact.files import write_whole
from canao.artifact.temporary import WorkingDirectory
from canao.cli.demo_command import packaged_teacher
from canao.compiler.pipeline import compile_model
from canao.defaults import PRECISION, silent
from canao.device.base import Failure, MeasureConfig
from canao.device.bench import local_device
from canao.device.null import NullDevice
from canao.errors import BudgetError, DeviceError, InputError
from canao.machine import local_machine
from canao.model import hf
from canao.model.arch import Arch
from canao.search.candidates.space import Space
from canao.search.study.run_file import read_run
from canao.train.data import TextData, load_data
from canao.train.inheritance.inherit import Kept, keep
from canao.train.options import TrainOptions
from canao.train.trainer import Trainer

HERE = Path(__file__).resolve().parent
RECORDS = HERE / "results" / "table1.jsonl"
IDENTITY = ("dataset", "row", "share", "seed", "cpu")
LENGTH = 128
TEACHER, SEARCH, LOWER, FLOPS = "teacher", "search", "lower layers", "flops"
DEEP, DEEP_DISTILLED = "deep-narrow", "deep-narrow, distilled"
OWN = 0  # the share of a row that has no budget
SHARES = (3, 6, 12)
_TRUE = 200  # dev texts that are timed at their own lengths


class LowerLayers(Trainer):
    """A trainer whose students keep the teacher's lowest layers."""

    def kept(self, arch: Arch) -> Kept:
        super().kept(arch)  # which measures the importance
        assert self._importance is not None
        return keep(self._arch, arch, self._importance, range(arch.layers))


@dataclass(frozen=True)
class Study:
    """One task: its data, where everything is kept, and how searches are run."""

    task: Task
    data: TextData
    folder: Path
    work: Path
    trials: int
    options: TrainOptions

    def trainer(self, seed: int, precision: str, row: str = SEARCH) -> Trainer:
        """The trainer of a seed; rows that keep other layers have one of their own."""
        kind, place = (LowerLayers, "lower") if row == LOWER else (Trainer, "train")
        asked = replace(self.options, seed=seed, precision=precision)
        teacher = packaged_teacher()
        if row == LOWER:
            teacher = self.trainer(seed, precision).teacher().model_dir
        return kind(teacher, self.data, self.work / f"{place}-{seed}", asked, _report)

    def teacher_ms(self) -> float:
        """The p90 of the first seed's teacher in float32; measured once."""
        kept = self.work / "teacher-ms"
        if not kept.is_file():
            model = self.trainer(0, PRECISION).teacher().model_dir
            with WorkingDirectory("canao-table1") as folder:
                found = _p90(compile_model(model, folder / "library"))
            write_whole(kept, f"{found}\n")
        return float(kept.read_text("utf-8"))

    def found(self, share: int) -> tuple[Arch, str]:
        """What the search finds at a share, and in which precision."""
        run, budget = self.work / f"search-{share}", self.teacher_ms() / share
        teacher = self.trainer(0, PRECISION).teacher().model_dir
        result = api.search(
            teacher=teacher, data=self.folder, task=self.task.kind, budget_ms=budget, run_dir=run,
            length=LENGTH, trials=self.trials, precision="auto", metric=self.task.metric,
            progress=lambda event: say(f"{self.task.name} at 1/{share}: {event.text}"),
        )  # fmt: skip
        return result.arch, str(read_run(run)["precision"])

    def lowest(self, share: int, precision: str) -> Arch | None:
        """As many of the teacher's layers as keep the budget in a precision; None if none does."""
        trainer = self.trainer(0, precision)
        teacher, budget = trainer.teacher_arch(), self.teacher_ms() / share
        for layers in range(teacher.layers - 1, 0, -1):
            arch = Arch.uniform(layers, teacher.hidden, teacher.heads, teacher.ffn)
            with WorkingDirectory("canao-table1") as folder:
                model = trainer.blank(arch)
                ms = _p90(compile_model(model, folder / "library", precision=precision))
            if ms <= budget:
                return arch
        return None

    def by_flops(self, share: int) -> Arch | None:
        """What TPE finds where FLOPs stand for latency; None where nothing keeps such a budget."""
        space = Space.of_teacher(self.trainer(0, PRECISION).teacher_arch())
        with WorkingDirectory("canao-table1") as folder:
            teacher = self.trainer(0, PRECISION).teacher().model_dir
            whole = _flops(compile_model(teacher, folder / "library"))
        device = NullDevice(lambda artifact: 1000 * _flops(artifact) / whole)
        try:
            return api.search(
                teacher=self.trainer(0, PRECISION).teacher().model_dir, data=self.folder,
                task=self.task.kind, budget_ms=1000 / share, run_dir=self.work / f"flops-{share}",
                length=LENGTH, trials=self.trials, controller="tpe", device=device,
                metric=self.task.metric,
                progress=lambda e: say(f"{self.task.name} at 1/{share}, by FLOPs: {e.text}"),
            ).arch  # fmt: skip
        except BudgetError:
            say(f"{self.task.name} at 1/{share}: no student of {space} has so few FLOPs")
            return None

    def rows(self, share: int) -> Iterator[tuple[str, Arch, str]]:
        """The rows of a budget: name, architecture, precision. They are found once, and kept."""
        kept = self.work / f"rows-{share}.json"
        if not kept.is_file():
            arch, precision = self.found(share)
            rows = {SEARCH: arch, LOWER: self.lowest(share, precision), FLOPS: self.by_flops(share)}
            found = [[name, one.to_json(), precision] for name, one in rows.items() if one]
            write_whole(kept, json.dumps(found) + "\n")
        for name, text, precision in json.loads(kept.read_text("utf-8")):
            yield name, Arch.from_json(text), precision

    def student(self, row: str, share: int, seed: int, arch: Arch, precision: str) -> Record:
        """Train it in full, compile and measure it."""
        begun = time.monotonic()
        model = self.trainer(seed, precision, row).finish(arch).model_dir
        return self._measured(model, precision) | {
            "row": row, "share": share, "seed": seed, "arch": arch.to_json(),
            "budget_ms": self.teacher_ms() / share, "seconds": round(time.monotonic() - begun),
        }  # fmt: skip

    def teacher(self, seed: int) -> Record:
        trainer = self.trainer(seed, PRECISION)
        return self._measured(trainer.teacher().model_dir, PRECISION) | {
            "row": TEACHER, "share": 1, "seed": seed, "arch": trainer.teacher_arch().to_json()
        }

    def deep(self, row: str, seed: int, distilled: Path) -> Record:
        """Fine-tune a deep and narrow student, or its shape with random weights, on the labels."""
        place = self.work / f"deep-{seed}" / row.replace(", ", "-")
        source = distilled if row == DEEP_DISTILLED else _random(distilled, place / "random", seed)
        asked = replace(self.options, seed=seed)
        trainer = Trainer(source, self.data, place / "train", asked, _report)
        return self._measured(trainer.teacher().model_dir, PRECISION) | {
            "row": row, "share": OWN, "seed": seed, "arch": trainer.teacher_arch().to_json()
        }

    def _measured(self, model: Path, precision: str) -> Record:
        untold = replace(self.data, told=())
        with WorkingDirectory("canao-table1") as folder:
            if precision == PRECISION:
                artifact = compile_model(model, folder / "library")
                score = replace(predictions(artifact, untold).score, primary=self.task.metric)
            else:
                checked = compile_checked(
                    model, folder / "library", untold, precision=precision,
                    metric=self.task.metric, progress=silent,
                )  # fmt: skip
                artifact, score = checked.artifact, checked.compiled.score
            return {
                "kind": "table1", "dataset": self.task.name, "precision": precision,
                "cpu": local_machine().cpu, "threads": 1, "length": LENGTH,
                "metrics": dict(score.metrics), "primary": score.primary, "p90_ms": _p90(artifact),
                "true_ms": _true_ms(artifact, self.data), "examples": len(self.data.dev),
            }  # fmt: skip


def _random(like: Path, folder: Path, seed: int) -> Path:
    """A directory of the same shape and tokenizer, with random weights."""
    if not folder.is_dir():
        torch.manual_seed(seed)
        model = hf.build_classifier(hf.load_config(like))
        # Without a head, which would be taken for one that was trained.
        hf.save_model(hf.encoder_of(model), hf.load_tokenizer(like), folder)
    return folder


def _flops(artifact: Artifact) -> int:
    """Of the whole library, at the usual length."""
    found = artifact.manifest["flops"]
    assert found["length"] == LENGTH
    return int(found["total"])


def _p90(artifact: Artifact) -> float:
    timing = local_device().measure(artifact, MeasureConfig(length=LENGTH, samples=512))
    if isinstance(timing, Failure):
        raise DeviceError(f"{timing.stage}: {timing.message}")
    return timing.percentile(90)


def _true_ms(artifact: Artifact, data: TextData) -> float:
    """Mean milliseconds of a call from Python, over dev texts, one at a time."""
    texts = [(e.text, e.pair) for e in data.dev[:_TRUE]]
    with api.load(artifact.path) as model:
        model.predict(*texts[0], truncate=True)
        begun = time.perf_counter()
        for text, pair in texts:
            model.predict(text, pair, truncate=True)
        return 1000 * (time.perf_counter() - begun) / len(texts)


def _run(results: Results, given: argparse.Namespace) -> None:
    if given.data is None or given.work is None:
        raise InputError("give --data DIR, with the data sets, and --work DIR, for what is trained")
    seeds = [int(seed) for seed in given.seeds.split(",")]
    for name in given.tasks.split(","):
        if name not in TASKS:
            raise InputError(f"task '{name}' is not one of {', '.join(TASKS)}")
        task = TASKS[name]
        folder = given.data / task.folder
        study = Study(
            task, load_data(folder, task=task.kind), folder, given.work.resolve() / name,
            given.trials, TrainOptions(max_length=LENGTH, metric=task.metric),
        )  # fmt: skip
        study.work.mkdir(parents=True, exist_ok=True)
        _task(results, study, seeds, [int(share) for share in given.shares.split(",")],
              given.deep)  # fmt: skip


def _task(
    results: Results, study: Study, seeds: Sequence[int], shares: Sequence[int], deep: Path | None
) -> None:
    for seed in seeds:
        _take(results, study, TEACHER, 1, seed, lambda: study.teacher(seed))  # noqa: B023
        for row in (DEEP, DEEP_DISTILLED) if deep is not None else ():
            _take(results, study, row, OWN, seed, lambda: study.deep(row, seed, deep))  # noqa: B023
    for share in shares:
        for row, arch, precision in study.rows(share):
            for seed in seeds:
                _take(results, study, row, share, seed,
                      lambda: study.student(row, share, seed, arch, precision))  # noqa: B023


def _take(
    results: Results, study: Study, row: str, share: int, seed: int, make: Callable[[], Record]
) -> None:
    identity = {"dataset": study.task.name, "row": row, "share": share, "seed": seed,
                "cpu": local_machine().cpu}  # fmt: skip
    if not results.holds(identity):
        results.take(f"{study.task.name}, {row} at 1/{share}, seed {seed}", make)


def _report(stage: str, done: int, total: int, note: str) -> None:
    if done == total:
        say(f"  {stage}: {done} steps {note}")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--work", type=Path, help="folder for what is trained")
    parser.add_argument("--tasks", default="MRPC,STS-B,RTE,CoLA", help=", ".join(TASKS))
    parser.add_argument("--seeds", default="0,1,2", help="of teachers and final trainings")
    parser.add_argument("--shares", default=",".join(map(str, SHARES)),
                        help="budgets: the teacher's latency by these")  # fmt: skip
    parser.add_argument("--trials", type=int, default=12, help="of each search")
    parser.add_argument("--deep", type=Path, help="deep and narrow student of `canao distil`")
    parser.add_argument("--table", action="store_true", help="write table1.md")
    add_options(parser, RECORDS)
    given = parser.parse_args(arguments)
    return ended("table1", lambda: recorded(
        given, RECORDS, IDENTITY, write_page, lambda results: _run(results, given)
    ))  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
