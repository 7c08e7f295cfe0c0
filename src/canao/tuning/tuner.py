"""The search for fast plans: which trials are built, in which order, and what counts as faster.

    1. the default plans of all kernels, as the reference of everything that follows
    2. other register tiles for the heaviest kernels, those first that look cheapest
    3. coordinate descent from the best that is known, each kernel for itself, all of them at once
    4. the winners against the default plans once more, at length: only this chooses plans

What the database already has is not measured again.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from canao.build import Toolchain
from canao.compiler.loading import load_model
from canao.compiler.pipeline import compile_graph
from canao.compiler.plans import chosen_plans, tuning_database
from canao.compiler.stages import Stages
from canao.defaults import TUNE_SECONDS, silent
from canao.device.base import Device, MeasureConfig
from canao.errors import InputError
from canao.fuse.group import Program
from canao.lower.lowering import Tunable
from canao.lower.scheduling import backend_of, default_plans
from canao.schedule.database import region_text
from canao.schedule.plan import Plan, axes, distance, neighbours, order
from canao.schedule.plan_choice import tunable
from canao.target import Target, get_target
from canao.tuning.measure import Bench, Say
from canao.tuning.trial import Pair, Subject

_PROTOCOL = MeasureConfig()
_SCOUTED = 4  # other tiles of a heavy kernel
_HEAVY, _SMALL = 0.1, 0.02  # parts of the time: kernels above are scouted, below left as they are
_STEPS = 6  # of the coordinate descent
_NOISE = 0.005  # differences of ratios that lead the descent nowhere


@dataclass(frozen=True, slots=True)
class TunedKernel:
    """What became of one kernel: milliseconds of one call, and the names of both plans."""

    name: str
    calls: int
    default_ms: float
    tuned_ms: float
    default: str
    plan: str


@dataclass(frozen=True, slots=True)
class Report:
    """`complete`: the search ended by itself, not because its time was over."""

    kernels: tuple[TunedKernel, ...]
    plans_measured: int
    seconds: float
    complete: bool


def tune_model(
    model: str | Path | Any, *, target: Target | None = None,
    length: int = _PROTOCOL.length, threads: int = _PROTOCOL.threads,
    budget_s: float = TUNE_SECONDS, max_length: int | None = None,
    toolchain: Toolchain | None = None,
    device: Device | None = None, fresh: bool = False, progress: Say | None = None,
) -> Report:  # fmt: skip
    """Measure plans of a model's kernels on this machine; compilations use the fastest.

    length, threads   what plans are measured at; they compute the same at any other
    budget_s          seconds after which the search ends with what it has
    fresh             forget earlier measurements of these kernels

    Raises InputError for what cannot be tuned here; ToolchainError or DeviceError.
    """
    start = time.monotonic()
    target = target or get_target()
    if target.name != "host":
        raise InputError(
            f"target '{target.name}' is another machine; plans are measured where they run: "
            "tune there, with --target host"
        )
    if not budget_s > 0 or not 1 <= threads <= 64:
        raise InputError(f"budget {budget_s:g} s or threads {threads} is out of range")
    _, graph = load_model(model, max_length)
    if not 1 <= length <= graph.max_length:
        raise InputError(f"length {length} is outside 1..{graph.max_length} of this model")
    if device is None:
        from canao.device.bench import local_device

        device = local_device()
    stages = compile_graph(graph, target, planner=default_plans)
    subjects = find_subjects(stages.program)
    if not subjects:
        raise InputError("the model has no product and no attention, whose plans could be tuned")
    database = tuning_database(target, toolchain, device.machine)
    if fresh:
        database.forget([s.text for s in subjects])
    with tempfile.TemporaryDirectory(prefix="canao-tune-") as folder:
        bench = Bench(subjects, target, device, database, MeasureConfig(length, threads),
                      Path(folder), toolchain, start + budget_s, progress or silent)  # fmt: skip
        search(bench)
    return Report(
        _chosen(stages, bench), bench.measured, time.monotonic() - start, not bench.cut_short
    )


def find_subjects(program: Program) -> tuple[Subject, ...]:
    """The distinct regions of a program that can be tuned."""
    graph = program.graph
    found = [(region_text(graph, r), r) for r in program.regions if tunable(graph, r)]
    calls = Counter(text for text, _ in found)
    first = {text: region for text, region in reversed(found)}
    return tuple(Subject(text, graph, first[text], n) for text, n in calls.items())


def _chosen(stages: Stages, bench: Bench) -> tuple[TunedKernel, ...]:
    """What compilations will use from now on."""
    program, names = stages.program, stages.schedule.kernel_names()
    plans = chosen_plans(program, bench.target, bench.database)
    place = {r.output: i for i, r in enumerate(program.regions)}
    kernels = []
    for s in bench.subjects:
        i = place[s.region.output]
        base, default = bench.base(s), bench.default[s]
        tuned = base if plans[i] == default else base * bench.known[s][plans[i]].ratio
        name = names[i].removesuffix(f"_{bench.target.isa}_{default.name}")
        kernels.append(TunedKernel(name, s.calls, base, tuned, default.name, plans[i].name))
    return tuple(sorted(kernels, key=lambda k: -k.calls * k.default_ms))


def search(bench: Bench) -> None:
    """Find fast plans and confirm them."""
    if any(bench.default[s] not in bench.known[s] for s in bench.subjects):
        bench.measure([])
    bench.say(f"{len(bench.subjects)} kernels by default: {bench.total():.3f} ms a text")
    _try(bench, _other_tiles(bench), "other tiles")
    for _ in range(_STEPS):
        if not _try(bench, _nearby(bench), "plans nearby"):
            break
    _confirm(bench)


def _try(bench: Bench, pairs: Sequence[Pair], what: str) -> bool:
    """Measure what is not known yet; whether there was anything, and time for it."""
    new = [(s, p) for s, p in pairs if p not in bench.known[s]]
    done = bool(new) and bench.measure(new)
    if done:
        bench.say(f"{len(new)} {what}: {bench.total(best=True):.3f} ms")
    return done


def _other_tiles(bench: Bench) -> list[Pair]:
    """The cheapest looking tiles of the heaviest kernels, each with blocks like the default's."""
    pairs = []
    for s in bench.with_part(_HEAVY):
        default, legal = bench.default[s], bench.legal[s]
        by_tile: dict[tuple[int, int], list[Plan]] = {}
        for plan in legal:
            by_tile.setdefault(_tile(plan), []).append(plan)
        del by_tile[_tile(default)]
        near = [_nearest(default, plans) for plans in by_tile.values()]
        near.sort(key=lambda p: (_rough_cost(bench, s, p), _tile(p)))
        pairs += [(s, plan) for plan in near[:_SCOUTED]]
    return pairs


