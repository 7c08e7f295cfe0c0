"""What commands print for people: the results of a search, a compilation, a measurement."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from canao.artifact.certificate import Certificate, certificate_text, compared
from canao.artifact.directory import Artifact
from canao.artifact.manifest import otherwise
from canao.cli.understood import left_out_lines, understood
from canao.defaults import NEAR_COSINE, NEAR_LARGEST, PRECISION, silent
from canao.device.base import MeasureConfig, Timing
from canao.isa.table import FLOAT
from canao.model.directory.hub import format_source
from canao.target import Target

if TYPE_CHECKING:
    from canao.artifact.students import Student

out = Console(highlight=False)


def mb(size: int) -> str:
    """A number of bytes, in millions of them."""
    return f"{size / 1e6:.1f} MB"


def timed() -> Callable[[str], None]:
    """A progress callback that prints each line with the seconds since it was made."""
    begun = time.monotonic()

    def say(text: str) -> None:
        out.print(f"[{time.monotonic() - begun:5.1f}] {text}", markup=False, soft_wrap=True)

    return say


def shown_live() -> Callable[[str], None]:
    """A progress callback as `timed`, for a terminal; elsewhere it says nothing."""
    return timed() if out.is_terminal else silent


def print_result(result: Any, page: Path) -> None:
    """Print teacher and student of a search, and where its files are."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for head in ("", "teacher", "student"):
        table.add_column(head, justify="left" if not head else "right")
    for name, value in result.teacher.metrics.items():
        table.add_row(name, f"{value:.4f}", f"{result.score.metrics[name]:.4f}")
    teacher_ms = f"{result.teacher_ms:.2f}" if result.teacher_ms else "-"
    measured_ms = f"{result.certificate.measured_ms:.2f}"
    table.add_row("latency, ms (compiled alike)", teacher_ms, measured_ms)
    bound = f"{result.certificate.bound_ms:.2f}"
    table.add_row(result.certificate.bound_is, "", bound)
    artifact = result.artifact
    out.print()
    out.print(
        f"student  {result.arch}, {artifact.operators} operators, {artifact.kernels} kernels after "
        "fusion", soft_wrap=True,
    )  # fmt: skip
    out.print(table)
    if held := result.vocabulary:
        out.print(f"tokens   {held.kept:,} of {held.before:,} kept, which saves "
                  f"{held.saved_bytes / 1e6:.4g} MB", soft_wrap=True)  # fmt: skip
    if result.budgets.further:
        out.print(f"budgets  {result.told}", soft_wrap=True)
    for line in _precision(artifact.manifest):
        out.print(escape(line), soft_wrap=True)
    print_certificate(result.certificate)
    for _, further in result.elsewhere:
        print_certificate(further)
    for name, path in (
        ("library", artifact.path),
        *(("library", further.path) for further, _ in result.elsewhere),
        ("model", result.model_dir),
        ("report", page),
    ):
        out.print(f"{name:8} {escape(str(path))}", soft_wrap=True)


