"""Models on an OpenCL device against Transformers in float32: every family, fused and not, in other
precisions, by other plans, and token by token."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from canao.artifact.directory import Artifact
from canao.compiler.loading import load_model
from canao.compiler.pipeline import compile_graph, compile_model
from canao.errors import InputError, UnsupportedError
from canao.fuse.group import Program
from canao.graph.dtypes import I32
from canao.graph.interp import outputs
from canao.graph.ir import TOKENS, Graph, Ids, Input, Type, node
from canao.graph.verify import retype, verify
from canao.inference.compiled_model import CompiledModel
from canao.lower.opencl.attention import ItemAttentionPlan
from canao.lower.opencl.packed_gemm import ItemGemmLowering
from canao.lower.opencl.rows import GroupRowsLowering
from canao.lower.scheduling import default_plans, space
from canao.schedule.operands import Packed
from canao.schedule.plan import Plan
from canao.target import VECTORS, Target, get_target
from tests.compiler import programs
from tests.compiler.families import FAMILIES, make
from tests.compiler.models import DECODERS, MOBILE, SHAPES, classifier, decoder, mobile
from tests.compiler.test_decoder import IDS, close, in_pieces, logits
from tests.compiler.test_families import QUICK, assert_compiled
from tests.compiler.test_kv_cache import FEW as ODD
from tests.compiler.test_kv_cache import SIZES, Sizes, expect
from tests.conftest import LENGTHS, thoroughly
from tests.oracle import FEWER_BITS, FLOAT32, KEPT, assert_close

# GPUs read four floats at a time; OpenCL on this CPU does better with more.
GPU, WIDE = get_target().on_opencl(4), get_target().on_opencl(16)
FEW = (1, 7, 33)
SOME = ("Bert", "DebertaV2", "ConvBert")


@pytest.mark.as_shipped
@pytest.mark.parametrize("family", thoroughly((*SOME, "ModernBert"), FAMILIES))
def test_every_family(family: str, tmp_path: Path) -> None:
    lengths = LENGTHS if family in SOME else FEW
    lengths = tuple(n for n in lengths if n <= 60)
    manifest = assert_compiled(make(family), tmp_path, lengths, threads=1, target=GPU)
    assert manifest["target"]["isa"] == "opencl"


@pytest.mark.parametrize("family", thoroughly(("DebertaV2",), FAMILIES))
def test_without_fusion(family: str, tmp_path: Path) -> None:
    assert_compiled(make(family), tmp_path, FEW, threads=1, target=GPU, fusion=False)


WIDTHS = [(shape, vector) for shape in SHAPES for vector in VECTORS]


@pytest.mark.parametrize(("shape", "vector"),
                         thoroughly([("odd", 4), ("prime", 8), ("odd", 16)], WIDTHS))  # fmt: skip
def test_widths_off_the_tile(shape: str, vector: int, tmp_path: Path) -> None:
    target = get_target().on_opencl(vector)
    assert_compiled(classifier(shape), tmp_path, LENGTHS, threads=1, target=target)


@pytest.mark.as_shipped
@pytest.mark.parametrize("shape", thoroughly(["layer_norm"], MOBILE))
def test_mobilebert(shape: str, tmp_path: Path) -> None:
    assert_compiled(mobile(shape), tmp_path, FEW, threads=1, target=WIDE)


def other_plans(program: Program, target: Target, seed: int) -> tuple[Plan, ...]:
    draw = random.Random(seed)  # noqa: S311 - it draws plans
    return tuple(draw.choice(space(r, target)) for r in program.regions)


@pytest.mark.parametrize("seed", thoroughly([0, 1], range(12)))
def test_plans_change_times_and_not_values(seed: int, tmp_path: Path) -> None:
    graph = load_model(classifier("odd"))[1]
    stages = compile_graph(graph, GPU, planner=partial(other_plans, seed=seed))
    assert stages.plans != default_plans(stages.program, GPU)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("canao.compiler.pipeline.best_plans",
                      lambda p, t, toolchain: other_plans(p, t, seed))  # fmt: skip
        assert_compiled(classifier("odd"), tmp_path, FEW, threads=1, target=GPU)


PRODUCTS = {"fp16": "f16", "int8-weights": "f32_i8", "int8": "i8", "int8-7bit": "q7_i8"}


@pytest.mark.parametrize("precision", thoroughly(["fp16", "int8-weights", "int8"], PRODUCTS))
@pytest.mark.parametrize("model", thoroughly(["odd"], ["small", "odd"]))
def test_precisions(precision: str, model: str, tmp_path: Path, sentences) -> None:
    """Against the interpreter, which rounds where the kernels do."""
    assert_rounded(precision, model, tmp_path, sentences)


@pytest.mark.as_shipped
def test_int8_as_shipped(tmp_path: Path, sentences) -> None:
    assert_rounded("int8", "small", tmp_path, sentences)


def assert_rounded(precision: str, model: str, folder: Path, sentences) -> None:
    artifact = compile_model(classifier(model), folder / "out", target=GPU, precision=precision)
    graph = compile_graph(load_model(classifier(model))[1], GPU, precision=precision).program.graph
    products = {k["product"] for k in artifact.manifest["kernels"] if "product" in k}
    assert products == {PRODUCTS[precision]}
    with CompiledModel(artifact) as compiled:
        for length in LENGTHS:
            ids = sentences(length, 99)
            assert_close(compiled(*ids)[None], outputs(graph, ids)[0], scale=FEWER_BITS[precision]
                         / FEWER_BITS["int8-weights"])  # fmt: skip


@pytest.mark.parametrize("emulated", [False, True])
def test_a_precision_that_it_has_no_kernels_for(emulated: bool, tmp_path: Path) -> None:
    known = r"there are some for float32, fp16, int8, int8-7bit, int8-weights"
    with pytest.raises(InputError, match=rf"opencl has no instructions for it; {known}"):
        compile_model(classifier("small"), tmp_path / "out", target=GPU, precision="bf16",
                      allow_emulation=emulated)  # fmt: skip


@pytest.mark.parametrize("shape", thoroughly(["prime"], DECODERS))
def test_decoders(shape: str, tmp_path: Path) -> None:
    """At once, in pieces, and token by token, from the cache."""
    model = decoder(shape)
    want = logits(model, IDS)
    with CompiledModel(compile_model(model, tmp_path / "out", target=GPU)) as compiled:
        for length in (1, 8, 33, 200):
            close(compiled(IDS[:length]), logits(model, IDS[:length]))
            compiled.reset()
            close(compiled.extend(IDS[:length])["logits"], want[length - 1 : length])
        for cuts in ((5, 6, 13), (100,), range(1, 40)):
            ends = [*(c - 1 for c in cuts), 199]
            close(in_pieces(compiled, cuts, last=True), want[ends])


def test_tied_embeddings_are_stored_once() -> None:
    graph = load_model(decoder("three_heads"))[1]
    schedule = compile_graph(graph, GPU, planner=default_plans).schedule
    sections = [s for s in schedule.weights.sections if schedule.program.graph.constants[
        s.value].shape == (99, 48)]  # fmt: skip
    assert len(sections) == 1 and isinstance(sections[0].storage, Packed)


@pytest.mark.parametrize(("vector", "values", "sizes"), thoroughly(
    [(4, 1, SIZES), (4, 0, ODD), (8, 0, ODD), (16, 1, ODD)],
    [(vector, values, sizes) for vector in VECTORS for values in (0, 1) for sizes in (ODD, SIZES)],
))  # fmt: skip
def test_keys_and_values_in_fewer_bytes(
    vector: int, values: int, sizes: Sizes, tmp_path: Path
) -> None:
    """The interpreter's numbers from caches of fp16 and int8, of heads of several sizes. `values`:
    whether a group brings those of a block of keys into its memory."""

    def changed(plan: Plan) -> Plan:
        return replace(plan, values=values) if isinstance(plan, ItemAttentionPlan) else plan

    expect(get_target().on_opencl(vector), tmp_path, (), *QUICK, sizes=sizes, counts="1",
           plan=changed)  # fmt: skip


@pytest.mark.parametrize("kept", ["fp16", "int8"])
def test_decoders_that_keep_fewer_bytes(kept: str, tmp_path: Path) -> None:
    """At once, and in pieces of 1, 7 and 8 tokens."""
    model = decoder("three_heads")
    graph = compile_graph(load_model(model)[1], GPU, kv_cache=kept).program.graph
    want, ids = outputs(graph, [IDS])[0][0], IDS
    bounds = {"tolerance": KEPT[kept], "scale": max(1.0, float(want.std()))}
    artifact = compile_model(model, tmp_path / "out", target=GPU, kv_cache=kept)
    assert artifact.manifest["kv_cache"]["precision"] == kept
    with CompiledModel(artifact) as compiled:
        assert_close(compiled(ids), want, **bounds)
        for size in (1, 7, 8):
            compiled.reset()
            pieces = np.split(ids, range(size, len(ids), size))
            rows = [compiled.extend(p, wanted=len(p))["logits"] for p in pieces]
            assert_close(np.concatenate(rows), want, **bounds)
        compiled.reset(50)
        assert_close(compiled.extend(ids[50:])["logits"], want[-1:], **bounds)


@pytest.mark.parametrize("width", [2048, 2052, 3072, 4096])
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_wide_rows_have_plans(width: int, precision: str) -> None:
    """A norm or what quantises a row needs all of it in one group."""
    graph = load_model(make("Bert", num_hidden_layers=1, intermediate_size=width))[1]
    stages = compile_graph(graph, GPU, precision=precision, planner=default_plans)
    assert all(s.grid and s.grid.local[0] <= 256 for s in stages.schedule.steps)


@pytest.fixture
def no_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPUs have kernels for all that CPUs have some for: here softmax has none there."""
    for lowering, rows in ((GroupRowsLowering, lambda form: form),
                           (ItemGemmLowering, lambda form: form.epilogue)):  # fmt: skip

        def lacks(self, graph, form, *, legal=lowering.legal, rows=rows) -> bool:
            return legal(self, graph, form) and all(n.op != "softmax" for n in rows(form).body)

        monkeypatch.setattr(lowering, "legal", lacks)


