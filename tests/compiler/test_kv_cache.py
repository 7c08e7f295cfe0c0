"""Keys and values kept in fp16 and int8: what the interpreter computes, at once and in pieces."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from canao.build import get_toolchain
from canao.cli.inspect_command import format_report, inspect_model
from canao.cli.printing import print_compiled
from canao.compiler.loading import load_model
from canao.compiler.pipeline import compile_graph, compile_model
from canao.compiler.stages import Stages
from canao.errors import InputError
from canao.fuse.group import fuse
from canao.graph.dtypes import F16, F32, I8, I32, DType
from canao.graph.interp import interpret
from canao.graph.ir import TOKENS, Graph, Ids, Input, Type, node
from canao.graph.ops import OPS
from canao.graph.resume import resuming
from canao.graph.verify import retype, verify
from canao.inference.compiled_model import CompiledModel
from canao.isa.registry import ISAS, isas_of
from canao.lower.cpu.attention import AttentionPlan
from canao.lower.scheduling import backend_of, default_plans, schedule_program
from canao.precision.kv_cache import KV_CACHES, with_kv_cache
from canao.schedule.plan import Plan
from canao.target import Target
from tests.compiler import programs
from tests.compiler.emulated import EMULATION, emulated
from tests.compiler.models import classifier, decoder
from tests.compiler.test_decoder import extend, run
from tests.compiler.test_families import QUICK
from tests.compiler.test_int8 import ARM, HOST, runnable
from tests.compiler.test_programs import SANITIZERS, gcc
from tests.oracle import KEPT, SHALLOW, assert_close

pytestmark = pytest.mark.as_shipped

# Heads, and widths of a key and of a value: off every vector and panel, and several panels.
Sizes = Sequence[tuple[int, int, int]]
SIZES: Sizes = ((1, 1, 1), (2, 5, 3), (3, 16, 16), (2, 37, 41), (1, 80, 100))
FEW = SIZES[3:4]  # where a build takes minutes
LONGEST = 600  # more keys than a tile holds scores of
# Within a panel of keys, at its end, token by token, over a block of keys.
CUTS = (5, 6, 7, 13, 16, 31, 32, 33, 64, 97, 130, 505, 509, 510, 511, 512, 513, 514, 560)
IDS = np.random.default_rng(5).integers(0, 40, LONGEST)


def attentions(
    dtypes: Sequence[DType], sizes: Sizes = SIZES
) -> tuple[Graph, list[slice]]:
    """Attentions over rows of tables, so that what is rounded is the same number everywhere; their
    results side by side, and the columns of each. The last of a type has values beyond fp16's."""
    rng = np.random.default_rng(0)
    constants, nodes, results, columns, at = dict[str, np.ndarray](), [], [], [], 0
    for dtype in dtypes:
        for h, d, dv in (*sizes, (1, 4, 4)):
            name, parts = f"{dtype} {len(results)}", []
            for part, width in (("q", d), ("k", d), ("v", dv)):
                table = rng.standard_normal((40, h * width)).astype(np.float32)
                table[7] = 0
                table *= 1e5 if part == "v" and d == dv == 4 else 1
                constants[f"{name} {part} table"] = table
                shape = (1, TOKENS, h, width)
                nodes += [
                    node("gather", (f"{name} {part} table", "ids"), f"{name} {part} rows"),
                    node("reshape", (f"{name} {part} rows",), f"{name} {part} heads", shape=shape),
                    node("transpose", (f"{name} {part} heads",), f"{name} {part}",
                         perm=(0, 2, 1, 3)),
                ]  # fmt: skip
                parts.append(f"{name} {part}")
            # Of one of them the scale is 1, which is left out of the code.
            how = {"scale": 1.0 if d == 5 else d**-0.5} | ({} if dtype == F32 else {"cache": dtype})
            nodes += [
                node("causal_attention", parts, f"{name} mixed", **how),
                node("transpose", (f"{name} mixed",), f"{name} back", perm=(0, 2, 1, 3)),
                node("reshape", (f"{name} back",), name, shape=(1, TOKENS, h * dv)),
            ]
            results.append(name)
            columns.append(slice(at, at := at + h * dv))
    nodes.append(node("concat", results, "y", axis=2))
    slot = Input("ids", Type(I32, (1, TOKENS)), Ids(40))
    graph = Graph((slot,), constants, tuple(nodes), (("y", "y"),), {}, LONGEST)
    graph = resuming(verify(retype(graph)))
    assert graph.resumes
    return graph, columns


