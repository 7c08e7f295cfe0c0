"""The report of a search: a self-contained HTML page, trials.csv and summary.json.

It only reads what the search left in its directory, finished or not, and measures nothing. A
certificate that is not of the library beside it, or not of this search, is refused: the page says
so, and nothing of it is shown.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from canao.artifact.certificate import Certificate, differences, load_certificate
from canao.artifact.directory import Artifact
from canao.artifact.files import write_whole
from canao.artifact.manifest import otherwise
from canao.artifact.measured import CONFIDENCE, Others
from canao.defaults import PRECISION
from canao.errors import InputError
from canao.model.arch import Arch
from canao.report.plots import pareto_svg
from canao.report.why import why
from canao.search.budgets import Budgets, size_of
from canao.search.certification import (
    ARTIFACT_DIR,
    RESULT_FILE,
    Result,
    read_profile,
    read_result,
)
from canao.search.journal import read_run_file, read_trials
from canao.search.options import LEFT_OUT, LeftOut
from canao.search.table import prediction_errors
from canao.search.trial import Trial, best_first, pareto

REPORT_FILE = "report.html"
_COLUMNS = (
    "number", "arch", "layers", "hidden", "heads", "ffn", "verdict", "accuracy", "latency_ms",
    "bound_ms", "median_ms", "predicted_ms", "operators", "kernels", "flops", "utilisation",
    "peak_bytes", "size_bytes", "seconds", "reason",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Run:
    """The content of a run directory. Until the run is finished, and where its certificate is
    refused, the last four fields are empty; `refused` says why it was, in a line."""

    facts: Mapping[str, Any]
    data: Sequence[str]
    trials: tuple[Trial, ...]
    refused: str | None = None
    result: Result | None = None
    artifact: Artifact | None = None
    certificate: Certificate | None = None
    profile: tuple[tuple[str, float], ...] = ()

    @property
    def state(self) -> str:
        """'certified', 'missed' for a library that misses a budget now, as it was measured again or
        the least score was raised, 'refused' or 'unfinished'."""
        if self.certificate is None:
            return "unfinished" if self.refused is None else "refused"
        return "missed" if self.missed else "certified"

    @property
    def missed(self) -> str:
        """Which budgets the library misses, and with what; '' where it keeps all, or there is none.
        """
        if self.certificate is None or self.artifact is None or self.result is None:
            return ""
        student = self.result.student
        return Budgets.of(self.facts).missed(
            self.certificate.measured_ms, size_of(self.artifact), self.certificate.peak_bytes,
            student.metrics.get(student.primary),
        )  # fmt: skip


def write_report(run_dir: str | Path) -> Path:
    """Write report.html, trials.csv and summary.json into the run directory.

    Returns the path of the page. Raises InputError if the directory was not written by a search,
    and also, once the page that says so is written, if its certificate is refused.
    """
    run_dir = Path(run_dir)
    run = read(run_dir)
    try:
        write_whole(run_dir / "trials.csv", trials_csv(run.trials))
        write_whole(run_dir / "summary.json", json.dumps(summary(run), indent=1) + "\n")
        write_whole(run_dir / REPORT_FILE, page(run))
    except OSError as error:
        raise InputError(f"{run_dir}: the report cannot be written ({error.strerror})") from None
    if run.refused is not None:
        raise InputError(run.refused)
    return run_dir / REPORT_FILE


def read(run_dir: Path) -> Run:
    """Read a run directory; InputError if there is no run in it, or a file is damaged."""
    held, trials = read_run_file(run_dir), read_trials(run_dir)
    result, profile = read_result(run_dir), read_profile(run_dir)
    unfinished, place = Run(held.facts, held.data, trials), held.place or {}
    if result is None and not os.path.lexists(run_dir / ARTIFACT_DIR):
        return unfinished
    try:
        artifact = Artifact.load(run_dir / ARTIFACT_DIR)
        certificate = load_certificate(artifact)
        _require_own(certificate, held.facts, run_dir)
    except InputError as error:
        return replace(unfinished, refused=str(error))
    if place.get("machine") not in (None, certificate.environment.get("machine")):
        return unfinished  # the run went on elsewhere, and has not come to a library there
    if result is None or result.digest != certificate.digest:
        # The search ended between the two files: of the library that is there, nothing else is.
        return replace(unfinished, refused=f"{run_dir}: {RESULT_FILE} is not of the library in "
                       f"{ARTIFACT_DIR}/; the command of the search finishes it")  # fmt: skip
    own = profile is not None and profile.digest == certificate.digest
    kernels = tuple(profile.kernels) if profile is not None and own else ()
    return replace(
        unfinished, result=result, artifact=artifact, certificate=certificate, profile=kernels
    )


def _require_own(certificate: Certificate, facts: Mapping[str, Any], run_dir: Path) -> None:
    """InputError unless the certificate answers the question of this search."""
    measure = {name.removeprefix("measure."): value for name, value in facts.items()
               if name.startswith("measure.")}  # fmt: skip
    asked = {"budget": facts["budget_ms"], "percentile": facts["percentile"],
             "device": facts["device"], **measure}  # fmt: skip
    found = {name: value for name, value in certificate.protocol.items() if name != "machine"}
    differing = differences(asked, found)
    if differing:
        raise InputError(
            f"{run_dir / ARTIFACT_DIR}: its certificate is under another protocol than the search "
            f"({differing}); certify with the search's options"
        )


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
        "precision": _precision(run),
        "left_out": [[one.precision, one.max_loss, one.why] for one in LeftOut.of(run.facts)],
        "check": run.artifact.manifest.get("check") if run.artifact else None,
        "arch": result.get("arch"),
        "why": list(_why(run)),
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


def _precision(run: Run) -> str:
    """Of the library, or until there is one of the run; runs of earlier versions say of none."""
    if run.certificate is not None:
        return run.certificate.precision
    return str(run.facts.get("precision", PRECISION))


def trials_csv(trials: Sequence[Trial]) -> str:
    """A CSV table with one row for each judged architecture, in order."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for number, trial in enumerate(trials):
        row = trial.to_dict()
        sizes = {name: getattr(trial.arch, name) for name in ("layers", "hidden", "heads", "ffn")}
        row |= sizes | {"number": number, "arch": str(trial.arch)}
        writer.writerow({name: "" if row[name] is None else row[name] for name in _COLUMNS})
    return stream.getvalue()


