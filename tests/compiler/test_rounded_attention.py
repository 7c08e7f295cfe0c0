"""Attention that multiplies bf16 by blocks gives what the interpreter gives of the same graph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from canao.compiler.loading import load_model
from canao.compiler.pipeline import compile_graph
from canao.fuse.forms.attention import Attention
from canao.graph.dtypes import BF16
from canao.graph.meanings import matmul
from canao.isa.registry import ISAS
from canao.lower.cpu.attention import AttentionPlan
from canao.lower.scheduling import default_plans, schedule_program
from canao.schedule.schedule import Schedule
from canao.target import Target
from tests.compiler import programs
from tests.compiler.emulated import EMULATION, emulated
from tests.compiler.models import classifier, decoder
from tests.compiler.test_families import QUICK
from tests.compiler.test_int8 import HOST, LONG, runnable
from tests.conftest import LENGTHS
from tests.oracle import FEWER_BITS

BLOCKS = [isa.name for isa in ISAS.values() if isa.tiles["bf16"].blocks]
PRECISIONS = ("bf16", "int8")
FEW_LENGTHS = (1, 7, 17, 33, 65)  # where each instruction takes many
SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def schedule_of(
    model: torch.nn.Module, target: Target, precision: str, few: bool = False
) -> Schedule:
    """few: tiles of as few keys as there may be."""
    program = compile_graph(load_model(model)[1], target, precision=precision).program
    plans = [
        replace(p, keys=p.nr) if few and isinstance(p, AttentionPlan) else p
        for p in default_plans(program, target)
    ]
    return schedule_program(program, plans, target)


def rounded(schedule: Schedule) -> list[bool]:
    forms = [region.form for region in schedule.program.regions]
    return [f.rounded == BF16 for f in forms if isinstance(f, Attention)]


def expect(
    schedule: Schedule, target: Target, folder: Path, precision: str, *flags: str,
    lengths: tuple[int, ...] = LENGTHS,
) -> None:  # fmt: skip
    assert rounded(schedule) and all(rounded(schedule))
    command = programs.build_schedule(schedule, target, folder, None, (*QUICK, *flags))
    texts = [
        (np.random.default_rng(length).integers(0, 40, length), np.zeros(length, int))
        for length in lengths
    ]
    programs.expect_near(command, schedule.program.graph, texts, FEWER_BITS[precision])


@pytest.mark.skipif(HOST.isa not in ("avx2", "avx512"), reason="needs AVX2")
@pytest.mark.parametrize("isa", BLOCKS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("few", [False, True], ids=["one tile of keys", "several"])
def test_where_instructions_are_emulated(
    isa: str, precision: str, few: bool, tmp_path: Path
) -> None:
    target = emulated(isa)
    schedule = schedule_of(classifier("odd", layers=1), target, precision, few)
    expect(schedule, target, tmp_path, precision, *EMULATION)


@pytest.mark.skipif(HOST.isa not in ("avx2", "avx512"), reason="needs AVX2")
@pytest.mark.parametrize("isa", BLOCKS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_under_sanitizers(isa: str, precision: str, tmp_path: Path) -> None:
    """Emulated, so that they see what memory blocks are read from and written to."""
    target = emulated(isa)
    schedule = schedule_of(classifier("odd", layers=1), target, precision)
    expect(schedule, target, tmp_path, precision, *EMULATION, *SANITIZED, lengths=FEW_LENGTHS)


@pytest.mark.parametrize("isa", BLOCKS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_on_this_machine(isa: str, precision: str, tmp_path: Path) -> None:
    if isa not in runnable():
        pytest.skip(f"this CPU has no {isa}")
    target = HOST.with_isa(isa)
    schedule = schedule_of(classifier("odd", layers=1), target, precision)
    expect(schedule, target, tmp_path, precision, lengths=LONG)


def test_what_is_rounded() -> None:
    """Between products in fewer bits only, where blocks are multiplied, and never of a cache."""
    blocks = emulated(BLOCKS[0])
    model = classifier("odd", layers=1)
    assert rounded(schedule_of(model, blocks, "int8")) == [True]
    assert rounded(schedule_of(model, blocks, "float32")) == [False]
    assert rounded(schedule_of(model, emulated("avx512bf16"), "int8")) == [False]
    assert not any(rounded(schedule_of(decoder(), blocks, "int8")))


def test_the_meaning_rounds_what_is_multiplied() -> None:
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 3, 8)), rng.standard_normal((2, 8, 5))
    p, v = rng.random((2, 3, 5)), rng.standard_normal((2, 5, 4))
    for left, right, how in ((q, k, {}), (p, v, {"of_largest": True})):
        exact = matmul([left, right], {})
        got = matmul([left, right], {"rounded": BF16, **how})
        most = np.abs(left) @ np.abs(right)
        assert got.dtype == exact.dtype and not np.array_equal(got, exact)
        assert (np.abs(got - exact) <= 2.0**-7 * most).all()
    # Relative to the largest: a row times any number is rounded alike.
    one, three = (matmul([p * f, v], {"rounded": BF16, "of_largest": True}) / f for f in (1, 3))
    assert np.allclose(one, three, rtol=1e-12, atol=0)
