"""`canao compile`: a library with what there is to say of it, or one stage as text."""

from __future__ import annotations

import sys
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

from canao.accuracy.fastest import compile_fastest
from canao.accuracy.gate import compile_checked
from canao.build import get_toolchain
from canao.cli.printing import print_compiled, timed
from canao.cli.stage_text import format_stage
from canao.compiler.loading import load_graph
from canao.compiler.pipeline import compile_graph, compile_model
from canao.compiler.plans import best_plans
from canao.defaults import Limits
from canao.errors import InputError
from canao.lower.scheduling import default_plans
from canao.precision.quantize import AUTO
from canao.target import Target

_STAGES = ("graph", "fused", "plan", "source")


def print_stage(
    model: str, stage: str, *, target: Target, fusion: bool, toolchain: str, tuned: bool,
    precision: str, allow_emulation: bool, revision: str | None, max_length: int | None,
    ignored: Collection[str], limits: Limits, kv_cache: str,
) -> None:  # fmt: skip
    """Print a stage of a compilation. InputError if there is none of that name."""
    if stage not in _STAGES:
        raise InputError(f"stage '{stage}' is not one of {', '.join(_STAGES)}")
    graph = load_graph(
        model, revision=revision, max_length=max_length, ignored=ignored, limits=limits
    )
    planner = partial(best_plans, toolchain=get_toolchain(toolchain)) if tuned else default_plans
    stages = compile_graph(
        graph, target, fusion=fusion, planner=planner, limits=limits, precision=precision,
        allow_emulation=allow_emulation, kv_cache=kv_cache,
    )  # fmt: skip
    sys.stdout.write(format_stage(stage, stages))


def compile_and_print(
    model: str, out: Path, check: str | None, max_loss: float, columns: dict[str, Any], *,
    target: Target, toolchain: str, **options: Any,
) -> None:  # fmt: skip
    """Compile, compare with float32 on the labelled text `check` if there is any, and say what came
    of it."""
    options |= {"target": target, "toolchain": get_toolchain(toolchain)}
    judged: dict[str, Any] = {"max_loss": max_loss, "columns": columns, "progress": timed()}
    if options["precision"] == AUTO:
        del options["precision"]
        fastest = compile_fastest(model, out, check, **judged, **options)
        print_compiled(fastest.artifact, target)
    elif check is None:
        print_compiled(compile_model(model, out, **options), target)
    else:
        print_compiled(compile_checked(model, out, check, **judged, **options).artifact, target)