def page(run: Run) -> str:
    """The HTML page. Every text that comes from the run is escaped."""
    parts = [
        _head(run),
        _section("Result", _scores(run)),
        _section("Why this architecture", _lines(_why(run))),
        _section("Accuracy against latency", _plot(run)),
        _section("Certificate", _certificate(run.certificate)),
        _section("Where time goes", _bars(run.profile)),
        _section("What was fused", _fused(run.artifact)),
        _section("Candidates", _candidates(run.trials)),
        _section("Data", _lines(run.data)),
        _section("Options of the run", _facts(
            (name, value) for name, value in run.facts.items() if name != LEFT_OUT
        )),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>CANAO search</title><style>{_STYLE}</style></head>\n"
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


def _head(run: Run) -> str:
    facts, budget = run.facts, f"{run.facts['budget_ms']:g} ms"
    counted = Counter("trained" if trial.trained else "rejected" for trial in run.trials)
    cards = [("budget", f"{budget}, p{facts['percentile']:g}"), ("precision", _precision(run))]
    for name in ("size_mb", "memory_mb"):
        if facts.get(name) is not None:
            cards.append((f"limit of {name.removesuffix('_mb')}", f"{facts[name]:g} MB"))
    if facts.get("min_accuracy") is not None:
        cards.append(("least score", f"{facts['min_accuracy']:g}"))
    if run.artifact is not None:
        cards.append(("size", f"{size_of(run.artifact) / 1e6:.4g} MB"))
    if run.certificate and run.state == "certified":
        cards.append(("certified", f"{run.certificate.measured_ms:.4g} ms"))
    speedup = summary(run)["speedup"]
    if speedup:
        cards.append(("speed-up over the teacher", f"{speedup:.2f}×"))
    if run.result:
        cards.append(("student", str(Arch.of(run.result.arch, RESULT_FILE))))
    cards.append(("candidates", f"{counted['trained']} trained, {counted['rejected']} rejected"))
    boxes = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in cards
    )
    state = f'<p class="state">{escape(_state(run))}</p>'
    return f'<h1>CANAO search</h1>{state}<dl class="cards">{boxes}</dl>'


def _state(run: Run) -> str:
    if run.certificate and run.state == "certified":
        return f"certified on {run.certificate.device}"
    if run.certificate and not run.certificate.holds:
        return f"missed: measured again, {run.certificate}"
    if run.certificate:
        return f"missed: {run.missed}; the command of the search goes on"
    if run.refused:
        return f"refused: {run.refused}"
    return "unfinished: no library has been judged yet"


