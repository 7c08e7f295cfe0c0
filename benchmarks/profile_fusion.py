"""Measures the yellow cells of the fusion table on this machine, and writes them into
src/canao/fuse/yellow_cells.json, beside those of other machines.

    python benchmarks/profile_fusion.py [--draft] [--out FILE]

For each yellow cell that comes up in the models below, the model is compiled twice, with every
yellow merge and with all but those of this cell; both libraries are timed by turns, in rounds, on
one pinned core. The cell's figure is the median over rounds and models of the ratio of their
medians: below 1, fusing is faster. The file is written only if all was measured while nothing else
used the cores, with a source that is committed, and if outputs agree; not by --draft.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers.results import Results, add_options, file_of
from transformers import BertConfig, BertModel

from canao.artifact.directory import Artifact
from canao.artifact.files import write_json
from canao.compiler.loading import load_model
from canao.compiler.pipeline import compile_graph, compile_model
from canao.device.base import MeasureConfig, Timing
from canao.device.bench import BenchDevice, local_device
from canao.errors import CanaoError, DeviceError
from canao.fuse.group import YELLOW
from canao.fuse.yellow_cells import always, parse
from canao.inference.compiled_model import CompiledModel
from canao.lower.scheduling import backend_of

OUT = Path(__file__).resolve().parent.parent / "src" / "canao" / "fuse" / "yellow_cells.json"
# (hidden, heads, ffn): the teacher's width, and two narrow ones as searches propose them.
MODELS = ((384, 12, 1536), (256, 4, 640), (96, 3, 384))
LENGTHS = (32, 128)
ROUNDS = 7
SAMPLES = 60
TOLERANCE = 1e-4  # of outputs that a layer norm leaves, so of the size of 1

Run = tuple[tuple[int, int, int], int, list[float], float]  # shape, length, ratios, difference


def model(hidden: int, heads: int, ffn: int) -> BertModel:
    torch.manual_seed(0)
    return BertModel(
        BertConfig(
            vocab_size=1000,
            hidden_size=hidden,
            num_attention_heads=heads,
            intermediate_size=ffn,
            num_hidden_layers=4,
            initializer_range=0.1,
        )
    ).eval()


def cells(network: BertModel, device: BenchDevice) -> list[str]:
    """The yellow cells under which this model's regions are merged."""
    _, graph = load_model(network)
    log = compile_graph(graph, device.target, yellow_cells=always).program.log
    found = [m.cell.partition(":")[0] for m in log
             if m.cell.endswith(YELLOW) and m.result == "fused"]  # fmt: skip
    return sorted(set(found))


def ratios(device: BenchDevice, fused: Artifact, separate: Artifact, length: int) -> list[float]:
    """Fused over separate, one ratio a round, the order reversed in every other round."""
    config = MeasureConfig(length=length, samples=SAMPLES)
    out = []
    for turn in range(ROUNDS):
        pair = [fused, separate][:: -1 if turn % 2 else 1]
        times = {a.path: median(device, a, config) for a in pair}
        out.append(times[fused.path] / times[separate.path])
    return out


def median(device: BenchDevice, artifact: Artifact, config: MeasureConfig) -> float:
    timing = device.measure(artifact, config)
    if not isinstance(timing, Timing):
        raise DeviceError(timing.message)
    return timing.percentile(50)


def compare(fused: Artifact, separate: Artifact) -> float:
    ids = np.arange(100) % 1000
    with CompiledModel(fused) as a, CompiledModel(separate) as b:
        return float(np.abs(a(ids) - b(ids)).max())


def measure(device: BenchDevice) -> dict[str, Any]:
    """The record of all cells; `difference` is the largest between outputs of a pair."""
    found: dict[str, list[Run]] = {}
    stamp = device.environment()
    with tempfile.TemporaryDirectory() as folder:
        for shape in MODELS:
            network = model(*shape)
            fused = compile_model(network, Path(folder) / "fused", yellow_cells=always)
            for cell in cells(network, device):
                separate = compile_model(
                    network, Path(folder) / "separate",
                    yellow_cells=lambda p, c, cell=cell: cell != f"{p} -> {c}",
                )  # fmt: skip
                difference = compare(fused, separate)
                for length in LENGTHS:
                    got = ratios(device, fused, separate, length)
                    found.setdefault(cell, []).append((shape, length, got, difference))
                    print(f"{cell} {shape} at {length}: {statistics.median(got):.4f}", flush=True)
    worst = max(d for runs in found.values() for *_, d in runs)
    return {
        "backend": backend_of(device.target).name,
        "cells": {cell: summary(runs) for cell, runs in sorted(found.items())},
        "difference": worst, "tolerance": TOLERANCE, "environment": stamp,
    }  # fmt: skip


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """What all runs of a cell say."""
    return {
        "fused_over_separate": round(
            statistics.median(r for _, _, got, _ in runs for r in got), 4
        ),
        "rounds": sum(len(got) for _, _, got, _ in runs),
        "largest_difference": max(d for *_, d in runs),
        "by_model": {f"{shape} at {length}": round(statistics.median(got), 4)
                     for shape, length, got, _ in runs},
    }  # fmt: skip


@dataclass(frozen=True)
class YellowCells:
    """The compiler's measurements, as the place of records: each machine of a backend has one."""

    path: Path

    def holds(self, identity: Mapping[str, Any]) -> bool:
        return False  # it is always measured anew

    def put(self, record: Mapping[str, Any]) -> None:
        """Add what a machine measured, in place of what it measured before."""
        environment = record["environment"]
        entry = {"machine": environment["machine"], "isa": environment["isa"],
                 "cells": record["cells"], "measured_on": environment,
                 "source": record["source"], "busy_others": record["busy_others"]}  # fmt: skip
        content = self._content()
        others = content.get(record["backend"], [])
        content[record["backend"]] = [
            *(m for m in others if m["machine"] != entry["machine"]), entry
        ]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, content)
        print(json.dumps({k: v["fused_over_separate"] for k, v in record["cells"].items()},
                         indent=2))  # fmt: skip

    def _content(self) -> dict[str, list[dict[str, Any]]]:
        """What the file holds; InputError if it is not of the form that the compiler reads."""
        if not self.path.exists():
            return {}
        text = self.path.read_text(encoding="utf-8")
        parse(text, str(self.path))
        content: dict[str, list[dict[str, Any]]] = json.loads(text)
        return content


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_options(parser, OUT)
    options = parser.parse_args(arguments)
    try:
        results = Results.start(YellowCells(file_of(options, OUT)), options.draft)
        results.take("yellow cells", partial(measure, local_device()))
        results.close()
    except CanaoError as error:
        print(f"profile_fusion: error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
