"""`canao inspect`: describes a model, and what compiling it would produce, without compiling it.

It runs every step of a compilation up to the C text, so it reports what will be built, except for
the size of the library. If operators are not supported, it lists all of them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from canao.cli.printing import mb
from canao.cli.understood import left_out_lines, understood
from canao.compiler.heads import describe
from canao.compiler.loading import (
    check_vocabulary,
    inventory_of,
    load_model,
    load_tokenizer,
    locate,
)
from canao.compiler.pipeline import compile_graph
from canao.compiler.stages import Stages, counts, parameter_count, region_flops, total_flops
from canao.defaults import LIMITS, PRECISION, Limits
from canao.device.base import MeasureConfig
from canao.errors import InputError, UnsupportedError
from canao.fuse.forms.form import form_name
from canao.graph.ir import Graph
from canao.lower.scheduling import schedule_program
from canao.model.directory.hub import format_source
from canao.model.directory.loaded_model import LoadedModel, load_directory
from canao.model.directory.task import describe_head
from canao.model.tokenizing.files import describe_tokenizer
from canao.precision.kv_cache import check_kv_cache
from canao.precision.quantize import check_precision
from canao.target import Target

ModelReport = dict[str, Any]
_LENGTH = MeasureConfig().length


def inspect_model(
    model: str | Path | Any, target: Target, length: int = _LENGTH,
    max_length: int | None = None, revision: str | None = None, ignored: Collection[str] = (),
    limits: Limits = LIMITS, precision: str = PRECISION, kv_cache: str = PRECISION,
) -> tuple[ModelReport, UnsupportedError | None]:
    """The report on a model, and the error that compiling it would raise, if there is one.

    InputError if the model cannot be read at all, or there is no such `precision` of products or
    `kv_cache`, or the model keeps no keys and values.
    """
    check_precision(precision)
    check_kv_cache(kv_cache)
    if length < 1:
        raise InputError(f"length is {length}; give at least 1")
    if isinstance(model, (str, Path)) and (Path(model) / "manifest.json").is_file():
        raise InputError(f"{model}: is compiled already; give the model that it was compiled from")
    loaded: LoadedModel | None = None
    about: ModelReport = {"model": _name(model), "source": None}
    found = model
    try:
        found, place = locate(model, revision, ignored)
        about["source"] = place.source if place else None
        inventory = inventory_of(found, ignored, place)
        tokenizer = load_tokenizer(found, inventory)
        loaded, graph = load_model(found, max_length, inventory, limits)
        check_vocabulary(tokenizer, loaded, graph)
        head = describe(loaded, graph, inventory)
        inventory.close()
        stages = compile_graph(graph, target, limits=limits, precision=precision,
                               kv_cache=kv_cache)  # fmt: skip
    except UnsupportedError as error:
        return _refused(about, found, loaded, error, ignored)
    report = about | {"supported": True, "problems": []}
    report["left_out"] = [[f.name, f.note] for f in inventory.left_out]
    report |= _identity(loaded, head)
    report["tokenizer"] = dict(tokenizer.description) if tokenizer else None
    return report | _compiled(graph, stages, length), None


def _refused(
    about: ModelReport, model: Any, loaded: LoadedModel | None, error: UnsupportedError,
    ignored: Collection[str],
) -> tuple[ModelReport, UnsupportedError]:  # fmt: skip
    """The report on a model that is not supported."""
    report: ModelReport = about | {"supported": False, "problems": []}
    if loaded is None and isinstance(model, (str, Path)) and Path(model).is_dir():
        try:
            loaded = load_directory(model, inventory_of(model, ignored))
            report |= _identity(loaded, describe_head(loaded))
        except UnsupportedError:
            loaded = None
    problems = [asdict(p) for p in error.problems]
    lines = error.refusals or (str(error),)
    report["problems"] = problems or [
        {"operator": None, "where": None, "hint": None, "detail": line} for line in lines
    ]
    if len(error.problems) > 1:
        count = len(error.problems)
        short = f"{report['model']}: {count} operators are not supported; they are listed above"
        return report, UnsupportedError(short, error.problems)
    return report, error


def _name(model: Any) -> str:
    return str(model) if isinstance(model, (str, Path)) else type(model).__name__


def _identity(loaded: LoadedModel, head: ModelReport) -> ModelReport:
    """The part of the report that follows from the model's directory."""
    config = loaded.config
    return {
        "class": loaded.kind,
        "type": getattr(config, "model_type", None),
        **head,
        "tokenizer": describe_tokenizer(loaded.path),
        "beside": dict(getattr(loaded, "beside", {})),
    }


