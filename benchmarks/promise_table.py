"""The table of promise.md, from the records of promise.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from marks import footnotes
from pages import fill, table

PAGE = Path(__file__).resolve().parent / "promise.md"
TIMES = {"quiet": "nothing else", "beside": "a program on the other cores"}

Record = Mapping[str, Any]


def rows(records: Sequence[Record]) -> str:
    """A row for each processor and what ran beside: how many missed, and by how much."""
    head = ("processor", "beside it ran", "libraries", "budgets, ms", "misses by p90",
            "misses by its bound", "p90 / budget, median", "worst")  # fmt: skip
    lines: list[Sequence[str]] = [head, ["---", "---", *["--:"] * 6]]
    for cpu in dict.fromkeys(r["cpu"] for r in records):
        of = [r for r in records if r["cpu"] == cpu]
        lines += [_row(cpu, of, when) for when in TIMES]
    return table(lines) + footnotes(records) if len(lines) > 2 else "No records yet.\n"


def _row(cpu: str, of: Sequence[Record], when: str) -> list[str]:
    shares = [r[when]["measured_ms"] / r["budget_ms"] for r in of]
    bounds = [r[when]["bound_ms"] / r["budget_ms"] for r in of]
    budgets = [r["budget_ms"] for r in of]
    return [cpu, TIMES[when], str(len(of)), f"{min(budgets):.2f} to {max(budgets):.2f}",
            str(sum(share > 1 for share in shares)), str(sum(bound > 1 for bound in bounds)),
            f"{median(shares):.3f}", f"{max(shares):.3f}"]  # fmt: skip


def write_page(records: Sequence[Record]) -> None:
    fill(PAGE, {"promise": rows(records)})