def expect(
    target: Target, folder: Path, command: tuple[str, ...] = (), *flags: str,
    compiler: str | None = None, sizes: Sizes = SIZES, rows: int = 99, counts: str = "12",
    plan: Callable[[Plan], Plan] = lambda p: p,
) -> None:  # fmt: skip
    """The kernels' numbers are the interpreter's, of a text at once, in pieces and after resets.
    rows: of a register tile, at most; counts: of threads; plan: what is made of each default one.
    """
    graph, columns = attentions((F16, I8), sizes)
    program = fuse(graph, backend_of(target).legal, lambda *_: True)
    plans = [
        replace(p, mr=min(p.mr, rows)) if isinstance(p, AttentionPlan) else plan(p)
        for p in default_plans(program, target)
    ]
    schedule = schedule_program(program, plans, target)
    toolchain = get_toolchain(compiler) if compiler else None
    built = programs.build_schedule(schedule, target, folder, toolchain, flags,
                                    "extend_harness.c")  # fmt: skip
    whole = interpret(graph, [IDS])["y"][0]
    again = np.concatenate([IDS[:43], IDS[100:180]])
    later = interpret(graph, [again])["y"][0][43:]
    pieces = [extend(p, len(p)) for p in np.split(IDS, CUTS)]
    lines = [*pieces, "r 43", *(extend(p, len(p)) for p in np.split(again[43:], [1, 2, 30])),
             f"w {LONGEST} {' '.join(map(str, IDS))}", "r 0", extend(IDS[:9], 9)]  # fmt: skip
    for threads in counts:
        rows = run([*command, *built, threads], lines)
        assert all(row[0] == 0 for row in rows)
        got = [row[1:] for row in rows]
        of_pieces, after = got[: len(pieces)], got[len(pieces) + 1 : len(pieces) + 5]
        for flat, want in (
            (np.concatenate(of_pieces), whole), (np.concatenate(after), later),
            (got[-3], whole), (got[-1], whole[:9]),
        ):  # fmt: skip
            found = flat.reshape(want.shape)
            for c in columns:
                scale = max(1.0, float(np.abs(want[:, c]).max()))
                assert_close(found[:, c], want[:, c], str(c), tolerance=SHALLOW, scale=scale)


def test_rounding_is_more_than_the_tolerance() -> None:
    """Every size and type moves results by far more than the tolerance, but int8 of width 1, which
    is exact."""
    (graph, columns), (exact, _) = attentions((F16, I8)), attentions((F32, F32))
    ids = IDS[:60]
    rounded, plain = (interpret(g, [ids])["y"][0] for g in (graph, exact))
    exact_one = columns[len(SIZES) + 1]
    for c in columns:
        scale = max(1.0, float(np.abs(rounded[:, c]).max()))
        moved = np.abs(rounded[:, c] - plain[:, c]).max() / scale
        assert (moved < SHALLOW) if c is exact_one else (moved > 5 * SHALLOW)


@pytest.mark.parametrize("cache", (F16, I8))
def test_the_oracle_rounds_each_token_and_head_by_itself(cache: DType) -> None:
    """By hand: levels of the largest magnitude over 127; halves, at most 65504."""
    rng = np.random.default_rng(2)
    q, k, v = (rng.standard_normal((1, 2, 9, 5)).astype(np.float32) for _ in range(3))
    v[0, 1, 3] *= 1e6
    how = {"scale": 0.5, "cache": cache}
    kept = []
    for x in (k, v):
        if cache == F16:
            kept.append(np.clip(x, -65504, 65504).astype(np.float16).astype(np.float64))
        else:
            unit = np.abs(x).max(-1, keepdims=True) / np.float32(127)
            kept.append(np.rint(x / unit).astype(np.float64) * unit)
    scores = q.astype(np.float64) @ kept[0].swapaxes(-1, -2) * 0.5
    scores[..., ~np.tri(9, dtype=bool)] = -np.inf
    e = np.exp(scores - scores.max(-1, keepdims=True))
    want = e / e.sum(-1, keepdims=True) @ kept[1]
    got = OPS["causal_attention"].meaning([x.astype(np.float64) for x in (q, k, v)], how)
    assert np.allclose(got, want, rtol=1e-9)


@pytest.mark.parametrize("isa", runnable())
def test_every_isa_of_this_machine(isa: str, tmp_path: Path) -> None:
    """As shipped; those that extend another compute attention by its code, of which not all are
    optimised."""
    expect(HOST.with_isa(isa), tmp_path, (), *(QUICK if ISAS[isa].extends else ()))


@pytest.mark.skipif(HOST.isa not in ("avx2", "avx512"), reason="needs AVX2")
def test_where_instructions_are_emulated(tmp_path: Path) -> None:
    expect(emulated("avx512"), tmp_path, (), *EMULATION, sizes=FEW, rows=2)


@pytest.mark.cross
@pytest.mark.parametrize("isa", [isa.name for isa in isas_of(ARM.triple) if isa.name != "scalar"])
def test_under_qemu(isa: str, qemu: str, tmp_path: Path) -> None:
    # Optimised, since the emulator takes longer than the compiler.
    command, flags = (qemu, "-cpu", "max"), ("-static", "-O1")
    expect(ARM.with_isa(isa), tmp_path, command, *flags, sizes=FEW, rows=2,
           counts="12" if isa == "neon" else "2")  # fmt: skip


