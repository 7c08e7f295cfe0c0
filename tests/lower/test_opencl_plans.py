"""Plans and legality of kernels for GPUs: how many elements of the depth are multiplied at once,
and which caches of keys and values attention reads."""

from __future__ import annotations

from dataclasses import replace

import pytest

from canao.fuse.forms.attention import Attention
from canao.fuse.forms.form import PackedGemm
from canao.fuse.group import Program, fuse
from canao.graph.dtypes import BF16, F16, F32, I8, Q8, DType
from canao.graph.ir import Graph
from canao.lower.opencl.attention import ItemAttentionLowering, cache_layout
from canao.lower.opencl.backend import OPENCL_DEVICES
from canao.lower.opencl.packed_gemm import ItemGemmLowering, ItemGemmPlan, weights
from canao.lower.scheduling import default_plan, space
from canao.schedule.plan import parse_plan, plan_text
from canao.target import GPU_VECTOR, VECTORS, get_target
from tests.compiler.test_int8 import products
from tests.compiler.test_kv_cache import attentions

LONGEST = 600  # of `attentions`


def fused(graph: Graph) -> Program:
    return fuse(graph, OPENCL_DEVICES.legal, lambda *_: True)


@pytest.mark.parametrize("vector", VECTORS)
def test_four_at_once_are_usual_on_gpus(vector: int) -> None:
    program, target = fused(products(((33, 17),))), get_target().on_opencl(vector)
    (region,) = (r for r in program.regions if isinstance(r.form, PackedGemm))
    default = default_plan(region, target)
    assert isinstance(default, ItemGemmPlan) and default.deep == (4 if vector == GPU_VECTOR else 1)
    plans = space(region, target)
    assert {p.deep for p in plans} == {1, 4} and default in plans
    assert len({p.name for p in plans}) == len(set(plans))
    assert all(p.name.endswith("_d4") is (p.deep == 4) for p in plans)
    assert all(parse_plan(plan_text(p), OPENCL_DEVICES.plan_types) == p for p in plans)
    storage = weights(program.graph, region.form, replace(default, deep=4)).storage
    assert storage.elements(17, 33) == 36 * -(-17 // default.nr) * default.nr


@pytest.mark.parametrize("rows", (F32, F16))
@pytest.mark.parametrize("vector", VECTORS)
def test_other_rows_are_multiplied_one_by_one(vector: int, rows: DType) -> None:
    """Those of float32 by weights of bytes too."""
    program, target = fused(products(((33, 17),))), get_target().on_opencl(vector)
    (form,) = (r.form for r in program.regions if isinstance(r.form, PackedGemm))
    assert form.rows == Q8 and form.scales
    plans = ItemGemmLowering().space(replace(form, rows=rows), target)
    assert {p.deep for p in plans} == {1}


def test_what_attention_is_refused() -> None:
    lowering, program = ItemAttentionLowering(), fused(attentions((I8,))[0])
    forms = [r.form for r in program.regions if isinstance(r.form, Attention)]
    assert forms and all(lowering.legal(program.graph, form) for form in forms)
    form = forms[0]
    for cache, able in ((F32, True), (F16, True), (BF16, False)):
        assert lowering.legal(program.graph, replace(form, cache=cache)) is able
    assert not lowering.legal(program.graph, replace(form, rounded=BF16))
    wide, strides = (*form.q.shape[:-1], 257), form.q.strides
    assert not lowering.legal(program.graph, replace(form, q=replace(form.q, shape=wide)))
    assert not lowering.legal(
        program.graph, replace(form, q=replace(form.q, strides=(*strides[:-1], 2)))
    )


@pytest.mark.parametrize(("cache", "scales"), [(F32, 0), (F16, 0), (I8, LONGEST)])
def test_caches_of_int8_have_a_scale_for_each_row(cache: DType, scales: int) -> None:
    program = fused(attentions((I8,), ((3, 16, 8),))[0])
    form = next(r.form for r in program.regions if isinstance(r.form, Attention))
    layout = cache_layout(replace(form, cache=cache), LONGEST)
    assert (layout.heads, layout.key_head, layout.value_head) == (3, LONGEST * 16, LONGEST * 8)
    assert (layout.dtype, layout.scales) == (cache, scales)
