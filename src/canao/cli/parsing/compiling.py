"""The commands of the compiler: compile, tune, inspect, and its cache."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from canao.cli.parsing.options import (
    PROTOCOL,
    AsJson,
    Compiler,
    DeviceName,
    Ignore,
    KvCache,
    LabelColumn,
    LabelSeparator,
    MaxMemory,
    MaxNodes,
    Model,
    Precision,
    Revision,
    TargetName,
    TextColumns,
    Threads,
    limits_of,
    names_of,
)
from canao.cli.printing import print_tuning, timed
from canao.defaults import DEVICE, LIMITS, MAX_LOSS, PRECISION, TARGET, TOOLCHAIN, TUNE_SECONDS
from canao.errors import InputError
from canao.target import BACKENDS, CPU, GPU_VECTOR, Target, get_target


def compile(
    model: Model,
    revision: Revision = None,
    out_dir: Annotated[Path | None, typer.Option("--out", "-o", help="artifact directory")] = None,
    target: TargetName = TARGET,
    cpu: Annotated[
        str | None, typer.Option(help="processor that code is chosen for, such as cortex-a76; "
                                "default all of the target's")
    ] = None,
    isa: Annotated[
        str | None, typer.Option(help="instruction set other than the target's, or several "
                                "(avx2,avx512), of which the library takes the widest it finds")
    ] = None,
    backend: Annotated[
        str, typer.Option(help="cpu, or opencl: kernels for GPUs, none of which runs on the CPU")
    ] = CPU,
    vector: Annotated[
        int | None, typer.Option(help="floats in the vectors of --backend opencl: 4 for GPUs, 8 or "
                                "16 for OpenCL on CPUs")
    ] = None,
    allow_cpu: Annotated[
        bool, typer.Option("--allow-cpu", help="what no kernel for GPUs computes runs on the "
                           "CPU of the same machine, and is listed")
    ] = False,
    device: Annotated[
        str | None, typer.Option(help="compile for what a device is, with what `canao tune` found "
                                "there, in place of the options above")
    ] = None,
    no_fusion: Annotated[bool, typer.Option("--no-fusion", help="one kernel per op")] = False,
    emit: Annotated[str | None, typer.Option(help="print a stage: graph, fused, plan, source")] = (
        None
    ),
    max_length: Annotated[int | None, typer.Option(help="most tokens; default the model's")] = None,
    cc: Compiler = TOOLCHAIN,
    no_tuned: Annotated[bool, typer.Option("--no-tuned", help="default plans only")] = False,
    precision: Annotated[
        str, typer.Option(help="of products: float32, bf16, fp16, int8, int8-7bit, int8-weights, "
                               "or auto, the fastest that loses little enough")
    ] = PRECISION,
    allow_emulation: Annotated[
        bool, typer.Option("--allow-emulation", help="a precision without instructions for it")
    ] = False,
    kv_cache: KvCache = PRECISION,
    check: Annotated[
        str | None,
        typer.Option(help="labelled text, as --data of search, or .conll: compare with float32"),
    ] = None,
    max_loss: Annotated[
        float, typer.Option(help="points of the metric that another --precision than float32 "
                                 "may lose; with --check")
    ] = MAX_LOSS,
    text_columns: TextColumns = None,
    label_column: LabelColumn = None,
    label_separator: LabelSeparator = None,
    ignore: Ignore = None,
    max_nodes: MaxNodes = LIMITS.nodes,
    max_memory: MaxMemory = LIMITS.memory / 1e9,
) -> None:
    """Compile a model into a native library, or print a stage of it."""
    from canao.precision.kv_cache import check_kv_cache
    from canao.precision.quantize import AUTO, check_precision

    if precision != AUTO:
        check_precision(precision)  # before what takes seconds to load
    elif emit is not None:
        raise InputError("--precision auto compares libraries; name the one to --emit a stage of")
    check_kv_cache(kv_cache)
    if check is not None and emit is not None:
        raise InputError("--emit prints a stage and --check measures a library; give one of them")
    if check is None and (
        text_columns or label_column or label_separator is not None or max_loss != MAX_LOSS
    ):
        raise InputError(
            "--text-columns, --label-column, --label-separator and --max-loss belong to --check; "
            "give it labelled text, or leave them out"
        )
    if emit is None and out_dir is None:
        raise InputError("no output directory; give one with -o, or print a stage with --emit")
    from canao.cli.compile_command import compile_and_print, print_stage

    chosen = chosen_target(target, cpu, isa, backend, vector, device)
    if allow_cpu and chosen.backend == CPU:
        raise InputError("--allow-cpu belongs to libraries for GPUs, as of --backend opencl; leave "
                         "it out, or compile for one")  # fmt: skip
    if device not in (None, DEVICE) and (precision == AUTO or check is not None):
        raise InputError(f"--precision auto and --check run libraries on this machine, not on "
                         f"{device}; leave them out, or --device")  # fmt: skip
    chosen = replace(chosen, allow_cpu=allow_cpu)
    options: dict[str, Any] = {
        "revision": revision, "target": chosen, "fusion": not no_fusion, "max_length": max_length,
        "toolchain": cc, "tuned": not no_tuned, "ignored": ignore or (),
        "limits": limits_of(max_nodes, max_memory), "precision": precision,
        "allow_emulation": allow_emulation, "kv_cache": kv_cache,
    }  # fmt: skip
    if emit is not None:
        print_stage(model, emit, **options)
        return
    assert out_dir is not None
    columns = {"text_columns": names_of(text_columns), "label_column": label_column,
               "label_separator": label_separator}  # fmt: skip
    compile_and_print(model, out_dir, check, max_loss, columns, **options)


def chosen_target(
    name: str, cpu: str | None, isa: str | None, backend: str, vector: int | None,
    device: str | None = None,
) -> Target:  # fmt: skip
    """The target that a command line asks for; InputError for options that exclude each other."""
    if device is not None:
        usual = {"--target": (name, TARGET), "--cpu": (cpu, None), "--isa": (isa, None),
                 "--backend": (backend, CPU), "--vector": (vector, None)}  # fmt: skip
        given = [option for option, (value, default) in usual.items() if value != default]
        if given:
            raise InputError(f"--device {device} says what to compile for; leave out "
                             f"{', '.join(given)}")  # fmt: skip
        from canao.device.names import device_of

        return device_of(device).target
    if backend not in BACKENDS:
        raise InputError(f"--backend '{backend}' is not one of {', '.join(BACKENDS)}")
    if backend == CPU:
        if vector is not None:
            raise InputError("--vector belongs to --backend opencl; leave it out, or give both")
        chosen = get_target(name, cpu)
        return chosen if isa is None else chosen.with_isa(isa)
    if cpu is not None or isa is not None:
        raise InputError("--cpu and --isa belong to --backend cpu: a GPU's driver compiles its "
                         "kernels; leave them out")  # fmt: skip
    return get_target(name).on_opencl(GPU_VECTOR if vector is None else vector)


def tune(
    model: Model,
    revision: Revision = None,
    target: Annotated[str, typer.Option(help="host: plans are measured where they run")] = TARGET,
    device: DeviceName = DEVICE,
    length: Annotated[int, typer.Option(help="tokens at which plans are measured")] = (
        PROTOCOL.length
    ),
    threads: Threads = PROTOCOL.threads,
    budget_s: Annotated[float, typer.Option(help="seconds after which tuning ends")] = (
        TUNE_SECONDS
    ),
    max_length: Annotated[int | None, typer.Option(help="most tokens; default the model's")] = None,
    cc: Compiler = TOOLCHAIN,
    fresh: Annotated[bool, typer.Option("--fresh", help="forget what was measured before")] = False,
    precision: Precision = PRECISION,
    ignore: Ignore = None,
    max_nodes: MaxNodes = LIMITS.nodes,
    max_memory: MaxMemory = LIMITS.memory / 1e9,
) -> None:
    """Measure plans of a model's kernels on a device; compilations for it use the fastest."""
    from canao.build import get_toolchain
    from canao.device.names import device_of
    from canao.tuning import tune_model

    report = tune_model(
        model, revision=revision, length=length, threads=threads,
        target=None if target == TARGET else get_target(target), device=device_of(device),
        budget_s=budget_s, max_length=max_length, toolchain=get_toolchain(cc), fresh=fresh,
        progress=timed(), ignored=ignore or (), limits=limits_of(max_nodes, max_memory),
        precision=precision,
    )  # fmt: skip
    print_tuning(report)


