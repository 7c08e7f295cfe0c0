"""The pipeline: model -> graph -> fuse -> plans -> schedule -> emit -> build -> artifact.

`Stages` holds what each step made; `compile_model` runs all of them and writes the artifact.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from canao.artifact.directory import Artifact
from canao.build import Toolchain, build_library, toolchain_for
from canao.compiler.loading import (
    check_vocabulary,
    inventory_of,
    load_model,
    load_tokenizer,
    locate,
)
from canao.compiler.packaging import check_destination, make_manifest, write_artifact
from canao.compiler.plans import Planner, best_plans
from canao.compiler.stages import Level, Stages
from canao.defaults import LIMITS, PRECISION, Limits
from canao.emit.emit import emit
from canao.errors import InputError, ToolchainError
from canao.fuse.group import Program, fuse, unfused
from canao.fuse.rounded_attention import with_rounded_attention
from canao.fuse.simplify import rewritten
from canao.fuse.yellow_cells import YellowCellPolicy, always, policy
from canao.graph.dtypes import BF16
from canao.graph.ir import Graph, dim_at
from canao.lower.lowering import Backend
from canao.lower.scheduling import (
    apart_for,
    backend_of,
    default_plans,
    multiplies_blocks,
    product_in,
    schedule_program,
    target_in,
)
from canao.precision.kv_cache import check_kv_cache, with_kv_cache
from canao.precision.quantize import (
    ALL_ALIKE,
    BACK,
    PRECISIONS,
    in_precision,
    of_parts,
    rounds_rows,
)
from canao.precision.smoothing import UNSMOOTHED, Factors, smoothed
from canao.schedule.schedule import Schedule
from canao.schedule.weights import united
from canao.target import CPU, Target, get_target


def measured_yellow_cells(target: Target) -> YellowCellPolicy:
    """What measurements say of fusion: first those of the machine that the target was made for. On
    GPUs every launch costs the time of a small kernel, so that all that can be fused is."""
    if target.backend != CPU:
        return always
    return policy(backend_of(target).name, target.machine or None)


def compile_graph(
    graph: Graph, target: Target, *, fusion: bool = True,
    yellow_cells: YellowCellPolicy | None = None, planner: Planner = best_plans,
    limits: Limits = LIMITS, precision: str = PRECISION, kept: Mapping[str, str] = ALL_ALIKE,
    allow_emulation: bool = False, kv_cache: str = PRECISION, smoothing: Factors = UNSMOOTHED,
) -> Stages:  # fmt: skip
    """All steps from the captured graph to C. `yellow_cells` decides those of fusion, by default
    from what was measured on the target's machine or on others; `planner` how each region runs:
    `default_plans` takes no heed of measurements. `precision` is that of
    products, but for those in parts for which the model names another, and for those whose results
    `kept` names, which have the precision that it says;
    `kv_cache` is that of the keys and values of earlier tokens. `smoothing` is by what channels of
    values that products read are divided (precision/smoothing.py)."""
    check_kv_cache(kv_cache)
    kept = dict(kept)
    cleaned, float32, firings = rewritten(graph, fusion, limits)
    own = of_parts(float32)
    target = target_for(
        target, precision, *kept.values(), *own.values(), allow_emulation=allow_emulation
    )
    kept = own | kept
    legal, apart = backend_of(target).legal, apart_for(target)
    computed = in_precision(smoothed(float32, smoothing), precision, kept)
    computed = with_kv_cache(computed, kv_cache)
    if fusion:
        cells = yellow_cells or measured_yellow_cells(target)
        program = fuse(computed, legal, cells, apart)
        if multiplies_blocks(target, BF16) and any(map(rounds_rows, (precision, *kept.values()))):
            rounded = with_rounded_attention(program)
            program = program if rounded is computed else fuse(rounded, legal, cells, apart)
    else:
        program = unfused(computed, legal, apart)
    levels = _levels(program, target, planner)
    for level in levels:
        _require_memory(level.schedule, backend_of(level.target), limits)
    others = tuple(p for p in dict.fromkeys((*BACK, *own.values())) if p != precision)
    return Stages(cleaned, firings, float32, levels, precision, kv_cache, tuple(smoothing), others)


def _levels(program: Program, target: Target, planner: Planner) -> tuple[Level, ...]:
    """A program for each instruction set of a target. All read one weights file."""
    plans = [tuple(planner(program, t)) for t in target.levels]
    schedules = [
        schedule_program(program, p, t) for p, t in zip(plans, target.levels, strict=True)
    ]
    if len(schedules) > 1:
        weights = united(program.graph, [s.weights for s in schedules])
        schedules = [replace(s, weights=weights) for s in schedules]
    return tuple(
        Level(program, t, p, s, emit(s, t))
        for t, p, s in zip(target.levels, plans, schedules, strict=True)
    )


def _require_memory(schedule: Schedule, backend: Backend, limits: Limits) -> None:
    """InputError if a library would need more memory than allowed beside its weights."""
    graph, longest = schedule.program.graph, schedule.program.graph.max_length
    most = max(dim_at(kind.elements, longest) for kind in graph.types.values())
    if not backend.counts(most):
        raise InputError(
            f"sequences of {longest} tokens need a value of {most} elements, more than kernels "
            "for GPUs can count; compile with a smaller --max-length"
        )
    size = schedule.memory.size + schedule.cache.size + schedule.scratch
    if size > limits.memory:
        raise InputError(
            f"sequences of {longest} tokens need {size / 1e9:.1f} GB beside the weights, more than "
            f"{limits.memory / 1e9:.1f} GB; compile with a smaller --max-length, or give "
            f"--max-memory {math.ceil(size / 1e9)} if that is meant"
        )


def target_for(target: Target, *precisions: str, allow_emulation: bool = False) -> Target:
    """The target with the instruction set that is best for products in these precisions. InputError
    if it has no instructions for one, unless that is allowed: results are the same, and no
    faster."""
    best = target_in(target, *precisions)
    for precision in precisions:
        lacking = _lacking(best, precision)
        if lacking and (best.backend != CPU or not allow_emulation):
            able = [n for n in PRECISIONS if has_instructions(target, n)]
            others = ", or another --isa (--allow-emulation computes the same without the speed)"
            raise InputError(
                f"--precision {precision}: {lacking[0]} has no instructions for it; there are some "
                f"for {', '.join(able)}: give one of these{others if best.backend == CPU else ''}"
            )
    return best


def has_instructions(target: Target, precision: str) -> bool:
    """Whether the target has instructions for products in a precision."""
    return not _lacking(target_in(target, precision), precision)


def _lacking(target: Target, precision: str) -> list[str]:
    """The target's instruction sets that have no instructions for a precision."""
    product, emulates = product_in(precision), backend_of(target).emulates
    return [t.kernels_for for t in target.levels if emulates(product, t)]


