"""The commands that run a library: run, verify, bench and certify; and devices, where it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from canao import api
from canao.artifact.budgets import OtherBudgets
from canao.cli.parsing.options import (
    PROTOCOL,
    AsJson,
    Cores,
    DeviceName,
    Dir,
    Ignore,
    LabelColumn,
    LabelSeparator,
    Length,
    MemoryMb,
    OthersLimit,
    Percentile,
    Revision,
    Samples,
    SizeMb,
    TextColumns,
    Threads,
    listed,
    minutes_of,
    names_of,
    numbers_of,
)
from canao.defaults import CORES, DEVICE, MAX_REGRESSION, SUSTAIN
from canao.device.base import PERCENTILES, MeasureConfig
from canao.device.names import HELP as DEVICES
from canao.errors import InputError
from canao.inference.generation import MAX_NEW_TOKENS
from canao.inference.tasks import TASKS
from canao.search.options import DEFAULTS

# `canao run` passes on only what is given: each task has its own options and defaults.
_ANSWERS = TASKS["question-answering"].options


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
        str | None, typer.Option(help="entities: word, first, average, max, simple or none")
    ] = None,
    ignore_labels: Annotated[
        list[str] | None, typer.Option("--ignore-label", help="entities that are left out, again "
                                       "for each; default those that mean none")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="labels: least score of one that counts; 0.5 where "
                                   "several can")
    ] = None,
    max_answer_tokens: Annotated[
        int | None, typer.Option(help=f"longest answer; {_ANSWERS['max_answer_tokens'].default}")
    ] = None,
    null_threshold: Annotated[
        float | None, typer.Option(help="by how much 'no answer' must exceed the best answer to be "
                                   "given; in logits, 0 for most models")
    ] = None,
    pooling: Annotated[
        str | None, typer.Option(help="one vector for each text: mean, cls, max, ...")
    ] = None,
    prompt_name: Annotated[
        str | None, typer.Option(help="which of the model's prompts is put before the text")
    ] = None,
    truncate: Annotated[
        bool | None, typer.Option("--truncate", help="truncate texts that are too long")
    ] = None,
    threads: Threads = PROTOCOL.threads,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="most tokens to generate; default what the model says, else "
                                 f"{MAX_NEW_TOKENS}")
    ] = None,
    min_new_tokens: Annotated[
        int | None, typer.Option(help="tokens to generate before the text may end")
    ] = None,
    do_sample: Annotated[
        bool | None, typer.Option("--sample/--greedy", help="draw tokens, or take the most "
                                  "probable; default what the model says")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="draw tokens at this temperature; 0: as --greedy")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(help="draw from this many tokens; 0: all; default the model's, "
                                 "else 50")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help="draw from the fewest tokens with this probability; 1: all")
    ] = None,
    min_p: Annotated[
        float | None, typer.Option(help="draw from tokens with this part of the best one's "
                                   "probability")
    ] = None,
    typical_p: Annotated[
        float | None, typer.Option(help="draw from the most typical tokens with this probability")
    ] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option(help="above 1: what the text holds comes less often")
    ] = None,
    no_repeat_ngram_size: Annotated[
        int | None, typer.Option(help="no sequence of this many tokens comes twice")
    ] = None,
    stop_strings: Annotated[
        list[str] | None, typer.Option("--stop-string", help="end after this text; again for each")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="of the random draw")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="a line of JSON for each text")] = False,
) -> None:  # fmt: skip
    """Run the model's task on texts: labels, entities, answers, masks, vectors or new text."""
    from canao.cli.run_command import read_texts, run_texts

    asked = {
        "top": top, "aggregate": aggregate, "ignore_labels": ignore_labels,
        "threshold": threshold, "max_answer_tokens": max_answer_tokens,
        "null_threshold": null_threshold, "pooling": pooling, "max_new_tokens": max_new_tokens,
        "min_new_tokens": min_new_tokens, "do_sample": do_sample, "temperature": temperature,
        "top_k": top_k, "top_p": top_p, "min_p": min_p, "typical_p": typical_p,
        "repetition_penalty": repetition_penalty, "no_repeat_ngram_size": no_repeat_ngram_size,
        "stop_strings": stop_strings, "seed": seed, "prompt_name": prompt_name,
    }  # fmt: skip
    # Options that can be given again are empty lists where they are not given.
    options = {name: value for name, value in asked.items() if value is not None and value != []}
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


def verify(
    artifact: Dir,
    model: Annotated[
        str, typer.Option(help="what it was compiled from: Hugging Face model directory, .onnx "
                          "file, or name on the Hub")
    ],
    revision: Revision = None,
    ignore: Ignore = None,
    device: DeviceName = DEVICE,
    length: Annotated[
        int | None, typer.Option(help="tokens of the longest text; default 128, or the library's "
                                 "maximum")
    ] = None,
    threads: Threads = PROTOCOL.threads,
    as_json: AsJson = False,
) -> None:
    """Compare what a library computes on a device with the model in float32 on this machine."""
    from canao.cli.verify_command import verify_and_print

    verify_and_print(
        artifact, model, device, length, threads, revision=revision, ignored=ignore or (),
        as_json=as_json,
    )  # fmt: skip


