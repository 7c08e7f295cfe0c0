"""Products of fp16 where ARM adds them up in half precision, in short blocks of the depth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from canao.fuse.group import fuse
from canao.graph.dtypes import F16, I32
from canao.graph.interp import interpret
from canao.graph.ir import TOKENS, Graph, Ids, Input, Type, node
from canao.graph.meanings import half_sums, narrowed
from canao.graph.verify import retype, verify
from canao.isa.registry import ISAS
from canao.lower.cpu.packed_gemm import PackedGemmPlan
from canao.lower.scheduling import backend_of, default_plans, half_block, schedule_program
from tests.compiler import programs
from tests.compiler.test_families import QUICK
from tests.compiler.test_int8 import ARM

pytestmark = pytest.mark.as_shipped

TARGET = ARM.with_isa("neon_dotprod")
# Depths that are less than a step, a block, and several of them with a rest; columns off the tile.
SIZES = ((1, 3), (7, 17), (33, 24), (64, 49), (300, 25))
ROWS = (1, 6, 7)
DEEPEST = 128  # of a pass over the depth
HALF = 2.0**-11  # what rounding to half precision changes, at most, of a number


def products() -> Graph:
    """Rows of random numbers by such weights."""
    constants, nodes, outputs = dict[str, np.ndarray](), [], []
    for k, n in SIZES:
        rng, name = np.random.default_rng(k), f"{k}x{n}"
        constants[f"{name} table"] = rng.standard_normal((40, k)).astype(np.float32)
        constants[f"{name} w"] = narrowed(rng.standard_normal((n, k)).astype(np.float32), F16)
        constants[f"{name} bias"] = rng.standard_normal(n).astype(np.float32)
        nodes += [
            node("gather", (f"{name} table", "ids"), f"{name} x"),
            node("narrow", (f"{name} x",), f"{name} rows", dtype=F16),
            node("linear", (f"{name} rows", f"{name} w", f"{name} bias"), name),
        ]
        outputs.append((name, name))
    slot = Input("ids", Type(I32, (1, TOKENS)), Ids(40))
    return verify(retype(Graph((slot,), constants, tuple(nodes), tuple(outputs), {}, 128)))


def added_up(x: np.ndarray, w: np.ndarray, bias: np.ndarray, block: int) -> np.ndarray:
    """[m, k] by [n, k] as the instructions add them up: a multiply-add is rounded once, to half
    precision; sums of a block are added in float32."""
    sums = np.broadcast_to(bias, (len(x), len(w)))
    for begin in range(0, x.shape[1], block):
        part = np.zeros(sums.shape, np.float16)
        for p in range(begin, min(begin + block, x.shape[1])):
            exact = part.astype(np.float64) + np.outer(x[:, p].astype(np.float64), w[:, p])
            part = exact.astype(np.float16)
        sums = sums + part.astype(np.float32)
    return sums


@pytest.mark.cross
def test_half_sums_under_qemu(qemu: str, tmp_path: Path) -> None:
    graph = products()
    block = ISAS[TARGET.isa].tiles["f16"].block
    assert block is not None
    program = fuse(graph, backend_of(TARGET).legal, lambda *_: True)
    plans = [
        replace(p, kc=min(p.kc, DEEPEST)) if isinstance(p, PackedGemmPlan) else p
        for p in default_plans(program, TARGET)
    ]
    schedule = schedule_program(program, plans, TARGET)
    built = programs.build_schedule(schedule, TARGET, tmp_path, None, (*QUICK, "-static"))
    texts = [(np.arange(rows) * 5 % 40,) for rows in ROWS]
    for threads in ("1", "2"):
        command = [qemu, "-cpu", "max", *built, threads]
        for (ids,), flat in zip(texts, programs.run(command, texts), strict=True):
            values, at = interpret(graph, [ids], np.float32), 0
            for k, n in SIZES:
                name = f"{k}x{n}"
                got = flat[at : (at := at + len(ids) * n)].reshape(-1, n)
                x = graph.constants[f"{name} table"][ids].astype(np.float16)
                w = graph.constants[f"{name} w"].view(np.float16)
                steps = min(k, block.depth)
                assert np.array_equal(
                    got, added_up(x, w, graph.constants[f"{name} bias"], block.depth)
                ), (name, len(ids))
                # Each step rounds a sum that is no more than the magnitudes so far; numbers below
                # the least normal one by half of the least.
                error = got - values[name].reshape(-1, n)
                most = np.abs(x).astype(np.float64) @ np.abs(w).astype(np.float64).T
                assert (np.abs(error) <= np.expm1(steps * HALF) * most + k * 2.0**-25 + 1e-5).all()
                # A random walk: steps / 6 times the variance of the output, a part HALF of it.
                size = np.sqrt(np.mean((x.astype(float) @ w.astype(float).T) ** 2))
                usual = np.sqrt(np.mean(error**2)) / (HALF * size)
                if k > 1:
                    assert 0.1 < usual < max(1.0, np.sqrt(steps / 6)), (name, len(ids), usual)


def test_the_comparison_of_precisions_adds_up_alike() -> None:
    """But for a last bit now and then: it rounds to float32 before it rounds to halves."""
    block = ISAS[TARGET.isa].tiles["f16"].block
    assert block is not None and half_block(TARGET) == block.depth
    assert half_block(ARM) is None
    for k, n in SIZES:
        rng = np.random.default_rng(k)
        x = rng.standard_normal((7, k)).astype(np.float16)
        w = rng.standard_normal((n, k)).astype(np.float16)
        want = added_up(x, w, np.zeros(n, np.float32), block.depth)
        got = half_sums(x.astype(np.float32), w.astype(np.float32), block.depth)
        assert np.mean(got == want) > 0.98, (k, n)
        plain = x.astype(np.float32) @ w.astype(np.float32).T
        assert k == 1 or np.mean(plain == want) < 0.5, (k, n)
        assert np.abs(got - want).max() <= HALF * np.abs(want).max()
