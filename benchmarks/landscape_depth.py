"""Deeper or wider? Of students that were trained in full: which depth is best at a cost.

A cost is the FLOPs, or the latency of a library: fused, not fused, in int8. At each cost, of each
depth, the most accurate student counts that costs no more.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from pages import table

from canao.model.arch import Arch

_KINDS = {"flops": "FLOPs", "latency": "latency, fused, float32",
          "unfused": "latency, not fused, float32", "int8": "latency, fused, int8"}  # fmt: skip
_SHARES = (1 / 3, 1 / 6, 1 / 12, 1 / 24)
_EXAMPLES = 600  # of the development set
_LENGTH = 32

Record = Mapping[str, Any]


def costs(records: Sequence[Record], kind: str, archs: Sequence[Arch]) -> np.ndarray:
    """The cost of each architecture as a share of the teacher's; NaN where it is not known.

    Latencies that were taken at one layer and at the most only are on a line between.
    """
    if kind == "flops":
        teacher = Arch.uniform(6, 384, 12, 1536)
        return np.array([a.flops(_LENGTH) / teacher.flops(_LENGTH) for a in archs])
    times = {Arch.from_json(r["arch"]): r["median_ms"] for r in records if r["kind"] == kind}
    if not times:
        return np.full(len(archs), np.nan)
    teacher = max(times, key=Arch.weights)
    deepest = max(a.layers for a in archs)
    return np.array([_on_line(times, a, deepest) for a in archs]) / times[teacher]


def _on_line(times: Mapping[Arch, float], arch: Arch, deepest: int) -> float:
    if arch in times:
        return times[arch]
    low, high = (Arch(arch.hidden, arch.head_size, arch.blocks[:1] * n) for n in (1, deepest))
    if low not in times or high not in times:
        return float("nan")
    share = (arch.layers - 1) / (deepest - 1)
    return times[low] + share * (times[high] - times[low])


def _students(records: Sequence[Record]) -> tuple[list[Arch], np.ndarray]:
    rows = [(Arch.from_json(r["arch"]), r["accuracy"]) for r in records if r["kind"] == "accuracy"]
    alike = [(arch, accuracy) for arch, accuracy in rows if arch.is_uniform]
    return [arch for arch, _ in alike], np.array([accuracy for _, accuracy in alike])


def best(
    archs: Sequence[Arch], accuracy: np.ndarray, cost: np.ndarray, depth: int, most: float
) -> tuple[float, Arch] | None:
    """The best student of a depth that costs `most` at most."""
    able = [i for i, a in enumerate(archs) if a.layers == depth and cost[i] <= most]
    if not able:
        return None
    found = max(able, key=lambda i: (accuracy[i], -cost[i]))
    return float(accuracy[found]), archs[found]


def depths(records: Sequence[Record]) -> str:
    """A row for each cost: the accuracy of the best student of each depth, the best one marked."""
    archs, accuracy = _students(records)
    if not archs:
        return "No records yet.\n"
    layers = sorted({a.layers for a in archs})
    head = ("equal", "of the teacher's", *(f"{n} layers" for n in layers), "the best")
    lines: list[Sequence[str]] = [head, ("---", "--:", *["--:"] * len(layers), "---")]
    for kind, name in _KINDS.items():
        cost = costs(records, kind, archs)
        for share in _SHARES:
            found = [best(archs, accuracy, cost, n, share) for n in layers]
            there = [f for f in found if f is not None]
            if there:
                top = max(there, key=lambda f: f[0])
                lines.append((name, f"1/{round(1 / share)}", *(_cell(f, top) for f in found),
                              str(top[1])))  # fmt: skip
    if len(lines) == 2:
        return "No records yet.\n"
    shown = "![Accuracy against cost, a line for each depth](../docs/deeper_or_wider.svg)"
    return f"{table(lines)}\n{shown}\n"


def _cell(found: tuple[float, Arch] | None, top: tuple[float, Arch]) -> str:
    if found is None:
        return ""
    text = f"{100 * found[0]:.1f}"
    return f"**{text}**" if found is top else text


def plot(records: Sequence[Record]) -> str | None:
    """Accuracy against cost, a line for each depth, with bands of one standard error of the
    development set; None without records."""
    archs, accuracy = _students(records)
    panels = {k: costs(records, k, archs) for k in _KINDS} if archs else {}
    panels = {kind: cost for kind, cost in panels.items() if np.isfinite(cost).any()}
    if not panels:
        return None
    layers = sorted({a.layers for a in archs})
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "canao", "font.size": 10}):
        figure = Figure(figsize=(3.7 * len(panels), 3.6), layout="constrained")
        row = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axes, (kind, cost) in zip(row, panels.items(), strict=True):
            grid = np.geomspace(np.nanmin(cost), min(0.6, np.nanmax(cost)), 60)
            for i, depth in enumerate(layers):
                found = [best(archs, accuracy, cost, depth, most) for most in grid]
                y = np.array([np.nan if f is None else f[0] for f in found])
                half = np.sqrt(y * (1 - y) / _EXAMPLES)
                colour = f"C{i}"
                axes.plot(grid, 100 * y, color=colour, label=f"{depth} layers")
                axes.fill_between(grid, 100 * (y - half), 100 * (y + half), color=colour,
                                  alpha=0.1, lw=0)  # fmt: skip
            axes.set_xscale("log")
            axes.set_title(_KINDS[kind], fontsize=10)
            axes.set_xlabel("share of the teacher's")
        row[0].set_ylabel("accuracy")
        row[-1].legend(frameon=False)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return stream.getvalue()