@pytest.mark.parametrize("isa", sorted({"scalar", HOST.isa}))
def test_under_sanitizers(isa: str, tmp_path: Path) -> None:
    expect(HOST.with_isa(isa), tmp_path, (), *SANITIZERS, compiler=gcc(), sizes=FEW, rows=3,
           counts="2" if isa == "scalar" else "12")  # fmt: skip


@pytest.mark.parametrize("compiler", ("zig", "gcc"))
def test_no_warnings(compiler: str, tmp_path: Path) -> None:
    chosen = gcc() if compiler == "gcc" else "zig"
    expect(HOST, tmp_path, (), "-Werror", "-O1", compiler=chosen, sizes=FEW, rows=2)


@pytest.mark.parametrize(
    ("kept", "precision", "shape"),
    [("fp16", "float32", "odd"), ("int8", "int8", "three_heads"),
     ("int8", "int8-weights", "prime")],
)  # fmt: skip
def test_decoders(kept: str, precision: str, shape: str, tmp_path: Path) -> None:
    """At once, in pieces, after resets, several texts together: the interpreter's numbers."""
    model = decoder(shape)
    graph = staged(model, kept, precision).program.graph
    ids = np.random.default_rng(3).integers(0, 99, 120)
    want = interpret(graph, [ids], np.float32)[graph.outputs[0][1]][0]
    bounds = {"tolerance": KEPT[kept if precision != "int8" else "int8"],
              "scale": max(1.0, float(want.std()))}  # fmt: skip
    artifact = compile_model(
        model, tmp_path / "out", precision=precision, kv_cache=kept, build_flags=QUICK
    )
    with CompiledModel(artifact, 2) as compiled:
        assert_close(compiled(ids), want, **bounds)
        for cuts in ((5, 6, 13, 64), range(1, 120)):
            compiled.reset()
            rows = [compiled.extend(p, wanted=len(p))["logits"] for p in np.split(ids, list(cuts))]
            assert_close(np.concatenate(rows), want, **bounds)
        compiled.reset(50)
        assert_close(compiled.extend(ids[50:])["logits"], want[-1:], **bounds)
        texts = [ids[:n] for n in (3, 100, 31, 7)]
        for text, got in zip(texts, compiled.run_batch(texts), strict=True):
            assert_close(got, want[: len(text)], **bounds)


def staged(model: object, kept: str, precision: str = "float32") -> Stages:
    return compile_graph(load_model(model)[1], HOST, precision=precision, kv_cache=kept)


@pytest.mark.parametrize("shape", ("small", "odd"))
def test_memory(shape: str) -> None:
    """Half, and a quarter with a float32 for the keys and one for the values of each token."""
    model = decoder(shape, max_length=192)
    sizes = {}
    for kept in KV_CACHES:
        stages = staged(model, kept)
        (said,) = re.findall(r"\.cache_bytes = (\d+),", stages.source.code)
        sizes[kept] = int(said)
        assert sizes[kept] == stages.schedule.cache.size
    heads = {"small": 4, "odd": 2}[shape]
    pads = 2 * 4 * 64  # each part of a layer begins on a cache line
    assert abs(2 * sizes["fp16"] - sizes["float32"]) <= pads
    scales = 2 * 2 * heads * 192 * 4
    assert abs(4 * (sizes["int8"] - scales) - sizes["float32"]) <= 4 * pads


def test_what_is_said_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = decoder(layers=1)
    artifact = compile_model(model, tmp_path / "out", kv_cache="int8", build_flags=QUICK)
    entry = artifact.manifest["kv_cache"]
    assert entry == {"precision": "int8", "bytes": staged(model, "int8").schedule.cache.size}
    assert artifact.manifest["agreement"]["cosine"] > 0.99
    print_compiled(artifact, HOST)
    said = capsys.readouterr().out
    assert re.search(r"^cache     keys and values in int8, 0\.0 MB for 200 tokens$", said, re.M)
    assert "precision float32, keys and values in int8; on random texts" in said
    report, error = inspect_model(model, HOST, kv_cache="fp16")
    assert error is None and report["kv_cache"] == "fp16"
    assert report["memory"]["cache"] == staged(model, "fp16").schedule.cache.size
    assert re.search(r"keys and values 0\.\d MB in fp16,", format_report(report))


def test_what_is_refused(tmp_path: Path) -> None:
    for kept in ("fp16", "int8"):
        with pytest.raises(InputError, match=rf"--kv-cache {kept}: this model keeps no keys and"):
            compile_model(classifier(layers=1), tmp_path / "out", kv_cache=kept)
    with pytest.raises(InputError, match="--kv-cache 'int4' is not one of float32, fp16, int8"):
        staged(decoder(layers=1), "int4")
    assert not (tmp_path / "out").exists()
    assert staged(classifier(layers=1), "float32").schedule.cache.size == 0


def test_float32_is_the_graph_as_it_was() -> None:
    graph = staged(decoder(layers=1), "float32").program.graph
    assert with_kv_cache(graph, "float32") is graph
    kept = with_kv_cache(graph, "fp16")
    caches = [dict(n.attributes).get("cache") for n in kept.nodes if n.op == "causal_attention"]
    assert caches == [F16]