def between(width: int = 70) -> Graph:
    """A softmax between products, and what follows it."""
    rng = np.random.default_rng(0)
    constants = {"table": rng.standard_normal((99, 16)), "up": rng.standard_normal((width, 16)),
                 "down": rng.standard_normal((5, width))}  # fmt: skip
    nodes = (node("gather", ("table", "ids"), "x"), node("linear", ("x", "up"), "scores"),
             node("softmax", ("scores",), "weights"), node("linear", ("weights", "down"), "y"),
             node("tanh", ("y",), "out"))  # fmt: skip
    slot = Input("ids", Type(I32, (1, TOKENS)), Ids(99))
    floats = {name: value.astype(np.float32) for name, value in constants.items()}
    return verify(retype(Graph((slot,), floats, nodes, (("out", "out"),), {}, 64)))


@pytest.mark.usefixtures("no_softmax")
def test_nothing_falls_back_unasked() -> None:
    with pytest.raises(UnsupportedError, match=r"operator softmax .*; --allow-cpu runs it on"):
        compile_graph(between(), GPU)


@pytest.mark.usefixtures("no_softmax")
@pytest.mark.parametrize("fusion", [True, False])
def test_what_the_cpu_may_run_beside_the_gpu(fusion: bool, tmp_path: Path) -> None:
    graph, target = between(), get_target().on_opencl(4, allow_cpu=True)
    stages = compile_graph(graph, target, fusion=fusion)
    assert [r.ops for r in stages.program.regions if r.apart] == [("softmax",)]
    command = programs.build_schedule(stages.schedule, target, tmp_path)
    texts = [[np.arange(n) * 7 % 99] for n in (1, 7, 33, 64)]
    programs.expect_near(command, graph, texts, FLOAT32, ("1",))