def _tile(plan: Plan) -> tuple[int, int]:
    """The register tile, by which plans differ most."""
    found = axes(plan)
    return found["mr"], found["nr"]


def _lowering(bench: Bench, subject: Subject) -> Tunable[Any]:
    lowering = backend_of(bench.target).of(subject.region.form)
    assert isinstance(lowering, Tunable)
    return lowering


def _nearest(plan: Plan, plans: Sequence[Plan]) -> Plan:
    return min(plans, key=lambda p: (distance(p, plan), order(p)))


def _rough_cost(bench: Bench, subject: Subject, plan: Plan) -> float:
    """What the lowering takes a row to cost: only for the order of scouting."""
    lowering, keys = _lowering(bench, subject), bench.config.length
    return lowering.rough_cost(subject.region.form, plan, bench.rows, keys, bench.target)


def _nearby(bench: Bench) -> list[Pair]:
    """One step up and down each axis of each kernel: coordinate descent, all kernels at once."""
    pairs = []
    for s in bench.with_part(_SMALL):
        in_effect = partial(_lowering(bench, s).in_effect, rows=bench.rows)
        known = {in_effect(p) for p in bench.known[s]}
        near = neighbours(_place(bench, s), bench.legal[s])
        pairs += [(s, p) for p in dict.fromkeys(near) if in_effect(p) not in known]
    return pairs


def _place(bench: Bench, subject: Subject) -> Plan:
    """Where the descent stands: of the plans that are as fast as any but for noise, the one
    nearest to the default."""
    ranked = bench.ranked(subject)
    fast = [m.plan for m in ranked if m.ratio <= ranked[0].ratio + _NOISE]
    return _nearest(bench.default[subject], fast)


def _confirm(bench: Bench) -> None:
    """Measure the two fastest plans of each kernel again, at length."""
    pairs = [(s, m.plan) for s in bench.subjects for m in bench.ranked(s)[:2]
             if m.plan != bench.default[s]]  # fmt: skip
    if any(not bench.known[s][p].final for s, p in pairs):
        bench.say(f"{len(pairs)} of the fastest plans once more")
        bench.measure(pairs, final=True)
    # Compilations go by what was tuned last, which is this, though it be known for long.
    bench.keep({
        s: [replace(m, final=True) for m in bench.known[s].values()
            if m.final or m.plan == bench.default[s]]
        for s in bench.subjects
    })  # fmt: skip
