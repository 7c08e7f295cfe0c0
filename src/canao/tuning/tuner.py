"""The search for fast plans: which trials are built, in which order, and what counts as faster.

    1. the default plans of all kernels, as the reference of everything that follows
    2. other register tiles for the heaviest kernels, those first that look cheapest
    3. coordinate descent from the best known plan of each kernel, all kernels in the same rounds
    4. the winners against the default plans once more, at length: only this chooses plans

What the database already has is not measured again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from canao.artifact.temporary import WorkingDirectory
from canao.build import Toolchain
from canao.compiler.loading import load_graph
from canao.compiler.pipeline import compile_graph
from canao.compiler.plans import chosen_plans, tuning_database
from canao.compiler.stages import Stages
from canao.defaults import LIMITS, PRECISION, TUNE_SECONDS, Limits, silent
from canao.device.base import Device, MeasureConfig
from canao.device.lease import leased
from canao.errors import InputError
from canao.fuse.group import Program
from canao.lower.lowering import Tunable
from canao.lower.scheduling import base_name, default_plans, tunable, tunable_lowering
from canao.precision.quantize import check_precision
from canao.schedule.database import region_text
from canao.schedule.plan import Plan, distance, neighbours, order
from canao.target import Target, get_target
from canao.tuning.measure import PlanTimer, Say
from canao.tuning.trial_library import Pair, Subject

_PROTOCOL = MeasureConfig()
_SCOUTED = 4  # other tiles of a heavy kernel
# Shares of the total time: kernels above the first are scouted, those below the second keep their
# default plans.
_HEAVY, _SMALL = 0.1, 0.02
_STEPS = 6  # of the coordinate descent
_NOISE = 0.005  # ratios that differ by less count as equal


@dataclass(frozen=True, slots=True)
class TunedKernel:
    """One kernel: milliseconds of a call by its default plan and by the plan that is used from now
    on, and the names of both plans."""

    name: str
    calls: int
    default_ms: float
    tuned_ms: float
    default: str
    plan: str


@dataclass(frozen=True, slots=True)
class TuningResult:
    """The outcome. `complete` is false where the time was over before the search ended."""

    kernels: tuple[TunedKernel, ...]
    plans_measured: int
    seconds: float
    complete: bool


def tune_model(
    model: str | Path | Any, *, revision: str | None = None, target: Target | None = None,
    length: int = _PROTOCOL.length, threads: int = _PROTOCOL.threads,
    budget_s: float = TUNE_SECONDS, max_length: int | None = None,
    toolchain: Toolchain | None = None,
    device: Device | None = None, fresh: bool = False, progress: Say | None = None,
    ignored: Collection[str] = (), limits: Limits = LIMITS, precision: str = PRECISION,
) -> TuningResult:  # fmt: skip
    """Measure plans of a model's kernels where they run; compilations for that device use the
    fastest.

    revision          of a model that is named on the Hub
    device            where they run; without one, this machine's CPU
    target            by default what libraries for the device are compiled for
    length, threads   what plans are measured at; they compute the same at any other
    budget_s          seconds after which the search ends with what it has
    fresh             forget earlier measurements of these kernels
    ignored, limits   as for `compile_model`
    precision         whose libraries are tuned; those in another have other kernels, or run them on
                      another instruction set

    Raises InputError for what cannot be tuned here; ToolchainError or DeviceError.
    """
    start = time.monotonic()
    target = target or (device.target if device else get_target())
    if target.name != "host":
        raise InputError(
            f"target '{target.name}' is another machine; plans are measured where they run: give "
            "its device, as --device ssh:HOST, or tune there"
        )
    if device is None:
        from canao.device.bench import local_device

        device = local_device()
    if (target.machine, target.backend) != (device.target.machine, device.target.backend):
        raise InputError(f"target '{target.name}' is not what device {device.name} is; leave it "
                         "out, or name the device that it is")  # fmt: skip
    device = leased(device, progress or silent)
    check_precision(precision)
    if not budget_s > 0 or not 1 <= threads <= 64:
        raise InputError(f"budget {budget_s:g} s or threads {threads} is out of range")
    graph = load_graph(
        model, revision=revision, max_length=max_length, ignored=ignored, limits=limits
    )
    if not 1 <= length <= graph.max_length:
        raise InputError(f"length {length} is outside 1..{graph.max_length} of this model")
    stages = compile_graph(
        graph, target, planner=default_plans, limits=limits, precision=precision
    )
    target = stages.target
    subjects = find_subjects(stages.program, target)
    if not subjects:
        raise InputError("the model has no GEMM and no attention, whose plans could be tuned")
    database = tuning_database(target, toolchain)
    if fresh:
        database.forget([s.text for s in subjects])
    with WorkingDirectory("canao-tune") as folder:
        timer = PlanTimer(
            subjects, target, device, database, MeasureConfig(length, threads), folder,
            toolchain, start + budget_s, progress or silent,
        )  # fmt: skip
        search(timer)
    return TuningResult(
        _chosen(stages, timer), timer.measured, time.monotonic() - start, not timer.cut_short
    )


def find_subjects(program: Program, target: Target) -> tuple[Subject, ...]:
    """The distinct regions of a program that can be tuned."""
    graph = program.graph
    found = [(region_text(graph, r), r) for r in program.regions if tunable(graph, r, target)]
    calls = Counter(text for text, _ in found)
    first = {text: region for text, region in reversed(found)}
    return tuple(Subject(text, graph, first[text], n) for text, n in calls.items())


def _chosen(stages: Stages, timer: PlanTimer) -> tuple[TunedKernel, ...]:
    """Every kernel with the plan that compilations use from now on."""
    program, names = stages.program, stages.schedule.kernel_names()
    plans = chosen_plans(program, timer.target, timer.database)
    place = {r.output: i for i, r in enumerate(program.regions)}
    kernels = []
    for s in timer.subjects:
        i = place[s.region.output]
        base, default = timer.base(s), timer.default[s]
        tuned = base if plans[i] == default else base * timer.known[s][plans[i]].ratio
        name = base_name(names[i], default, timer.target)
        kernels.append(TunedKernel(name, s.calls, base, tuned, default.name, plans[i].name))
    return tuple(sorted(kernels, key=lambda k: -k.calls * k.default_ms))


def search(timer: PlanTimer) -> None:
    """Find fast plans and confirm them."""
    if any(timer.default[s] not in timer.known[s] for s in timer.subjects):
        timer.measure([])
    timer.say(f"{len(timer.subjects)} kernels by default: {timer.total():.3f} ms for a sequence")
    _try(timer, _other_tiles(timer), "other tiles")
    for _ in range(_STEPS):
        if not _try(timer, _nearby(timer), "plans nearby"):
            break
    _confirm(timer)


def _try(timer: PlanTimer, pairs: Sequence[Pair], what: str) -> bool:
    """Measure the pairs that are not known yet. False where there are none, or no time is left."""
    new = [(s, p) for s, p in pairs if p not in timer.known[s]]
    done = bool(new) and timer.measure(new)
    if done:
        timer.say(f"{len(new)} {what}: {timer.total(best=True):.3f} ms")
    return done


def _other_tiles(timer: PlanTimer) -> list[Pair]:
    """For the heaviest kernels, plans with other register tiles: those of the lowest estimated
    cost, with block sizes as near to the default plan's as there are."""
    pairs = []
    for s in timer.with_part(_HEAVY):
        default, legal, tile = timer.default[s], timer.legal[s], _lowering(timer, s).tile
        by_tile: dict[tuple[int, int], list[Plan]] = {}
        for plan in legal:
            by_tile.setdefault(tile(plan), []).append(plan)
        del by_tile[tile(default)]
        near = [_nearest(default, plans) for plans in by_tile.values()]
        near.sort(key=partial(_first_tried, timer, s))
        pairs += [(s, plan) for plan in near[:_SCOUTED]]
    return pairs


