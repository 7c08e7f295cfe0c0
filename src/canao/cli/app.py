"""The command line: every command parses its options, calls the Python interface and prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from canao import api
from canao.artifact.certificate import require_budget
from canao.artifact.directory import Artifact
from canao.cli.console import SearchDisplay
from canao.cli.printing import (
    out,
    print_compiled,
    print_profile,
    print_result,
    print_timing,
    print_tuning,
)
from canao.defaults import DEVICE, TARGET, TOOLCHAIN, TUNE_SECONDS
from canao.device.base import PERCENTILES, Failure, MeasureConfig, Timing
from canao.device.certify import certify as certify_library
from canao.errors import CanaoError, DeviceError, InputError
from canao.inference.tasks import GENERATION, TASKS
from canao.search.controller import NAMES as CONTROLLERS
from canao.search.options import DEFAULTS
from canao.target import NAMES as TARGETS
from canao.target import get_target
from canao.train.data import TASKS as TRAINED_TASKS

app = typer.Typer(
    help="Latency budget in, certified native language model out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
# Typer brings a click of its own in some versions and uses the installed one in others.
_UsageProblem: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
_INTERRUPTED = 130
_PROTOCOL, _TRAINING = DEFAULTS.measure, DEFAULTS.training
# `canao run` passes on only what is given: each task has its own options and defaults.
_ANSWERS, _GENERATION = TASKS["question-answering"].options, TASKS[GENERATION].options
_STAGES = ("graph", "fused", "plan", "source")

Dir = Annotated[Path, typer.Argument(help="artifact directory written by `canao compile`")]
DeviceName = Annotated[str, typer.Option("--device", help="local, or null (never runs)")]
TargetName = Annotated[str, typer.Option(help=", ".join(TARGETS))]
Length = Annotated[int, typer.Option(help="tokens in the measured sequence")]
Threads = Annotated[int, typer.Option(help="threads of the compiled model")]
Samples = Annotated[int, typer.Option(help="least number of samples")]
Percentile = Annotated[float, typer.Option(help="percentile that must keep the budget")]
Compiler = Annotated[str, typer.Option(help="zig, or a compiler on the PATH")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for programs")]


def _listed(numbers: Sequence[float]) -> str:
    return ",".join(map(str, numbers))


@app.command()
def search(
    teacher: Annotated[Path, typer.Option(help="Hugging Face directory of a BERT model")],
    data: Annotated[Path, typer.Option(help="TSV, CSV or JSONL file, or directory of train, dev")],
    budget_ms: Annotated[float, typer.Option(help="latency budget in milliseconds")],
    out_dir: Annotated[Path, typer.Option("--out", "-o", help="run directory; resumes")] = (
        DEFAULTS.run_dir
    ),
    task: Annotated[str, typer.Option(help=" or ".join(TRAINED_TASKS))] = DEFAULTS.task,
    device: DeviceName = DEVICE,
    length: Length = _PROTOCOL.length,
    threads: Threads = _PROTOCOL.threads,
    trials: Annotated[int, typer.Option(help="candidates that get a proxy score")] = (
        DEFAULTS.trials
    ),
    controller: Annotated[str, typer.Option(help=", ".join(CONTROLLERS))] = DEFAULTS.controller,
    seed: Annotated[int, typer.Option(help="of controller and training")] = DEFAULTS.seed,
    percentile: Percentile = DEFAULTS.percentile,
    samples: Samples = _PROTOCOL.samples,
    max_minutes: Annotated[float, typer.Option(help="limit of the search; 0: none")] = (
        DEFAULTS.max_minutes
    ),
    metric: Annotated[str | None, typer.Option(help="metric that ranks candidates")] = (
        _TRAINING.metric
    ),
    quick_steps: Annotated[
        int, typer.Option(help="training steps behind the proxy score of a candidate")
    ] = _TRAINING.quick_steps,
    epochs: Annotated[int, typer.Option(help="epochs of the final training")] = (
        _TRAINING.final_epochs
    ),
    teacher_epochs: Annotated[int, typer.Option(help="epochs of the teacher's fine-tuning")] = (
        _TRAINING.teacher_epochs
    ),
    teacher_lr: Annotated[float, typer.Option(help="learning rate of that fine-tuning")] = (
        _TRAINING.teacher_lr
    ),
) -> None:
    """Search, distil, compile and certify a student within a latency budget."""
    from canao.report.page import write_report

    with SearchDisplay(out) as display:
        result = api.search(
            teacher=teacher, data=data, budget_ms=budget_ms, run_dir=out_dir, device=device,
            task=task, length=length, threads=threads, trials=trials, controller=controller,
            seed=seed, percentile=percentile, samples=samples, max_minutes=max_minutes,
            metric=metric, quick_steps=quick_steps, epochs=epochs, teacher_epochs=teacher_epochs,
            teacher_lr=teacher_lr, progress=display.event, train_progress=display.training,
        )  # fmt: skip
    page = write_report(out_dir)
    print_result(result, page)


@app.command()
def compile(
    model: Annotated[Path, typer.Argument(help="Hugging Face model directory, or .onnx file")],
    out_dir: Annotated[Path | None, typer.Option("--out", "-o", help="artifact directory")] = None,
    target: TargetName = TARGET,
    isa: Annotated[str | None, typer.Option(help="instruction set other than the target's")] = None,
    no_fusion: Annotated[bool, typer.Option("--no-fusion", help="one kernel per op")] = False,
    emit: Annotated[str | None, typer.Option(help="print a stage: graph, fused, plan, source")] = (
        None
    ),
    max_length: Annotated[int | None, typer.Option(help="most tokens; default the model's")] = None,
    cc: Compiler = TOOLCHAIN,
    no_tuned: Annotated[bool, typer.Option("--no-tuned", help="default plans only")] = False,
) -> None:
    """Compile a model into a native library, or print a stage of it."""
    from functools import partial

    from canao.build import get_toolchain
    from canao.cli.stage_text import format_stage
    from canao.compiler.loading import load_model
    from canao.compiler.pipeline import compile_graph, compile_model
    from canao.compiler.plans import best_plans
    from canao.lower.scheduling import default_plans

    chosen = get_target(target) if isa is None else get_target(target).with_isa(isa)
    if emit is not None:
        if emit not in _STAGES:
            raise InputError(f"stage '{emit}' is not one of {', '.join(_STAGES)}")
        _, graph = load_model(model, max_length)
        planner = default_plans if no_tuned else partial(best_plans, toolchain=get_toolchain(cc))
        stages = compile_graph(graph, chosen, fusion=not no_fusion, planner=planner)
        sys.stdout.write(format_stage(emit, stages))
        return
    if out_dir is None:
        raise InputError("no output directory; give one with -o, or print a stage with --emit")
    artifact = compile_model(
        model,
        out_dir,
        target=chosen,
        fusion=not no_fusion,
        max_length=max_length,
        toolchain=get_toolchain(cc),
        tuned=not no_tuned,
    )
    print_compiled(artifact, chosen)


@app.command()
def tune(
    model: Annotated[Path, typer.Argument(help="Hugging Face model directory")],
    target: Annotated[str, typer.Option(help="host: plans are measured where they run")] = TARGET,
    length: Annotated[int, typer.Option(help="tokens at which plans are measured")] = (
        _PROTOCOL.length
    ),
    threads: Threads = _PROTOCOL.threads,
    budget_s: Annotated[float, typer.Option(help="seconds after which tuning ends")] = (
        TUNE_SECONDS
    ),
    max_length: Annotated[int | None, typer.Option(help="most tokens; default the model's")] = None,
    cc: Compiler = TOOLCHAIN,
    fresh: Annotated[bool, typer.Option("--fresh", help="forget what was measured before")] = False,
) -> None:
    """Measure plans of a model's kernels on this machine; compilations use the fastest."""
    import time

    from canao.build import get_toolchain
    from canao.tuning import tune_model

    begun = time.monotonic()

    def say(text: str) -> None:
        out.print(f"[{time.monotonic() - begun:5.1f}] {text}", markup=False, soft_wrap=True)

    report = tune_model(
        model, target=get_target(target), length=length, threads=threads, budget_s=budget_s,
        max_length=max_length, toolchain=get_toolchain(cc), fresh=fresh, progress=say,
    )  # fmt: skip
    print_tuning(report)


