"""Attention in whole numbers of 16 bits: what the interpreter computes, near what float32 does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from canao.compiler.loading import load_model
from canao.compiler.pipeline import compile_graph
from canao.fuse.forms.attention import Attention
from canao.fuse.group import fuse
from canao.fuse.whole_attention import LEVELS, in_whole_numbers
from canao.graph.interp import interpret
from canao.isa.registry import isas_of
from canao.lower.scheduling import backend_of, default_plans, schedule_program
from canao.target import Target
from tests.compiler import programs
from tests.compiler.emulated import EMULATION, emulated
from tests.compiler.families import make, text
from tests.compiler.models import classifier, decoder
from tests.compiler.test_families import QUICK
from tests.compiler.test_int8 import ARM, HOST, runnable
from tests.oracle import assert_close

# A sum of float32 in another order may move a whole number by one, a part of 2047 of its row.
LEVEL = 2e-3
# What the whole numbers change in outputs of unit scale.
COST = 5e-3
LENGTHS = (1, 2, 7, 17, 33, 64)


def expect(
    target: Target, folder: Path, family: str, command: tuple[str, ...] = (), *flags: str
) -> None:
    model = classifier("odd", layers=1) if family == "odd" else make(family)
    graph = compile_graph(load_model(model)[1], HOST).float32
    legal = backend_of(target).legal
    plain = fuse(graph, legal, lambda *_: True)
    marked = in_whole_numbers(plain)
    program = fuse(marked, legal, lambda *_: True)
    forms = [r.form for r in program.regions if isinstance(r.form, Attention)]
    assert forms and all(f.levels == LEVELS for f in forms)
    schedule = schedule_program(program, default_plans(program, target), target)
    built = programs.build_schedule(schedule, target, folder, None, (*QUICK, *flags))
    names = tuple(i.name for i in graph.inputs if i.given)
    given = [text(model, names, n) for n in LENGTHS]
    for threads in ("1", "3"):
        for ids, flat in zip(given, programs.run([*command, *built, threads], given), strict=True):
            want, near = (
                np.concatenate([interpret(g, ids, np.float32)[v].ravel() for _, v in g.outputs])
                for g in (marked, graph)
            )
            scale = max(1.0, float(near.std()))
            assert_close(flat, want, f"{family} at {len(ids[0])}", tolerance=LEVEL, scale=scale)
            assert_close(flat, near, f"{family} at {len(ids[0])}", tolerance=COST, scale=scale)


# With a bias that is added, scores of relative positions, a sliding window; heads of 9 numbers.
@pytest.mark.parametrize("family", ["Bert", "MPNet", "DebertaV2", "ModernBert", "odd"])
def test_families(family: str, tmp_path: Path) -> None:
    expect(HOST, tmp_path, family)


@pytest.mark.parametrize("isa", sorted(set(runnable()) - {HOST.isa}))
def test_instruction_sets(isa: str, tmp_path: Path) -> None:
    expect(HOST.with_isa(isa), tmp_path, "odd")


@pytest.mark.skipif(HOST.isa not in ("avx2", "avx512"), reason="needs AVX2")
@pytest.mark.parametrize("isa", ["avx512", "avx512vnni", "avxvnni"])
def test_where_instructions_are_emulated(isa: str, tmp_path: Path) -> None:
    expect(emulated(isa), tmp_path, "odd", (), *EMULATION)


@pytest.mark.cross
def test_under_qemu(qemu: str, tmp_path: Path) -> None:
    assert "neon" in {isa.name for isa in isas_of(ARM.triple)}
    expect(ARM, tmp_path, "odd", (qemu,), "-static")


def test_what_keeps_a_cache_stays_in_float32() -> None:
    graph = compile_graph(load_model(decoder())[1], HOST).float32
    program = fuse(graph, backend_of(HOST).legal, lambda *_: True)
    assert in_whole_numbers(program) == program.graph


def test_int8_has_it_where_that_is_faster() -> None:
    model = load_model(classifier("odd", layers=1))[1]
    for isa, levels in (("avx2", LEVELS), ("scalar", 0)):
        if isa in runnable():
            stages = compile_graph(model, HOST.with_isa(isa), precision="int8")
            forms = [r.form for r in stages.program.regions if isinstance(r.form, Attention)]
            assert forms and all(f.levels == levels for f in forms)