def inspect(
    model: Model,
    revision: Revision = None,
    length: Annotated[int, typer.Option(help="tokens for which work and memory are given")] = (
        PROTOCOL.length
    ),
    target: TargetName = TARGET,
    max_length: Annotated[int | None, typer.Option(help="most tokens; default the model's")] = None,
    precision: Precision = PRECISION,
    kv_cache: KvCache = PRECISION,
    ignore: Ignore = None,
    max_nodes: MaxNodes = LIMITS.nodes,
    max_memory: MaxMemory = LIMITS.memory / 1e9,
    as_json: AsJson = False,
) -> None:
    """Describe a model, what would be fused and what it would need, without compiling it."""
    from canao.cli.inspect_command import format_report, inspect_model

    report, error = inspect_model(
        model, get_target(target), length, max_length, revision, ignore or (),
        limits_of(max_nodes, max_memory), precision, kv_cache,
    )  # fmt: skip
    sys.stdout.write(json.dumps(report, indent=2) + "\n" if as_json else format_report(report))
    if error is not None:
        raise error


def cache(
    prune: Annotated[
        bool, typer.Option("--prune", help="remove what was used longest ago, down to the bound")
    ] = False,
    max_size: Annotated[
        str | None, typer.Option(help="with --prune: this bound, such as 200M; default the cache's")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="remove all that is not in use")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the build cache, or make it smaller."""
    from canao.cache.place import parse_size
    from canao.cli.cache_command import cache_form, format_cache, manage_cache

    most = None if max_size is None else parse_size(max_size, "--max-size")
    found, freed = manage_cache(prune, clear, most)
    form = json.dumps(cache_form(found, freed), indent=2) + "\n"
    sys.stdout.write(form if as_json else format_cache(found, freed))