@app.command()
def run(
    artifact: Dir,
    texts: Annotated[
        list[str] | None,
        typer.Argument(help="texts; if the task takes pairs, a second one is the pair or "
                       "context; - reads standard input"),
    ] = None,
    context: Annotated[
        str | None, typer.Option("--context", "--pair", help="context of a question; second text")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="a text on each line; a tab separates pairs")
    ] = None,
    top: Annotated[int | None, typer.Option(help="labels, answers or tokens for each text")] = None,
    aggregate: Annotated[
        str | None, typer.Option(help="entities: first, average, max, simple or none")
    ] = None,
    max_answer_tokens: Annotated[
        int | None, typer.Option(help=f"longest answer; {_ANSWERS['max_answer_tokens']}")
    ] = None,
    pooling: Annotated[
        str | None, typer.Option(help="one vector for each text: mean, cls, max, ...")
    ] = None,
    truncate: Annotated[
        bool | None, typer.Option("--truncate", help="truncate texts that are too long")
    ] = None,
    threads: Threads = _PROTOCOL.threads,
    max_new_tokens: Annotated[
        int | None, typer.Option(help=f"most tokens to generate; {_GENERATION['max_new_tokens']}")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0, the default, takes the most probable token")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="draw from this many tokens; 0: all")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="draw from the fewest tokens with this probability; 1: all")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="of the random draw")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="a line of JSON for each text")] = False,
) -> None:  # fmt: skip
    """Run the model's task on texts: labels, entities, answers, masks, vectors or new text."""
    from canao.cli.run_command import read_texts, run_texts

    asked = {"top": top, "aggregate": aggregate, "max_answer_tokens": max_answer_tokens,
             "pooling": pooling, "max_new_tokens": max_new_tokens, "temperature": temperature,
             "top_k": top_k, "top_p": top_p, "seed": seed}  # fmt: skip
    options = {name: value for name, value in asked.items() if value is not None}
    with api.load(artifact, threads=threads) as model:
        run_texts(
            model,
            read_texts(model, texts or [], context, file),
            truncate=truncate,
            options=options,
            as_json=as_json,
            write=lambda text: print(text, end="", flush=True),
            note=lambda line: print(f"canao: note: {line}", file=sys.stderr),
        )


