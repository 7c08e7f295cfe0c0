"""The tables of precision_tasks.md, from the records of precision_tasks.py."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from marks import footnotes, marked
from pages import fill, table

PAGE = Path(__file__).resolve().parent / "precision_tasks.md"
FLOAT32, INT8, TRAINED = "float32", "int8", "int8-trained"
EMBEDDINGS = "embeddings"

Record = Mapping[str, Any]
ByVariant = Mapping[str, Record]


def tasks(order: Sequence[str], records: Sequence[Record]) -> str:
    """A row for each task and number of training examples: mean and standard deviation of seeds."""
    head = ("task", "metric", "trained on", "measured on", "seeds", "float32", "int8", "lost",
            "unchanged", "int8, trained", "lost")  # fmt: skip
    rows: list[Sequence[str]] = [head, ["---", "---", *["--:"] * (len(head) - 2)]]
    of_tasks = [r for r in records if r["dataset"] in order]
    cases = dict.fromkeys((r["dataset"], r["most"]) for r in of_tasks)
    for dataset, most in sorted(cases, key=lambda case: (order.index(case[0]), case[1])):
        seeds: dict[int, dict[str, Record]] = {}
        for r in of_tasks:
            if (r["dataset"], r["most"]) == (dataset, most):
                seeds.setdefault(r["seed"], {})[r["variant"]] = r
        whole = [of for of in seeds.values() if FLOAT32 in of]
        if whole:
            rows.append(_row(dataset, whole))
    return table(rows) + footnotes(of_tasks) if len(rows) > 2 else "No records yet.\n"


def _row(dataset: str, seeds: Sequence[ByVariant]) -> list[str]:
    first = seeds[0][FLOAT32]
    marks = {marked("", r).strip() for of in seeds for r in of.values()} - {""}
    name = " ".join((dataset, *sorted(marks)))
    counts = [f"{r:,}" for r in (first["train_examples"], first["examples"])]
    cells = [name, first["metric"], *counts, str(len(seeds)),
             spread([_value(of[FLOAT32]) for of in seeds])]  # fmt: skip
    for variant in (INT8, TRAINED):
        pairs = [(of[FLOAT32], of[variant]) for of in seeds if variant in of]
        cells.append(spread([_value(r) for _, r in pairs]))
        cells.append(spread([_value(a) - _value(b) for a, b in pairs], signed=True))
        if variant == INT8:
            cells.append(spread([100 * r["agreement"] for _, r in pairs]))
    return cells


def _value(record: Record) -> float:
    """The metric that counts, in points."""
    value: float = 100 * record["metrics"][record["metric"]]
    return value


def spread(values: Sequence[float], signed: bool = False) -> str:
    """Mean and standard deviation of the values; '-' of none."""
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):{'+' if signed else ''}.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def embeddings(records: Sequence[Record]) -> str:
    """Cosines of sentence embeddings to those in float32, and how well they rank pairs."""
    of = [r for r in records if r["dataset"] == EMBEDDINGS]
    if not of:
        return "No records yet.\n"
    rows = [["", "mean cosine to float32", "least of all sentences", "Spearman on STS-B, points"],
            ["---", "--:", "--:", "--:"]]  # fmt: skip
    for r in of:
        m = r["metrics"]
        rows.append([marked(r["variant"], r), f"{m['cosine_mean']:.5f}", f"{m['cosine_least']:.5f}",
                     f"{100 * m['spearmanr']:.2f}"])  # fmt: skip
    count = f"{of[0]['examples']:,} sentences, {of[0]['pairs']:,} pairs.\n"
    return f"{table(rows)}\n{count}{footnotes(of)}"


def sections(order: Sequence[str], records: Sequence[Record]) -> dict[str, str]:
    """The text between each pair of markers of the page."""
    return {"tasks": tasks(order, records), "embeddings": embeddings(records)}


def write_page(order: Sequence[str], records: Sequence[Record]) -> None:
    """Put the tables of all records between the markers of precision_tasks.md."""
    fill(PAGE, sections(order, records))
