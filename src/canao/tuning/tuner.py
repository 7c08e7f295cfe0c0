"""The search for fast plans: which trials are built, in which order, and what counts as faster.

    1. the default plans of all kernels, as the reference of everything that follows
    2. the default's own group of plans, each kernel by coordinate descent (one axis at a time)
    3. other groups (shapes of the register tile), scouted on the kernel that takes most time;
       the best two are searched like the default's own, and dropped once clearly slower
    4. the winners against the default plans once more, at length: only this chooses plans

Every batch of trials runs in turns with the reference, so that a slower spell of the machine
falls on both. All times go into the database as they are taken; what is there is not repeated.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from canao.build import Toolchain
from canao.compiler import Stages, load_model, lower, tuning_database
from canao.device.base import Device, MeasureConfig
from canao.errors import DeviceError, InputError
from canao.fuse.form import Product
from canao.fuse.group import Program
from canao.schedule.database import Database, Measured, region_text
from canao.schedule.plan import REGISTERS, Plan, default_plan, default_plans
from canao.schedule.tuned import (
    Group,
    counterpart,
    distance,
    groups,
    legal_plans,
    neighbours,
    shared,
    tunable,
    tuned_plans,
)
from canao.target import Target, get_target
from canao.tuning.trial import Pair, Subject, Trial, build_trial

# Trials hold weights of at most as many bytes as the model, or this: more than caches keep.
_FOOTPRINT = 64 << 20
_MOST_STEPS = 32  # of one trial, unless it has more pairs
_MOST_BYTES, _MOST_PAIRS = 256 << 20, 24  # of one trial
_SCOUTED, _SEARCHED = 6, 2  # groups besides the default's own
_STEPS = 6  # of the coordinate descent
_SMALL = 0.02  # kernels with a smaller part of the time are measured, not searched
_CLEARLY_SLOWER = 1.05
_NOISE = 0.005  # differences of ratios that lead the descent nowhere
_QUICK, _FINAL = (3, 4), (8, 4)  # (rounds, samples in each)

Say = Callable[[str], None]


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
    model: str | Path | Any, *, target: Target | None = None, length: int = 128, threads: int = 1,
    budget_s: float = 90.0, max_length: int | None = None, toolchain: Toolchain | None = None,
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
        from canao.device.local import LocalDevice

        device = LocalDevice()
    stages = lower(graph, target, planner=default_plans)
    subjects = find_subjects(stages.program)
    if not subjects:
        raise InputError("the model has no product and no attention, whose plans could be tuned")
    database = tuning_database(target, toolchain)
    if fresh:
        database.forget([s.text for s in subjects])
    with tempfile.TemporaryDirectory(prefix="canao-tune-") as folder:
        tuner = Tuner(subjects, target, device, database, MeasureConfig(length, threads),
                      Path(folder), toolchain, start + budget_s, progress or _silent)  # fmt: skip
        complete = tuner.run()
    return Report(
        _chosen(stages, subjects, tuner), tuner.measured, time.monotonic() - start, complete
    )


def _silent(text: str) -> None:
    """The progress callback that says nothing."""


def find_subjects(program: Program) -> tuple[Subject, ...]:
    """The distinct regions of a program that can be tuned."""
    graph = program.graph
    found = [(region_text(graph, r), r) for r in program.regions if tunable(graph, r)]
    calls = Counter(text for text, _ in found)
    first = {text: region for text, region in reversed(found)}
    return tuple(Subject(text, graph, first[text], n) for text, n in calls.items())


def _chosen(stages: Stages, subjects: Sequence[Subject], tuner: Tuner) -> tuple[TunedKernel, ...]:
    """What compilations will use from now on."""
    program, names = stages.program, stages.source.kernel_names
    plans = tuned_plans(program, tuner.target, tuner.database)
    place = {r.output: i for i, r in enumerate(program.regions)}
    kernels = []
    for s in subjects:
        i = place[s.region.output]
        known, base = tuner.known[s].get(plans[i]), tuner.base(s)
        tuned = base * known.ratio if known and plans[i] != stages.plans[i] else base
        suffix = f"_{tuner.target.isa}_{stages.plans[i].name}"
        kernels.append(
            TunedKernel(names[i].removesuffix(suffix), s.calls, base, tuned,
                        stages.plans[i].name, plans[i].name)
        )  # fmt: skip
    return tuple(sorted(kernels, key=lambda k: -k.calls * k.default_ms))


class Tuner:
    """One search; `known` is what was measured under its length and threads, earlier or now."""

    def __init__(
        self, subjects: Sequence[Subject], target: Target, device: Device, database: Database,
        config: MeasureConfig, folder: Path, toolchain: Toolchain | None, end: float, say: Say,
    ) -> None:  # fmt: skip
        self.subjects, self.target, self.device = tuple(subjects), target, device
        self.database, self.config, self.folder = database, config, folder
        self.toolchain, self.end, self.say = toolchain, end, say
        self.default = {s: default_plan(s.region, target) for s in subjects}
        self.own = shared(self.default[subjects[0]])
        rows = database.read_all([s.text for s in subjects])
        self.known: dict[Subject, dict[Plan, Measured]] = {
            s: {m.plan: m for m in rows[s.text]
                if (m.length, m.threads) == (config.length, config.threads)}
            for s in subjects
        }  # fmt: skip
        total = sum(s.calls * s.constant_bytes for s in subjects)
        self.footprint = min(total, _FOOTPRINT)
        self.measured = self.trials = 0
        self.build_s = self.run_s = 0.0  # of the last trial
        self.reference: Trial | None = None
        self.cut_short = False

    def run(self) -> bool:
        """Search and confirm; whether the search ended by itself."""
        if any(self.default[s] not in self.known[s] for s in self.subjects):
            self._measure([], _QUICK)
        self.say(f"{len(self.subjects)} kernels by default: {self.total():.3f} ms a text")
        self._descend(self.own)
        for group in self._scout():
            self._descend(group)
        self._confirm()
        return not self.cut_short

    def base(self, subject: Subject) -> float:
        """Milliseconds of a call by the default plan."""
        return self.known[subject][self.default[subject]].base_ms

    def total(self, group: Group | None = None) -> float:
        """Milliseconds of the model's tuned kernels: by the default plans, or the best of a
        group; infinite if one has none yet."""
        return sum(
            s.calls * self.base(s) * (1.0 if group is None else self._ratio(s, group))
            for s in self.subjects
        )

    def _ratio(self, subject: Subject, group: Group) -> float:
        best = self._best(subject, group)
        return self.known[subject][best].ratio if best else math.inf

    def _best(self, subject: Subject, group: Group, rank: int = 0) -> Plan | None:
        """The fastest known plan of a group, or the next fastest by `rank`."""
        legal = set(legal_plans(subject.region, self.target, group))
        rows = [m for p, m in self.known[subject].items() if p in legal and m.ms is not None]
        rows.sort(key=lambda m: (m.ratio, astuple(m.plan)))
        return rows[rank].plan if rank < len(rows) else None

    def _by_weight(self) -> list[Subject]:
        return sorted(self.subjects, key=lambda s: -s.calls * self.base(s))

    def _descend(self, group: Group) -> None:
        """Coordinate descent in a group, all kernels at once."""
        for _ in range(_STEPS):
            if _CLEARLY_SLOWER * self.total(self.own) < self.total(group) < math.inf:
                return
            pairs = []
            for s in self._by_weight():
                start = counterpart(s.region, self.target, group)
                if start is None:
                    return
                plans = [start]
                if s.calls * self.base(s) >= _SMALL * self.total():
                    legal = legal_plans(s.region, self.target, group)
                    plans += neighbours(self._place(s, group, start), legal)
                pairs += [(s, p) for p in dict.fromkeys(plans) if p not in self.known[s]]
            pairs.sort(key=lambda pair: pair[1] != counterpart(pair[0].region, self.target, group))
            if not self._measure(pairs, _QUICK):
                return
            self.say(f"tile {_shown(group)}, {len(pairs)} plans: {self.total(group):.3f} ms")

    def _place(self, subject: Subject, group: Group, start: Plan) -> Plan:
        """Where the descent stands: of the plans that are as fast as any but for noise, the one
        nearest to the start."""
        legal = set(legal_plans(subject.region, self.target, group))
        ratios = {p: m.ratio for p, m in self.known[subject].items() if p in legal}
        least = min(ratios.values(), default=math.inf)
        fast = [p for p, ratio in ratios.items() if ratio <= least + _NOISE and ratio < math.inf]
        return min(fast, key=lambda p: (distance(p, start), astuple(p)), default=start)

    def _scout(self) -> list[Group]:
        """The most promising other groups, by the kernel that takes most time."""
        products = [s for s in self._by_weight() if isinstance(s.region.form, Product)]
        heavy = (products or self._by_weight())[0]
        others = [
            g for g in groups(heavy.region, self.target)
            if g != self.own and all(counterpart(s.region, self.target, g) for s in self.subjects)
        ]  # fmt: skip
        others.sort(key=lambda g: (self._rough_cost(heavy, g), g))
        pairs = [(heavy, p) for g in others[:_SCOUTED] for p in self._starts(heavy, g)
                 if p not in self.known[heavy]]  # fmt: skip
        if self._measure(pairs, _QUICK):
            self.say(f"{len(pairs)} other tiles, by the heaviest kernel")
        ranked = sorted((self._ratio(heavy, g), g) for g in others)
        return [g for ratio, g in ranked[:_SEARCHED] if ratio < _CLEARLY_SLOWER]

    def _starts(self, subject: Subject, group: Group) -> Iterator[Plan]:
        """For each width of tile in a group, the plan that is nearest to the default one."""
        legal = legal_plans(subject.region, self.target, group)
        near = sorted(legal, key=lambda p: (distance(p, self.default[subject]), astuple(p)))
        for nr in sorted({p.nr for p in legal}):
            yield next(p for p in near if p.nr == nr)

    def _rough_cost(self, subject: Subject, group: Group) -> float:
        """Instructions of the inner loop per row and column: only for the order of scouting.
        A tile issues a multiply-add for each vector, loads its operands, and with fewer than
        eight chains waits for the multiply-adds."""
        width = REGISTERS[self.target.isa][0]
        rows = -(-self.config.length // self.config.threads)
        costs = []
        for plan in legal_plans(subject.region, self.target, group):
            vectors = plan.nr // width
            tiles = [plan.mr] * (rows // plan.mr) + [rows % plan.mr]
            busy = sum(max(m * vectors, m + vectors, 8) for m in tiles if m)
            costs.append(busy / (rows * vectors))
        return min(costs)

    def _affords(self, trials: int, rounds: int) -> bool:
        """Whether there is time to build one more trial, to run it and `trials` others in turns
        with the reference, and to confirm what comes of it."""
        confirming = 2 * self.build_s + 3 * _FINAL[0] * self.run_s
        needed = self.build_s + (trials + 2) * rounds * self.run_s + confirming
        return time.monotonic() + needed < self.end

    def _confirm(self) -> None:
        """Measure winners again, at length: of the own group, and of the best other one."""
        known = {shared(p) for s in self.subjects for p in self.known[s]} - {self.own}
        others = sorted((self.total(g), g) for g in known)
        chosen = [self.own]
        chosen += [g for total, g in others[:1] if total < self.total(self.own)]
        pairs: list[Pair] = []
        for group in chosen:
            for s in self._by_weight():
                best = [self._best(s, group, rank) for rank in (0, 1)]
                pairs += [(s, p) for p in best if p and p != self.default[s]]
        if any(not self.known[s][p].final for s, p in pairs):
            self.say(f"{len(pairs)} of the fastest plans once more")
            self._measure(pairs, _FINAL, final=True)
        # Compilations go by what was tuned last, which is this, though it be known for long.
        self._keep({s: [m for m in self.known[s].values() if m.final] for s in self.subjects})

    # Measuring.

    def _measure(
        self, pairs: Sequence[Pair], effort: tuple[int, int], final: bool = False
    ) -> bool:
        """Time pairs in turns with the default plans and record them, as many as there is time
        for; False for none. No pairs: the default plans alone."""
        if self.reference is None:
            self.reference = self._reference()
        trials: list[Trial] = []
        for part in _parts(pairs):
            if not final and not self._affords(len(trials), effort[0]):
                self.cut_short = True
                break
            trials += self._admitted(part)
        if not trials and pairs:
            return False
        times: dict[Pair, list[float]] = {}
        config = MeasureConfig(self.config.length, self.config.threads, 1, effort[1])
        for _ in range(effort[0]):
            for trial in (*trials, self.reference):
                start = time.monotonic()
                for pair, ms in trial.times(self.device, config).items():
                    times.setdefault(pair, []).append(ms)
                self.run_s = time.monotonic() - start
        self._record(times, final)
        self.measured += sum(len(t.pairs) for t in trials)
        return True

    def _record(self, times: dict[Pair, list[float]], final: bool) -> None:
        rows: dict[Subject, list[Measured]] = {}
        for (s, plan), ms in times.items():
            failed = self.known[s].get(plan)
            if failed and failed.ms is None:
                continue
            ratio, base = _compared(ms, times[s, self.default[s]], final)
            if self.default[s] in self.known[s]:
                base = min(base, self.base(s))
            rows.setdefault(s, []).append(self._row(plan, ratio * base, base, final))
        self._keep(rows)

    def _row(self, plan: Plan, ms: float | None, base: float, final: bool = False) -> Measured:
        return Measured(plan, self.config.length, self.config.threads, ms, base, final)

    def _keep(self, rows: dict[Subject, list[Measured]]) -> None:
        for s, several in rows.items():
            self.known[s].update({m.plan: m for m in several})
        self.database.add({s.text: several for s, several in rows.items()})

    def _reference(self) -> Trial:
        trial = self._build([(s, self.default[s]) for s in self.subjects])
        trial.times(self.device, self._once())  # if nothing can run, this says so
        wrong = trial.wrong(self.config.length)
        if wrong:
            raise DeviceError(
                f"{wrong[0][1].name}: the default plan computes wrong numbers on this machine "
                f"({wrong[0][0].text[:80]}); nothing can be tuned"
            )
        return trial

    def _admitted(self, pairs: Sequence[Pair]) -> list[Trial]:
        """Trials of the pairs, whose failures are recorded: a plan that crashes is measured
        away from the others, one that computes wrong numbers does not count."""
        trial = self._build(pairs)
        try:
            trial.times(self.device, self._once())
        except DeviceError:
            if len(pairs) > 1:
                return [t for pair in pairs for t in self._admitted([pair])]
            self._fail(pairs)
            return []
        self._fail(trial.wrong(self.config.length))
        return [trial]

    def _once(self) -> MeasureConfig:
        return MeasureConfig(self.config.length, self.config.threads, 0, 1)

    def _fail(self, pairs: Iterable[Pair]) -> None:
        for s, plan in pairs:
            self.say(f"plan {plan.name} fails and does not count")
            base = self.base(s) if self.default[s] in self.known[s] else 1.0
            self._keep({s: [self._row(plan, None, base)]})

    def _build(self, pairs: Sequence[Pair]) -> Trial:
        self.trials, start = self.trials + 1, time.monotonic()
        size = sum(s.constant_bytes for s, _ in pairs)
        wanted = -(-self.footprint // max(1, size))
        copies = max(1, min(wanted, _MOST_STEPS // len(pairs)))
        place = self.folder / str(self.trials)
        trial = build_trial(pairs, self.target, place, copies=copies, toolchain=self.toolchain)
        self.build_s = time.monotonic() - start
        return trial


def _compared(ms: Sequence[float], base: Sequence[float], final: bool) -> tuple[float, float]:
    """Time over the default's, and the default's time. A final comparison is a cautious one: three
    of four rounds must be at least as good."""
    ratio = min(ms) / min(base)
    if final:
        rounds = sorted(a / b for a, b in zip(ms, base, strict=True))
        ratio = max(ratio, rounds[-(-3 * len(rounds) // 4) - 1])
    return ratio, min(base)


def _parts(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """Pairs by the libraries that they can be in: of one group, and not too large."""
    parts: list[list[Pair]] = []
    for group in dict.fromkeys(shared(plan) for _, plan in pairs):
        size = 0
        parts.append([])
        for pair in (p for p in pairs if shared(p[1]) == group):
            size += pair[0].constant_bytes
            if parts[-1] and (size > _MOST_BYTES or len(parts[-1]) == _MOST_PAIRS):
                parts.append([])
                size = pair[0].constant_bytes
            parts[-1].append(pair)
    return parts


def _shown(group: Group) -> str:
    return "x".join(map(str, group))