def _scores(run: Run) -> str:
    if run.result is None:
        best = best_first(run.trials)[:1]
        if not best:
            return "<p>Nothing has been trained yet.</p>" + _left_out(run)
        accuracy, ms = _number(best[0].accuracy), _number(best[0].latency_ms)
        arch = escape(str(best[0].arch))
        said = f"<p>Best candidate so far: {arch}, proxy score {accuracy} at {ms} ms.</p>"
        return said + _left_out(run)
    teacher, student = run.result.teacher, run.result.student
    rows = []
    for name, value in student.metrics.items():
        mark = " (decides)" if name == student.primary else ""
        rows.append((name + mark, _number(teacher.metrics.get(name)), _number(value)))
    measured = run.certificate.measured_ms if run.certificate else None
    rows.append(("latency, ms", _number(teacher.latency_ms), _number(measured)))
    table = _table(("", "teacher", "student"), rows)
    return table + _vocabulary(run.result) + _check(run.artifact) + _left_out(run)


def _left_out(run: Run) -> str:
    """Which precisions the run began in and left, as a library lost too much in them."""
    return _lines([f"{one}." for one in LeftOut.of(run.facts)])


def _vocabulary(result: Result) -> str:
    """What the student kept of the teacher's vocabulary, if not all."""
    held = result.vocabulary
    if held is None:
        return ""
    return (f"<p>Of the {held.before:,} rows of the teacher's word embeddings the student has "
            f"{held.kept:,}, which saves {held.saved_bytes / 1e6:.4g} MB.</p>")  # fmt: skip


def _check(artifact: Artifact | None) -> str:
    """What the library lost against float32, if it was compared with it."""
    check = artifact.manifest.get("check") if artifact else None
    if artifact is None or check is None:
        return ""
    lost = 100 * (check["float32"] - check["compiled"])
    apart = "; ".join(otherwise(artifact.manifest)) or "all in that precision"
    text = (
        f"The student's figures are those of its library in {artifact.precision}, on "
        f"{check['examples']} examples. With the same weights in float32 {check['metric']} is "
        f"{_number(check['float32'])}: {lost:+.2f} points lost; predictions agree to "
        f"{check['agreement']:.2%}. Of products and tables: {apart}."
    )
    return f"<p>{escape(text)}</p>"


def _why(run: Run) -> tuple[str, ...]:
    if run.result is None:
        return ()
    arch = Arch.of(run.result.arch, RESULT_FILE)
    return why(arch, run.trials, run.facts, run.certificate)


def _plot(run: Run) -> str:
    drawn = pareto_svg(run.trials, float(run.facts["budget_ms"]))
    return f"<figure>{drawn}</figure>" if drawn else ""


def _certificate(certificate: Certificate | None) -> str:
    if certificate is None:
        return ""
    rows: list[tuple[str, str]] = [
        ("verdict", "the budget is kept" if certificate.holds else "THE BUDGET IS MISSED"),
        ("measured", str(certificate)),
        ("precision", certificate.precision),
    ]
    rows.insert(2, (certificate.bound_is, f"{certificate.bound_ms:.4g} ms"))
    if certificate.predicted_ms is not None and certificate.error is not None:
        off = f"{certificate.predicted_ms:.4g} ms; measured over predicted {certificate.error:+.1%}"
        rows.append(("predicted by the latency table", off))
    rows += [(name, _number(value)) for name, value in certificate.latency_ms.items()]
    if certificate.others is not None:
        rows.append(("others' work", _others(certificate.others, certificate.others_limit)))
    rows += [("library", certificate.digest), ("date", certificate.date)]
    rows += [(name, str(value)) for name, value in certificate.environment.items()]
    return _facts(rows) + (
        "<p>Latencies in milliseconds, memory in bytes. The certificate is valid for this library "
        "on this device only, with no more work of others beside it than it names; "
        "<code>canao certify</code> measures again.</p>"
    )


def _others(others: Others, limit: float) -> str:
    cores = ", ".join(f"core {core} {share:.0%}" for core, share in sorted(others.cores.items()))
    ran = ", ".join(map(str, others.used))
    over = ", which is over the limit" if others.exceeds(limit) else ""
    return (f"{cores}; the library ran on {ran} and waited {others.waited:.0%} of the time; limit "
            f"{limit:.0%}{over}")  # fmt: skip


