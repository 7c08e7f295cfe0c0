"""Evaluation of a candidate: first the latency of its library, then its proxy score.

Latency depends on the shapes of the weights and not on their values, so the library is compiled
from a skeleton: a model with this architecture that nobody has trained.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from canao.artifact.budgets import size_of
from canao.artifact.directory import Artifact
from canao.artifact.measured import Others, percentile, upper_bound_of_runs
from canao.artifact.temporary import WorkingDirectory
from canao.defaults import silent
from canao.device.base import Device, Failure, MeasureConfig, Measurement, Timing
from canao.device.certify import measure_runs
from canao.device.utilisation import library_peak
from canao.errors import CanaoError, DeviceError, DivergedError
from canao.model.arch import Arch, Block
from canao.precision.quantize import precision_of
from canao.search.candidates.allocate import allocated
from canao.search.candidates.space import Space
from canao.search.candidates.trial import (
    DOMINATED,
    FAILED,
    MEASURED_OVER,
    PREDICTED_OVER,
    TRAINED,
    Trial,
)
from canao.search.elsewhere import Elsewhere, Latency, bounds, latencies, worst
from canao.search.latency.kernels import Kernels, survey
from canao.search.latency.table import (
    LatencyTable,
    dominated,
    lower_bound_factor,
    table_key,
    usual_ratio,
)
from canao.search.options import Compile, Finish, Finished, SearchOptions, Trainer
from canao.search.study.journal import Journal
from canao.search.study.sharing import TIMED

if TYPE_CHECKING:
    from canao.train.metrics import Score

_PAUSES = 2  # of those of the options, before a candidate is measured again beside others' work
TRIES = 3  # measurements of a candidate that the table predicts to keep the budget


@dataclass(frozen=True, slots=True)
class Check:
    """What the library of a candidate needs under the full protocol, before it is trained in full.

    ms             latency at the budget's percentile
    most_ms        what that is at most, with a confidence of 95 %: this has to keep the budget
    size, memory   bytes of the artifact, and of a process that runs it
    elsewhere      what it takes at most on other devices, where it uses most of its budget there
    """

    ms: float
    most_ms: float
    size: int
    memory: int
    elsewhere: Latency | None = None


@dataclass(frozen=True)
class Evaluator:
    """Judges candidates by one budget, with a trainer, a compiler and a device. `finish` makes the
    library of a finished student, if that is more than compiling it; `kernels` says which a library
    will have; `elsewhere` are more devices on which it must keep a budget."""

    options: SearchOptions
    trainer: Trainer
    compile: Compile
    device: Device
    kernels: Kernels
    finish: Finish | None = None
    elsewhere: tuple[Elsewhere, ...] = ()

    @cached_property
    def table(self) -> LatencyTable:
        """The kernel times that this run has measured, kept in the run directory."""
        options = self.options
        key = table_key(self.device, options.measure, options.precision)
        return LatencyTable(options.run_dir / TIMED, key, self.kernels)

    def survey(self, space: Space, arch: Arch, say: Callable[[str], None] = silent) -> None:
        """Time the kernels of every block as wide as `arch`, so that its neighbours are predicted
        and not guessed."""
        choices, most = space.blocks_at(arch), self.trainer.teacher_arch().layers
        for one in survey(arch, choices["heads"], choices["ffn"], most):
            if self.table.predict(one) is None:
                say(f"timing the kernels of blocks of width {one.hidden}: {one}")
                with self.skeleton(one) as artifact:
                    profile = self.device.profile(artifact, self.options.search_measure)
                    self.table.record(one, profile)

    def allocate(
        self, space: Space, hidden: int, trials: Sequence[Trial],
        say: Callable[[str], None] = silent,
    ) -> Arch | None:  # fmt: skip
        """The student of that width that loses least of the teacher, of those that the table
        expects to keep the budget; None if it expects it of none."""
        teacher = self.trainer.teacher_arch()
        if hidden % teacher.head_size or teacher.head_size not in space.head_sizes:
            return None
        base = space.base(hidden, teacher.head_size)
        self.survey(space, base, say)
        outside, choices = self.table.outside(base), space.blocks_at(base)

        def time(block: Block) -> float:
            found = self.table.recalled(replace(base, blocks=(block,)))
            # None where the surveyed library ran other kernels than it was thought to.
            return math.inf if found is None else found - outside

        return allocated(
            base, (choices["heads"], choices["ffn"]), self.trainer.errors(), teacher.layers,
            self.trainer.kept_layers, time, self.options.budget_ms / usual_ratio(trials) - outside,
            self._most_weights(base, trials),
        )  # fmt: skip

    def _most_weights(self, base: Arch, trials: Sequence[Trial]) -> float:
        """How many weights the layers of a student as wide as `base` may have by the budgets of
        size and memory, from what the last library of that width needed; infinite if there are no
        such budgets."""
        budgets = self.options.budgets
        if math.isinf(budgets.room(0, 0)):
            return math.inf
        held = [(t.arch, t.size_bytes, t.peak_bytes) for t in trials]
        known = [(arch, size, memory) for arch, size, memory in held
                 if arch.hidden == base.hidden and size is not None and memory is not None]
        if not known:
            known = [(base, *self.needs(base, self.options.search_measure)[1:])]
        arch, size, memory = known[-1]
        each = precision_of(self.options.precision).weights.bytes
        return arch.weights() + budgets.room(size, memory) / each

    @contextmanager
    def skeleton(self, arch: Arch) -> Iterator[Artifact]:
        """The compiled skeleton of `arch`; its files are removed when the context ends."""
        with workspace(self.options.run_dir) as folder:
            made = self.compile(self.trainer.skeleton(arch), folder / "artifact")
            yield replace(made, timed_only=True)

    def finished(self, model_dir: Path, out: Path, say: Callable[[str], None]) -> Finished:
        """The library of a finished student."""
        if self.finish is None:
            return Finished(self.compile(model_dir, out))
        return self.finish(model_dir, out, say)

    def _timed(
        self, artifact: Artifact, config: MeasureConfig, tries: int = 1,
        pauses: Sequence[float] = (),
    ) -> Measurement:  # fmt: skip
        """The measurement of a library.

        One over the budget is measured up to `tries` times, and the fastest measurement counts,
        because another program may have been running. The search may do so, because it only looks
        for candidates; a certificate rests on a single measurement. While others take too much of a
        core, it is measured once more after each of `pauses`, in seconds.
        """
        ms = self._percentile
        best = self.device.measure(artifact, config)
        for pause in (*[0.0] * (tries - 1), *pauses):
            if isinstance(best, Failure) or ms(best) <= self.options.budget_ms:
                break
            if pause and not self._disturbed(best):
                break
            self.device.timer.wait(pause)
            again = self.device.measure(artifact, config)
            if isinstance(again, Timing) and self._tells_more(again, best):
                best = again
        return best

    def checked(self, arch: Arch, say: Callable[[str], None] = silent) -> Check:
        """What its library needs under the protocol of a certificate; DeviceError if it cannot be
        measured, or if it is over the budget while others take too much of a core."""
        options, q = self.options, self.options.percentile
        with self.skeleton(arch) as artifact:
            size = size_of(artifact)
            kept = measure_runs(
                artifact, self.device, options.measure, options.others_limit, say, str(arch)
            ).kept
        most = upper_bound_of_runs([run.samples_ms for run in kept], q)
        bothered = [run for run in kept if run.disturbed(options.others_limit)]
        if most > options.budget_ms and bothered:
            raise disturbed(str(arch), bothered[0].others, f"in {len(bothered)} processes")
        measured = percentile([ms for run in kept for ms in run.samples_ms], q)
        far = None
        if most <= options.budget_ms and self.elsewhere:
            far = worst(list(
                bounds(self.elsewhere, self.trainer.skeleton(arch), options, say)
            ))  # fmt: skip
        return Check(measured, most, size, max(run.peak_bytes for run in kept), far)

    def needs(
        self, arch: Arch, config: MeasureConfig, tries: int = 1, *, final: bool = False
    ) -> tuple[float, int, int]:
        """Milliseconds at the budget's percentile, bytes of the artifact and of memory; DeviceError
        if it cannot be measured.

        final   the verdict on it ends a search: where it is over the budget while others take too
                much of a core, it is measured again a few times, and then nothing is judged
        """
        measured, size = self._needed(arch, config, tries, final)
        return self._percentile(measured), size, measured.peak_bytes

    def _needed(
        self, arch: Arch, config: MeasureConfig, tries: int, final: bool
    ) -> tuple[Timing, int]:
        ms = self._percentile
        with self.skeleton(arch) as artifact:
            pauses = self.options.pauses_s if final else ()
            measured = self._timed(artifact, config, tries, pauses)
            size = size_of(artifact)
        if isinstance(measured, Failure):
            raise DeviceError(
                f"{self.device.name}: {arch} could not be measured "
                f"({measured.stage}: {measured.message})"
            )
        if final and ms(measured) > self.options.budget_ms and self._disturbed(measured):
            times = len(self.options.pauses_s) + 1
            raise disturbed(str(arch), measured.others, f"{times} times")
        return measured, size

    def _disturbed(self, timing: Timing) -> bool:
        return timing.others is not None and timing.others.exceeds(self.options.others_limit)

    def _tells_more(self, again: Timing, best: Timing) -> bool:
        """Whether a repeated measurement replaces the one before: the faster one does, and one that
        nobody disturbed."""
        faster = self._percentile(again) < self._percentile(best)
        return faster or (self._disturbed(best) and not self._disturbed(again))

    def _percentile(self, timing: Timing) -> float:
        return timing.percentile(self.options.percentile)

    def expected(self, arch: Arch, near: Trial) -> float:
        """What share of the budget is used that is used most, times the milliseconds of that of
        latency: as `near`, a candidate that was measured, and what differs of the two has it. That
        is enough to choose what is worth measuring.
        """
        budgets, ms = self.options.budgets, self._expected_ms(arch, near)
        if near.size_bytes is None or near.peak_bytes is None:
            return ms
        more = self._weights(arch, near) - near.size_bytes
        used = ms, near.size_bytes + more, max(0, near.peak_bytes + more)
        return (1.0 + budgets.excess(*used)) * budgets.ms

    def _weights(self, arch: Arch, near: Trial) -> int:
        """Bytes of the artifact of `arch`: those of `near` beside its layers in proportion to the
        width, and its layers' weights."""
        each = precision_of(self.options.precision).weights.bytes
        layers = each * near.arch.weights()
        beside = max(0, (near.size_bytes or 0) - layers) * arch.hidden / near.arch.hidden
        return round(beside + each * arch.weights())

    def _expected_ms(self, arch: Arch, near: Trial) -> float:
        """Milliseconds by the table where it has the kernels, as far off as it was of `near`; else
        those of `near`, times what there is more to compute."""
        predicted, measured = self.table.recalled(arch), near.latency_ms
        if predicted is not None:
            off = measured / near.predicted_ms if measured and near.predicted_ms else 1.0
            return predicted * off
        length = self.options.measure.length
        own = measured or near.predicted_ms or self.options.budget_ms
        return own * arch.flops(length) / near.arch.flops(length)

    def judge(
        self, arch: Arch, trials: Sequence[Trial], misses: Sequence[tuple[float, float]]
    ) -> Trial:
        """The trial of `arch`: rejected by the cheapest test it fails, or with a proxy score.

        misses   (predicted, measured) ms of finished libraries that broke the budget
        """
        trial = self.timed(arch, trials, misses)
        if trial.verdict != TRAINED:
            return trial
        start = time.monotonic()
        try:
            score = self.trainer.proxy_score(arch)
        except DivergedError as error:  # as it would again
            return replace(trial, verdict=FAILED, excess=1.0, reason=str(error))
        return scored(trial, score, time.monotonic() - start)

    def timed(
        self, arch: Arch, trials: Sequence[Trial], misses: Sequence[tuple[float, float]]
    ) -> Trial:
        """The same but for the proxy score, of which nothing is said yet."""
        start = time.monotonic()
        trial = self._reject(arch, trials, misses)
        if trial is None:
            trial = self._measured(arch, lower_bound_factor(trials, misses))
        return replace(trial, seconds=time.monotonic() - start)

    def _reject(
        self, arch: Arch, trials: Sequence[Trial], misses: Sequence[tuple[float, float]]
    ) -> Trial | None:
        """The trial of an architecture for which nothing has to be compiled to reject it."""
        miss = dominated(arch, trials)
        if miss is not None:
            reason = f"no smaller than {miss.arch}, which took {miss.reason}"
            return Trial(arch, DOMINATED, miss.excess, reason=reason)
        return self._predicted_over(arch, lower_bound_factor(trials, misses))

    def _predicted_over(self, arch: Arch, factor: float) -> Trial | None:
        predicted = self.table.predict(arch)
        if predicted is None or factor * predicted <= self.options.budget_ms:
            return None
        reason = f"at least {factor * predicted:.4g} ms by the table"
        excess = factor * predicted / self.options.budget_ms - 1.0
        return Trial(arch, PREDICTED_OVER, excess, predicted_ms=predicted, reason=reason)

    def _measured(self, arch: Arch, factor: float) -> Trial:
        """The trial of an architecture whose library is compiled. Kernels that have no time get one
        first, which may tell that it is too slow."""
        config = self.options.search_measure
        with self.skeleton(arch) as artifact:
            if arch not in self.table:
                self.table.record(arch, self.device.profile(artifact, config))
                over = self._predicted_over(arch, factor)
                if over is not None:
                    return over
            predicted = self.table.predict(arch)
            # If the table predicts that the budget is kept, a measurement over it is repeated, and
            # after pauses where others took the cores: what it misses by would count against
            # larger ones as well.
            promising = predicted is not None and predicted <= self.options.budget_ms
            pauses = self.options.pauses_s[:_PAUSES] if promising else ()
            measured = self._timed(artifact, config, TRIES if promising else 1, pauses)
            size = size_of(artifact)
        if isinstance(measured, Failure):
            reason = f"{measured.stage}: {measured.message}"
            return Trial(arch, FAILED, 1.0, predicted_ms=predicted, reason=reason)
        latency, median = self._percentile(measured), measured.percentile(50)
        used, flops = (latency, size, measured.peak_bytes), arch.flops(config.length)
        budgets = self.options.budgets
        excess, reason = budgets.excess(*used), budgets.missed(*used)
        if excess <= 0 and self.elsewhere:
            skeleton = self.trainer.skeleton(arch)
            try:
                far = worst(list(latencies(self.elsewhere, skeleton, self.options)))
            except DeviceError as error:
                return Trial(arch, FAILED, 1.0, predicted_ms=predicted, reason=str(error))
            if far is not None and far.share > 1 + excess:
                excess, reason = far.share - 1, str(far) if far.share > 1 else ""
        peak = library_peak(artifact, self.device, config.threads)
        return Trial(
            arch,
            MEASURED_OVER if excess > 0 else TRAINED,
            excess,
            latency_ms=latency,
            bound_ms=measured.upper_bound(self.options.percentile),
            median_ms=median,
            predicted_ms=predicted,
            operators=artifact.operators,
            kernels=artifact.kernels,
            flops=flops,
            utilisation=flops / (median / 1000 * peak),
            peak_bytes=measured.peak_bytes,
            size_bytes=size,
            reason=reason,
        )