@app.command()
def inspect(
    model: Annotated[Path, typer.Argument(help="Hugging Face model directory")],
    length: Annotated[int, typer.Option(help="tokens for which work and memory are given")] = (
        _PROTOCOL.length
    ),
    target: TargetName = TARGET,
    max_length: Annotated[int | None, typer.Option(help="most tokens; default the model's")] = None,
    as_json: AsJson = False,
) -> None:
    """Describe a model, what would be fused and what it would need, without compiling it."""
    from canao.cli.inspect_command import format_report, inspect_model

    report, error = inspect_model(model, get_target(target), length, max_length)
    sys.stdout.write(json.dumps(report, indent=2) + "\n" if as_json else format_report(report))
    if error is not None:
        raise error


@app.command()
def bench(
    artifact: Dir,
    device: DeviceName = DEVICE,
    length: Length = _PROTOCOL.length,
    threads: Threads = _PROTOCOL.threads,
    samples: Samples = _PROTOCOL.samples,
    seconds: Annotated[float, typer.Option(help="sample for at least this long, too")] = (
        _PROTOCOL.seconds
    ),
    max_seconds: Annotated[float, typer.Option(help="stop after this long; 0: never")] = (
        _PROTOCOL.max_seconds
    ),
    warmup: Annotated[int, typer.Option(help="runs before the first sample")] = _PROTOCOL.warmup,
    percentile: Annotated[str, typer.Option(help="comma-separated")] = _listed(PERCENTILES),
    cores: Annotated[str, typer.Option(help="comma-separated cores to pin to")] = (
        _listed(_PROTOCOL.cores)
    ),
    profile: Annotated[bool, typer.Option("--profile", help="time every kernel as well")] = False,
    as_json: AsJson = False,
    raw: Annotated[bool, typer.Option("--raw", help="JSON with every sample")] = False,
) -> None:
    """Measure the latency of a compiled model."""
    config = MeasureConfig(
        length, threads, warmup, samples, seconds, max_seconds, tuple(_numbers("cores", cores, int))
    )
    asked = _numbers("percentile", percentile, float)
    if not all(0 < q <= 100 for q in asked):
        raise InputError(f"percentile '{percentile}' is outside (0, 100]")
    loaded, where = Artifact.load(artifact), api.get_device(device)
    loaded.verify()
    timing = _timed(where.measure(loaded, config))
    steps = where.profile(loaded, config) if profile else ()
    more = loaded.resumes and length < loaded.max_length
    each = _timed(where.measure_next(loaded, config)) if more else None
    if as_json or raw:
        form = timing.to_dict(raw=raw) | {"latency_ms": timing.summary(asked)}
        if each:
            form["token_ms"] = each.summary(asked)
        if profile:
            form["profile_ms"] = [{"kernel": name, "median": ms} for name, ms in steps]
        sys.stdout.write(json.dumps(form, indent=2) + "\n")
        return
    print_timing(timing, each, asked, where.name)
    if profile:
        print_profile(loaded, where, steps, config)


