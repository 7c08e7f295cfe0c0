"""Products of bf16 and fp16, and of int8 weights alone: what the interpreter computes, on every
instruction set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from canao.build import get_toolchain
from canao.compiler.loading import load_model
from canao.compiler.pipeline import compile_graph, compile_model
from canao.fuse.group import fuse
from canao.graph.dtypes import BF16, F16, F32, I8, I32, NARROW
from canao.graph.interp import interpret
from canao.graph.ir import TOKENS, Graph, Ids, Input, Type, node
from canao.graph.meanings import narrowed, widened
from canao.graph.verify import retype, verify
from canao.inference.compiled_model import CompiledModel
from canao.isa.registry import isas_of
from canao.lower.cpu.packed_gemm import PackedGemmPlan
from canao.lower.scheduling import backend_of, default_plans, schedule_program
from canao.precision.quantize import PRECISIONS
from canao.target import Target
from tests.compiler import programs
from tests.compiler.emulated import EMULATION, emulated
from tests.compiler.models import classifier, decoder
from tests.compiler.test_families import QUICK
from tests.compiler.test_int8 import ARM, HOST, LONG, LONGEST, runnable
from tests.compiler.test_programs import SANITIZERS, gcc
from tests.conftest import LENGTHS, thoroughly
from tests.oracle import FEWER_BITS, NARROW_COST, SAME, assert_close

pytestmark = pytest.mark.as_shipped

SIZES = ((31, 33), (770, 17))
VOCABULARY = 1800  # of words whose table is large enough to be rounded
ROUNDED = {"bf16": BF16, "fp16": F16, "int8-weights": F32}


def products() -> Graph:
    """Rows of small whole numbers by such weights, in each precision and size: all sums are exact,
    in any order."""
    constants, nodes, outputs = dict[str, np.ndarray](), [], []
    for precision, dtype in ROUNDED.items():
        for k, n in SIZES:
            rng, name = np.random.default_rng(k), f"{precision} {k} {n}"
            x, w, bias, rows = (f"{name} {part}" for part in ("x", "w", "bias", "rows"))
            constants[f"{x} table"] = rng.integers(-8, 9, (40, k)).astype(np.float32)
            constants[bias] = rng.integers(-8, 9, n).astype(np.float32)
            weights = rng.integers(-8, 9, (n, k))
            nodes.append(node("gather", (f"{x} table", "ids"), x))
            if dtype in NARROW:
                nodes.append(node("narrow", (x,), rows, dtype=dtype))
                constants[w] = narrowed(weights.astype(np.float32), dtype)
                nodes.append(node("linear", (rows, w, bias), name))
            else:
                constants[w] = weights.astype(np.int8)
                constants[f"{w} scales"] = (2.0 ** -rng.integers(0, 4, n)).astype(np.float32)
                nodes.append(node("quantized_linear", (x, w, f"{w} scales", bias), name))
            outputs.append((name, name))
    slot = Input("ids", Type(I32, (1, TOKENS)), Ids(40))
    return verify(retype(Graph((slot,), constants, tuple(nodes), tuple(outputs), {}, LONGEST)))


def expect_exact(
    target: Target, folder: Path, command: tuple[str, ...], *flags: str, rows: int = 99,
    lengths: tuple[int, ...] = LENGTHS,
) -> None:  # fmt: skip
    """rows: of a register tile, where builds would take minutes."""
    graph = products()
    program = fuse(graph, backend_of(target).legal, lambda *_: True)
    plans = [
        replace(p, mr=min(p.mr, rows)) if isinstance(p, PackedGemmPlan) else p
        for p in default_plans(program, target)
    ]
    schedule = schedule_program(program, plans, target)
    built = programs.build_schedule(schedule, target, folder, None, (*QUICK, *flags))
    given = [(np.arange(length) % 40,) for length in lengths]
    programs.expect_equal([*command, *built], graph, given)


@pytest.mark.parametrize("isa", runnable())
def test_exact_sums(isa: str, tmp_path: Path) -> None:
    expect_exact(HOST.with_isa(isa), tmp_path, (), lengths=LONG)


@pytest.mark.cross
@pytest.mark.parametrize("isa", [isa.name for isa in isas_of(ARM.triple) if isa.name != "scalar"])
def test_exact_sums_under_qemu(isa: str, qemu: str, tmp_path: Path) -> None:
    expect_exact(ARM.with_isa(isa), tmp_path, (qemu, "-cpu", "max"), "-static", rows=3)


@pytest.mark.skipif(HOST.isa not in ("avx2", "avx512"), reason="needs AVX2")
@pytest.mark.parametrize("isa", ["avx512", "avx512bf16", "avx512amx"])
def test_exact_sums_where_instructions_are_emulated(isa: str, tmp_path: Path) -> None:
    expect_exact(emulated(isa), tmp_path, (), *EMULATION, rows=3)


@pytest.mark.parametrize("precision", ROUNDED)
@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_models(precision: str, kind: str, tmp_path: Path) -> None:
    """The library gives what the interpreter gives of the same graph, near what float32 gives."""
    model = classifier("odd", layers=1) if kind == "encoder" else decoder()
    emulated_too = {"precision": precision, "allow_emulation": True}
    graph = compile_graph(load_model(model)[1], HOST, **emulated_too).program.graph
    float32 = compile_graph(load_model(model)[1], HOST).program.graph
    with CompiledModel(
        compile_model(model, tmp_path / "out", build_flags=QUICK, **emulated_too), 2
    ) as compiled:
        assert compiled.artifact.manifest["precision"] == precision
        inputs = [i for i in graph.inputs if i.given]
        for length in (1, 17, 33, 64):
            ids = np.random.default_rng(length).integers(0, 40, length)
            given = [ids] + [np.zeros(length, int)] * (len(inputs) - 1)
            name = graph.outputs[0][1]
            got, want = compiled(*given), interpret(graph, given, np.float32)[name][0]
            near = interpret(float32, given, np.float32)[float32.outputs[0][1]][0]
            scale = max(1.0, float(want.std()))
            assert_close(got, want, f"at {length}", tolerance=FEWER_BITS[precision], scale=scale)
            assert_close(got, near, f"at {length}", tolerance=NARROW_COST, scale=scale)
            assert not np.allclose(want, near, rtol=0, atol=SAME)


# A layer in each precision in one program, and the table of words in one of them.
LAYERS = ("bf16", "fp16", "int8-weights")
SANITIZED = [("scalar", "bf16"), (HOST.isa, "int8-weights")]
EVERY_SANITIZED = [(isa, table) for isa in ("scalar", HOST.isa) for table in LAYERS]


@pytest.mark.parametrize(("isa", "table"), thoroughly(SANITIZED, EVERY_SANITIZED))
def test_under_sanitizers(isa: str, table: str, tmp_path: Path) -> None:
    """Rows whose ends no vector and no step divides, on several threads."""
    model = classifier("prime", layers=len(LAYERS), vocabulary=VOCABULARY)
    layers = [(f"bert.encoder.layer.{i}", precision) for i, precision in enumerate(LAYERS)]
    target = HOST.with_isa(isa)
    stages = compile_graph(load_model(model)[1].replace(parts=tuple(layers)), target,
                           precision=table, allow_emulation=True)  # fmt: skip
    graph = stages.program.graph
    (words,) = (graph.types[name] for name, a in graph.constants.items() if len(a) == VOCABULARY
                and a.ndim == 2 and a.shape[1] > 1)  # fmt: skip
    assert words.dtype == (I8 if table == "int8-weights" else ROUNDED[table])
    weights = {graph.types[n.inputs[1]].dtype for n in graph.nodes if n.op.endswith("linear")}
    assert weights == {BF16, F16, I8, F32}
    schedule = programs.few_rows(stages.program, target)
    built = programs.build_schedule(schedule, target, tmp_path, get_toolchain(gcc()), SANITIZERS)
    rng = np.random.default_rng(0)
    given = [[rng.integers(0, VOCABULARY, n), np.zeros(n, int)] for n in (1, 7, 17, 33, 130)]
    programs.expect_near(built, graph, given, FEWER_BITS["bf16"], ("1", "3"))


def test_a_precision_is_one_of_those_that_there_are() -> None:
    assert set(ROUNDED) | {"float32", "int8", "int8-7bit"} == set(PRECISIONS)


def test_bf16_is_torchs() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(4096).astype(np.float32) * 10.0 ** rng.integers(-30, 30, 4096)
    x = np.append(x, [0.0, -0.0, np.inf, -np.inf, 1.00390625, 1.01171875]).astype(np.float32)
    want = torch.from_numpy(x).to(torch.bfloat16).float().numpy()
    assert np.array_equal(widened(narrowed(x, BF16)), want)


def test_fp16_is_torchs_but_for_what_is_beyond_it() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(4096).astype(np.float32) * 10.0 ** rng.integers(-9, 4, 4096)
    want = torch.from_numpy(x).to(torch.float16).float().numpy()
    assert np.array_equal(widened(narrowed(x, F16)), want)
    beyond = np.array([1e5, -1e9, np.inf, 65519.0, 65520.0], np.float32)
    assert np.array_equal(widened(narrowed(beyond, F16)), np.sign(beyond) * 65504)


def test_the_scalar_half_precision_is_numpys(tmp_path: Path) -> None:
    """All f16, and roundings of float32 around each."""
    from canao.build import build_program
    from canao.isa.scalar import HALF

    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = halves[np.isfinite(halves)].astype(np.float32)
    steps = np.spacing(np.abs(finite).astype(np.float16)).astype(np.float32)
    given = np.concatenate([finite, finite + steps * 0.5, finite + steps * np.float32(0.499)])
    main = (
        "#include <stdint.h>\n#include <stdio.h>\n#define CANAO_INLINE static inline\n" + HALF +
        "\nint main(void) { uint32_t n; while (fread(&n, 4, 1, stdin) == 1) {"
        " const float x = of_half(half_of(of_bits(n))); fwrite(&x, 4, 1, stdout); } return 0; }\n"
    )  # fmt: skip
    import subprocess

    program = build_program({"main.c": main}, HOST.with_isa("scalar"))
    done = subprocess.run([str(program)], input=given.tobytes(), capture_output=True, check=True)
    got = np.frombuffer(done.stdout, np.float32)
    assert np.array_equal(got, widened(narrowed(given, F16)))