def scored(trial: Trial, score: Score, seconds: float) -> Trial:
    """A trial that was timed, with its proxy score, which took so many seconds."""
    return replace(
        trial, accuracy=score.value, metrics=dict(score.metrics), seconds=trial.seconds + seconds
    )


def judge_next(evaluator: Evaluator, journal: Journal) -> Trial | None:
    """Judge the journal's next proposal, and tell it the verdict; None if there is nothing left to
    propose."""
    proposal = journal.ask()
    if proposal is None:
        return None
    try:
        trial = evaluator.judge(proposal.arch, journal.trials, journal.misses)
    except BaseException:  # also on an interrupt, so that it is judged next time
        with suppress(CanaoError):  # of a full disk; it is put back when the run is resumed
            journal.give_up(proposal)
        raise
    journal.tell(proposal, trial)
    return trial


def disturbed(what: str, others: Others | None, often: str) -> DeviceError:
    """The error of a verdict that cannot be given, however `often` it was looked for."""
    return DeviceError(
        f"{what}: the measurement was disturbed, {often}: {others}; nothing is judged: end other "
        "programs, then the same command continues where it stopped, or give a larger "
        "--others-limit"
    )


@contextmanager
def workspace(run_dir: Path) -> Iterator[Path]:
    """A temporary folder inside the run directory, removed when the context ends. What runs left
    that were killed is removed as well."""
    with WorkingDirectory("work", run_dir) as folder:
        yield folder
