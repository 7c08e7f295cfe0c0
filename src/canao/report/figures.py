"""The figures of a run for programs: summary.json and trials.csv."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from canao.model.arch import Arch
from canao.report.run import Run
from canao.report.why import why
from canao.search.candidates.trial import Trial, pareto
from canao.search.certification import RESULT_FILE
from canao.search.latency.table import prediction_errors
from canao.search.options import LeftOut

_COLUMNS = (
    "number", "arch", "layers", "hidden", "heads", "ffn", "verdict", "accuracy", "latency_ms",
    "bound_ms", "median_ms", "predicted_ms", "operators", "kernels", "flops", "utilisation",
    "peak_bytes", "size_bytes", "seconds", "reason",
)  # fmt: skip


def summary(run: Run) -> dict[str, Any]:
    """The figures of a run for programs; times are in milliseconds."""
    result = msgspec.to_builtins(run.result) if run.result else {}
    certified = run.certificate if run.state == "certified" else None
    measured = certified.measured_ms if certified else None
    teacher_ms = run.result.teacher.latency_ms if run.result else None
    return {
        "state": run.state,
        "refused": run.refused,
        "budget_ms": run.facts["budget_ms"],
        "size_mb": run.facts.get("size_mb"),
        "memory_mb": run.facts.get("memory_mb"),
        "min_accuracy": run.facts.get("min_accuracy"),
        "percentile": run.facts["percentile"],
        "device": run.facts["device"],
        "controller": run.facts["controller"],
        "precision": run.precision,
        "left_out": [[one.precision, one.max_loss, one.why] for one in LeftOut.of(run.facts)],
        "check": run.artifact.manifest.get("check") if run.artifact else None,
        "arch": result.get("arch"),
        "why": list(reasons(run)),
        "student": result.get("student"),
        "teacher": result.get("teacher"),
        "certified_ms": measured,
        "certified_at_most_ms": run.certificate.bound_ms if run.certificate and measured else None,
        "vocabulary": result.get("vocabulary"),
        "speedup": teacher_ms / measured if teacher_ms and measured else None,
        "prediction_errors": list(prediction_errors(run.trials)),
        "trials": dict(Counter(trial.verdict for trial in run.trials)),
        "pareto": [
            {"arch": str(t.arch), "latency_ms": t.latency_ms, "accuracy": t.accuracy}
            for t in pareto(run.trials)
        ],
    }


def reasons(run: Run) -> tuple[str, ...]:
    """Why the search ended with its architecture, in sentences; nothing until it has ended."""
    if run.result is None:
        return ()
    arch = Arch.of(run.result.arch, RESULT_FILE)
    return why(arch, run.trials, run.facts, run.certificate)


def trials_csv(trials: Sequence[Trial]) -> str:
    """A CSV table with one row for each judged architecture, in order."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for number, trial in enumerate(trials):
        sizes = {name: getattr(trial.arch, name) for name in ("layers", "hidden", "heads", "ffn")}
        row = sizes | {"number": number, "arch": str(trial.arch)}
        found = {name: row[name] if name in row else getattr(trial, name) for name in _COLUMNS}
        writer.writerow({name: "" if value is None else value for name, value in found.items()})
    return stream.getvalue()
