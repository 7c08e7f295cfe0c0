"""The table of predictions.md, from the records of predictions.py."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from marks import footnotes
from pages import fill, table

from canao.model.arch import Arch
from canao.search.latency.table import LEARNT_FROM

PAGE = Path(__file__).resolve().parent / "predictions.md"
MIXED = "mixed"

Record = Mapping[str, Any]


def errors(records: Sequence[Record]) -> list[float]:
    """By how much of the measured time each prediction is off.

    As in a search, the libraries that were measured before tell how far sums of kernels are off: a
    prediction is multiplied by the median ratio of the last of them; the first by 1.
    """
    ratios = [r["measured_ms"] / r["predicted_ms"] for r in records]
    return [
        abs(median(ratios[max(0, i - LEARNT_FROM) : i] or [1.0]) / ratio - 1)
        for i, ratio in enumerate(ratios)
    ]


def rows(records: Sequence[Record]) -> str:
    """A row for each precision, and for architectures whose blocks are alike or differ."""
    head = ("processor", "precision", "blocks", "architectures", "ms, from to",
            "measured / sum of kernels",
            "median error", "worst error", "worst architecture")  # fmt: skip
    lines: list[Sequence[str]] = [head, ["---", "---", "---", *["--:"] * 5, "---"]]
    for cpu, precision in dict.fromkeys((r["cpu"], r["precision"]) for r in records):
        of = [r for r in records if (r["cpu"], r["precision"]) == (cpu, precision)]
        off = dict(zip(map(id, of), errors(of), strict=True))
        for alike in (True, False):
            some = [r for r in of if r["uniform"] == alike]
            if some:
                lines.append(_row(cpu, precision, "alike" if alike else "of their own", some, off))
    return table(lines) + footnotes(records) if len(lines) > 2 else "No records yet.\n"


def _row(
    cpu: str, precision: str, blocks: str, some: Sequence[Record], off: Mapping[int, float]
) -> list[str]:  # fmt: skip
    wrong = [off[id(r)] for r in some]
    worst = some[wrong.index(max(wrong))]
    times = [r["measured_ms"] for r in some]
    ratio = median(r["measured_ms"] / r["predicted_ms"] for r in some)
    return [cpu, precision, blocks, str(len(some)), f"{min(times):.2f} to {max(times):.2f}",
            f"{ratio:.3f}", f"{100 * median(wrong):.1f} %", f"{100 * max(wrong):.1f} %",
            str(Arch.of(json.loads(worst["arch"]), "record"))]  # fmt: skip


def write_page(records: Sequence[Record]) -> None:
    fill(PAGE, {"predictions": rows(records)})
