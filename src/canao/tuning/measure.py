"""Measuring plans for the tuner, in turns with the default plans, and recording the times.

Trial libraries run in turns with the reference, a library of all kernels by their default plans:
when the machine is slow for a while, both are slow, and their ratio stays true. Every ratio is
written to the database as soon as it is measured. A plan that crashes or computes wrong numbers is
recorded as failed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from canao.build import Toolchain
from canao.device.base import Device, MeasureConfig
from canao.errors import DeviceError
from canao.lower.scheduling import default_plan, space
from canao.schedule.database import Database, Measured
from canao.schedule.plan import Plan, order
from canao.target import Target
from canao.tuning.trial_library import Pair, Subject, TrialLibrary, build_trial_library

# A trial library repeats its regions until their weights take as many bytes as the model's, but no
# more than this, which no cache holds.
_FOOTPRINT = 64 << 20
_MOST_STEPS = 32  # of one library, unless it has more pairs
_MOST_BYTES, _MOST_PAIRS = 256 << 20, 24  # of one library
_QUICK, _FINAL = (3, 4), (8, 4)  # (rounds, samples in each)

Say = Callable[[str], None]


class PlanTimer:
    """Measures plans at one sequence length and number of threads.

    known    of each kernel, what was measured earlier or now, by plan
    legal    of each kernel, all plans that may be
    """

    def __init__(
        self, subjects: Sequence[Subject], target: Target, device: Device, database: Database,
        config: MeasureConfig, folder: Path, toolchain: Toolchain | None, end: float, say: Say,
    ) -> None:  # fmt: skip
        self.subjects, self.target, self.device = tuple(subjects), target, device
        self.database, self.config, self.folder = database, config, folder
        self.toolchain, self.end, self.say = toolchain, end, say
        self.default = {s: default_plan(s.region, target) for s in subjects}
        self.legal = {s: space(s.region, target) for s in subjects}
        rows = database.read_all([s.text for s in subjects])
        self.known: dict[Subject, dict[Plan, Measured]] = {
            s: {m.plan: m for m in rows[s.text]
                if (m.length, m.threads) == (config.length, config.threads)}
            for s in subjects
        }  # fmt: skip
        total = sum(s.calls * s.constant_bytes for s in subjects)
        self.footprint = min(total, _FOOTPRINT)
        self.measured = self.built = 0
        self.build_s = self.run_s = 0.0  # of the slowest library
        self.reference: TrialLibrary | None = None
        self.cut_short = False  # something was left out for lack of time

    @property
    def rows(self) -> int:
        """Tokens of a thread."""
        return -(-self.config.length // self.config.threads)

    def base(self, subject: Subject) -> float:
        """Milliseconds of a call by the default plan."""
        return self.known[subject][self.default[subject]].base_ms

    def total(self, best: bool = False) -> float:
        """Milliseconds of all kernels for a sequence, by the default plans or the best known."""
        ratio = {s: self.ranked(s)[0].ratio if best else 1.0 for s in self.subjects}
        return sum(s.calls * self.base(s) * ratio[s] for s in self.subjects)

    def ranked(self, subject: Subject) -> list[Measured]:
        """What is known of legal plans that work, the fastest first."""
        known = self.known[subject]
        rows = [known[p] for p in self.legal[subject] if p in known and known[p].ms is not None]
        return sorted(rows, key=lambda m: (m.ratio, order(m.plan)))

    def with_part(self, least: float) -> list[Subject]:
        """The kernels that take at least this share of the total time, the heaviest first."""
        weight = {s: s.calls * self.base(s) for s in self.subjects}
        total = sum(weight.values())
        heavy = [s for s in self.subjects if weight[s] >= least * total]
        return sorted(heavy, key=lambda s: -weight[s])

    def _affords(self, libraries: int, rounds: int) -> bool:
        """Whether there is time to build one more library, to run it in turns with `libraries`
        others and the reference, and to confirm what comes of it."""
        confirming = 2 * self.build_s + 3 * _FINAL[0] * self.run_s
        needed = self.build_s + (libraries + 2) * rounds * self.run_s + confirming
        return time.monotonic() + needed < self.end

    def measure(self, pairs: Sequence[Pair], final: bool = False) -> bool:
        """Measure pairs in turns with the default plans, as many as there is time for, and record
        them. Without pairs, the default plans alone. Returns whether any pair was measured."""
        if self.reference is None:
            self.reference = self._reference()
        rounds, samples = _FINAL if final else _QUICK
        libraries: list[TrialLibrary] = []
        for part in _parts(pairs):
            if not final and not self._affords(len(libraries), rounds):
                self.cut_short = True
                break
            libraries += self.admitted(part)
        times: dict[Pair, list[float]] = {}
        config = MeasureConfig(self.config.length, self.config.threads, 1, samples)
        for _ in range(rounds if libraries or not pairs else 0):
            for library in (*libraries, self.reference):
                start = time.monotonic()
                for pair, ms in library.times(self.device, config).items():
                    times.setdefault(pair, []).append(ms)
                self.run_s = max(self.run_s, time.monotonic() - start)
        self._record(times, final)
        self.measured += sum(len(t.pairs) for t in libraries)
        return bool(libraries)

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
        self.keep(rows)

    def _row(self, plan: Plan, ms: float | None, base: float, final: bool = False) -> Measured:
        return Measured(plan, self.config.length, self.config.threads, ms, base, final)

    def keep(self, rows: dict[Subject, list[Measured]]) -> None:
        """Add rows to what is known, here and in the database."""
        for s, several in rows.items():
            self.known[s].update({m.plan: m for m in several})
        self.database.add({s.text: several for s, several in rows.items()})

    def _reference(self) -> TrialLibrary:
        library = self._build([(s, self.default[s]) for s in self.subjects])
        library.times(self.device, self._once())  # if nothing can run, this says so
        wrong = library.wrong(self.device, self.config.length)
        if wrong:
            raise DeviceError(
                f"{wrong[0][1].name}: the default plan computes wrong numbers on "
                f"{self.device.name} ({wrong[0][0].text[:80]}); nothing can be tuned"
            )
        return library

    def admitted(self, pairs: Sequence[Pair]) -> list[TrialLibrary]:
        """Libraries of those pairs that run. Where a library crashes, each of its pairs is built
        alone to find the plan at fault. Plans that crash or compute wrong numbers are recorded as
        failed."""
        library = self._build(pairs)
        try:
            library.times(self.device, self._once())
            wrong = library.wrong(self.device, self.config.length)
        except DeviceError:
            if self.reference is not None:  # if this ends as well, no plan is at fault
                self.reference.times(self.device, self._once())
            if len(pairs) > 1:
                return [t for pair in pairs for t in self.admitted([pair])]
            self._fail(pairs)
            return []
        self._fail(wrong)
        return [library]

    def _once(self) -> MeasureConfig:
        return MeasureConfig(self.config.length, self.config.threads, 0, 1)

    def _fail(self, pairs: Iterable[Pair]) -> None:
        for s, plan in pairs:
            self.say(f"plan {plan.name} fails and does not count")
            base = self.base(s) if self.default[s] in self.known[s] else 1.0
            self.keep({s: [self._row(plan, None, base)]})

    def _build(self, pairs: Sequence[Pair]) -> TrialLibrary:
        self.built, start = self.built + 1, time.monotonic()
        size = sum(s.constant_bytes for s, _ in pairs)
        wanted = -(-self.footprint // max(1, size))
        copies = max(1, min(wanted, _MOST_STEPS // len(pairs)))
        place = self.folder / str(self.built)
        library = build_trial_library(
            pairs, self.target, place, copies=copies, toolchain=self.toolchain
        )
        self.build_s = max(self.build_s, time.monotonic() - start)
        return library


def _compared(ms: Sequence[float], base: Sequence[float], final: bool) -> tuple[float, float]:
    """Time over the default's, and the default's time. A final comparison is a cautious one: three
    of four rounds must be at least as good."""
    ratio = min(ms) / min(base)
    if final:
        rounds = sorted(a / b for a, b in zip(ms, base, strict=True))
        ratio = max(ratio, rounds[-(-3 * len(rounds) // 4) - 1])
    return ratio, min(base)


def _parts(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """The pairs, split up into libraries that are not too large."""
    parts: list[list[Pair]] = []
    size = 0
    for pair in pairs:
        size += pair[0].constant_bytes
        if not parts or size > _MOST_BYTES or len(parts[-1]) == _MOST_PAIRS:
            parts.append([])
            size = pair[0].constant_bytes
        parts[-1].append(pair)
    return parts
