"""Compiled models as programs of their own: for sanitizers, emulators and other toolchains."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from canao.build import Toolchain, Unit, build_program, library_files
from canao.compiler.loading import load_model
from canao.compiler.pipeline import compile_graph
from canao.compiler.stages import Stages
from canao.emit.c.unit import Source
from canao.emit.emit import emit
from canao.fuse.group import Program
from canao.graph.interp import interpret
from canao.graph.ir import Graph
from canao.lower.cpu.attention import AttentionPlan
from canao.lower.cpu.packed_gemm import PackedGemmPlan
from canao.lower.scheduling import default_plans, schedule_program
from canao.schedule.schedule import Schedule
from canao.schedule.weights import file_parts
from canao.target import Target
from tests.oracle import assert_close

HARNESS = "harness.c"


def staged(model: torch.nn.Module, target: Target, fusion: bool) -> Stages:
    return compile_graph(load_model(model)[1], target, fusion=fusion)


def sources(source: Source, main: str = HARNESS) -> dict[str, str | Unit]:
    """What a program is built of; its main function is in the file `main` of this directory."""
    text = Path(__file__).with_name(main).read_text(encoding="utf-8")
    return {"main.c": text, **library_files([source])}


def build(
    stages: Stages,
    target: Target,
    folder: Path,
    toolchain: Toolchain | None,
    flags: Sequence[str] = (),
    main: str = HARNESS,
) -> list[str]:
    """Build the harness; the command that runs it with its weights, threads still to be given."""
    return build_schedule(stages.schedule, target, folder, toolchain, flags, main)


def build_schedule(
    schedule: Schedule,
    target: Target,
    folder: Path,
    toolchain: Toolchain | None = None,
    flags: Sequence[str] = (),
    main: str = HARNESS,
) -> list[str]:
    """As `build`, for a schedule by plans of its own. All but its kernels is for the least
    processor, as in a library: zig makes a libc for each processor that it links a program for,
    which takes it a minute."""
    units = sources(emit(schedule, target), main)
    executable = build_program(units, target.least, toolchain, flags)
    weights = folder / "weights.bin"
    with open(weights, "wb") as stream:
        for part in file_parts(schedule.program.graph, schedule.weights):
            stream.write(part)
    return [str(executable), str(weights)]


def few_rows(program: Program, target: Target, rows: int = 3) -> Schedule:
    """By default plans, but for register tiles of few rows: where a build would take long."""
    plans = [
        replace(p, mr=min(p.mr, rows)) if isinstance(p, PackedGemmPlan | AttentionPlan) else p
        for p in default_plans(program, target)
    ]
    return schedule_program(program, plans, target)


def run(
    command: Sequence[str], texts: Sequence[Sequence[np.ndarray]], silent: bool = True
) -> list[np.ndarray]:
    """All outputs of each text, flat. The program must end well and, if `silent`, say nothing on
    stderr."""
    lines = [" ".join(map(str, [len(t[0]), *(i for ids in t for i in ids)])) for t in texts]
    done = subprocess.run(
        command, input="\n".join(lines), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and not (silent and done.stderr), done.stderr[:2000]
    rows = [line.split() for line in done.stdout.splitlines()]
    assert len(rows) == len(texts) and all(row[0] == "0" for row in rows)
    return [np.array(row[1:], np.float32) for row in rows]


def expect_equal(
    command: Sequence[str], graph: Graph, texts: Sequence[Sequence[np.ndarray]]
) -> None:
    """The outputs are the interpreter's to the bit, on one thread and on two."""
    for threads in ("1", "2"):
        for given, flat in zip(texts, run([*command, threads], texts), strict=True):
            values, at = interpret(graph, given, np.float32), 0
            for name, value in graph.outputs:
                want = values[value].ravel()
                same = np.array_equal(flat[at : at + want.size], want)
                assert same, (name, len(given[0]), threads)
                at += want.size
            assert at == flat.size


def expect_near(
    command: Sequence[str], graph: Graph, texts: Sequence[Sequence[np.ndarray]],
    tolerance: float, threads: Sequence[str] = ("1", "2"), exact: float | None = None,
) -> None:  # fmt: skip
    """The outputs are the interpreter's to `tolerance` of what they spread, those of at least one
    text to `exact`: not all have a number that another order of its sum rounds the other way."""
    want = []
    for given in texts:
        values = interpret(graph, given, np.float32)
        want.append(np.concatenate([values[name].ravel() for _, name in graph.outputs]))
    for count in threads:
        differences = []
        for given, flat, near in zip(texts, run([*command, count], texts), want, strict=True):
            where = f"{len(given[0])} tokens, {count} thread(s)"
            scale = max(1.0, float(near.std()))
            assert_close(flat, near, where, tolerance=tolerance, scale=scale)
            differences.append(float(np.abs(flat - near).max()) / scale)
        assert exact is None or min(differences) <= exact, differences
