"""What the kernels for GPUs read and hold, counted, beside the schemes of other engines.

    python benchmarks/gpu_traffic.py --table     writes the tables of docs/gpu.md

Nothing is timed and no GPU is needed. CANAO's own figures are counted in the OpenCL C that it
generates for a layer: the reads, multiply-adds and vectors of the loop over the depth. Those of
ML Drift (LiteRT's engine) and MNN follow from the tiles that their code gives a work-item:
ml_drift/common/kernels/conv_generic.cc, GetKernelParams of each GPU, and MNN's
source/backend/opencl/execution/cl/gemm_conv1x1_buf.cl, gemm_b4_c8.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pages import fill, table
from peers.models import MODELS
from peers.script import ended
from transformers import BertConfig, BertModel

from canao.compiler.loading import load_model
from canao.compiler.pipeline import compile_graph
from canao.emit.opencl.unit import TEXTS
from canao.fuse.forms.form import Attention, PackedGemm
from canao.graph.ir import dim_at
from canao.lower.opencl.attention import ItemAttentionPlan, depth
from canao.lower.opencl.packed_gemm import ItemGemmPlan
from canao.lower.scheduling import default_plans
from canao.schedule.schedule import Schedule, Step
from canao.target import get_target

PAGE = Path(__file__).resolve().parent.parent / "docs" / "gpu.md"
LENGTH, WIDE = 128, 4  # tokens; floats that are read at once
COUNTED = ("minilm-l6", "bert-base")
ONE_LAYER = {"num_hidden_layers": 1, "vocab_size": 100, "max_position_embeddings": LENGTH}
# A Mali of the Valhall generation runs as many work-items as it can hold where each has 32
# registers of 32 bits, and half as many up to 64 (Arm, Valhall shader core); more are kept in
# memory.
FULL, HALF = 32, 64


@dataclass(frozen=True, slots=True)
class Tile:
    """What a work-item computes of a product, in float32.

    rows, columns   of its tile
    held            vectors of four floats that it holds in the loop: sums, and what it has read
    """

    scheme: str
    rows: int
    columns: int
    held: int

    @property
    def reads(self) -> int:
        """Of 16 bytes, for four elements of the depth."""
        return self.rows + self.columns

    @property
    def fmas(self) -> int:
        """Multiply-adds of single numbers, for four elements of the depth."""
        return WIDE * self.rows * self.columns

    @property
    def registers(self) -> int:
        return WIDE * self.held

    def requested(self, k: int, n: int) -> int:
        """Bytes that all work-items of a product ask the caches for."""
        items = -(-LENGTH // self.rows) * -(-n // self.columns)
        return items * -(-k // WIDE) * self.reads * 16


def other(scheme: str, rows: int, columns: int, weights: int) -> Tile:
    """Of an engine that holds a row's four elements, and so many vectors of weights at once."""
    return Tile(scheme, rows, columns, rows * columns // WIDE + rows + weights)


OTHERS = (
    other("ML Drift, Adreno, many waves (weights in textures)", 4, 8, 8),
    other("ML Drift, Adreno, up to 24 waves", 2, 8, 8),
    other("ML Drift, Mali, a batch of rows", 2, 8, 2),
    other("MNN, gemm_b4_c8", 4, 8, 2),
    other("ML Drift, PowerVR (weights in a group's memory)", 1, 32, 2),
)
FROM_CACHES = OTHERS[:-1]


def schedules() -> Iterator[tuple[str, Schedule]]:
    """Of one layer of each model."""
    target = get_target().on_opencl()
    for name in COUNTED:
        config = BertConfig(**{**MODELS[name][1], **ONE_LAYER})
        graph = load_model(BertModel(config, add_pooling_layer=False).eval())[1]
        yield name, compile_graph(graph, target, planner=default_plans).schedule


def counted(schedule: Schedule, step: Step) -> Tile:
    """The tile of a product, by its code."""
    plan = step.plan
    assert isinstance(plan, ItemGemmPlan)
    text = TEXTS[PackedGemm](schedule.program.graph, step, WIDE).text
    loop = re.search(r"for \(int k = 0; .*?\n    }\n", text, re.DOTALL)
    assert loop, step.name
    reads = len(re.findall(r"\bv(?:load4|f_load)\(", loop[0]))
    fmas = len(re.findall(r"\bvf_fma\(", loop[0])) * WIDE
    sums = len(set(re.findall(r"\bvf (c\d+_\d+) =", text)))
    rows = len(set(re.findall(r"\bfloat4 (x\d+) =", loop[0])))
    held = sums + rows + len(set(re.findall(r"\bvf (y\d+) =", loop[0])))
    tile = Tile("CANAO", plan.mr, plan.nr, held)
    assert (tile.reads, tile.fmas) == (reads, fmas), (step.name, reads, fmas)
    return tile


def occupancy(tile: Tile) -> str:
    return "all" if tile.registers <= FULL else "half" if tile.registers <= HALF else "too many"


def tiles(found: Sequence[tuple[str, Schedule]]) -> str:
    """A row for each scheme."""
    own = {counted(s, step) for _, s in found for step in s.steps
           if isinstance(step.region.form, PackedGemm)}  # fmt: skip
    lines = [["scheme", "tile", "reads of 16 bytes for 4 of the depth", "multiply-adds a read",
              "registers of the loop", "of a Mali's work-items"],
             ["---", "---", *["--:"] * 4]]  # fmt: skip
    for tile in (*sorted(own, key=lambda t: t.scheme), *OTHERS):
        lines.append([tile.scheme, f"{tile.rows} x {tile.columns}", str(tile.reads),
                      f"{tile.fmas / tile.reads:.1f}", str(tile.registers), occupancy(tile)])
    return table(lines)


def shapes(found: Sequence[tuple[str, Schedule]]) -> str:
    """A row for each product and attention of a layer: millions of bytes."""
    names = ("CANAO", *(tile.scheme for tile in FROM_CACHES))
    lines = [["model", "kernel", "at least", *names], ["---", "---", *["--:"] * (1 + len(names))]]
    for model, schedule in found:
        known = set[str]()
        for step in schedule.steps:
            form = step.region.form
            if step.name in known:
                continue
            known.add(step.name)
            if isinstance(form, PackedGemm) and dim_at(form.epilogue.rows, LENGTH) == LENGTH:
                size = f"{form.k} x {form.n}"
                least = 4 * (LENGTH * (form.k + form.n) + form.k * form.n)
                own = counted(schedule, step).requested(form.k, form.n)
                rest = [tile.requested(form.k, form.n) for tile in FROM_CACHES]
                lines.append([model, size, *(f"{b / 1e6:.2f}" for b in (least, own, *rest))])
            elif isinstance(form, Attention):
                lines.append([model, *attention(step, form)])
    return table(lines)


def attention(step: Step, form: Attention) -> list[str]:
    """Bytes of attention: keys and values once for each group of queries; of an engine with kernels
    for scores, softmax and result, the scores twice to memory and twice back as well."""
    plan = step.plan
    assert isinstance(plan, ItemAttentionPlan)
    d, dv = depth(form)
    heads = dim_at(form.q.shape[-3], LENGTH)
    rows = 4 * heads * LENGTH * (d + dv)
    groups = -(-LENGTH // plan.items)
    own, apart = rows * (1 + groups), 2 * rows + 4 * 4 * heads * LENGTH**2
    shown = ["-"] * len(FROM_CACHES)
    shown[-1] = f"{apart / 1e6:.2f}"  # attention_buf.cl; attention_flash_prefill_buf.cl stores none
    return [f"attention, {heads} heads of {d}", f"{2 * rows / 1e6:.2f}", f"{own / 1e6:.2f}", *shown]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", action="store_true", help="write the tables of docs/gpu.md")
    options = parser.parse_args(arguments)

    def run() -> None:
        found = list(schedules())
        sections = {"tiles": tiles(found), "traffic": shapes(found)}
        if options.table:
            fill(PAGE, sections)
        else:
            print("\n".join(sections.values()))

    return ended("gpu_traffic", run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