@app.command()
def certify(
    artifact: Dir,
    budget_ms: Annotated[float, typer.Option(help="latency budget in milliseconds")],
    device: DeviceName = DEVICE,
    length: Length = _PROTOCOL.length,
    threads: Threads = _PROTOCOL.threads,
    samples: Samples = _PROTOCOL.samples,
    percentile: Percentile = DEFAULTS.percentile,
    as_json: AsJson = False,
) -> None:
    """Measure a library against a budget; exit code 0 only if it holds."""
    config = MeasureConfig(length=length, threads=threads, samples=samples)
    certificate = certify_library(
        Artifact.load(artifact), api.get_device(device), budget_ms, config, percentile=percentile
    )
    if as_json:
        sys.stdout.write(json.dumps(certificate.to_dict(), indent=2) + "\n")
    else:
        out.print(str(certificate))
    require_budget(certificate)


@app.command()
def report(run_dir: Annotated[Path, typer.Argument(help="run directory of a search")]) -> None:
    """Write the HTML report of a run, finished or not."""
    from canao.report.page import write_report

    out.print(str(write_report(run_dir)), soft_wrap=True, markup=False)


def _timed(measured: Timing | Failure) -> Timing:
    if isinstance(measured, Failure):
        raise DeviceError(f"{measured.stage}: {measured.message}")
    return measured


def _numbers(name: str, text: str, kind: type) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise InputError(f"{name} '{text}' is not a comma-separated list of numbers") from None


def main() -> None:
    """Entry point: every error is one line on standard error and an exit code."""
    try:
        code = app(standalone_mode=False)
        if code == _INTERRUPTED:  # some versions of Typer turn the interrupt into a code
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)
    except _UsageProblem as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            sys.stderr.write(f"{error.format_message()}\n")
        else:
            sys.stderr.write(f"canao: error: {error.format_message()}\n")
        sys.exit(error.exit_code)
    except CanaoError as error:
        sys.stderr.write(f"canao: error: {error}\n")
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("canao: interrupted; the same command continues where it stopped\n")
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        sys.exit(0)
    except SystemExit as left:
        # If the reader of a pipe stops, as head does, Typer exits with 1, which is a missed budget.
        sys.exit(0 if isinstance(left.__context__, BrokenPipeError) else left.code)


if __name__ == "__main__":
    main()
