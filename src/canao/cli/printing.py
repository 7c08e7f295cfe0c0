"""What commands print for people: results of a search, a compilation, a measurement."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from canao.artifact.directory import Artifact
from canao.device.base import MeasureConfig, Timing
from canao.target import Target

out = Console(highlight=False)


def print_result(result: Any, page: Path) -> None:
    """Teacher and student of a search, and where its files are."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for head in ("", "teacher", "student"):
        table.add_column(head, justify="left" if not head else "right")
    for name, value in result.teacher.metrics.items():
        table.add_row(name, f"{value:.4f}", f"{result.score.metrics[name]:.4f}")
    teacher_ms = f"{result.teacher_ms:.2f}" if result.teacher_ms else "-"
    table.add_row("latency, ms", teacher_ms, f"{result.certificate.measured_ms:.2f}")
    layers = result.artifact.manifest["layers"]
    out.print()
    out.print(
        f"student  {result.arch}, layers {layers['before']} -> {layers['after']} after fusion"
    )
    out.print(table)
    out.print(f"{result.certificate}")
    for name, path in (
        ("library", result.artifact.path),
        ("model", result.model_dir),
        ("report", page),
    ):
        out.print(f"{name:8} {escape(str(path))}", soft_wrap=True)


def print_compiled(artifact: Artifact, target: Target) -> None:
    """What a compilation made: kernels, target, sizes."""
    layers, files = artifact.manifest["layers"], artifact.manifest["files"]
    size = sum((artifact.path / name).stat().st_size for name in files) / 1e6
    library = artifact.library.stat().st_size / 1e3
    out.print(f"layers   {layers['before']} before fusion, {layers['after']} kernels after")
    rewrites = ", ".join(f"{k} x{v}" for k, v in artifact.manifest["rewrites"].items())
    out.print(f"rewrites {rewrites or 'none'}")
    out.print(f"target   {target.name}, {target.isa}, {target.triple}")
    tuned = sum(kernel["tuned"] for kernel in artifact.manifest["kernels"])
    if tuned:
        out.print(f"plans    {tuned} tuned, {layers['after'] - tuned} default")
    place = escape(str(artifact.path))
    out.print(f"library  {library:.0f} kB, {size:.1f} MB with weights, in {place}")


def print_tuning(report: Any) -> None:
    """Times of each kernel by its default plan and by the fastest."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for head in ("kernel", "calls", "default ms", "tuned ms", "gain", "plan"):
        table.add_column(head, justify="left" if head in ("kernel", "plan") else "right")
    for k in report.kernels:
        gain = f"{1 - k.tuned_ms / k.default_ms:.1%}"
        table.add_row(
            k.name, str(k.calls), f"{k.default_ms:.3f}", f"{k.tuned_ms:.3f}",
            gain if k.plan != k.default else "-", k.plan,
        )  # fmt: skip
    out.print(table)
    before = sum(k.calls * k.default_ms for k in report.kernels)
    after = sum(k.calls * k.tuned_ms for k in report.kernels)
    out.print(f"{before:.3f} ms a text by default plans, {after:.3f} ms tuned")
    ended = "complete" if report.complete else "out of time; the same command goes on"
    out.print(f"{report.plans_measured} plans measured in {report.seconds:.0f} s, {ended}")


def print_timing(
    timing: Timing, each: Timing | None, percentiles: Sequence[float], device: str
) -> None:
    """Latencies of a text in milliseconds, and of one more token after it where there is one."""
    for name, value in timing.summary(percentiles).items():
        if name == "peak_bytes":
            out.print(f"{'memory':8} {value / 1e6:10.1f} MB peak")
        else:
            out.print(f"{name:8} {value:10g}" if name == "n" else f"{name:8} {value:10.3f} ms")
    if each:
        out.print(f"{'token':8} {each.percentile(50):10.3f} ms, the median of a token after these")
    config, pinned = timing.config, timing.environment.get("pinned", [])
    out.print(
        f"{config.length} tokens, {config.threads} thread(s), cores {pinned or 'not pinned'}, "
        f"{timing.environment.get('cpu', device)}"
    )


def print_profile(
    artifact: Artifact, device: Any, steps: tuple[tuple[str, float], ...], config: MeasureConfig
) -> None:
    """Kernels by their time; rates only at the length that the manifest counts flops for."""
    counted = artifact.manifest["flops"]["length"] == config.length
    flops = {k["name"]: k["flops"] for k in artifact.manifest["kernels"]}
    peak = device.peak_flops(config.threads)
    total = sum(ms for _, ms in steps) or 1.0
    table = Table(box=None, padding=(0, 2, 0, 0))
    for head in ("kernel", "calls", "ms", "share", "of peak"):
        table.add_column(head, justify="left" if head == "kernel" else "right")
    rows: dict[str, list[float]] = {}
    for name, ms in steps:
        rows.setdefault(name, []).append(ms)
    for name, times in sorted(rows.items(), key=lambda row: -sum(row[1])):
        rate = flops.get(name, 0) * len(times) / (sum(times) / 1e3) / peak
        share = f"{rate:.0%}" if counted and "product" in name else "-"
        table.add_row(
            name, str(len(times)), f"{sum(times):.3f}", f"{sum(times) / total:.0%}", share
        )
    out.print(table)
