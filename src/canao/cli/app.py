"""The command line: parse, compose, print. Decides nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from canao.api import get_device, load
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
from canao.device.base import Failure, MeasureConfig, Timing
from canao.errors import CanaoError, DeviceError, InputError
from canao.target import get_target

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
_STAGES = ("graph", "fused", "plan", "source")

Dir = Annotated[Path, typer.Argument(help="artifact directory written by `canao compile`")]
DeviceName = Annotated[str, typer.Option("--device", help="local, or null (never runs)")]
Length = Annotated[int, typer.Option(help="tokens in the measured input")]
Threads = Annotated[int, typer.Option(help="threads of the compiled model")]
Samples = Annotated[int, typer.Option(help="least number of samples")]
Percentile = Annotated[float, typer.Option(help="percentile that the budget is about")]
Compiler = Annotated[str, typer.Option(help="zig, or a compiler on the PATH")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for machines")]


@app.command()
def search(
    teacher: Annotated[Path, typer.Option(help="Hugging Face directory of a BERT model")],
    data: Annotated[Path, typer.Option(help="TSV, CSV or JSONL file, or directory of train, dev")],
    budget_ms: Annotated[float, typer.Option(help="latency budget in milliseconds")],
    out_dir: Annotated[Path, typer.Option("--out", "-o", help="run directory; resumes")] = Path(
        "runs/search"
    ),
    task: Annotated[str, typer.Option(help="text-classification or text-regression")] = (
        "text-classification"
    ),
    device: DeviceName = "local",
    length: Length = 128,
    threads: Threads = 1,
    trials: Annotated[int, typer.Option(help="candidates that get a quick training")] = 16,
    controller: Annotated[str, typer.Option(help="policy, random, tpe, gp or nsga2")] = "policy",
    seed: Annotated[int, typer.Option(help="of controller and training")] = 0,
    percentile: Percentile = 90.0,
    samples: Samples = 1024,
    max_minutes: Annotated[float, typer.Option(help="limit of the search; 0: none")] = 0.0,
    metric: Annotated[str | None, typer.Option(help="metric that ranks candidates")] = None,
    quick_steps: Annotated[int | None, typer.Option(help="steps of a quick training")] = None,
    epochs: Annotated[int | None, typer.Option(help="epochs of the final training")] = None,
    teacher_epochs: Annotated[int | None, typer.Option(help="epochs of fine-tuning")] = None,
    teacher_lr: Annotated[float | None, typer.Option(help="learning rate of fine-tuning")] = None,
) -> None:
    """Search, distil, compile and certify a student within a latency budget."""
    from canao import api
    from canao.report.page import write_report

    with SearchDisplay(out) as display:
        result = api.search(
            teacher=teacher,
            data=data,
            budget_ms=budget_ms,
            run_dir=out_dir,
            device=device,
            task=task,
            length=length,
            threads=threads,
            trials=trials,
            controller=controller,
            seed=seed,
            percentile=percentile,
            samples=samples,
            max_minutes=max_minutes,
            metric=metric,
            quick_steps=quick_steps,
            epochs=epochs,
            teacher_epochs=teacher_epochs,
            teacher_lr=teacher_lr,
            progress=display.event,
            train_progress=display.training,
        )
    page = write_report(out_dir)
    print_result(result, page)


@app.command()
def compile(
    model: Annotated[Path, typer.Argument(help="Hugging Face model directory, or .onnx file")],
    out_dir: Annotated[Path | None, typer.Option("--out", "-o", help="artifact directory")] = None,
    target: Annotated[str, typer.Option(help="host, x86_64-linux or aarch64-linux")] = "host",
    isa: Annotated[str | None, typer.Option(help="vector table other than the target's")] = None,
    no_fusion: Annotated[bool, typer.Option("--no-fusion", help="one kernel per op")] = False,
    emit: Annotated[str | None, typer.Option(help="print a stage: graph, fused, plan, source")] = (
        None
    ),
    max_length: Annotated[int | None, typer.Option(help="most tokens; default the model's")] = None,
    cc: Compiler = "zig",
    no_tuned: Annotated[bool, typer.Option("--no-tuned", help="default plans only")] = False,
) -> None:
    """Compile a model into a native library, or print a stage of it."""
    from functools import partial

    from canao.build import get_toolchain
    from canao.cli.stage_text import format_stage
    from canao.compiler import best_plans, compile_model, load_model, lower
    from canao.schedule.plan import default_plans

    machine = get_target(target) if isa is None else get_target(target).with_isa(isa)
    if emit is not None:
        if emit not in _STAGES:
            raise InputError(f"stage '{emit}' is not one of {', '.join(_STAGES)}")
        _, graph = load_model(model, max_length)
        planner = default_plans if no_tuned else partial(best_plans, toolchain=get_toolchain(cc))
        stages = lower(graph, machine, fusion=not no_fusion, planner=planner)
        sys.stdout.write(format_stage(emit, stages))
        return
    if out_dir is None:
        raise InputError("no output directory; give one with -o, or print a stage with --emit")
    artifact = compile_model(
        model,
        out_dir,
        target=machine,
        fusion=not no_fusion,
        max_length=max_length,
        toolchain=get_toolchain(cc),
        tuned=not no_tuned,
    )
    print_compiled(artifact, machine)


@app.command()
def tune(
    model: Annotated[Path, typer.Argument(help="Hugging Face model directory")],
    target: Annotated[str, typer.Option(help="host: plans are measured where they run")] = "host",
    length: Annotated[int, typer.Option(help="tokens that plans are measured at")] = 128,
    threads: Threads = 1,
    budget_s: Annotated[float, typer.Option(help="seconds after which the search ends")] = 90.0,
    max_length: Annotated[int | None, typer.Option(help="most tokens; default the model's")] = None,
    cc: Compiler = "zig",
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
        model,
        target=get_target(target),
        length=length,
        threads=threads,
        budget_s=budget_s,
        max_length=max_length,
        toolchain=get_toolchain(cc),
        fresh=fresh,
        progress=say,
    )
    print_tuning(report)


@app.command()
def run(
    artifact: Dir,
    texts: Annotated[
        list[str] | None,
        typer.Argument(help="texts; a second one is the pair or context, if the task has one; "
                       "- reads standard input"),
    ] = None,
    context: Annotated[
        str | None, typer.Option("--context", "--pair", help="context of a question; second text")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="a text on each line; a tab divides a pair")
    ] = None,
    top: Annotated[int | None, typer.Option(help="labels, answers or tokens of each text")] = None,
    aggregate: Annotated[
        str | None, typer.Option(help="entities: first, average, max, simple or none")
    ] = None,
    max_answer_tokens: Annotated[int | None, typer.Option(help="longest answer; 15")] = None,
    pooling: Annotated[
        str | None, typer.Option(help="one vector a text: mean, cls, max, ...")
    ] = None,
    truncate: Annotated[
        bool | None, typer.Option("--truncate", help="cut texts longer than the model")
    ] = None,
    threads: Threads = 1,
    max_new_tokens: Annotated[int | None, typer.Option(help="most tokens to generate; 64")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0, the default, takes the likeliest token")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="draw from so many tokens; 0: all")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="draw from the fewest tokens of this probability; 1: all")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="of the drawn tokens")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="a line of JSON for each text")] = False,
) -> None:  # fmt: skip
    """Say what the model's task says of texts: labels, entities, answers, tokens, vectors, or how
    they go on."""
    from canao.cli.run_command import gather, run_texts

    asked = {"top": top, "aggregate": aggregate, "max_answer_tokens": max_answer_tokens,
             "pooling": pooling, "max_new_tokens": max_new_tokens, "temperature": temperature,
             "top_k": top_k, "top_p": top_p, "seed": seed}  # fmt: skip
    options = {name: value for name, value in asked.items() if value is not None}
    with load(artifact, threads=threads) as model:
        run_texts(
            model,
            gather(model, texts or [], context, file),
            truncate=truncate,
            options=options,
            as_json=as_json,
            write=lambda text: print(text, end="", flush=True),
            note=lambda line: print(f"canao: note: {line}", file=sys.stderr),
        )


@app.command()
def inspect(
    model: Annotated[Path, typer.Argument(help="Hugging Face model directory")],
    length: Annotated[int, typer.Option(help="tokens that work and memory are given at")] = 128,
    target: Annotated[str, typer.Option(help="host, x86_64-linux or aarch64-linux")] = "host",
    max_length: Annotated[int | None, typer.Option(help="most tokens; default the model's")] = None,
    as_json: AsJson = False,
) -> None:
    """Say before compiling what a model is, what is fused and what it takes; compile nothing."""
    from canao.cli.inspect_command import format_report, inspect_model

    report, error = inspect_model(model, get_target(target), length, max_length)
    sys.stdout.write(json.dumps(report, indent=2) + "\n" if as_json else format_report(report))
    if error is not None:
        raise error


@app.command()
def bench(
    artifact: Dir,
    device: DeviceName = "local",
    length: Length = 128,
    threads: Threads = 1,
    samples: Samples = 1024,
    seconds: Annotated[float, typer.Option(help="sample at least this long as well")] = 0.0,
    max_seconds: Annotated[float, typer.Option(help="stop after this long; 0: never")] = 0.0,
    warmup: Annotated[int, typer.Option(help="runs before the first sample")] = 16,
    percentile: Annotated[str, typer.Option(help="comma-separated")] = "50,90,95,99",
    cores: Annotated[str, typer.Option(help="comma-separated cores to pin to")] = "",
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
    loaded, where = Artifact.load(artifact), get_device(device)
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
    device: DeviceName = "local",
    length: Length = 128,
    threads: Threads = 1,
    samples: Samples = 1024,
    percentile: Percentile = 90.0,
    as_json: AsJson = False,
) -> None:
    """Measure a library against a budget; exit code 0 only if it holds."""
    from canao.search.guarantee import certify as measure_against
    from canao.search.guarantee import require

    config = MeasureConfig(length=length, threads=threads, samples=samples)
    certificate = measure_against(
        Artifact.load(artifact), get_device(device), budget_ms, config, percentile=percentile
    )
    if as_json:
        sys.stdout.write(json.dumps(certificate.to_dict(), indent=2) + "\n")
    else:
        out.print(str(certificate))
    require(certificate)


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
    """Entry point: one line on standard error for every error, and its exit code."""
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
        sys.stderr.write("canao: interrupted; the same command goes on where it was\n")
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        sys.exit(0)
    except SystemExit as left:
        # Typer's own answer to a reader that has had enough, as head has, is 1: a missed budget.
        sys.exit(0 if isinstance(left.__context__, BrokenPipeError) else left.code)


if __name__ == "__main__":
    main()