def test_a_model_that_kernels_compute_has_nothing_on_the_cpu(tmp_path: Path) -> None:
    target = get_target().on_opencl(4, allow_cpu=True)
    assert not compile_model(classifier("small"), tmp_path / "out", target=target).on_cpu


def test_texts_and_batches(tmp_path: Path, sentences) -> None:
    """A batch gives to the bit what its sequences give alone, twice."""
    artifact = compile_model(classifier("small"), tmp_path / "out", target=GPU)
    batch = [list(sentences(length, 99)) for length in (7, 64, 1, 33)]
    with CompiledModel(artifact) as compiled:
        alone = [compiled(*ids) for ids in batch]
        for _ in range(2):
            for got, want in zip(compiled.run_batch(batch), alone, strict=True):
                assert np.array_equal(got.ravel(), want.ravel())


def test_loads_are_alike(tmp_path: Path, sentences) -> None:
    artifact = compile_model(classifier("odd"), tmp_path / "out", target=GPU)
    first = _outputs(artifact, sentences(33, 99))
    assert all(np.array_equal(_outputs(artifact, sentences(33, 99)), first) for _ in range(3))


def _outputs(artifact: Artifact, ids: Sequence[np.ndarray]) -> np.ndarray:
    with CompiledModel(artifact) as compiled:
        return compiled(*ids)
