"""Products in int8: whole numbers that equal the interpreter's, on every instruction set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from canao.build import get_toolchain
from canao.compiler.loading import load_model
from canao.compiler.pipeline import compile_graph, compile_model
from canao.fuse.forms.form import PackedGemm
from canao.fuse.group import fuse
from canao.graph.dtypes import I32, Q7, Q8
from canao.graph.interp import interpret
from canao.graph.ir import TOKENS, Graph, Ids, Input, Type, node
from canao.graph.verify import retype, verify
from canao.inference.compiled_model import CompiledModel
from canao.isa.registry import ISAS, isas_of
from canao.lower.cpu.packed_gemm import PackedGemmPlan
from canao.lower.scheduling import backend_of, default_plans, schedule_program
from canao.machine import local_machine
from canao.precision.quantize import INT8, SEVEN_BITS, precision_of
from canao.target import Target, get_target
from tests.compiler import programs
from tests.compiler.emulated import EMULATION, emulated
from tests.compiler.families import FAMILIES, make, reference, text
from tests.compiler.models import classifier, decoder
from tests.compiler.test_families import QUICK
from tests.compiler.test_programs import SANITIZERS, gcc
from tests.conftest import LENGTHS, thoroughly
from tests.oracle import COST, FEWER_BITS, LEVEL, assert_close

pytestmark = pytest.mark.as_shipped

HOST = get_target()
ARM = Target("aarch64-musl", "neon", "aarch64-linux-musl", "cortex_a76")
# Instruction sets that multiply rows of 7 bits in another way than those of 8.
WAYS = {i.name: i.tiles["q7_i8"] != i.tiles["i8"] for i in ISAS.values()}
# Texts up to the longest that models of the BERT family take.
LONGEST = 512
LONG = (*LENGTHS, LONGEST - 1, LONGEST)
# Depths and widths off every step, panel and vector, and one that fills several panels.
SIZES = ((1, 1), (2, 3), (3, 16), (5, 17), (31, 33), (64, 48), (127, 49), (770, 100))


def products(
    sizes: tuple[tuple[int, int], ...], seven: tuple[tuple[int, int], ...] = ()
) -> Graph:
    """Of each depth and width a table's rows, quantised, by int8 weights; those of `seven` in 7
    bits. Scales are powers of two, so that a kernel's result is exactly its accumulator times one
    of them. Some columns and rows have the largest numbers only, which fill sums of 16 bits."""
    rng = np.random.default_rng(0)
    constants, nodes, outputs = dict[str, np.ndarray](), [], []
    for dtype, k, n in [*((Q8, *size) for size in sizes), *((Q7, *size) for size in seven)]:
        name, most = f"{dtype} {k}x{n}", dtype.levels
        table = rng.integers(-most, most + 1, (40, k)).astype(np.float32)
        table[:, 0] = most * (-1) ** np.arange(40)  # the largest magnitude of each row
        table[7], table[8], table[9] = 0, most, -most
        weights = rng.integers(-127, 128, (n, k))
        weights[0], weights[n // 2] = -128, 127
        constants[f"{name} table"] = table / 8
        constants[f"{name} w"] = weights.astype(np.int8)
        constants[f"{name} scales"] = (2.0 ** -rng.integers(0, 4, n)).astype(np.float32)
        nodes += [
            node("gather", (f"{name} table", "ids"), f"{name} x"),
            node("quantize", (f"{name} x",), f"{name} q", dtype=dtype),
            node("quantized_linear", (f"{name} q", f"{name} w", f"{name} scales"), name),
        ]
        outputs.append((name, name))
    slot = Input("ids", Type(I32, (1, TOKENS)), Ids(40))
    return verify(retype(Graph((slot,), constants, tuple(nodes), tuple(outputs), {}, LONGEST)))


def texts(lengths: tuple[int, ...]) -> list[tuple[np.ndarray]]:
    rng = np.random.default_rng(1)
    return [(rng.integers(0, 40, n),) for n in lengths]


def expect_exact(
    target: Target, folder: Path, command: tuple[str, ...] = (), *flags: str,
    sizes: tuple[tuple[int, int], ...] = SIZES, seven: tuple[tuple[int, int], ...] = (),
    deepest: int = 1 << 20, rows: int = 99, lengths: tuple[int, ...] = LENGTHS,
) -> None:  # fmt: skip
    """Sums equal the interpreter's. deepest: of a pass over the depth; rows: of a register tile."""
    graph = products(sizes, seven)
    program = fuse(graph, backend_of(target).legal, lambda *_: True)
    plans = [
        replace(p, mr=min(p.mr, rows), kc=min(p.kc, deepest))
        if isinstance(p, PackedGemmPlan) else p
        for p in default_plans(program, target)
    ]  # fmt: skip
    schedule = schedule_program(program, plans, target)
    built = programs.build_schedule(schedule, target, folder, None, (*QUICK, *flags))
    given = texts(lengths)
    assert {7, 8, 9} <= set(np.concatenate([ids for (ids,) in given]))
    programs.expect_equal([*command, *built], graph, given)


