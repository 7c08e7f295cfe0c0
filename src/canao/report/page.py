"""A run as one HTML page, which needs no other file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from statistics import median
from typing import Any

from canao.artifact.budgets import size_of
from canao.artifact.certificate import Certificate
from canao.artifact.directory import Artifact
from canao.artifact.manifest import otherwise
from canao.artifact.measured import CONFIDENCE, Others, percentile
from canao.model.arch import Arch
from canao.report.figures import reasons, summary
from canao.report.plots import pareto_svg
from canao.report.run import Run
from canao.search.candidates.trial import Trial, best_first
from canao.search.certification import RESULT_FILE, Result
from canao.search.latency.table import prediction_errors
from canao.search.options import LEFT_OUT, LeftOut


def page(run: Run) -> str:
    """The HTML page. Every text that comes from the run is escaped."""
    parts = [
        _head(run),
        _section("Result", _scores(run)),
        _section("Why this architecture", _lines(reasons(run))),
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
    cards = [("budget", f"{budget}, p{facts['percentile']:g}"), ("precision", run.precision)]
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
    rows.append(("latency, ms (compiled alike)", _number(teacher.latency_ms), _number(measured)))
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
    rows += [("", line) for line in certificate.told]
    if certificate.predicted_ms is not None and certificate.error is not None:
        off = f"{certificate.predicted_ms:.4g} ms; measured over predicted {certificate.error:+.1%}"
        rows.append(("predicted by the latency table", off))
    rows += [(name, _number(value)) for name, value in certificate.latency_ms.items()]
    if certificate.others is not None:
        rows.append(("others' work", _others(certificate.others, certificate.others_limit)))
    rows.append(("processes", _processes(certificate)))
    rows += [("library", certificate.digest), ("date", certificate.date)]
    rows += [(name, str(value)) for name, value in certificate.environment.items()]
    return _facts(rows) + (
        "<p>Latencies in milliseconds, memory in bytes. The certificate is valid for this library "
        "on this device only, with no more work of others beside it than it names; "
        "<code>canao certify</code> measures again.</p>"
    )


def _processes(certificate: Certificate) -> str:
    """When each process began, what it measured, and how fast its clock was."""
    parts = []
    for run in certificate.runs:
        own = percentile(run.samples_ms, certificate.percentile)
        clock = "" if run.clock is None else (
            f", a fixed loop {run.clock.loop_ns[0] / 1e3:.1f} µs before and "
            f"{run.clock.loop_ns[1] / 1e3:.1f} after")  # fmt: skip
        parts.append(f"{own:.4g} ms at {run.at_s:.0f} s{clock}")
    return "; ".join(parts)


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