def _first_tried(timer: PlanTimer, subject: Subject, plan: Plan) -> tuple[float, tuple[int, int]]:
    """By what plans of other tiles are ordered: their estimated cost, then their tile."""
    return _rough_cost(timer, subject, plan), _lowering(timer, subject).tile(plan)


def _lowering(timer: PlanTimer, subject: Subject) -> Tunable[Any]:
    lowering = tunable_lowering(subject.region, timer.target)
    assert lowering is not None  # of what `find_subjects` found
    return lowering


def _nearest(plan: Plan, plans: Sequence[Plan]) -> Plan:
    return min(plans, key=lambda p: (distance(p, plan), order(p)))


def _rough_cost(timer: PlanTimer, subject: Subject, plan: Plan) -> float:
    """The lowering's estimate for a row. It only orders what is measured first."""
    lowering, keys = _lowering(timer, subject), timer.config.length
    return lowering.rough_cost(subject.region.form, plan, timer.rows, keys, timer.target)


def _nearby(timer: PlanTimer) -> list[Pair]:
    """A round of coordinate descent: for each kernel that is not small, the plans one step up or
    down one axis from its best plan. Plans that are the same in effect as a known one are left
    out."""
    pairs = []
    for s in timer.with_part(_SMALL):
        in_effect = partial(_lowering(timer, s).in_effect, rows=timer.rows)
        known = {in_effect(p) for p in timer.known[s]}
        near = neighbours(_place(timer, s), timer.legal[s])
        pairs += [(s, p) for p in dict.fromkeys(near) if in_effect(p) not in known]
    return pairs


def _place(timer: PlanTimer, subject: Subject) -> Plan:
    """The plan that a round of the descent starts from. All plans within `_NOISE` of the fastest
    count as equally fast; of these it is the one nearest to the default plan."""
    ranked = timer.ranked(subject)
    fast = [m.plan for m in ranked if m.ratio <= ranked[0].ratio + _NOISE]
    return _nearest(timer.default[subject], fast)


def _confirm(timer: PlanTimer) -> None:
    """Measure the two fastest plans of each kernel again, at length."""
    pairs = [(s, m.plan) for s in timer.subjects for m in timer.ranked(s)[:2]
             if m.plan != timer.default[s]]  # fmt: skip
    if any(not timer.known[s][p].final for s, p in pairs):
        timer.say(f"{len(pairs)} of the fastest plans once more")
        timer.measure(pairs, final=True)
    # Compilations use the latest confirmed rows. Written again, these are the latest, even those
    # that were measured long ago.
    timer.keep({
        s: [replace(m, final=True) for m in timer.known[s].values()
            if m.final or m.plan == timer.default[s]]
        for s in timer.subjects
    })  # fmt: skip