def print_students(run_dir: Path, students: Sequence[Student]) -> None:
    """The students of several budgets, the best first."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for head in ("budget, ms", "at most, ms", students[0].metric, "library"):
        table.add_column(head, justify="left" if head == "library" else "right")
    for one in students:
        table.add_row(f"{one.budget_ms:g}", f"{one.bound_ms:.2f}", f"{one.score:.4f}",
                      str(run_dir / one.artifact))  # fmt: skip
    out.print()
    out.print(table)


def print_certificate(
    certificate: Certificate, *, as_json: bool = False, whole: bool = False,
    baseline: Certificate | None = None,
) -> None:  # fmt: skip
    """Print what was measured, in a line or as JSON, beside a baseline if there is one; `whole`: as
    JSON with every sample, for a certificate that is kept nowhere else."""
    if whole:
        sys.stdout.write(certificate_text(certificate))
    elif as_json:
        row = certificate.to_dict(raw=False)
        if baseline is not None:
            row["baseline"] = [asdict(one) for one in compared(certificate, baseline)]
        sys.stdout.write(json.dumps(row, indent=2) + "\n")
    else:
        for line in (str(certificate), *certificate.told):
            out.print(line, soft_wrap=True, markup=False)


def print_compiled(artifact: Artifact, target: Target) -> None:
    """Print what a compilation produced: kernels, target, sizes."""
    manifest = artifact.manifest
    size = sum((artifact.path / name).stat().st_size for name in manifest["files"]) / 1e6
    library = artifact.library.stat().st_size / 1e3
    if manifest.get("source"):
        out.print(f"source    {escape(format_source(manifest['source']))}", soft_wrap=True)
    for name, said in understood(manifest):
        out.print(f"{name:9} {escape(said)}", soft_wrap=True)
    names = ", ".join(i["name"] for i in manifest["inputs"])
    out.print(f"inputs    {escape(names)}; 1 to {artifact.max_length} tokens")
    out.print(f"operators {artifact.operators} before fusion, {artifact.kernels} kernels after")
    rewrites = ", ".join(f"{k} x{v}" for k, v in manifest["rewrites"].items())
    out.print(f"rewrites  {rewrites or 'none'}")
    out.print(f"target    {target.name}, {' or '.join(artifact.isas)}, {target.triple}")
    if cache := manifest.get("kv_cache"):
        room = f"{cache['bytes'] / 1e6:.1f} MB for {artifact.max_length} tokens"
        out.print(f"cache     keys and values in {cache['precision']}, {room}")
    for line in _precision(manifest):
        out.print(escape(line), soft_wrap=True)
    if artifact.on_cpu:
        out.print(f"on CPU    {', '.join(dict.fromkeys(artifact.on_cpu))}", soft_wrap=True)
    tuned = sum(kernel["tuned"] for kernel in manifest["kernels"])
    if tuned:
        out.print(f"plans     {tuned} tuned, {artifact.kernels - tuned} default")
    place = escape(str(artifact.path))
    out.print(f"library   {library:.0f} kB, {size:.1f} MB with weights, in {place}")
    for line in left_out_lines(manifest.get("left_out", ())):
        out.print(escape(line), soft_wrap=True)


def _precision(manifest: Mapping[str, Any]) -> Iterator[str]:
    """The precision of products, and how near it is to float32."""
    name, near, check = (manifest.get(k) for k in ("precision", "agreement", "check"))
    kept = (manifest.get("kv_cache") or {}).get("precision", PRECISION)
    cache = "" if kept == PRECISION else f", keys and values in {kept}"
    if near:
        yield (f"precision {name}{cache}; on random texts outputs have a cosine of "
               f"{near['cosine']:.5f} to float32's and differ by {near['largest']:.2g} standard "
               "deviations at most")
        if near["cosine"] < NEAR_COSINE or near["largest"] > NEAR_LARGEST:
            how = f"compare {name} with float32 on your data, by --check"
            yield f"          that is far: {'try another --kv-cache' if cache else how}"
    for line in otherwise(manifest) if near else ():
        yield f"          {line}"
    if check:
        lost = 100 * (check["float32"] - check["compiled"])
        yield (f"check     {check['metric']} {100 * check['float32']:.2f} in float32, "
               f"{100 * check['compiled']:.2f} in {name} ({lost:+.2f} points lost) on "
               f"{check['examples']} examples; predictions agree to {check['agreement']:.2%}")
    if check and check["hurting"]:
        worst = ", ".join(f"{where} ({moved:.1e})" for where, moved in check["hurting"])
        yield f"          {name} moves outputs most at {worst}"
    for other, ms, why in manifest.get("tried", ()):
        of = f", {why}" if why else ""
        yield f"tried     {other}: {f'{ms:.3f} ms{of}' if ms is not None else why or 'not timed'}"


def print_tuning(report: Any) -> None:
    """Print the time of each kernel with its default plan and with the fastest one."""
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
    out.print(f"{before:.3f} ms a sequence with default plans, {after:.3f} ms tuned")
    ended = "complete" if report.complete else "out of time; the same command continues"
    out.print(f"{report.plans_measured} plans measured in {report.seconds:.0f} s, {ended}")


def print_timing(
    timing: Timing, each: Timing | None, percentiles: Sequence[float], device: str, precision: str
) -> None:
    """Print the latency of a sequence, and that of one more token after it if `each` is given.
    `precision` is that of the library's products."""
    for name, value in timing.summary(percentiles).items():
        if name == "peak_bytes":
            out.print(f"{'memory':8} {value / 1e6:10.1f} MB peak")
        else:
            out.print(f"{name:8} {value:10g}" if name == "n" else f"{name:8} {value:10.3f} ms")
    if each:
        out.print(f"{'token':8} {each.percentile(50):10.3f} ms, median for one more token")
    config, pinned = timing.config, timing.environment.get("pinned", [])
    told = timing.environment
    isa, gpu = told.get("library_isa", ""), told.get("gpu")
    where = gpu or f"cores {pinned or 'not pinned'}, {told.get('cpu', device)}"
    threads = "" if gpu else f"{config.threads} thread(s), "
    out.print(f"{precision}, {config.length} tokens, {threads}{where}{f', {isa}' if isa else ''}",
              markup=False)  # fmt: skip
    if timing.others:
        out.print(f"{timing.others} meanwhile")


def print_profile(
    artifact: Artifact, device: Any, steps: tuple[tuple[str, float], ...], config: MeasureConfig
) -> None:
    """Print the kernels of a sequence, slowest first, with what they multiply where that is not all
    float32.

    The share of the peak, which is that of what a kernel multiplies, is given only at the length
    for which the manifest counts FLOPs.
    """
    counted = artifact.manifest["flops"]["length"] == config.length
    flops = {k["name"]: k["flops"] for k in artifact.all_kernels}
    products = artifact.products
    mixed = set(products.values()) != {FLOAT}
    total = sum(ms for _, ms in steps) or 1.0
    table = Table(box=None, padding=(0, 2, 0, 0))
    for head in ("kernel", *(["products"] if mixed else []), "calls", "ms", "share", "of peak"):
        table.add_column(head, justify="left" if head in ("kernel", "products") else "right")
    rows: dict[str, list[float]] = {}
    for name, ms in steps:
        rows.setdefault(name, []).append(ms)
    for name, times in sorted(rows.items(), key=lambda row: -sum(row[1])):
        product, share = products.get(name, FLOAT), "-"
        if counted and "gemm" in name:
            rate = flops.get(name, 0) * len(times) / (sum(times) / 1e3)
            share = f"{rate / device.peak_flops(config.threads, product):.0%}"
        kind = [product if product != FLOAT else ""] if mixed else []
        table.add_row(name, *kind, str(len(times)), f"{sum(times):.3f}",
                      f"{sum(times) / total:.0%}", share)  # fmt: skip
    out.print(table)
