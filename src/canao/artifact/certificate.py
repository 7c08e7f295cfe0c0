"""Certificate: what one compiled library was measured to take, kept beside it as JSON.

A certificate is of files: it holds the digest of each file of its artifact, and is of no use with
others. It holds every sample of every process as well. Its verdict and its figures follow from the
samples: they are computed anew when it is read, and one that says something else is refused, as is
one that was changed after it was written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from canao.artifact.budgets import MB, OtherBudgets, Scored
from canao.artifact.directory import digest_of
from canao.artifact.files import write_whole
from canao.artifact.manifest import sealed
from canao.artifact.measured import (
    CONFIDENCE,
    Clock,
    Others,
    are_enough,
    percentile,
    summary,
    upper_bound_of_runs,
)
from canao.artifact.sustained import Minute, sustained_text, worst
from canao.errors import BudgetError, InputError

CERTIFICATE_FORMAT = 5
CERTIFICATE_FILE = "certificate.json"
# The percentile of the samples that a budget limits, and the least number of samples that MLPerf
# Mobile takes for it (single inferences).
PERCENTILE = 90.0
CERTIFIED_SAMPLES = 1024
# Of how many fresh processes samples are at least, and seconds from the start of the first to that
# of the last: a process keeps the memory pages that it got, and a moment its clock.
PROCESSES, SPREAD_S = 5, 30.0
# Who had a certificate made. One of a search belongs to its run, and to the report of it.
BY_SEARCH, BY_HAND = "search", "certify"

AGAIN = "run `canao certify` again"


@dataclass(frozen=True, slots=True)
class Run:
    """What one fresh process measured; times in ms.

    at_s           seconds from the start of the first process to that of this one
    samples_ms     every sample, in the order in which they were taken
    load_ms        time to open the library; cold_ms the first inference after that
    peak_bytes     the most memory that the process held
    others         what else ran meanwhile; None where the device does not tell
    clock          how fast the core was; None where the device does not tell
    """

    at_s: float
    samples_ms: tuple[float, ...]
    load_ms: float
    cold_ms: float
    peak_bytes: int
    others: Others | None = None
    clock: Clock | None = None

    def disturbed(self, limit: float) -> bool:
        """Whether others took more of a core than the limit."""
        return self.others is not None and self.others.exceeds(limit)

    def to_dict(self, *, raw: bool = True) -> dict[str, Any]:
        """JSON form; without the samples unless `raw`."""
        row: dict[str, Any] = {"at_s": self.at_s, "samples_ms": list(self.samples_ms)}
        row |= {"load_ms": self.load_ms, "cold_ms": self.cold_ms, "peak_bytes": self.peak_bytes}
        row["others"] = None if self.others is None else self.others.to_dict()
        row["clock"] = None if self.clock is None else self.clock.to_dict()
        return row if raw else {k: v for k, v in row.items() if k != "samples_ms"}


@dataclass(frozen=True, slots=True)
class Earlier:
    """What an earlier certificate of the same files under the same protocol said."""

    date: str
    measured_ms: float
    bound_ms: float
    holds: bool


@dataclass(frozen=True, slots=True)
class Certificate:
    """One library measured against a budget, on one device under one protocol; times in ms.

    precision      of the library's products, as its manifest says it
    other_budgets  those besides that of latency
    predicted_ms   prediction of the latency table; None without a table
    runs           what each process measured, in order
    set_aside      processes that were disturbed, in whose place others were measured
    size_bytes     of all files of the artifact
    score          of the library's own predictions; None if they were not asked for
    others_limit   the share of a core that others were allowed to take
    config         the measurement protocol
    made_by        BY_SEARCH or BY_HAND
    earlier        certificates of the same files under the same protocol before, the first first
    sustained      minutes of runs without a pause, measured after the processes; () if not asked
    files          digest of each file of the artifact; the certificate is valid for no others
    date           UTC, ISO 8601
    """

    precision: str
    budget_ms: float
    percentile: float
    other_budgets: OtherBudgets
    predicted_ms: float | None
    runs: tuple[Run, ...]
    set_aside: tuple[Run, ...]
    size_bytes: int
    score: Scored | None
    others_limit: float
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    device: str
    made_by: str
    earlier: tuple[Earlier, ...]
    files: Mapping[str, str]
    date: str
    sustained: tuple[Minute, ...] = ()

    @property
    def samples_ms(self) -> tuple[float, ...]:
        """The samples of all processes."""
        return tuple(ms for run in self.runs for ms in run.samples_ms)

    @property
    def load_ms(self) -> float:
        """The median of all processes, as is `cold_ms`."""
        return median(run.load_ms for run in self.runs)

    @property
    def cold_ms(self) -> float:
        return median(run.cold_ms for run in self.runs)

    @property
    def peak_bytes(self) -> int:
        """Of the process that held most memory."""
        return max(run.peak_bytes for run in self.runs)

    @property
    def others(self) -> Others | None:
        """What others took while that process ran of which they took most."""
        told = [run.others for run in self.runs if run.others is not None]
        return max(told, key=lambda others: others.most, default=None)

    @property
    def measured_ms(self) -> float:
        """The percentile of all samples."""
        return percentile(self.samples_ms, self.percentile)

    @property
    def bound_ms(self) -> float:
        """What that is at most for all runs, with a confidence of 95 %, by the samples. This is
        what the budget limits."""
        return upper_bound_of_runs([run.samples_ms for run in self.runs], self.percentile)

    @property
    def bound_is(self) -> str:
        """What `bound_ms` is, in words: there may be too few samples for a bound."""
        if are_enough(len(self.samples_ms), self.percentile):
            return f"at most, with {CONFIDENCE:.0%} confidence"
        return "at most, of these samples"

    @property
    def missed(self) -> str:
        """Which budgets are missed, and with what; '' if all are kept."""
        late = [f"p{self.percentile:g} of {self.bound_ms:.4g} ms {self.bound_is}, and the budget "
                f"is {self.budget_ms:g} ms"] if self.bound_ms > self.budget_ms else []  # fmt: skip
        if worst(self.sustained) > self.budget_ms:
            late.append(f"p{self.percentile:g} of {worst(self.sustained):.4g} ms in the worst of "
                        f"{len(self.sustained)} minutes, and the budget is {self.budget_ms:g} ms")
        value = None if self.score is None else self.score.value
        rest = self.other_budgets.missed(self.size_bytes, self.peak_bytes, value)
        return "; ".join([*late, *rest])

    @property
    def holds(self) -> bool:
        """Whether all budgets are kept: of latency by its bound, and by the worst minute."""
        return not self.missed

    @property
    def error(self) -> float | None:
        """measured / predicted - 1."""
        return self.measured_ms / self.predicted_ms - 1.0 if self.predicted_ms else None

    @property
    def latency_ms(self) -> dict[str, float]:
        """The summary of the samples, with opening, cold start and peak memory."""
        more = {"load": self.load_ms, "cold": self.cold_ms, "peak_bytes": self.peak_bytes}
        return summary(self.samples_ms) | more

    @property
    def disturbed(self) -> bool:
        """Whether others took more of a core than the limit."""
        return any(run.disturbed(self.others_limit) for run in self.runs)

    @property
    def digest(self) -> str:
        """One hash of all the files, as `Artifact.digest` has it."""
        return digest_of(self.files)

    @property
    def machine(self) -> str | None:
        """The stamp of the machine that the library ran on."""
        return self.environment.get("machine")

    @property
    def protocol(self) -> dict[str, Any]:
        """What was asked, and of which machine: figures under another protocol say other things."""
        return protocol(
            self.budget_ms, self.percentile, self.config, self.device, self.machine,
            self.other_budgets, len(self.sustained),
        )  # fmt: skip

    def to_dict(self, *, raw: bool = True) -> dict[str, Any]:
        """JSON form, with verdict and figures; without the samples unless `raw`."""
        sustained = [minute.to_dict() for minute in self.sustained]
        row: dict[str, Any] = {
            "format": CERTIFICATE_FORMAT,
            "precision": self.precision,
            "budget_ms": self.budget_ms,
            "percentile": self.percentile,
            "other_budgets": asdict(self.other_budgets),
            "predicted_ms": self.predicted_ms,
            "runs": [run.to_dict(raw=raw) for run in self.runs],
            "set_aside": [run.to_dict(raw=raw) for run in self.set_aside],
            "size_bytes": self.size_bytes,
            "score": None if self.score is None else asdict(self.score),
            "others_limit": self.others_limit,
            "config": dict(self.config),
            "environment": dict(self.environment),
            "device": self.device,
            "made_by": self.made_by,
            "earlier": [asdict(one) for one in self.earlier],
            "files": dict(self.files),
            "date": self.date,
            **({"sustained": sustained} if sustained else {}),
            **self.derived(),
        }
        return sealed(row) if raw else row

    def derived(self) -> dict[str, Any]:
        """What follows from the rest, and is written for those who read the file themselves."""
        return {"holds": self.holds, "measured_ms": self.measured_ms, "bound_ms": self.bound_ms,
                "error": self.error, "latency_ms": self.latency_ms, "disturbed": self.disturbed,
                "digest": self.digest}  # fmt: skip

    def __str__(self) -> str:
        others = "what others did is not told" if self.others is None else str(self.others)
        return (
            f"p{self.percentile:g} {self.measured_ms:.4g} ms, {self.bound_ms:.4g} ms "
            f"{self.bound_is}, on {self.device} ({self.precision}, {len(self.samples_ms)} samples "
            f"of {len(self.runs)} processes, {self.config['length']} tokens, "
            f"{self.config['threads']} threads; {others}), budget {self.budget_ms:g} ms"
        )

    @property
    def told(self) -> list[str]:
        """What there is to say besides, a line each: of other budgets, of processes that were set
        aside, and of earlier certificates that say something else."""
        value = None if self.score is None else self.score.value
        rest = self.other_budgets.told(self.size_bytes, self.peak_bytes, value)
        lines = [f"budgets: {', '.join(rest)}"] if rest else []
        lines += sustained_text(self.sustained, self.percentile)
        if self.score is not None:
            lines.append(str(self.score))
        if self.set_aside:
            told = [run.others for run in self.set_aside if run.others is not None]
            worst = max(told, key=lambda others: others.most)
            lines.append(f"{len(self.set_aside)} more processes were set aside, of which one ran "
                         f"while {worst}")  # fmt: skip
        missed = [one for one in self.earlier if one.holds != self.holds]
        if missed:
            said = ", ".join(f"{one.bound_ms:.4g} ms" for one in missed)
            lines.append(f"{len(missed)} of {len(self.earlier)} measurements of these files before "
                         f"{'missed' if self.holds else 'kept'} the budget: at most {said}")
        return lines


def protocol(
    budget_ms: float, q: float, config: Mapping[str, Any], device: str, machine: str | None,
    other_budgets: OtherBudgets, sustain: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """What tells one certificate's question from another's, by name; `sustain` is minutes."""
    asked = {"budget": float(budget_ms), "percentile": float(q), "device": device,
             "machine": machine, "sustain": sustain, **asdict(other_budgets)}  # fmt: skip
    return asked | {name: value for name, value in config.items() if name != "cores"} | {
        "cores": list(config["cores"])
    }


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """In words, how two protocols differ; '' if they are the same."""
    return ", ".join(
        f"{name} {was.get(name)}, now {now.get(name)}"
        for name in sorted(was.keys() | now.keys())
        if was.get(name) != now.get(name)
    )


def write_certificate(path: Path, certificate: Certificate) -> None:
    """Write a certificate, whole or not at all; OSError if it cannot be written."""
    write_whole(path, certificate_text(certificate))


def certificate_text(certificate: Certificate) -> str:
    """A certificate as its file holds it."""
    return json.dumps(certificate.to_dict(), indent=1, sort_keys=True, allow_nan=False) + "\n"


def check_machine(certificate: Certificate, path: Path, machine: str | None) -> None:
    """InputError if a certificate is of another machine than that with the stamp `machine`; None:
    any will do."""
    if machine is not None and certificate.machine != machine:
        raise InputError(
            f"{path}: was measured on {certificate.machine}, and this machine is {machine}: it "
            f"says nothing of the latency here; {AGAIN} on this one"
        )


def require_budget(certificate: Certificate) -> None:
    """Raise BudgetError unless the certificate says that all budgets were kept."""
    if not certificate.holds:
        raise BudgetError(
            f"budget missed: {certificate.missed} ({certificate}); search again for a model that "
            "keeps it, or give another budget"
        )


def require_baseline(certificate: Certificate, baseline: Certificate, most: float) -> None:
    """Raise BudgetError if latency, memory or size grew by more than `most` percent of what the
    baseline says."""
    grown = [
        f"{one.name} {one.now:.4g} {one.unit}, {one.grown:+.1%} against {one.was:.4g}"
        for one in compared(certificate, baseline) if one.now > (1 + most / 100) * one.was
    ]  # fmt: skip
    if grown:
        raise BudgetError(f"regression of more than {most:g} %: {'; '.join(grown)}; undo what made "
                          "it so, or give a larger --max-regression")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Compared:
    """A figure of a baseline and of a later certificate."""

    name: str
    unit: str
    was: float
    now: float

    @property
    def grown(self) -> float:
        """now / was - 1; 0 where nothing was and is."""
        return self.now / self.was - 1 if self.was else math.inf if self.now else 0.0


def compared(certificate: Certificate, baseline: Certificate) -> tuple[Compared, ...]:
    """Latency, memory and size of a certificate beside those of a baseline."""
    return tuple(
        Compared(name, unit, of(baseline), of(certificate))
        for name, unit, of in (
            ("latency", "ms", lambda one: one.measured_ms),
            ("memory", "MB", lambda one: one.peak_bytes / MB),
            ("size", "MB", lambda one: one.size_bytes / MB),
        )
    )


def check_baseline(baseline: Certificate, path: Path, asked: Mapping[str, Any]) -> None:
    """InputError if a baseline is of another machine or protocol than what is `asked` now: its
    figures say nothing then. Budgets may differ."""
    check_machine(baseline, path, asked["machine"])
    budgets = {"budget", "size_mb", "memory_mb", "min_accuracy"}
    was, now = ({name: value for name, value in one.items() if name not in budgets}
                for one in (baseline.protocol, asked))  # fmt: skip
    differing = differences(was, now)
    if differing:
        raise InputError(f"{path}: is under another protocol ({differing}); certify it again as "
                         "this one, or give its options")  # fmt: skip
