"""The plot of a report: accuracy against latency, with the budget drawn in."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from canao.search.candidates.trial import Trial, pareto

_BLUE, _GREY, _RED = "#2463eb", "#98a2b3", "#d92d20"


def pareto_svg(trials: Sequence[Trial], budget_ms: float) -> str:
    """The plot as an SVG element for an HTML page; '' if nothing has been measured yet.

    Trained candidates are dots, and a line joins those on the Pareto front. Rejected candidates
    with a known latency are crosses on the lower edge, because they have no accuracy.
    """
    trained = [trial for trial in trials if trial.trained]
    rejected = [ms for t in trials if not t.trained and (ms := t.latency_ms or t.predicted_ms)]
    if not trained and not rejected:
        return ""
    # With a fixed salt the ids, and so the page, are the same for the same trials.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "canao", "font.size": 10}):
        figure = Figure(figsize=(9, 4.2), layout="constrained")
        axes = figure.add_subplot()
        _draw(axes, trained, rejected, budget_ms)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    return text[text.index("<svg") :].strip()


def _point(trial: Trial) -> tuple[float, float]:
    """Where a trained trial stands in the plot: its latency and accuracy, which it has."""
    return trial.latency_ms or 0.0, trial.accuracy or 0.0


def _points(trials: Sequence[Trial]) -> tuple[list[float], list[float]]:
    points = [_point(trial) for trial in trials]
    return [x for x, _ in points], [y for _, y in points]


def _draw(axes: Axes, trained: list[Trial], rejected: list[float], budget_ms: float) -> None:
    front = pareto(trained)
    if trained:
        axes.plot(
            *_points(trained),
            "o",
            color=_BLUE,
            alpha=0.45,
            label="trained",
        )
        axes.plot(
            *_points(front),
            "o-",
            color=_BLUE,
            label="Pareto front",
        )
    # Only the ends and the middle of the front have names: more would overlap.
    for trial in front[:: max(1, (len(front) - 1) // 2)]:
        axes.annotate(
            str(trial.arch),
            _point(trial),
            xytext=(-6, 7),
            textcoords="offset points",
            ha="right",
            fontsize=8,
        )
    # Points far beyond the budget would squeeze the interesting ones together.
    right = max([2 * budget_ms, *(1.1 * (t.latency_ms or 0.0) for t in trained)])
    shown = [ms for ms in rejected if ms <= right]
    if rejected:
        beyond = f" ({len(rejected) - len(shown)} beyond)" if len(shown) < len(rejected) else ""
        edge = axes.get_xaxis_transform()
        axes.plot(shown, [0.03] * len(shown), "x", color=_GREY, transform=edge,
                  label=f"rejected untrained{beyond}")  # fmt: skip
    axes.set_xlim(0.0, right)
    axes.axvline(budget_ms, color=_RED, linestyle="--", linewidth=1.2, label="budget")
    axes.set_xlabel("latency, ms")
    axes.set_ylabel("proxy score")
    axes.margins(x=0.08, y=0.18)
    axes.grid(color="#e3e7ee", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
