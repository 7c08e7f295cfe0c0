"""table1.md, from the records of table1.py."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from marks import footnotes
from pages import fill, table

from canao.model.arch import Arch

PAGE = Path(__file__).resolve().parent / "table1.md"
# Of GLUE's metrics, those that the paper's table shows.
_SHOWN = {"MRPC": ("f1", "accuracy"), "STS-B": ("pearson_spearman",), "RTE": ("accuracy",),
          "CoLA": ("matthews_correlation",), "Banking77": ("accuracy",)}  # fmt: skip

Record = Mapping[str, Any]


def write_page(records: Sequence[Record]) -> None:
    parts = [_machine(cpu, [r for r in records if r["cpu"] == cpu])
             for cpu in dict.fromkeys(r["cpu"] for r in records)]  # fmt: skip
    text = "\n".join(parts) + footnotes(records) if parts else "No records yet.\n"
    fill(PAGE, {"table1": text})


def _machine(cpu: str, records: Sequence[Record]) -> str:
    head = ("task", "student", "of the teacher's time", "budget, ms", "p90, ms", "own lengths, ms",
            "in", "score", "less than the teacher", "seeds", "architecture")  # fmt: skip
    lines: list[Sequence[str]] = [head, ("---", "---", *["--:"] * 4, "---", *["--:"] * 3, "---")]
    for task in dict.fromkeys(r["dataset"] for r in records):
        of = [r for r in records if r["dataset"] == task]
        groups = dict.fromkeys((r["share"], r["row"]) for r in of)
        teacher = {r["seed"]: r for r in of if r["row"] == "teacher"}
        for share, row in sorted(groups, key=lambda group: group[0]):
            some = [r for r in of if (r["share"], r["row"]) == (share, row)]
            lines.append(_line(task, share, row, some, teacher))
    return f"{cpu}\n\n{table(lines)}"


def _line(
    task: str, share: int, row: str, some: Sequence[Record], teacher: Mapping[int, Record]
) -> list[str]:
    names = _SHOWN.get(task, (some[0]["primary"],))
    scores = [100 * np.array([r["metrics"][name] for r in some]) for name in names]
    both = [r for r in some if r["seed"] in teacher]
    less = [100 * np.array([teacher[r["seed"]]["metrics"][n] - r["metrics"][n] for r in both])
            for n in names]  # fmt: skip
    archs = dict.fromkeys(str(Arch.of(json.loads(r["arch"]), "record")) for r in some)
    budget = some[0].get("budget_ms")
    return [
        task, row, {0: "", 1: "1"}.get(share, f"1/{share}"),
        "" if budget is None else f"{budget:.2f}",
        _spread(np.array([r["p90_ms"] for r in some])),
        _spread(np.array([r["true_ms"] for r in some])), some[0]["precision"],
        " / ".join(map(_spread, scores)),
        "" if row == "teacher" else " / ".join(map(_spread, less)),
        str(len(some)), ", ".join(archs),
    ]  # fmt: skip


def _spread(values: np.ndarray) -> str:
    """The mean, and the standard deviation over seeds."""
    if len(values) < 2:
        return f"{values.mean():.2f}"
    return f"{values.mean():.2f} ± {values.std(ddof=1):.2f}"