def runnable() -> list[str]:
    """The instruction sets that this machine can run."""
    flags = set(local_machine().features)
    return [isa.name for isa in ISAS.values()
            if HOST.triple.split("-")[0] in isa.triples and flags.issuperset(isa.features)]


@pytest.mark.parametrize("isa", runnable())
def test_accumulators_are_exact(isa: str, tmp_path: Path) -> None:
    expect_exact(HOST.with_isa(isa), tmp_path, lengths=LONG)


@pytest.mark.parametrize("isa", runnable())
def test_levels_and_scales_are_the_interpreters(isa: str, tmp_path: Path) -> None:
    """To the bit: the weights are the identity, so that rows come out as they were rounded."""
    table = np.random.default_rng(3).standard_normal((40, 5)).astype(np.float32)
    table[7] = 0
    graph = products(((5, 5),), ((5, 5),))
    constants = {
        f"{rows} 5x5 {name}": array for rows in (Q8, Q7) for name, array in
        (("table", table), ("w", np.eye(5, dtype=np.int8)), ("scales", np.ones(5, np.float32)))
    }  # fmt: skip
    graph = verify(retype(graph.replace(constants=constants)))
    target = HOST.with_isa(isa)
    program = fuse(graph, backend_of(target).legal, lambda *_: True)
    schedule = schedule_program(program, default_plans(program, target), target)
    built = programs.build_schedule(schedule, target, tmp_path)
    (got,) = programs.run([*built, "1"], [(np.arange(40),)])
    values = interpret(graph, [np.arange(40)], np.float32)
    want = [values[value].astype(np.float32).ravel() for _, value in graph.outputs]
    assert np.array_equal(got, np.concatenate(want))
    assert not np.array_equal(*want)


@pytest.mark.parametrize("isa", [i for i in runnable() if WAYS[i] or i == "scalar"])
def test_accumulators_of_seven_bits_are_exact(isa: str, tmp_path: Path) -> None:
    """Where they are multiplied in another way, at all sizes, and in one and several passes."""
    expect_exact(HOST.with_isa(isa), tmp_path, sizes=(), seven=SIZES if WAYS[isa] else SIZES[3:5],
                 lengths=LONG)  # fmt: skip
    if WAYS[isa]:
        expect_exact(HOST.with_isa(isa), tmp_path, sizes=((127, 49),), seven=SIZES[-2:],
                     deepest=64)  # fmt: skip


@pytest.mark.parametrize("isa", runnable())
def test_sums_are_exact_over_several_passes(isa: str, tmp_path: Path) -> None:
    """What a pass leaves for the next are whole numbers, as bits of floats."""
    expect_exact(HOST.with_isa(isa), tmp_path, sizes=((127, 49), (770, 17)), deepest=64)


@pytest.mark.cross
@pytest.mark.parametrize("isa", [isa.name for isa in isas_of(ARM.triple) if isa.name != "scalar"])
def test_accumulators_are_exact_under_qemu(isa: str, qemu: str, tmp_path: Path) -> None:
    target, command = ARM.with_isa(isa), (qemu, "-cpu", "max")
    expect_exact(target, tmp_path, command, "-static", rows=3)
    expect_exact(target, tmp_path, command, "-static", sizes=((127, 49),), seven=((33, 17),),
                 deepest=64, rows=3)  # fmt: skip


@pytest.mark.skipif(HOST.isa not in ("avx2", "avx512"), reason="needs AVX2")
@pytest.mark.parametrize("isa", ["avx512", "avx512vnni", "avxvnni", "avx512amx"])
def test_accumulators_are_exact_where_instructions_are_emulated(isa: str, tmp_path: Path) -> None:
    """What this processor may not have, lane by lane: the code but for the compiler's last step."""
    target = emulated(isa)
    expect_exact(target, tmp_path, (), *EMULATION, rows=3)
    expect_exact(target, tmp_path, (), *EMULATION, sizes=((127, 49),), seven=((33, 17),),
                 deepest=64, rows=3)  # fmt: skip


