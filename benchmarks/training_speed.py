"""How fast training is: a plain loop, and CANAO's, in turns on the same texts.

    python benchmarks/training_speed.py --data DIR [--rounds 9] [--steps 6]
    python benchmarks/training_speed.py --table

DIR has MRPC's train and dev files. MiniLM is fine-tuned, and distilled into a student of its own
shape, on batches of 32. Plain is what a loop of a few lines does: float32, batches in random order,
each padded to its longest text, the teacher run beside the student at each step. CANAO sorts texts
of like lengths into batches, cuts the table of words down to those that the texts have, looks up
what the teacher says of a text, and computes products in bfloat16 where that is faster
(`--train-dtype auto`); `float32` is the same without that. The teacher's one
pass over the texts is not counted, as all candidates share it.

Each round gives every variant some steps, one after another; a record has the real tokens a second
of each round, padding not counted. Records go to results/training_speed.jsonl, unless badly
measured (README.md); --table writes the table of docs/training.md.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import torch
from pages import fill, table
from peers.records import Record, Records
from peers.results import Results, add_options, file_of
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from canao.cli.demo_command import packaged_teacher
from canao.defaults import silent
from canao.errors import CanaoError, InputError
from canao.machine import local_machine
from canao.model import hf
from canao.train.data import load_data
from canao.train.distillation.targets import TeacherTargets
from canao.train.engine.batches import Encoded, collate, encode, training_order
from canao.train.engine.compact import compact_words
from canao.train.engine.compute import autocast, computes_in, device_of
from canao.train.tasks.task import TEMPERATURE
from canao.train.teacher.finetune import label_loss

HERE = Path(__file__).resolve().parent
RECORDS, PAGE = HERE / "results" / "training_speed.jsonl", HERE.parent / "docs" / "training.md"
IDENTITY = ("cpu", "threads")
LENGTH, BATCH, RATE = 128, 32, 5e-5
_CPU = torch.device("cpu")
PLAIN, OURS32, OURS = "plain", "float32", "canao"

Step = Callable[[Sequence[int]], Tensor]


class Variant:
    """A model that is trained on batches in some order, some steps at a time."""

    def __init__(self, name: str, model: PreTrainedModel, data: Encoded, dtype: str) -> None:
        self.name, self.model, self.data = name, model.train(), data
        self.dtype = computes_in(device_of(model), dtype)
        if not name.startswith(PLAIN):
            self.kept = compact_words(model, [data])  # for as long as this lives
            self.kept.__enter__()
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)
        self.batches = cycle(_plain(data) if name.startswith(PLAIN) else _sorted(data))
        self.loss: Step = self._labels
        self.speeds: list[float] = []

    def run(self, steps: int) -> None:
        """Train, and note the real tokens a second."""
        begun, tokens = time.perf_counter(), 0
        for index in (next(self.batches) for _ in range(steps)):
            self.loss(index).backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            tokens += sum(len(self.data.ids[i]) for i in index)
        self.speeds.append(tokens / (time.perf_counter() - begun))

    def _logits(self, index: Sequence[int]) -> Tensor:
        with autocast(_CPU, self.dtype):
            return self.model(**collate(self.data, index).inputs).logits.float()

    def _labels(self, index: Sequence[int]) -> Tensor:
        return label_loss(self._logits(index), torch.from_numpy(self.data.labels[list(index)]))

    def learning_from(self, said: Callable[[Sequence[int]], Tensor]) -> Variant:
        """The same, distilled from logits of a teacher."""
        def loss(index: Sequence[int]) -> Tensor:
            mine = functional.log_softmax(self._logits(index) / TEMPERATURE, dim=-1)
            theirs = functional.log_softmax(said(index) / TEMPERATURE, dim=-1)
            return functional.kl_div(mine, theirs, log_target=True, reduction="batchmean")

        self.loss = loss
        return self


def _plain(data: Encoded) -> list[list[int]]:
    order = list(range(len(data)))
    random.Random(0).shuffle(order)
    return [order[i : i + BATCH] for i in range(0, len(order) - BATCH + 1, BATCH)]


def _sorted(data: Encoded) -> list[list[int]]:
    return [b for b in training_order(data, BATCH, 0, 0) if len(b) == BATCH]


def variants(path: Path) -> Iterator[Variant]:
    texts = load_data(path, seed=0)
    source = packaged_teacher()
    data = encode(hf.load_tokenizer(source), texts.train, LENGTH)

    def model() -> PreTrainedModel:
        torch.manual_seed(0)
        return hf.load_classifier(source, texts.labels)

    teacher = model()
    targets = TeacherTargets(teacher, data)
    targets.prepare((), silent)

    def run_again(index: Sequence[int]) -> Tensor:
        with torch.no_grad():
            return teacher(**collate(data, index).inputs).logits

    def looked_up(index: Sequence[int]) -> Tensor:
        assert targets.logits is not None
        return targets.logits[list(index)]

    for name, dtype in ((PLAIN, "float32"), (OURS32, "float32"), (OURS, "auto")):
        yield Variant(f"{name}, fine-tuning", model(), data, dtype)
        said = run_again if name == PLAIN else looked_up
        yield Variant(f"{name}, distillation", model(), data, dtype).learning_from(said)


def measure(options: argparse.Namespace, threads: int) -> Record:
    torch.set_num_threads(threads)
    some = list(variants(options.data))
    for one in some:
        one.run(2)
        one.speeds.clear()
    for turn in range(options.rounds):
        for one in some[:: 1 if turn % 2 else -1]:
            one.run(options.steps)
    return {
        "kind": "training", "model": "MiniLM-L6", "cpu": local_machine().cpu, "threads": threads,
        "dtype": some[-1].dtype, "tokens_per_second": {one.name: one.speeds for one in some},
    }  # fmt: skip


def write_table(records: Sequence[Record]) -> None:
    """A row for each processor and task, with the median ratio over rounds."""
    head = ("processor", "threads", "", "plain, tokens a second", "CANAO, float32",
            "CANAO, auto", "in", "CANAO / plain")  # fmt: skip
    lines: list[Sequence[str]] = [head, ("---", "--:", "---", *["--:"] * 3, "---", "--:")]
    for record in records:
        for task in ("fine-tuning", "distillation"):
            speeds: dict[str, Any] = record["tokens_per_second"]
            plain, own32, own = (speeds[f"{n}, {task}"] for n in (PLAIN, OURS32, OURS))
            ratio = median(a / b for a, b in zip(own, plain, strict=True))
            lines.append((
                record["cpu"], str(record["threads"]), task,
                *(f"{median(s):,.0f}" for s in (plain, own32, own)), record["dtype"],
                f"{ratio:.2f} x",
            ))  # fmt: skip
    fill(PAGE, {"speed": table(lines) if records else "No records yet.\n"})


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of MRPC's train and dev files")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=6, help="of a variant in a round")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--table", action="store_true", help="write the table of docs/training.md")
    add_options(parser, RECORDS)
    options = parser.parse_args(arguments)
    try:
        records = Records(file_of(options, RECORDS), IDENTITY)
        if options.table:
            write_table(records.read())
            return 0
        if options.data is None:
            raise InputError("no texts; give MRPC's folder with --data")
        results = Results.start(records, options.draft)
        for threads in map(int, options.threads.split(",")):
            if not results.holds({"cpu": local_machine().cpu, "threads": threads}):
                title = f"{threads} thread(s)"
                results.take(title, lambda: measure(options, threads))  # noqa: B023
        results.close()
    except CanaoError as error:
        print(f"training_speed: error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
