"""landscape.md and its plots in docs/, from the records of landscape.py."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import landscape_depth
import numpy as np
from landscape_controllers import RESULTS
from marks import footnotes
from matplotlib import rc_context
from matplotlib.figure import Figure
from pages import fill, table
from scipy.stats import kendalltau

from canao.artifact.files import write_whole
from canao.train.options import RANKERS

HERE = Path(__file__).resolve().parent
PAGE, PLOT = HERE / "landscape.md", HERE.parent / "docs" / "controllers.svg"
DEPTHS = HERE.parent / "docs" / "deeper_or_wider.svg"
_AT = (4, 8, 16, 32)  # evaluations in the table
_RESAMPLED = 2000
_COLOURS = {"gp": "#2463eb", "tpe": "#0e9f6e", "nsga2": "#9061f9", "policy": "#d92d20",
            "ziplm": "#d97706", "random": "#667085"}  # fmt: skip

Record = Mapping[str, Any]


def write_page(records: Sequence[Record]) -> None:
    """The tables, and the plot where controllers were compared."""
    compared = json.loads(RESULTS.read_text("utf-8")) if RESULTS.is_file() else None
    fill(PAGE, {
        "rankers": rankers(records), "times": times(records),
        "depths": landscape_depth.depths(records),
        "controllers": "No records yet.\n" if compared is None else controllers(compared),
    })  # fmt: skip
    if compared is not None:
        write_whole(PLOT, plot(compared))
    drawn = landscape_depth.plot(records)
    if drawn is not None:
        write_whole(DEPTHS, drawn)


def rankers(records: Sequence[Record]) -> str:
    """Kendall's tau of each ranker with the accuracy after full training, and what it costs."""
    rows = [r for r in records if r["kind"] == "accuracy"]
    if not rows:
        return "No records yet.\n"
    best = sorted(rows, key=lambda r: r["accuracy"])[len(rows) // 2 :]
    head = ("ranker", "Kendall's tau, all", "the better half", "lost by its choice",
            "a candidate, s")  # fmt: skip
    lines: list[Sequence[str]] = [head, ("---", *["--:"] * 4)]
    for name in RANKERS:
        costs = sorted(r["seconds"][name] for r in rows)
        lines.append((f"`{name}`", _tau(rows, name), _tau(best, name), _lost(rows, name),
                      f"{median(costs):.1f}"))  # fmt: skip
    full = median(r["seconds"]["full"] for r in rows)
    lines.append(("full training", "1", "1", "0", f"{full:.1f}"))
    return f"{len(rows)} architectures.\n\n{table(lines)}" + footnotes(rows)


def _tau(rows: Sequence[Record], name: str) -> str:
    """With the 95 % interval of resampled architectures."""
    truth = np.array([r["accuracy"] for r in rows])
    said = np.array([r["scores"][name] for r in rows])
    draws = np.random.default_rng(0)
    resampled = [kendalltau(truth[i], said[i]).statistic
                 for i in draws.integers(len(rows), size=(_RESAMPLED, len(rows)))]  # fmt: skip
    low, high = np.percentile(resampled, (2.5, 97.5))
    return f"{kendalltau(truth, said).statistic:.2f} ({low:.2f} to {high:.2f})"


def _lost(rows: Sequence[Record], name: str) -> str:
    """Points of accuracy by which the choice of 1 in 16 random architectures falls short of the
    best of them, on average."""
    draws, short = np.random.default_rng(0), list[float]()
    for index in draws.integers(len(rows), size=(_RESAMPLED, 16)):
        some = [rows[i] for i in index]
        chosen = max(some, key=lambda r: r["scores"][name])
        short.append(max(r["accuracy"] for r in some) - chosen["accuracy"])
    return f"{100 * float(np.mean(short)):.2f}"


def times(records: Sequence[Record]) -> str:
    """How far the latency table was off, of all libraries that were measured."""
    rows = [r for r in records if r["kind"] == "latency" and r["predicted_ms"]]
    if not rows:
        return "No records yet.\n"
    ratios = np.array([r["median_ms"] / r["predicted_ms"] for r in rows])
    off = np.abs(ratios / np.median(ratios) - 1)
    head = ("processor", "libraries", "p90, ms", "measured / sum of kernels", "off by, median",
            "worst")  # fmt: skip
    spread = [r["p90_ms"] for r in rows]
    line = (rows[0]["cpu"], str(len(rows)), f"{min(spread):.2f} to {max(spread):.2f}",
            f"{np.median(ratios):.3f}", f"{100 * np.median(off):.1f} %",
            f"{100 * off.max():.1f} %")  # fmt: skip
    return table([head, ("---", *["--:"] * 5), line]) + footnotes(rows)


def controllers(compared: Mapping[str, Any]) -> str:
    """How far each controller is from the best student of the grid, after some evaluations."""
    head = ("budget", "controller", *(f"after {n}" for n in _AT), f"hypervolume after {_AT[-1]}")
    lines: list[Sequence[str]] = [head, ("---", "---", *["--:"] * (len(_AT) + 1))]
    for row in compared["rows"]:
        short = 100 * (row["optimum"] - np.array(row["accuracy"]))
        volume = np.array(row["volume"])[:, -1]
        lines.append((
            f"{row['share']:.2f}", f"`{row['controller']}`",
            *(_interval(short[:, n - 1]) for n in _AT), _interval(volume, 3),
        ))  # fmt: skip
    shown = "![Points short of the best against evaluations](../docs/controllers.svg)"
    return (f"{compared['seeds']} seeds, told the scores of `{compared['ranker']}`.\n\n"
            f"{table(lines)}\n{shown}\n")  # fmt: skip


def _interval(values: np.ndarray, digits: int = 2) -> str:
    """The mean, and 95 % confidence in it."""
    half = 1.96 * values.std(ddof=1) / len(values) ** 0.5
    return f"{values.mean():.{digits}f} ± {half:.{digits}f}"


def plot(compared: Mapping[str, Any]) -> str:
    """Points short of the best student against evaluations, a panel for each budget, with bands of
    95 % confidence in the mean."""
    shares = list(dict.fromkeys(row["share"] for row in compared["rows"]))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "canao", "font.size": 10}):
        figure = Figure(figsize=(4 * len(shares), 3.6), layout="constrained")
        panels = figure.subplots(1, len(shares), squeeze=False)[0]
        for axes, share in zip(panels, shares, strict=True):
            for row in (r for r in compared["rows"] if r["share"] == share):
                short = 100 * (row["optimum"] - np.array(row["accuracy"]))
                x, mean = np.arange(1, short.shape[1] + 1), short.mean(0)
                half = 1.96 * short.std(0, ddof=1) / len(short) ** 0.5
                colour = _COLOURS[row["controller"]]
                axes.plot(x, mean, color=colour, label=row["controller"])
                axes.fill_between(x, mean - half, mean + half, color=colour, alpha=0.12, lw=0)
            axes.set_title(f"budget: {share:.2f} of the teacher's latency", fontsize=10)
            axes.set_xlabel("evaluations")
            axes.set_ylim(bottom=0)
        panels[0].set_ylabel("points short of the best student")
        panels[-1].legend(frameon=False)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return stream.getvalue()
