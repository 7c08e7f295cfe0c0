"""The plans of a program: those that `canao tune` found best where it will run, or the defaults."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from canao.build import Toolchain, code_stamp, get_toolchain
from canao.cache.place import cache_directory
from canao.fuse.group import Program
from canao.lower.scheduling import backend_of, default_plan, default_plans, space, tunable
from canao.schedule.database import VERSION, Database
from canao.schedule.plan import Plan
from canao.schedule.plan_choice import tuned_plans
from canao.target import CPU, Target

# How the plans of a program are chosen.
Planner = Callable[[Program, Target], Sequence[Plan]]


def tuning_database(target: Target, toolchain: Toolchain | None = None) -> Database:
    """What `canao tune` measured for a target, on the machine that it was made for, with the code
    as it is now. What was measured elsewhere, or with other code, is kept under other keys."""
    stamp = code_stamp(toolchain or get_toolchain())
    kernels = target.isa if target.backend == CPU else f"{target.backend} {target.vector}"
    place = (
        f"{target.name} {kernels} {target.triple} {target.cpu} L2 {target.l2_bytes}; "
        f"{target.machine}; code {stamp}"
    )
    path = cache_directory() / f"tuning-{VERSION}.sqlite"
    return Database(path, place, backend_of(target).plan_types)


def best_plans(
    program: Program, target: Target, toolchain: Toolchain | None = None
) -> tuple[Plan, ...]:
    """Tuned plans where the target was made for a machine that was tuned, else the defaults."""
    if not target.machine:
        return default_plans(program, target)
    return chosen_plans(program, target, tuning_database(target, toolchain))


def chosen_plans(program: Program, target: Target, database: Database) -> tuple[Plan, ...]:
    """The plan of each region that measurements speak for, else its default."""
    tuned = tuned_plans(
        program, lambda region: tunable(program.graph, region, target),
        lambda region: space(region, target), database,
    )  # fmt: skip
    return tuple(plan or default_plan(region, target)
                 for plan, region in zip(tuned, program.regions, strict=True))  # fmt: skip