def _compiled(graph: Graph, stages: Stages, length: int) -> ModelReport:
    """What the compilation would produce. Memory does not include the library itself."""
    program, schedule = stages.program, stages.schedule
    at = max(2, min(length, graph.max_length))
    shorter = schedule_program(
        replace(program, graph=replace(program.graph, max_length=at)), stages.plans, stages.target
    )
    return {
        "inputs": [i.name for i in graph.inputs],
        "outputs": [name for name, _ in program.graph.outputs],
        "max_length": graph.max_length,
        "precision": stages.precision,
        "kv_cache": stages.kv_cache if schedule.cache.size else None,
        "length": at,
        "parameters": parameter_count(stages),
        "flops": total_flops(stages, at),
        "memory": {
            "weights": schedule.weights.file_size,
            "arena": schedule.memory.size,
            "arena_if_max_length_is_length": shorter.memory.size,
            "cache": schedule.cache.size,
            "scratch_per_thread": schedule.scratch,
        },
        "operators": stages.operators,
        "rewrites": counts([f.rule for f in stages.firings]),
        "forms": counts([form_name(r.form) for r in program.regions]),
        "kernels": _kernels(stages, at),
    }


def _kernels(stages: Stages, length: int) -> list[ModelReport]:
    """One row for all kernels of the same form and operators, in the order of execution."""
    rows: dict[tuple[str, tuple[str, ...]], ModelReport] = {}
    for region in stages.program.regions:
        form, ops = form_name(region.form), tuple(region.ops)
        row = rows.setdefault(
            (form, ops), {"form": form, "ops": list(ops), "count": 0, "flops": 0}
        )
        row["count"] += 1
        row["flops"] += region_flops(stages.program.graph, region, length)
    return list(rows.values())


def format_report(report: ModelReport) -> str:
    """The report as text."""
    lines = [_row("model", report["model"])]
    if report["source"]:
        lines.append(_row("source", format_source(report["source"])))
    if "class" in report:
        lines += _identity_lines(report)
    if report["supported"]:
        lines += _compiled_lines(report)
        left_out = left_out_lines(report["left_out"])
        lines += ["", *left_out] if left_out else []
    else:
        lines += ["", "not supported"]
        lines += _problem_lines(report["problems"])
    return "\n".join(lines) + "\n"


def _row(name: str, value: str) -> str:
    return f"{name:10} {value}"


def _identity_lines(report: ModelReport) -> list[str]:
    kind = f" ({report['type']})" if report["type"] else ""
    return [
        _row("class", f"{report['class']}{kind}"),
        *(_row(name, said) for name, said in understood(report)),
        *(_row("from", f"{what}: {place}") for what, place in report["beside"].items()),
    ]


def _compiled_lines(report: ModelReport) -> list[str]:
    memory, length = report["memory"], report["length"]
    kernels = sum(kernel["count"] for kernel in report["kernels"])
    rewrites = ", ".join(f"{k} x{v}" for k, v in report["rewrites"].items())
    kept = f" in {report['kv_cache']}" if report["kv_cache"] not in (None, PRECISION) else ""
    cache = f"keys and values {mb(memory['cache'])}{kept}, " if memory["cache"] else ""
    forms = ", ".join(f"{v} {k}" for k, v in report["forms"].items())
    lines = [
        _row("inputs", f"{', '.join(report['inputs'])}; 1 to {report['max_length']} tokens"),
        _row("outputs", ", ".join(report["outputs"])),
        _row("precision", report["precision"]),
        _row("parameters", f"{report['parameters'] / 1e6:.1f} M"),
        _row("work", f"{report['flops'] / 1e9:.2f} GFLOPs at {length} tokens"),
        _row(
            "memory",
            f"weights {mb(memory['weights'])}, arena {mb(memory['arena'])} "
            f"({mb(memory['arena_if_max_length_is_length'])} with --max-length {length}), "
            f"{cache}scratch {mb(memory['scratch_per_thread'])} a thread",
        ),
        _row("operators", f"{report['operators']} before fusion, {kernels} kernels after"),
        _row("rewrites", rewrites or "none"),
        _row("kernels", forms),
        "",
        f"{'count':>5}  {'form':9}  {'work':>6}  operators",
    ]
    total = max(1, report["flops"])
    lines += [
        f"{k['count']:5}  {k['form']:9}  {k['flops'] / total:6.1%}  {_ops(k['ops'])}"
        for k in report["kernels"]
    ]
    return lines


def _ops(ops: list[str]) -> str:
    """Operators in their order; repeated ones are counted: add x2."""
    runs: list[list[Any]] = []
    for op in ops:
        if runs and runs[-1][0] == op:
            runs[-1][1] += 1
        else:
            runs.append([op, 1])
    return " ".join(op if count == 1 else f"{op} x{count}" for op, count in runs)


def _problem_lines(problems: list[ModelReport]) -> list[str]:
    """Each operator once, with all its places in the source model, and a hint."""
    grouped: dict[tuple[str, str, str], list[str]] = {}
    if any(p["operator"] is None for p in problems):
        return [f"  {p['detail']}" for p in problems]
    for p in problems:
        key = (p["operator"], p["detail"], p["hint"])
        grouped.setdefault(key, []).append(p["where"])
    lines = []
    for (operator, detail, hint), places in grouped.items():
        lines.append(f"  {operator} x{len(places)}{': ' + detail if detail else ''}")
        lines += [f"      at {place}" for place in dict.fromkeys(places)]
        lines.append(f"      {hint}")
    return lines
