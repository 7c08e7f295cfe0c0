"""How well the latency table predicts: random architectures against their libraries.

    python benchmarks/predictions.py --work DIR [--precisions float32,int8] [--count 32]
    python benchmarks/predictions.py --table

First the table is filled, as a search fills it before it polishes: at a few widths, libraries in
which every number of heads and FFN units occurs are compiled and profiled (--work keeps it, for
this machine and code). Then random architectures are predicted from it, half of them with blocks of
their own shapes, and each is compiled and measured end to end: the median of its latency. With
`mixed`, blocks are in float32 or int8 at random.

Widths are the teacher's, MiniLM's, and parts of it; weights are random, as latency does not depend
on them. Records go to results/predictions.jsonl, unless badly measured (README.md); --table writes
predictions.md from them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from peers.progress import say
from peers.records import Record
from peers.results import Results, add_options
from peers.script import ended, recorded
from predictions_table import MIXED, write_page

from canao.artifact.directory import Artifact
from canao.artifact.temporary import WorkingDirectory
from canao.cli.demo_command import packaged_teacher
from canao.compiler.pipeline import compile_model
from canao.defaults import PRECISION
from canao.device.base import Failure, MeasureConfig
from canao.device.bench import local_device
from canao.errors import DeviceError, InputError
from canao.machine import local_machine
from canao.model import hf
from canao.model.arch import Arch, Block
from canao.precision.quantize import check_precision
from canao.search.candidates.space import Space
from canao.search.latency.kernels import Imported, survey
from canao.search.latency.table import LatencyTable, table_key

HERE = Path(__file__).resolve().parent
RECORDS = HERE / "results" / "predictions.jsonl"
IDENTITY = ("arch", "precision", "length", "cpu")
WIDTHS = (96, 192, 288, 384)
LENGTH, SAMPLES = 128, 128
ROUNDS = 3  # a library is measured so often; the fastest median counts, as others only slow down


class Study:
    """A teacher's configuration, this machine, and the table that a work directory keeps."""

    def __init__(self, work: Path, precision: str) -> None:
        self.config = hf.load_config(packaged_teacher())
        self.space = Space.of_teacher(hf.arch_of(self.config))
        self.device = local_device()
        self.measure = MeasureConfig(length=LENGTH, samples=SAMPLES)
        self.precision = PRECISION if precision == MIXED else precision
        self.own = ("", "int8") if precision == MIXED else ("",)
        key = table_key(self.device, self.measure, self.precision)
        kernels = Imported(self.blank, self.device.target, self.precision)
        self.table = LatencyTable(work / "latency.json", key, kernels)

    def blank(self, arch: Arch) -> object:
        return hf.build_classifier(hf.student_config(self.config, arch)).eval()

    def library(self, arch: Arch, folder: Path) -> Artifact:
        return compile_model(
            self.blank(arch), folder, target=self.device.target, precision=self.precision
        )

    def fill(self) -> None:
        """Time the kernels of all blocks of the widths that are measured."""
        for width in WIDTHS:
            size = self.space.head_sizes[0]
            first = Arch.uniform(1, width, width // size, self.space.ffn_step)
            blocks = tuple(replace(first.blocks[0], precision=p) for p in self.own)
            choices = self.space.blocks_at(first)
            asked = replace(first, blocks=blocks)
            for one in survey(asked, choices["heads"], choices["ffn"], self.space.layers):
                if one not in self.table:
                    say(f"timing the kernels of {one}")
                    with WorkingDirectory("canao-predictions") as folder:
                        artifact = self.library(one, folder / "library")
                        self.table.record(one, self.device.profile(artifact, self.measure))

    def candidates(self, count: int, seed: int) -> Iterator[Arch]:
        """Random architectures, every second one with blocks that differ."""
        rng = np.random.default_rng(seed)
        for i in range(count):
            width, layers = int(rng.choice(WIDTHS)), int(rng.integers(1, self.space.layers + 1))
            size = self.space.head_sizes[0]
            plain = Arch.uniform(layers, width, width // size, int(rng.choice(self._ffn)))
            yield plain if i % 2 == 0 and len(self.own) == 1 else self._varied(plain, rng)

    def _varied(self, arch: Arch, rng: np.random.Generator) -> Arch:
        heads = self.space.blocks_at(arch)["heads"]
        blocks = []
        while len(blocks) < arch.layers:
            pair = int(rng.choice((0, *heads))), int(rng.choice((0, *self._ffn)))
            if any(pair):
                blocks.append(Block(*pair, str(rng.choice(self.own))))
        return replace(arch, blocks=tuple(blocks))

    @property
    def _ffn(self) -> tuple[int, ...]:
        return self.space.choices()["ffn"]

    def measured(self, arch: Arch) -> float:
        """Milliseconds of its library, from end to end."""
        with WorkingDirectory("canao-predictions") as folder:
            artifact, found = self.library(arch, folder / "library"), []
            for _ in range(ROUNDS):
                timing = self.device.measure(artifact, self.measure)
                if isinstance(timing, Failure):
                    raise DeviceError(f"{arch}: {timing.stage}: {timing.message}")
                found.append(timing.percentile(50))
        return min(found)


def record(study: Study, name: str, arch: Arch) -> Record:
    predicted = study.table.predict(arch)
    if predicted is None:
        raise DeviceError(f"{arch}: kernels without a time; the table was not filled for it")
    return {
        "arch": arch.to_json(), "precision": name, "length": LENGTH, "cpu": local_machine().cpu,
        "kind": "prediction", "uniform": arch.is_uniform, "predicted_ms": predicted,
        "measured_ms": study.measured(arch), "threads": 1,
    }  # fmt: skip


def _run(options: argparse.Namespace, results: Results) -> None:
    if options.work is None:
        raise InputError("no folder for the table; give --work DIR")
    options.work.mkdir(parents=True, exist_ok=True)
    for name in options.precisions.split(","):
        if name != MIXED:
            check_precision(name)
        study = Study(options.work, name)
        study.fill()
        for arch in study.candidates(options.count, options.seed):
            identity = {"arch": arch.to_json(), "precision": name, "length": LENGTH,
                        "cpu": local_machine().cpu}  # fmt: skip
            if not results.holds(identity):
                results.take(f"{arch}, {name}", lambda: record(study, name, arch))  # noqa: B023


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, help="where the table of kernels is kept")
    parser.add_argument("--precisions", default=f"{PRECISION},int8,{MIXED}",
                        help=f"of libraries, and {MIXED}: blocks in float32 or int8")  # fmt: skip
    parser.add_argument("--count", type=int, default=32, help="architectures for each")
    parser.add_argument("--seed", type=int, default=0, help="of the architectures")
    parser.add_argument("--table", action="store_true", help="write predictions.md")
    add_options(parser, RECORDS)
    options = parser.parse_args(arguments)
    return ended("predictions", lambda: recorded(
        options, RECORDS, IDENTITY, write_page, lambda results: _run(options, results)
    ))  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