def bench(
    artifact: Dir,
    device: DeviceName = DEVICE,
    length: Length = PROTOCOL.length,
    threads: Threads = PROTOCOL.threads,
    samples: Samples = PROTOCOL.samples,
    seconds: Annotated[float, typer.Option(help="sample for at least this long, too")] = (
        PROTOCOL.seconds
    ),
    max_seconds: Annotated[float, typer.Option(help="stop after this long; 0: never")] = (
        PROTOCOL.max_seconds
    ),
    warmup: Annotated[int, typer.Option(help="runs before the first sample")] = PROTOCOL.warmup,
    percentile: Annotated[str, typer.Option(help="comma-separated")] = listed(PERCENTILES),
    cores: Cores = CORES,
    profile: Annotated[bool, typer.Option("--profile", help="time every kernel as well")] = False,
    as_json: AsJson = False,
    raw: Annotated[bool, typer.Option("--raw", help="JSON with every sample")] = False,
) -> None:
    """Measure the latency of a compiled model."""
    config = MeasureConfig(length, threads, warmup, samples, seconds, max_seconds)
    asked = numbers_of("percentile", percentile, float)
    if not all(0 < q <= 100 for q in asked):
        raise InputError(f"percentile '{percentile}' is outside (0, 100]")
    from canao.cli.bench_command import bench_and_print

    bench_and_print(
        artifact, device, config, asked, cores=cores, profile=profile, as_json=as_json, raw=raw
    )


def certify(
    artifact: Dir,
    budget_ms: Annotated[
        float | None, typer.Option(help="latency budget in milliseconds; default that of "
                                   "--baseline")
    ] = None,
    device: DeviceName = DEVICE,
    length: Length = PROTOCOL.length,
    threads: Threads = PROTOCOL.threads,
    cores: Cores = CORES,
    samples: Samples = PROTOCOL.samples,
    percentile: Percentile = DEFAULTS.percentile,
    others_limit: OthersLimit = DEFAULTS.others_limit,
    size_mb: SizeMb = DEFAULTS.size_mb,
    memory_mb: MemoryMb = DEFAULTS.memory_mb,
    min_accuracy: Annotated[
        float | None, typer.Option(help="least score of the library, by --metric, on --check: 0.9 "
                                   "is 90 %")
    ] = DEFAULTS.min_accuracy,
    sustain: Annotated[
        str, typer.Option(help="run for so long without a pause as well, as 10m; the worst minute "
                          "must keep the budget")
    ] = SUSTAIN,
    check: Annotated[
        str | None, typer.Option(help="labelled text, as --data of search, or .conll: what the "
                                 "library says of it is in the certificate")
    ] = None,
    metric: Annotated[str | None, typer.Option(help="of --check; default the task's")] = None,
    text_columns: TextColumns = None,
    label_column: LabelColumn = None,
    label_separator: LabelSeparator = None,
    baseline: Annotated[
        Path | None, typer.Option(help="certificate of an earlier library, to compare with")
    ] = None,
    max_regression: Annotated[
        float, typer.Option(help="percent that latency, memory and size may be over --baseline")
    ] = MAX_REGRESSION,
    out_file: Annotated[
        Path | None, typer.Option("--out", "-o", help="file for the certificate; default DIR/"
                                  "certificate.json")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a library against its budgets; exit code 0 only if all hold."""
    from canao.cli.certify_command import certify_and_print

    columns = {"text_columns": names_of(text_columns), "label_column": label_column,
               "label_separator": label_separator}  # fmt: skip
    if check is None and (metric or min_accuracy is not None or any(
        value not in (None, []) for value in columns.values()
    )):  # fmt: skip
        raise InputError(
            "--metric, --min-accuracy, --text-columns, --label-column and --label-separator belong "
            "to --check; give it labelled text, or leave them out"
        )
    if baseline is None and max_regression != MAX_REGRESSION:
        raise InputError("--max-regression belongs to --baseline; give it a certificate, or leave "
                         "it out")  # fmt: skip
    config = MeasureConfig(length=length, threads=threads, samples=samples)
    certify_and_print(
        artifact, device, budget_ms, config, cores=cores, sustain=minutes_of(sustain),
        percentile=percentile, others_limit=others_limit,
        other_budgets=OtherBudgets(size_mb, memory_mb, min_accuracy), baseline=baseline,
        max_regression=max_regression, check=check, metric=metric, columns=columns, out=out_file,
        as_json=as_json,
    )  # fmt: skip


def devices(
    device: Annotated[
        str | None, typer.Option("--device", help=f"connect to one, and show its facts: {DEVICES}")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the devices that there are, or show the facts of one."""
    from canao.cli.devices_command import list_and_print, show_and_print

    if device is None:
        list_and_print(as_json=as_json)
    else:
        show_and_print(device, as_json=as_json)
