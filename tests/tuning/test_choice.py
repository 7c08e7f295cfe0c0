"""Which plans a compilation takes from what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from canao.compiler import load_model, lower
from canao.schedule.database import Database, Measured
from canao.schedule.plan import Plan, default_plan, default_plans
from canao.schedule.tuned import counterpart, groups, legal_plans, neighbours, shared, tuned_plans
from canao.target import get_target
from canao.tuning.tuner import find_subjects
from tests.compiler.models import classifier

HOST = get_target()
PROGRAM = lower(
    load_model(classifier("deep_product", layers=1), 32)[1], HOST, planner=default_plans
).program
SUBJECTS = find_subjects(PROGRAM)
DEEP = next(s for s in SUBJECTS if "1100]" in s.text.partition(" = ")[2][:60])
OWN = shared(default_plan(DEEP.region, HOST))
OTHER = next(g for g in groups(DEEP.region, HOST)
             if g != OWN and all(counterpart(s.region, HOST, g) for s in SUBJECTS))  # fmt: skip


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "t.sqlite", "here")


def plan_of(database: Database) -> Plan:
    """The plan chosen for DEEP."""
    plans = tuned_plans(PROGRAM, HOST, database)
    return plans[[r.output for r in PROGRAM.regions].index(DEEP.region.output)]


def row(plan: Plan, ratio: float | None, final: bool = True, length: int = 128) -> Measured:
    return Measured(plan, length, 1, ratio, 1.0, final)


def another() -> Plan:
    default = default_plan(DEEP.region, HOST)
    return next(p for p in legal_plans(DEEP.region, HOST, OWN) if p != default)


def test_nothing_known(database: Database) -> None:
    assert tuned_plans(PROGRAM, HOST, database) == default_plans(PROGRAM, HOST)


@pytest.mark.parametrize(
    ("ratio", "final", "used"),
    ((0.9, True, True), (0.995, True, False), (0.5, False, False), (None, True, False)),
)
def test_only_a_confirmed_gain_counts(
    ratio: float | None, final: bool, used: bool, database: Database
) -> None:
    database.add({DEEP.text: [row(another(), ratio, final)]})
    assert (plan_of(database) == another()) is used
    changed = sum(a != b for a, b in zip(tuned_plans(PROGRAM, HOST, database),
                                         default_plans(PROGRAM, HOST), strict=True))  # fmt: skip
    assert changed == used


def test_plans_outside_the_legal_space_are_ignored(database: Database) -> None:
    good, default = another(), default_plan(DEEP.region, HOST)
    odd = (Plan(good.mr, good.nr, kc=3, mc=good.mr), Plan(good.mr, good.nr), Plan(99, 7, 1, 1),
           Plan(good.mr, good.nr, good.kc, good.mc, keys=64))  # fmt: skip
    database.add({DEEP.text: [row(p, 0.01) for p in odd]})
    assert plan_of(database) == default
    database.add({DEEP.text: [row(good, 0.9)]})
    assert plan_of(database) == good


def test_another_group_needs_all_regions_and_a_gain(database: Database) -> None:
    def chosen() -> set[tuple[int, ...]]:
        return {shared(p) for p in tuned_plans(PROGRAM, HOST, database)}

    other = {s.text: [row(counterpart(s.region, HOST, OTHER), 0.8)] for s in SUBJECTS}
    left_out = other.pop(DEEP.text)
    database.add(other)
    assert chosen() == {OWN}
    database.add({DEEP.text: left_out})
    assert chosen() == {OTHER}
    # A loss on one kernel outweighs the gains on the others.
    database.add({DEEP.text: [row(left_out[0].plan, 9.0)]})
    assert chosen() == {OWN}


def test_the_last_conditions_count(database: Database) -> None:
    plans = [p for p in legal_plans(DEEP.region, HOST, OWN) if p != default_plan(DEEP.region, HOST)]
    database.add({DEEP.text: [row(plans[0], 0.5, length=128)]})
    database.add({DEEP.text: [row(plans[1], 0.9, length=17)]})
    assert plan_of(database) == plans[1]
    assert plan_of(database) == plan_of(database)


def test_neighbours_are_legal_and_one_step_away() -> None:
    plans = legal_plans(DEEP.region, HOST, OWN)
    default = default_plan(DEEP.region, HOST)
    near = list(neighbours(default, plans))
    assert near and default not in near and set(near) <= set(plans)
    below, above = (sorted(p.kc for p in plans if (p.kc < default.kc) is less)
                    for less in (True, False))  # fmt: skip
    assert below[-1] in {p.kc for p in near}
    assert min(kc for kc in above if kc > default.kc) in {p.kc for p in near}