def _bars(profile: Sequence[tuple[str, float]]) -> str:
    """One bar for each kernel, the longest first; calls of the same kernel are added up."""
    if not profile:
        return ""
    calls, spent = Counter(name for name, _ in profile), dict[str, float]()
    for name, ms in profile:
        spent[name] = spent.get(name, 0.0) + ms
    total, most = sum(spent.values()) or 1.0, max(spent.values()) or 1.0
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{calls[name]}</td><td>{ms:.3f}</td>"
        f'<td>{ms / total:.1%}</td><td class="bar"><i style="width:{100 * ms / most:.1f}%"></i>'
        "</td></tr>"
        for name, ms in sorted(spent.items(), key=lambda row: -row[1])
    )
    heads = "".join(f"<th>{head}</th>" for head in ("kernel", "calls", "ms", "share", ""))
    note = "Medians with the profiler on; the certificate was measured with it off."
    return f'<div class="wide"><table><tr>{heads}</tr>{rows}</table></div><p>{note}</p>'


def _fused(artifact: Artifact | None) -> str:
    if artifact is None:
        return ""
    rows, counted = {}, Counter[tuple[str, str]]()
    for kernel in artifact.manifest["kernels"]:
        key = (str(kernel.get("name", "?")), " + ".join(map(str, kernel.get("ops", ()))))
        counted[key] += 1
        rows[key] = kernel
    table = _table(
        ("kernel", "times", "operators in it", "MFLOPs each"),
        [
            (name, str(counted[name, ops]), ops, f"{float(kernel.get('flops', 0)) / 1e6:.3g}")
            for (name, ops), kernel in rows.items()
        ],
    )
    return (f"<p>{artifact.operators} operators before fusion, "
            f"{artifact.kernels} kernels after it.</p>{table}")  # fmt: skip


def _candidates(trials: Sequence[Trial]) -> str:
    if not trials:
        return ""
    heads = ("", "architecture", "verdict", "accuracy", "latency ms", "at most", "predicted ms",
             "operators → kernels", "utilisation", "seconds", "why")  # fmt: skip
    rows = []
    for number, t in enumerate(trials, 1):
        fused = "" if t.kernels is None else f"{t.operators} → {t.kernels}"
        used = "" if t.utilisation is None else f"{t.utilisation:.0%}"
        rows.append((str(number), str(t.arch), t.verdict, _number(t.accuracy),
                     _number(t.latency_ms), _number(t.bound_ms), _number(t.predicted_ms), fused,
                     used, f"{t.seconds:.1f}", t.reason))  # fmt: skip
    bound = (f"At most: with a confidence of {CONFIDENCE:.0%}, by the samples of the search. A "
             "candidate is trained in full only if this keeps the budget under the full protocol.")
    return _table(heads, rows) + _lines([line for line in (_foretold(trials), bound) if line])


def _foretold(trials: Sequence[Trial]) -> str:
    """How far the latency table was off; '' where nothing was measured."""
    wrong = prediction_errors(trials)
    if not wrong:
        return ""
    libraries = f"{len(wrong)} {'library' if len(wrong) == 1 else 'libraries'}"
    return (
        f"Latency table: off by {median(wrong):.1%} in the median and {max(wrong):.1%} at most, "
        f"over {libraries}; corrected by what those before took."
    )


def _lines(lines: Sequence[str]) -> str:
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def _facts(rows: Iterable[tuple[str, Any]]) -> str:
    return _table(("", ""), [(name, str(value)) for name, value in rows])


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>" if content else ""


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in heads) if any(heads) else ""
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


_STYLE = """
:root { --ink: #1c2430; --pale: #667085; --line: #e3e7ee; --mark: #2463eb; }
body { margin: 0; background: #f6f7f9; color: var(--ink);
       font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; margin: 0; } h2 { font-size: 17px; margin: 0 0 12px; }
.state { color: var(--pale); margin: 4px 0 20px; }
.cards { display: flex; flex-wrap: wrap; gap: 12px; margin: 0 0 24px; }
.cards div, section { background: #fff; border: 1px solid var(--line); border-radius: 8px; }
.cards div { padding: 12px 16px; } section { padding: 20px; margin: 0 0 20px; }
dt { color: var(--pale); font-size: 13px; } dd { margin: 0; font-size: 19px; font-weight: 600; }
.wide { overflow-x: auto; } figure { margin: 0; } figure svg { width: 100%; height: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 5px 18px 5px 0; border-bottom: 1px solid var(--line);
         vertical-align: top; }
th { color: var(--pale); font-weight: 500; } code { font-size: 12px; }
.bar { width: 40%; min-width: 160px; }
.bar i { display: block; height: 12px; margin-top: 4px; background: var(--mark);
         border-radius: 2px; }
p { color: var(--pale); }
"""
