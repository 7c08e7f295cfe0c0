"""Which plans a compilation takes from what was measured."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from canao.compiler.loading import load_model
from canao.compiler.pipeline import compile_graph
from canao.compiler.plans import chosen_plans
from canao.isa.registry import ISAS
from canao.isa.table import FLOAT
from canao.lower.cpu.attention import AttentionPlan
from canao.lower.cpu.backend import CPU
from canao.lower.cpu.packed_gemm import PackedGemmPlan
from canao.lower.cpu.tiles import default_tile, tiles
from canao.lower.scheduling import default_plan, default_plans, space
from canao.schedule.database import Database, Measured
from canao.schedule.plan import Plan, axes, neighbours
from canao.target import get_target
from canao.tuning.tuner import find_subjects
from tests.compiler.models import classifier

pytestmark = pytest.mark.as_shipped

HOST = get_target()
PROGRAM = compile_graph(
    load_model(classifier("deep_product", layers=1), 32)[1], HOST, planner=default_plans
).program
SUBJECTS = find_subjects(PROGRAM, HOST)
DEEP = next(s for s in SUBJECTS if "1100]" in s.text.partition(" = ")[2][:60])
DEFAULT, *OTHERS = space(DEEP.region, HOST)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "t.sqlite", "here", CPU.plan_types)


def plan_of(database: Database) -> Plan:
    """The plan chosen for DEEP."""
    plans = chosen_plans(PROGRAM, HOST, database)
    return plans[[r.output for r in PROGRAM.regions].index(DEEP.region.output)]


def row(plan: Plan, ratio: float | None, final: bool = True, length: int = 128) -> Measured:
    return Measured(plan, length, 1, ratio, 1.0, final)


def test_nothing_known(database: Database) -> None:
    assert chosen_plans(PROGRAM, HOST, database) == default_plans(PROGRAM, HOST)


@pytest.mark.parametrize(
    ("ratio", "final", "used"),
    ((0.9, True, True), (0.995, True, False), (0.5, False, False), (None, True, False)),
)
def test_only_a_confirmed_gain_counts(
    ratio: float | None, final: bool, used: bool, database: Database
) -> None:
    database.add({DEEP.text: [row(OTHERS[0], ratio, final)]})
    assert (plan_of(database) == OTHERS[0]) is used
    changed = sum(a != b for a, b in zip(chosen_plans(PROGRAM, HOST, database),
                                         default_plans(PROGRAM, HOST), strict=True))  # fmt: skip
    assert changed == used


def test_plans_outside_the_legal_space_are_ignored(database: Database) -> None:
    good = OTHERS[0]
    odd = (dataclasses.replace(good, kc=3, mc=good.mr), dataclasses.replace(good, kc=0, mc=0),
           PackedGemmPlan(99, 7, 1, 1), AttentionPlan(good.mr, good.nr, keys=64))  # fmt: skip
    database.add({DEEP.text: [row(p, 0.01) for p in odd]})
    assert plan_of(database) == DEFAULT
    database.add({DEEP.text: [row(good, 0.9)]})
    assert plan_of(database) == good


def test_each_region_has_a_tile_of_its_own(database: Database) -> None:
    chosen: dict[str, Plan] = {}
    for i, s in enumerate(SUBJECTS):
        legal = [p for p in space(s.region, HOST) if p.tile != default_plan(s.region, HOST).tile]
        chosen[s.text] = legal[i * len(legal) // len(SUBJECTS)]
    database.add({text: [row(plan, 0.8)] for text, plan in chosen.items()})
    plans = dict(zip((r.output for r in PROGRAM.regions), chosen_plans(PROGRAM, HOST, database),
                     strict=True))  # fmt: skip
    assert {s.text: plans[s.region.output] for s in SUBJECTS} == chosen
    assert len({p.tile for p in chosen.values()}) > 2
    database.add({DEEP.text: [row(chosen[DEEP.text], 9.0)]})
    assert plan_of(database) == DEFAULT, "a loss on one kernel, and the others keep their gain"
    assert len(set(chosen_plans(PROGRAM, HOST, database)) & set(chosen.values())) > 2


def test_the_last_conditions_count(database: Database) -> None:
    database.add({DEEP.text: [row(OTHERS[0], 0.5, length=128)]})
    database.add({DEEP.text: [row(OTHERS[1], 0.9, length=17)]})
    assert plan_of(database) == OTHERS[1]
    database.add({DEEP.text: [row(OTHERS[0], 0.5, length=128)]})
    assert plan_of(database) == OTHERS[0]


@pytest.mark.parametrize("isa", sorted(ISAS))
def test_the_space_is_legal_and_holds_what_the_default_is_made_of(isa: str) -> None:
    for l2 in (256 << 10, 1 << 20, 2 << 20):
        target = dataclasses.replace(HOST, isa=isa, l2_bytes=l2)
        width, registers = ISAS[isa].width, ISAS[isa].registers
        for s in SUBJECTS:
            plans = space(s.region, target)
            default = default_plan(s.region, target)
            assert plans[0] == default and len(set(plans)) == len(plans) < 2500
            for p in plans:
                vectors = p.nr // width
                assert vectors * width == p.nr
                assert ISAS[isa].tiles[FLOAT].held(p.mr, vectors) <= registers
                assert "keys" in axes(p) or (p.kc and p.mc % p.mr == 0)
            if "kc" in axes(default):
                depths = {p.kc for p in plans if p.tile == default.tile}
                assert default.kc in depths and (len(depths) > 1) == (s is DEEP)
        for columns in range(0, 400, 7):
            mr, nr = default_tile(target, columns)
            assert ISAS[isa].tiles[FLOAT].held(mr, nr // width) <= registers
        assert {mr for mr, _ in tiles(target)} >= {default_tile(target)[0]}


@pytest.mark.parametrize(("isa", "rows"), (("avx2", {5, 6, 8}), ("avx512", {7, 8, 9})))
def test_neighbours_are_legal_and_one_step_away(isa: str, rows: set[int]) -> None:
    """On AVX2 no legal tile has 7 rows: the next step is 8."""
    default, *others = space(DEEP.region, get_target("x86_64-linux").with_isa(isa))
    near = list(neighbours(default, [default, *others]))
    assert near and default not in near and set(near) <= set(others)
    assert {p.mr for p in near} == rows
    stays = [p for p in near if p.tile == default.tile]
    depths = sorted({p.kc for p in others if p.tile == default.tile} | {default.kc})
    at = depths.index(default.kc)
    assert len(depths) > 1 and {p.kc for p in stays} == set(depths[max(0, at - 1) : at + 2])
    blocks = [p.mc // p.mr for p in stays if p.kc != default.kc]
    assert blocks and set(blocks) <= {2, 4, 8, 16, 32}