# Shared layers, products of relative positions, gates and rotations, convolutions.
DIFFERENT = ("Bert", "Albert", "DebertaV2", "ModernBert", "ConvBert")


@pytest.mark.parametrize("family", thoroughly(DIFFERENT, FAMILIES))
def test_families(family: str, tmp_path: Path) -> None:
    """The library gives what the interpreter gives of the same graph, near what float32 gives."""
    model = make(family)
    graph = compile_graph(load_model(model)[1], HOST, precision="int8").program.graph
    assert sum(n.op == "quantized_linear" for n in graph.nodes) >= 4
    with CompiledModel(
        compile_model(model, tmp_path / "out", precision="int8", build_flags=QUICK), 2
    ) as compiled:
        assert compiled.artifact.manifest["precision"] == "int8"
        names = tuple(i["name"] for i in compiled.artifact.manifest["inputs"])
        for length in (1, 17, 33, 64):
            ids = text(model, names, length)
            values = interpret(graph, ids, np.float32)
            plain = reference(model, names, ids)
            for name, got in compiled.run(*ids).items():
                want = values[dict(graph.outputs)[name]][0]
                spread = max(1.0, float(want.std()))
                assert_close(got, want, f"{name} at {length}", tolerance=LEVEL, scale=spread)
                near = plain[name][0]
                assert_close(got, near, f"{name} at {length}", tolerance=COST, scale=spread)


@pytest.mark.parametrize(("precision", "op"), [("int8", "quantize"), ("fp16", "narrow")])
def test_rows_are_rounded_by_the_product_that_makes_them(precision: str, op: str) -> None:
    """In encoders, with and without a residual connection that reads the row as well; in decoders
    threads share out the columns of a token, so no kernel has rows."""
    for model, fused in ((classifier("small", layers=1), 2), (decoder(), 0)):
        graph = load_model(model)[1]
        program = compile_graph(graph, HOST, precision=precision, planner=default_plans).program
        forms = [r.form for r in program.regions if isinstance(r.form, PackedGemm)]
        assert sum(any(n.op == op for n in f.epilogue.body) for f in forms) == fused


def test_under_sanitizers(tmp_path: Path) -> None:
    """Rows whose ends no vector and no step divides, on several threads."""
    model = classifier("odd", layers=1)
    runs = {(INT8, "scalar"), (INT8, HOST.isa), (SEVEN_BITS if WAYS[HOST.isa] else INT8, HOST.isa)}
    for precision, isa in sorted(runs):
        target = HOST.with_isa(isa)
        stages = compile_graph(load_model(model)[1], target, precision=precision)
        built = programs.build(stages, target, tmp_path, get_toolchain(gcc()), SANITIZERS)
        rng = np.random.default_rng(0)
        ids = [[rng.integers(0, 40, n), np.zeros(n, int)] for n in (*LENGTHS, 512)]
        for threads in ("1", "3"):
            for given, flat in zip(ids, programs.run([*built, threads], ids), strict=True):
                values = interpret(stages.program.graph, given, np.float32)
                want = [values[name].ravel() for _, name in stages.program.graph.outputs]
                assert_close(flat, np.concatenate(want), str(len(given[0])),
                             tolerance=FEWER_BITS[precision])  # fmt: skip


@pytest.mark.parametrize("precision", [INT8, SEVEN_BITS])
def test_a_decoder_in_pieces(precision: str, tmp_path: Path) -> None:
    """Tokens one by one, each after those before it, give what all give at once."""
    model = decoder()
    graph = compile_graph(load_model(model)[1], HOST, precision=precision).program.graph
    assert {t.dtype for t in graph.types.values()} & {Q7, Q8} == {precision_of(precision).rows}
    ids = np.random.default_rng(3).integers(0, 99, 40)
    with CompiledModel(
        compile_model(model, tmp_path / "out", precision=precision, build_flags=QUICK), 2
    ) as compiled:
        assert compiled.artifact.manifest["precision"] == precision
        whole = compiled(ids)
        want = interpret(graph, [ids], np.float32)[graph.outputs[0][1]][0]
        bound = FEWER_BITS[precision]
        assert_close(whole, want, tolerance=bound, scale=max(1.0, float(want.std())))
        for cuts in ((5, 6, 13), range(1, 40)):
            compiled.reset()
            rows = [next(iter(compiled.extend(p, wanted=len(p)).values()))
                    for p in np.split(ids, list(cuts))]  # fmt: skip
            scale = max(1.0, float(whole.std()))
            assert_close(np.concatenate(rows), whole, tolerance=bound, scale=scale)