def compile_model(
    model: str | Path | Any,
    out: str | Path,
    *,
    revision: str | None = None,
    target: Target | None = None,
    fusion: bool = True,
    max_length: int | None = None,
    toolchain: Toolchain | None = None,
    build_flags: Sequence[str] = (),
    yellow_cells: YellowCellPolicy | None = None,
    tuned: bool = True,
    ignored: Collection[str] = (),
    limits: Limits = LIMITS,
    precision: str = PRECISION,
    kept: Mapping[str, str] = ALL_ALIKE,
    allow_emulation: bool = False,
    kv_cache: str = PRECISION,
    smoothing: Factors = UNSMOOTHED,
    parts: bool = True,
) -> Artifact:
    """Compile a Hugging Face directory, .onnx file or torch module into the directory `out`.

    A name that is no directory is one of the Hub, at its `revision`: a branch, a tag or a commit.
    Kernels run as `canao tune` found best on this machine; all by default plans where it is
    not the target, where nothing was tuned, or without `tuned`. `ignored` names files and
    entries of the directory ('config.json:name') that would be refused and that the user vouches
    for.

    A target of several instruction sets makes a library with kernels for each: when it is opened,
    it takes the widest that the processor has.

    `precision` is that of products, as precision/quantize.py has them: 'float32', 'bf16', 'fp16',
    'int8' with activations quantised as they come, 'int8-7bit' or 'int8-weights'. The library is
    for the instruction set of the target that is best for it. Products whose results `kept` names
    have the precision that it says: `{name: 'float32'}`. What the target has no instructions for is
    refused, unless `allow_emulation`. `kv_cache` is what a decoder keeps keys and values of earlier
    tokens in: 'float32', 'fp16' or 'int8'; a model that keeps none is refused with the latter two.
    `smoothing` is what `canao.precision.smoothing.factors` found for the model. A model whose
    layers have precisions of their own (model/blocks.py) is compiled in those, unless `parts` is
    false.

    More than `limits` allow is refused before it is allocated.
    An artifact already at `out` is replaced, once the new one is whole; any other existing
    directory that is not empty is refused. Raises InputError, UnsupportedError or ToolchainError.
    """
    out = Path(out)
    check_destination(out)
    target = target or get_target()
    toolchain = toolchain_for(target, toolchain)
    found, place = locate(model, revision, ignored)
    inventory = inventory_of(found, ignored, place)
    tokenizer = load_tokenizer(found, inventory)
    source, graph = load_model(found, max_length, inventory, limits)
    check_vocabulary(tokenizer, source, graph)
    graph = graph if parts else graph.replace(parts=())
    planner = partial(best_plans, toolchain=toolchain) if tuned else default_plans
    stages = compile_graph(
        graph, target, fusion=fusion, yellow_cells=yellow_cells, planner=planner, limits=limits,
        precision=precision, kept=kept, allow_emulation=allow_emulation, kv_cache=kv_cache,
        smoothing=smoothing,
    )  # fmt: skip
    target = stages.target
    # Before the library is built, as it may refuse.
    manifest = make_manifest(source, stages, target, toolchain, fusion, inventory)
    manifest["tokenizer"] = dict(tokenizer.description) if tokenizer else None
    manifest["source"] = place.source if place else None
    library = build_library([level.source for level in stages.levels], toolchain, build_flags)
    try:
        return write_artifact(out, tokenizer, stages, library, manifest)
    except OSError as error:
        raise ToolchainError(
            f"{out}: cannot be written ({error.strerror}); free space or name another directory"
        ) from None
