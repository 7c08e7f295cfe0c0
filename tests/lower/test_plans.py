"""Plans: their text, their kinds, and what each lowering's space holds."""

from __future__ import annotations

import pytest

from canao.fuse.forms.form import Alias, PackedGemm
from canao.isa.registry import ISAS
from canao.isa.table import FLOAT
from canao.lower.cpu.backend import CPU
from canao.lower.cpu.packed_gemm import product_name
from canao.lower.scheduling import NO_PLAN, default_plan, space
from canao.schedule.plan import axes, parse_plan, plan_text
from tests.scheduled import NAMES, staged_all

FORMS = {form: lowering.plans for form, lowering in CPU.lowerings.items()}


def regions(name):
    """The regions of a program with what they run on, but for aliases."""
    return [(stages, region) for stages in staged_all(name) for region in stages.program.regions
            if not isinstance(region.form, Alias)]  # fmt: skip


def test_every_plan_type_has_a_kind_of_its_own():
    kinds = [plans.kind for plans in CPU.plan_types]
    assert len({*kinds, NO_PLAN.kind}) == len(kinds) + 1


@pytest.mark.parametrize("name", NAMES)
def test_the_text_of_every_plan_reads_back_as_the_plan(name):
    plans = {p for stages, region in regions(name) for p in space(region, stages.target)}
    assert plans and all(parse_plan(plan_text(p), CPU.plan_types) == p for p in plans)


@pytest.mark.parametrize("name", NAMES)
def test_a_default_is_in_the_space_of_its_legal_form_and_of_its_type(name):
    for stages, region in regions(name):
        lowering, graph = CPU.of(region.form), stages.program.graph
        default = default_plan(region, stages.target)
        assert lowering.legal(graph, region.form)
        assert default in set(lowering.space(region.form, stages.target))
        assert {type(p) for p in space(region, stages.target)} == {FORMS[type(region.form)]}


@pytest.mark.parametrize("name", NAMES)
def test_every_register_tile_fits_the_registers_in_whole_vectors(name):
    for stages, region in regions(name):
        isa = ISAS[stages.target.isa]
        packed = isinstance(region.form, PackedGemm)
        tile = isa.tiles[product_name(region.form) if packed else FLOAT]
        for plan in space(region, stages.target):
            sizes = axes(plan)
            if "mr" in sizes:
                vectors, rest = divmod(sizes["nr"], isa.width * tile.wide)
                assert rest == 0 and vectors >= 1
                assert tile.held(sizes["mr"], vectors) <= isa.registers


def test_the_corpus_has_every_form_of_kernel():
    assert {type(r.form) for name in NAMES for _, r in regions(name)} == set(FORMS)
