"""Students of a real teacher on real data: MRPC, STS-B, Banking77 at 1/2 and 1/4 of its latency.

    python benchmarks/real_data.py --teacher DIR --data DIR --work DIR [-- SEARCH OPTIONS]
    python benchmarks/real_data.py --table

DIR of --data holds glue/MRPC/{train,dev}.tsv, glue/STS-B/{train,dev}.tsv and
banking77/{train,test}.tsv. For each task the teacher is fine-tuned once, compiled and measured;
then `canao search` runs at each budget in a process of its own. The search sees the training
file alone and holds a tenth of it out for its choices; the figures here are of the dev file
(Banking77: test), which nothing was chosen on, scored by the compiled libraries themselves.

One record a line goes to results/real_data.jsonl; what is there already is not run again, what was
badly measured is refused (README.md), and a run that was killed goes on where it was. --table
writes the table of real_data.md from it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from peers.progress import report, say
from peers.quiet import LIMIT, Watch
from peers.records import Record, Records
from peers.results import Results, add_options, file_of
from real_data_table import write_page

from canao.artifact.certificate_file import load_certificate
from canao.artifact.directory import Artifact
from canao.artifact.files import write_whole
from canao.compiler.pipeline import compile_model
from canao.device.base import Failure, MeasureConfig, Timing
from canao.device.bench import local_device
from canao.errors import BudgetError, CanaoError, DeviceError, InputError
from canao.inference.compiled_model import CompiledModel
from canao.search.journal import read_trials
from canao.train.data import TextData, load_data
from canao.train.metrics import score
from canao.train.options import TrainOptions
from canao.train.trainer import Trainer

HERE = Path(__file__).resolve().parent
RECORDS = HERE / "results" / "real_data.jsonl"
LENGTH = 128  # tokens of every measured input, as in the paper (section 4.1)
PERCENTILE = 90.0
STEADY = 1.3  # p90 over the median: more says that something else is running
IDENTITY = ("dataset", "fraction", "seed", "threads", "trials", "options")


@dataclass(frozen=True)
class Task:
    """A data set: where it lies under --data, and how its teacher is fine-tuned."""

    name: str
    folder: str
    kind: str = "text-classification"
    epochs: int = 3  # of BERT's own recipe, as is the rate
    lr: float = 5e-5


TASKS = (
    Task("MRPC", "glue/MRPC"),
    Task("STS-B", "glue/STS-B", "text-regression"),
    # 77 classes: BERT's own recipe leaves the teacher at 64 %.
    Task("Banking77", "banking77", epochs=6, lr=1e-4),
)


@dataclass(frozen=True)
class Study:
    """One study: the teacher, the data, how every search of it is run, and where records go."""

    results: Results
    teacher: Path
    data: Path
    work: Path
    seed: int
    threads: int
    samples: int
    trials: int
    extra: tuple[str, ...]

    @property
    def config(self) -> MeasureConfig:
        return MeasureConfig(length=LENGTH, threads=self.threads, samples=self.samples)

    def folder(self, task: Task) -> Path:
        return self.work / f"{task.name}-seed{self.seed}-threads{self.threads}"


def run_task(study: Study, task: Task, fractions: Sequence[float]) -> None:
    """Run what is missing of one task and record it."""
    missing = [f for f in fractions if not study.results.holds(_identity(study, task, f))]
    if not missing:
        say(f"{task.name}: recorded already")
        return
    held = load_data(study.data / task.folder, task=task.kind, seed=study.seed)
    teacher = prepare_teacher(study, task, held)
    for fraction in missing:
        run = partial(search, study, task, fraction, teacher, held)
        study.results.take(f"{task.name} at {fraction:g}", run)


def prepare_teacher(study: Study, task: Task, held: TextData) -> Record:
    """Fine-tune, compile and measure the task's teacher; kept in its folder for the next time.

    What another version of the source compiled is measured anew: budgets are shares of it.
    """
    folder, source = study.folder(task), study.results.begun.until(study.results.begun)
    kept = folder / "teacher-measured.json"
    known: Record = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    if known.get("source") == source:
        return known
    folder.mkdir(parents=True, exist_ok=True)
    train_file = study.data / task.folder / "train.tsv"
    options = TrainOptions(
        max_length=LENGTH, seed=study.seed, teacher_epochs=task.epochs, teacher_lr=task.lr
    )
    start = time.monotonic()
    seen = load_data(train_file, task=task.kind, seed=study.seed)
    trainer = Trainer(study.teacher, seen, folder, options, report)
    student = trainer.teacher()
    seconds = known.get("train_seconds") or time.monotonic() - start
    artifact = compile_model(student.model_dir, folder / "teacher-artifact")
    watch = Watch()
    timing = _steady(artifact, study.config)
    shares = watch.close()
    if max(shares["before"], shares["during"], shares["after"]) > LIMIT and not study.results.draft:
        raise DeviceError("others used the cores while the teacher was measured; run it again")
    row = {
        "arch": trainer.teacher_arch().facts(),
        "metrics": score_library(artifact, held),
        "train_seconds": round(seconds, 1),
        **_described(artifact, timing),
        "busy_others": shares,
        "source": source,
    }
    write_whole(kept, json.dumps(row) + "\n")
    return row


def _steady(artifact: Artifact, config: MeasureConfig) -> Timing:
    """A measurement that the budgets can be taken from; DeviceError on a busy machine."""
    for _ in range(3):
        timing = local_device().measure(artifact, config)
        if isinstance(timing, Failure):
            raise DeviceError(f"the teacher's library failed ({timing.message})")
        if timing.percentile(PERCENTILE) <= STEADY * timing.percentile(50):
            return timing
    raise DeviceError("the teacher's latency is not steady; run again while nothing else runs")


def search(study: Study, task: Task, fraction: float, teacher: Record, held: TextData) -> Record:
    """Run `canao search` in a process of its own; its record. Ctrl-C ends both, resumably."""
    folder = study.folder(task)
    run, given = folder / f"run-{fraction:g}", folder / "teacher"
    train_file = study.data / task.folder / "train.tsv"
    budget = float(f"{fraction * teacher['latency_ms']['p90']:.4g}")
    options = [
        "--task", task.kind, "--device", "local", "--budget-ms", f"{budget:g}",
        "--percentile", f"{PERCENTILE:g}", "--length", str(LENGTH),
        "--threads", str(study.threads), "--samples", str(study.samples),
        "--trials", str(study.trials), "--seed", str(study.seed), *study.extra,
    ]  # fmt: skip
    paths = ["--teacher", str(given), "--data", str(train_file), "--out", str(run)]
    say(f"{task.name}: searching a student within {budget:g} ms")
    resumed, start = run.exists(), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "canao.cli.app", "search", *paths, *options],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    # Python leaves with 1 as well when it fails: only the message tells a missed budget.
    missed = done.returncode == BudgetError.exit_code and last.startswith("canao: error:")
    if done.returncode and not missed:
        raise CanaoError(f"{task.name} at {fraction:g}: canao search failed: {last}")
    shown = ["--teacher", f"{task.name}-TEACHER", "--data", f"{task.name}/train.tsv"]
    trials = read_trials(run)
    record: Record = {
        **_identity(study, task, fraction),
        "command": " ".join(["canao", "search", *shown, "--out", "RUN", *options]),
        "budget_ms": budget,
        "teacher": teacher,
        "judged": len(trials),
        "trained": sum(t.trained for t in trials),
        "search_seconds": round(time.monotonic() - start, 1),
        "resumed": resumed,
        "versions": {name: version(name) for name in ("canao", "torch", "transformers")},
    }
    if missed:
        return record | {"outcome": "no student keeps the budget"}
    return record | {"outcome": "certified"} | _student(run, held)


def _student(run: Path, held: TextData) -> Record:
    """What the run's own files say of the student, and its library's figures on `held`."""
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    artifact = Artifact.load(run / "artifact")
    return {
        "student": {
            "arch": result["arch"],
            "metrics": score_library(artifact, held),
            "search_metrics": result["student"]["metrics"],
            **_described(artifact),
        },
        "certificate": load_certificate(artifact).to_dict(raw=False),
    }


def score_library(artifact: Artifact, held: TextData) -> dict[str, float]:
    """The metrics of a compiled library on the dev examples, straight from their text."""
    predictions = []
    with CompiledModel(artifact) as model:
        names = [slot["name"] for slot in artifact.manifest["inputs"]]
        for example in held.dev:
            ids, types = model.encode(example.text, example.pair)
            given = {"input_ids": ids, "token_type_ids": types}
            logits = model(**{name: given[name] for name in names}).ravel()
            predictions.append(float(logits[0]) if held.regression else int(logits.argmax()))
    return dict(score(np.array(predictions), held).metrics)


def _described(artifact: Artifact, timing: Timing | None = None) -> Record:
    row = {
        "parameters": artifact.manifest["parameters"],
        "layers": {"before": artifact.operators, "after": artifact.kernels},
        "flops": artifact.manifest["flops"]["total"],
    }
    return row if timing is None else row | timing.to_dict()


def _identity(study: Study, task: Task, fraction: float) -> Record:
    """What tells one record from another."""
    return {"dataset": task.name, "fraction": fraction, "seed": study.seed,
            "threads": study.threads, "trials": study.trials,
            "options": list(study.extra)}  # fmt: skip


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Options; what follows '--' is for `canao search`."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--table", action="store_true", help="write real_data.md and end")
    parser.add_argument("--teacher", type=Path, help="Hugging Face directory of an encoder")
    parser.add_argument("--data", type=Path, help="folder with glue/ and banking77/")
    parser.add_argument("--work", type=Path, help="folder for runs, outside the checkout")
    parser.add_argument("--tasks", default=",".join(task.name for task in TASKS))
    parser.add_argument("--fractions", default="0.5,0.25", help="budgets, of the teacher's p90")
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of the compiled libraries")
    parser.add_argument("--samples", type=int, default=1024)
    add_options(parser, RECORDS)
    parser.add_argument("extra", nargs="*", help="options of canao search, after '--'")
    options = parser.parse_args(arguments)
    if not options.table and not (options.teacher and options.data and options.work):
        parser.error("give --teacher, --data and --work, or --table")
    if options.table and options.draft:
        parser.error("no table is made of drafts")
    return options


def main(arguments: Sequence[str]) -> int:
    options = _parse(arguments)
    try:
        records = Records(file_of(options, RECORDS), IDENTITY)
        if options.table:
            write_page([task.name for task in TASKS], records.read())
            return 0
        study = Study(
            Results.start(records, options.draft),
            options.teacher.resolve(), options.data.resolve(), options.work.resolve(),
            options.seed, options.threads, options.samples, options.trials, tuple(options.extra),
        )  # fmt: skip
        known = {task.name: task for task in TASKS}
        for name in options.tasks.split(","):
            if name not in known:
                raise InputError(f"task '{name}' is not one of {', '.join(known)}")
            run_task(study, known[name], [float(f) for f in options.fractions.split(",")])
        study.results.close()
    except CanaoError as error:
        say(f"real_data: error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        say("real_data: interrupted; the same command goes on where it was")
        return 130
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main(sys.argv[1:]))
