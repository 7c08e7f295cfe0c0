from __future__ import annotations

import re
from pathlib import Path

import pytest

from canao.compiler.pipeline import compile_graph
from canao.fuse.forms.form import Alias, Attention, PackedGemm
from canao.graph.from_torch.trace import trace
from canao.graph.ir import Graph
from canao.lower.cpu.packed_gemm import product_name
from canao.lower.scheduling import default_plans
from canao.target import Target, get_target
from tests.compiler import families, models
from tests.compiler.kernel_names import BATCHED_GEMM, GEMM, PREFIXES, parse

DOCS = Path(__file__).resolve().parents[2] / "docs" / "kernels.md"
X86 = get_target("x86_64-linux")


@pytest.fixture(scope="module")
def graphs() -> dict[str, Graph]:
    """Together they have kernels of all kinds."""
    return {
        "bert": trace(models.classifier("small", layers=1), 512),
        "decoder": trace(models.bare_decoder(), 130),
        "deberta": trace(families.make("DebertaV2"), 128),
        "convbert": trace(families.make("ConvBert"), 128),
        "roberta": trace(families.make("Roberta"), 128),
    }


@pytest.mark.parametrize(
    ("fusion", "precision"),
    [(True, "float32"), (False, "float32"), (True, "int8"), (True, "int8-7bit")],
)
@pytest.mark.parametrize(
    "target", [X86.with_isa("avx512"), X86.with_isa("scalar"), get_target("aarch64-linux")],
    ids=lambda t: t.isa,
)  # fmt: skip
def test_names_of_compiled_models_are_those_of_the_grammar(
    graphs: dict[str, Graph], target: Target, fusion: bool, precision: str
) -> None:
    """Each name is parsed, and says what the kernel is and how it runs."""
    for graph in graphs.values():
        stages = compile_graph(
            graph, target, fusion=fusion, planner=default_plans, precision=precision
        )
        steps = zip(
            stages.schedule.kernel_names(), stages.program.regions, stages.plans, strict=True
        )
        for step in stages.schedule.steps:
            assert parse(step.name).appends is step.appends
        for name, region, plan in steps:
            if isinstance(region.form, Alias):
                assert name == ""
                continue
            found = parse(name)
            assert found.isa == target.isa
            if found.plan:
                assert found.plan["tile"] == f"{plan.mr}x{plan.nr}"
            blocks = {k: getattr(plan, k) for k in ("kc", "mc", "keys") if k in found.plan}
            assert {k: str(v) for k, v in blocks.items()} == {
                k: v for k, v in found.plan.items() if k != "tile"
            }
            if isinstance(region.form, PackedGemm):
                assert found.sizes == (str(region.form.k), str(region.form.n))
                product = product_name(region.form)
                assert found.product == ("" if product == "f32" else product)
                assert set(found.plan) == {"tile", "kc", "mc"}
                nodes = {n.op for n in region.nodes}
                assert set(found.ops) <= nodes and "linear" not in found.ops
            if isinstance(region.form, Attention):
                assert found.prefix == ("causal" if region.form.cached else "attention")
                assert set(found.plan) == {"tile", "keys"}


@pytest.mark.parametrize(("fusion", "precision"), [
    (True, "float32"), (False, "float32"), (True, "int8"), (True, "fp16"),
])  # fmt: skip
def test_names_on_gpus(graphs: dict[str, Graph], fusion: bool, precision: str) -> None:
    target = X86.on_opencl(4)
    for graph in graphs.values():
        stages = compile_graph(
            graph, target, fusion=fusion, planner=default_plans, precision=precision
        )
        for step in stages.schedule.steps:
            found = parse(step.name)
            assert found.isa == "cl4" and found.appends is step.appends
            if isinstance(step.region.form, PackedGemm):
                product = product_name(step.region.form)
                assert found.product == ("" if product == "f32" else product)
                assert found.plan["tile"] == f"{step.plan.mr}x{step.plan.nr}"
                assert found.plan.get("deep", "1") == str(step.plan.deep)


@pytest.mark.parametrize(("kept", "named"), [("fp16", "f16"), ("int8", "i8")])
def test_attention_says_what_it_keeps(graphs: dict[str, Graph], kept: str, named: str) -> None:
    stages = compile_graph(graphs["decoder"], X86, planner=default_plans, kv_cache=kept)
    found = [parse(name) for name in stages.schedule.kernel_names() if name.startswith("causal")]
    assert found and all(f.product == named for f in found)


def _names(graph: Graph, fusion: bool) -> list[str]:
    """Of all kernels of a graph, but for aliases."""
    stages = compile_graph(graph, X86, fusion=fusion, planner=default_plans)
    return [name for name in stages.schedule.kernel_names() if name]


def test_every_kind_of_kernel_comes_up(graphs: dict[str, Graph]) -> None:
    found = {
        parse(name).prefix
        for graph in graphs.values() for fusion in (True, False)
        for name in _names(graph, fusion)
    }  # fmt: skip
    assert found == set(PREFIXES)


@pytest.mark.parametrize(
    "name",
    ["", f"{GEMM}_64x64", f"{GEMM}_64_avx2_8x32_kc64_mc256", f"{GEMM}_64x64_avx2",
     "rows_64_avx2_8x32", f"{BATCHED_GEMM}_4xsx16_avx2", f"{BATCHED_GEMM}_4xsx16xs_gelu_avx2",
     "rows_64_nothing_avx2",
     f"{GEMM}_64x64_avx2_8x32_kc64_mc256_append", "causal_4x16_avx2_8x16_keys512_append_v2",
     "attention_4x16_avx2_8x16_keys512_append", "attention_4x16_avx2_8x16_kc64",
     "rows_64_copy_avx3", "concat_64_avx2", "unknown_64_avx2"],
)  # fmt: skip
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"that no kernel|no name of a kernel"):
        parse(name)


def test_parts() -> None:
    name = parse(f"{GEMM}_384x1536_gelu_avx512_8x48_kc384_mc256_v2")
    assert (name.sizes, name.ops, name.version) == (("384", "1536"), ("gelu",), 2)
    assert name.plan == {"tile": "8x48", "kc": "384", "mc": "256"}
    assert parse("rows_64_gather_add_layer_norm_neon").ops == ("gather", "add", "layer_norm")
    assert parse(f"{BATCHED_GEMM}_12xsx32x2sp1_near_scalar").near
    appending = parse("causal_3x16_i8_neon_5x16_keys512_v2_append")
    assert (appending.appends, appending.version, appending.product) == (True, 2, "i8")


def test_the_documented_grammar_is_this_one() -> None:
    """Examples in docs/kernels.md are names, and each kind has one."""
    text = DOCS.read_text(encoding="utf-8")
    names = re.findall(r"`([a-z_]+_(?:[0-9]|s[_x])[A-Za-z0-9_]*)`", text)
    assert {parse(name).prefix for name in names} == set(PREFIXES)
