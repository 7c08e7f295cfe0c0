"""The table of real_data.md, from the records of real_data.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from marks import footnotes, marked

from canao.artifact.files import write_whole
from canao.errors import InputError
from canao.model.arch import Arch

PAGE = Path(__file__).resolve().parent / "real_data.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"

Record = Mapping[str, Any]


def table(order: Sequence[str], records: Sequence[Record]) -> str:
    """Markdown: for each data set of `order` its teacher, then its students by falling budget."""
    head = ("data", "model", "shape", "parameters", "dev", "p90, ms", "budget, ms", "speed-up",
            "table's error", "trained / judged", "hours")  # fmt: skip
    lines = [_line(head), _line(["---"] * 4 + ["--:"] * 7)]
    ranked = sorted(records, key=lambda r: (order.index(r["dataset"]), r["seed"], -r["fraction"]))
    shown = None
    for record in ranked:
        if shown != (record["dataset"], record["seed"]):
            shown = record["dataset"], record["seed"]
            lines.append(_line(_teacher_cells(record)))
        lines.append(_line(_student_cells(record)))
    return "\n".join(lines) + "\n" + footnotes(ranked)


def _teacher_cells(record: Record) -> Iterator[str]:
    row = record["teacher"]
    yield from (record["dataset"], marked("teacher", row), *_model_cells(row))
    yield from (f"{row['latency_ms']['p90']:.2f}", "", "1.0x", "", "")
    yield f"{row['train_seconds'] / 3600:.2f}"


def _student_cells(record: Record) -> Iterator[str]:
    counts = f"{record['trained']} / {record['judged']}"
    hours, budget = f"{record['search_seconds'] / 3600:.2f}", f"{record['budget_ms']:.2f}"
    hours += " (resumed)" if record["resumed"] else ""
    yield from ("", marked(f"student, {record['fraction']:g}", record))
    if record["outcome"] != "certified":
        yield from (record["outcome"], "", "", "", budget, "", "", counts, hours)
        return
    certificate = record["certificate"]
    yield from _model_cells(record["student"])
    ratio = record["teacher"]["latency_ms"]["p90"] / certificate["measured_ms"]
    error = certificate["error"]
    yield from (f"{certificate['measured_ms']:.2f}", budget, f"{ratio:.1f}x")
    yield from ("" if error is None else f"{100 * error:+.1f} %", counts, hours)


def _model_cells(row: Mapping[str, Any]) -> Iterator[str]:
    yield str(Arch.of(row["arch"], "record"))
    yield f"{row['parameters'] / 1e6:.1f} M"
    # Matthews correlation is CoLA's measure; it says nothing about these tasks that F1 does not.
    names = [name for name in row["metrics"] if name != "matthews_correlation"]
    yield ", ".join(f"{name} {100 * row['metrics'][name]:.1f}" for name in names)


def _line(cells: Sequence[str] | Iterator[str]) -> str:
    return f"| {' | '.join(cells)} |"


def write_page(order: Sequence[str], records: Sequence[Record]) -> None:
    """Put the table of all records between the markers of real_data.md."""
    text = PAGE.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(f"{PAGE.name}: lacks the lines '{BEGIN}' and '{END}'; put them back")
    write_whole(PAGE, f"{before}{BEGIN}\n{table(order, records)}{END}{after}")
