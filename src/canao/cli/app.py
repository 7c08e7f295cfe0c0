"""The command line: every command parses its options, calls the Python interface and prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from canao import api
from canao.api import DISTIL_DIR
from canao.artifact.certificate import require_budget
from canao.artifact.directory import Artifact
from canao.cli.demo_command import DemoOptions, run_demo
from canao.cli.ending import end
from canao.cli.printing import (
    out,
    print_certificate,
    print_profile,
    print_timing,
    print_tuning,
    timed,
)
from canao.cli.search_command import search_and_report
from canao.defaults import (
    DEVICE,
    LIMITS,
    MAX_LOSS,
    PRECISION,
    TARGET,
    TOOLCHAIN,
    TUNE_SECONDS,
    Limits,
    field_defaults,
)
from canao.device.base import PERCENTILES, Failure, MeasureConfig, Timing
from canao.device.certify import UnsavedError
from canao.device.certify import certify as certify_library
from canao.errors import DeviceError, InputError
from canao.inference.generation import MAX_NEW_TOKENS
from canao.inference.tasks import TASKS
from canao.isa.table import FLOAT
from canao.search.controller import NAMES as CONTROLLERS
from canao.search.options import DEFAULTS
from canao.target import NAMES as TARGETS
from canao.target import get_target
from canao.train.data import TASKS as TRAINED_TASKS
from canao.train.general_options import GeneralOptions
from canao.train.options import RANKERS

app = typer.Typer(
    help="Latency budget in, certified native language model out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_PROTOCOL, _TRAINING = DEFAULTS.measure, DEFAULTS.training
_DEMO = field_defaults(DemoOptions)
_GENERAL = GeneralOptions()
# `canao run` passes on only what is given: each task has its own options and defaults.
_ANSWERS = TASKS["question-answering"].options

Dir = Annotated[Path, typer.Argument(help="artifact directory written by `canao compile`")]
Model = Annotated[
    str, typer.Argument(help="Hugging Face model directory, .onnx file, or name on the Hub")
]
Revision = Annotated[
    str | None, typer.Option(help="branch, tag or commit of a model named on the Hub")
]
DeviceName = Annotated[str, typer.Option("--device", help="local, or null (never runs)")]
TargetName = Annotated[str, typer.Option(help=", ".join(TARGETS))]
Length = Annotated[int, typer.Option(help="tokens in the measured sequence")]
Threads = Annotated[int, typer.Option(help="threads of the compiled model")]
Samples = Annotated[int, typer.Option(help="least number of samples")]
Percentile = Annotated[float, typer.Option(help="percentile that must keep the budget")]
OthersLimit = Annotated[
    float, typer.Option(help="share of a core that other programs may take; 1: any")
]
Compiler = Annotated[str, typer.Option(help="zig, or a compiler on the PATH")]
Ignore = Annotated[
    list[str] | None,
    typer.Option(help="file or entry (FILE:ENTRY) of the model that may be left out; repeatable"),
]
MaxNodes = Annotated[int, typer.Option(help="operators of a model at most")]
MaxMemory = Annotated[float, typer.Option(help="GB that weights, or a run beside them, may take")]
TextColumns = Annotated[
    str | None, typer.Option(help="comma-separated: the column of text, or the two of a pair")
]
LabelColumn = Annotated[str | None, typer.Option(help="the column of labels")]
LabelSeparator = Annotated[
    str | None, typer.Option(help="what stands between two labels of a text that may have several")
]
Precision = Annotated[
    str, typer.Option(help="of products: float32, bf16, fp16, int8, int8-7bit or int8-weights")
]
KvCache = Annotated[
    str, typer.Option(help="what a decoder keeps keys and values in: float32, fp16 or int8")
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for programs")]


def _limits(nodes: int, memory: float) -> Limits:
    if nodes < 1 or not memory > 0:
        raise InputError(f"--max-nodes {nodes} --max-memory {memory}: give numbers above 0")
    return Limits(nodes, int(memory * 1e9))


def _listed(numbers: Sequence[float]) -> str:
    return ",".join(map(str, numbers))


@app.command()
def search(
    teacher: Annotated[
        str, typer.Option(help="directory, or name on the Hub, of a BERT, DistilBERT, RoBERTa, "
                          "ELECTRA or MobileBERT")
    ],
    data: Annotated[
        str, typer.Option(help="TSV, CSV or JSONL file, directory of train and dev, or a data set "
                          "of the Hugging Face Hub, as glue/mrpc")
    ],
    budget_ms: Annotated[float, typer.Option(help="latency budget in milliseconds")],
    revision: Revision = None,
    ignore: Ignore = None,
    out_dir: Annotated[Path, typer.Option("--out", "-o", help="run directory; resumes")] = (
        DEFAULTS.run_dir
    ),
    task: Annotated[
        str | None, typer.Option(help=", ".join(TRAINED_TASKS) + "; default what the labels are")
    ] = DEFAULTS.task,
    text_columns: TextColumns = None,
    label_column: LabelColumn = None,
    unlabelled: Annotated[
        str | None, typer.Option(help="label that says there is none; such examples are left out")
    ] = None,
    label_separator: LabelSeparator = None,
    data_revision: Annotated[
        str | None, typer.Option(help="branch, tag or commit of a data set of the Hub")
    ] = None,
    device: DeviceName = DEVICE,
    length: Length = _PROTOCOL.length,
    threads: Threads = _PROTOCOL.threads,
    trials: Annotated[int, typer.Option(help="candidates that get a proxy score")] = (
        DEFAULTS.trials
    ),
    controller: Annotated[str, typer.Option(help=", ".join(CONTROLLERS))] = DEFAULTS.controller,
    seed: Annotated[int, typer.Option(help="of controller and training")] = DEFAULTS.seed,
    percentile: Percentile = DEFAULTS.percentile,
    others_limit: OthersLimit = DEFAULTS.others_limit,
    samples: Samples = _PROTOCOL.samples,
    max_minutes: Annotated[float, typer.Option(help="limit of the search; 0: none")] = (
        DEFAULTS.max_minutes
    ),
    metric: Annotated[str | None, typer.Option(help="metric that ranks candidates")] = (
        _TRAINING.metric
    ),
    ranker: Annotated[
        str, typer.Option(help=f"what candidates' proxy scores are: {', '.join(RANKERS)}")
    ] = _TRAINING.ranker,
    quick_steps: Annotated[
        int, typer.Option(help="training steps behind a proxy score, with --ranker short")
    ] = _TRAINING.quick_steps,
    supernet_steps: Annotated[
        int, typer.Option(help="training steps of the supernet, with --ranker supernet")
    ] = _TRAINING.supernet_steps,
    epochs: Annotated[int, typer.Option(help="epochs of the final training")] = (
        _TRAINING.final_epochs
    ),
    teacher_epochs: Annotated[
        int | None, typer.Option(help="epochs of the teacher's fine-tuning; default: chosen on a "
                                 "held-out part of the training set")
    ] = _TRAINING.teacher_epochs,
    teacher_lr: Annotated[
        float | None, typer.Option(help="learning rate of that fine-tuning; default: chosen alike")
    ] = _TRAINING.teacher_lr,
    precision: Annotated[
        str, typer.Option(help="of products: float32, bf16, fp16, int8, int8-7bit, or auto, which "
                               "is that in which the teacher is fastest and a student loses "
                               "little enough")
    ] = PRECISION,
    max_loss: Annotated[
        float, typer.Option(help="points of the metric that the student's library may lose against "
                            "float32, in another --precision")
    ] = DEFAULTS.max_loss,
    quantized_epochs: Annotated[
        int | None, typer.Option(help="last epochs of the final training that round as the library "
                                 "will, in int8; default a third")
    ] = _TRAINING.quantized_epochs,
    losses: Annotated[
        str, typer.Option(help="of the distillation, with weights, as logits=1,relations=0.5 "
                          "(docs/training.md has them all)")
    ] = _TRAINING.losses,
    relation_heads: Annotated[
        int, typer.Option(help="parts that the loss 'relations' cuts vectors into")
    ] = _TRAINING.relation_heads,
    relation_layer: Annotated[
        int | None, typer.Option(help="the teacher's, from 1, that 'relations' compares with; "
                                 "default its last")
    ] = _TRAINING.relation_layer,
    augment: Annotated[
        int, typer.Option(help="altered copies of each training example, labelled by the teacher, "
                          "for the final training")
    ] = _TRAINING.augment,
    augment_model: Annotated[
        str | None, typer.Option(help="directory of a masked language model that says which words "
                                 "may stand in them; default words near in the teacher's table")
    ] = _TRAINING.augment_model,
    prune_vocabulary: Annotated[
        bool, typer.Option("--prune-vocabulary", help="students keep only the tokens that the "
                           "training texts use, and what any other text needs: smaller libraries")
    ] = _TRAINING.prune_vocabulary,
    vocabulary: Annotated[
        int, typer.Option(help="tokens that they keep at least, with --prune-vocabulary: the "
                          "teacher's commonest beside those; 0: none")
    ] = _TRAINING.vocabulary,
    unlabelled_text: Annotated[
        Path | None, typer.Option(help="texts for the teacher to label in the final training: .txt "
                                  "with one a line, or a table with the columns of --data")
    ] = None,
    train_device: Annotated[
        str, typer.Option(help="where training computes: cpu, cuda, mps; auto: a GPU if there is "
                          "one")
    ] = _TRAINING.device,
    train_dtype: Annotated[
        str, typer.Option(help="of products in training: float32, bf16; auto: bf16 where that is "
                          "faster")
    ] = _TRAINING.dtype,
    size_mb: Annotated[
        float | None, typer.Option(help="limit for all files of the artifact, in megabytes")
    ] = DEFAULTS.size_mb,
    memory_mb: Annotated[
        float | None, typer.Option(help="limit for the memory of a process that runs the library, "
                                   "in megabytes")
    ] = DEFAULTS.memory_mb,
    min_accuracy: Annotated[
        float | None, typer.Option(help="least score of the student, by --metric: 0.9 is 90 %")
    ] = DEFAULTS.min_accuracy,
    from_run: Annotated[
        Path | None, typer.Option("--from", help="another run of the same teacher, data and "
                                  "training, whose teacher and students are used")
    ] = None,
) -> None:
    """Search, distil, compile and certify a student within a latency budget."""
    search_and_report(
        out_dir, teacher=teacher, revision=revision, ignored=ignore or (), data=data,
        budget_ms=budget_ms, device=device, task=task,
        text_columns=_names(text_columns), label_column=label_column, unlabelled=unlabelled,
        label_separator=label_separator, data_revision=data_revision, length=length,
        threads=threads, trials=trials, controller=controller, seed=seed, percentile=percentile,
        others_limit=others_limit, samples=samples, max_minutes=max_minutes, metric=metric,
        ranker=ranker, quick_steps=quick_steps, supernet_steps=supernet_steps, epochs=epochs,
        teacher_epochs=teacher_epochs, teacher_lr=teacher_lr, precision=precision,
        max_loss=max_loss, quantized_epochs=quantized_epochs, losses=losses,
        relation_heads=relation_heads, relation_layer=relation_layer, augment=augment,
        augment_model=augment_model, prune_vocabulary=prune_vocabulary,
        vocabulary=vocabulary, unlabelled_text=unlabelled_text, train_device=train_device,
        train_dtype=train_dtype, size_mb=size_mb, memory_mb=memory_mb, min_accuracy=min_accuracy,
        from_run=from_run,
    )  # fmt: skip


@app.command()
def distil(
    teacher: Annotated[
        str, typer.Option(help="directory, or name on the Hub, of a BERT, DistilBERT, RoBERTa, "
                          "ELECTRA or MobileBERT")
    ],
    text: Annotated[str, typer.Option(help=".txt file, plain or .gz, with one text a line")],
    arch: Annotated[
        str, typer.Option(help="of the student: layers, width, heads, FFN units: 'L6 H192 A6 F768'")
    ],
    revision: Revision = None,
    ignore: Ignore = None,
    out_dir: Annotated[Path, typer.Option("--out", "-o", help="run directory; resumes")] = (
        DISTIL_DIR
    ),
    tokens: Annotated[int, typer.Option(help="that the student sees in all")] = _GENERAL.tokens,
    length: Annotated[int, typer.Option(help="tokens of a piece of text")] = _GENERAL.length,
    batch: Annotated[int, typer.Option(help="pieces a step")] = _GENERAL.batch,
    lr: Annotated[float, typer.Option(help="learning rate")] = _GENERAL.lr,
    losses: Annotated[
        str, typer.Option(help="by name, as of search, but logits and labels")
    ] = _GENERAL.losses,
    seed: Annotated[int, typer.Option(help="of the order of texts, and of weights")] = (
        _GENERAL.seed
    ),
    train_device: Annotated[str, typer.Option(help="as of search")] = _GENERAL.device,
    train_dtype: Annotated[str, typer.Option(help="as of search")] = _GENERAL.dtype,
) -> None:
    """Distil an encoder on plain text, without labels; a search takes it as its teacher."""
    from canao.cli.distil_command import distil_and_print

    distil_and_print(
        out_dir, teacher=teacher, text=text, arch=arch, revision=revision, ignored=ignore or (),
        tokens=tokens, length=length, batch=batch, lr=lr, losses=losses, seed=seed,
        train_device=train_device, train_dtype=train_dtype,
    )  # fmt: skip


@app.command()
def demo(
    out_dir: Annotated[Path, typer.Option("--out", "-o", help="run directory; resumes")] = (
        _DEMO.run_dir
    ),
    teacher: Annotated[
        str | None, typer.Option(help="another teacher: a directory, or a name on the Hub")
    ] = _DEMO.teacher,
    revision: Revision = _DEMO.revision,
    budget_ms: Annotated[
        float | None, typer.Option(help="latency budget; default an eighth of the teacher's "
                                 "latency in float32")
    ] = _DEMO.budget_ms,
    precision: Annotated[str, typer.Option(help="of products, as of search")] = _DEMO.precision,
    trials: Annotated[int, typer.Option(help="candidates that get a proxy score")] = _DEMO.trials,
    quick_steps: Annotated[
        int, typer.Option(help="training steps behind the proxy score of a candidate")
    ] = _DEMO.quick_steps,
    epochs: Annotated[int, typer.Option(help="epochs of the final training")] = _DEMO.epochs,
    teacher_epochs: Annotated[int, typer.Option(help="epochs of the teacher's fine-tuning")] = (
        _DEMO.teacher_epochs
    ),
    teacher_lr: Annotated[float, typer.Option(help="learning rate of that fine-tuning")] = (
        _DEMO.teacher_lr
    ),
) -> None:
    """Search a student for the embedded spoken commands, and try it."""
    run_demo(DemoOptions(
        run_dir=out_dir, teacher=teacher, revision=revision, budget_ms=budget_ms, trials=trials,
        quick_steps=quick_steps, epochs=epochs, teacher_epochs=teacher_epochs,
        teacher_lr=teacher_lr, precision=precision,
    ))  # fmt: skip


@app.command()
def compile(
    model: Model,
    revision: Revision = None,
    out_dir: Annotated[Path | None, typer.Option("--out", "-o", help="artifact directory")] = None,
    target: TargetName = TARGET,
    isa: Annotated[
        str | None, typer.Option(help="instruction set other than the target's, or several "
                                "(avx2,avx512), of which the library takes the widest it finds")
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

    chosen = get_target(target) if isa is None else get_target(target).with_isa(isa)
    options: dict[str, Any] = {
        "revision": revision, "target": chosen, "fusion": not no_fusion, "max_length": max_length,
        "toolchain": cc, "tuned": not no_tuned, "ignored": ignore or (),
        "limits": _limits(max_nodes, max_memory), "precision": precision,
        "allow_emulation": allow_emulation, "kv_cache": kv_cache,
    }  # fmt: skip
    if emit is not None:
        print_stage(model, emit, **options)
        return
    assert out_dir is not None
    columns = {"text_columns": _names(text_columns), "label_column": label_column,
               "label_separator": label_separator}  # fmt: skip
    compile_and_print(model, out_dir, check, max_loss, columns, **options)


@app.command()
def tune(
    model: Model,
    revision: Revision = None,
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
    precision: Precision = PRECISION,
    ignore: Ignore = None,
    max_nodes: MaxNodes = LIMITS.nodes,
    max_memory: MaxMemory = LIMITS.memory / 1e9,
) -> None:
    """Measure plans of a model's kernels on this machine; compilations use the fastest."""
    from canao.build import get_toolchain
    from canao.tuning import tune_model

    report = tune_model(
        model, revision=revision, target=get_target(target), length=length, threads=threads,
        budget_s=budget_s, max_length=max_length, toolchain=get_toolchain(cc), fresh=fresh,
        progress=timed(), ignored=ignore or (), limits=_limits(max_nodes, max_memory),
        precision=precision,
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
        int | None, typer.Option(help=f"longest answer; {_ANSWERS['max_answer_tokens']}")
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
    threads: Threads = _PROTOCOL.threads,
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


@app.command()
def inspect(
    model: Model,
    revision: Revision = None,
    length: Annotated[int, typer.Option(help="tokens for which work and memory are given")] = (
        _PROTOCOL.length
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
        _limits(max_nodes, max_memory), precision, kv_cache,
    )  # fmt: skip
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
        form["others"] = timing.others and timing.others.to_dict()
        form["precision"] = loaded.precision
        if each:
            form["token_ms"] = each.summary(asked)
        if profile:
            products = loaded.products
            form["profile_ms"] = [
                {"kernel": name, "product": products.get(name, FLOAT), "median": ms}
                for name, ms in steps
            ]
        sys.stdout.write(json.dumps(form, indent=2) + "\n")
        return
    print_timing(timing, each, asked, where.name, loaded.precision)
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
    others_limit: OthersLimit = DEFAULTS.others_limit,
    out_file: Annotated[
        Path | None, typer.Option("--out", "-o", help="file for the certificate; default DIR/"
                                  "certificate.json")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a library against a budget; exit code 0 only if it holds."""
    config = MeasureConfig(length=length, threads=threads, samples=samples)
    try:
        certificate = certify_library(
            Artifact.load(artifact), api.get_device(device), budget_ms, config,
            percentile=percentile, others_limit=others_limit, out=out_file,
        )  # fmt: skip
    except UnsavedError as error:  # what was measured is shown all the same
        print_certificate(error.certificate, as_json=as_json, whole=error.saved is None)
        raise
    print_certificate(certificate, as_json=as_json)
    require_budget(certificate)


@app.command()
def report(run_dir: Annotated[Path, typer.Argument(help="run directory of a search")]) -> None:
    """Write the HTML report of a run, finished or not."""
    from canao.report.page import write_report

    out.print(str(write_report(run_dir)), soft_wrap=True, markup=False)


@app.command()
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


def _timed(measured: Timing | Failure) -> Timing:
    if isinstance(measured, Failure):
        raise DeviceError(f"{measured.stage}: {measured.message}")
    return measured


def _names(text: str | None) -> list[str]:
    """Names of columns, between commas; their spaces are theirs."""
    return [] if text is None else text.split(",")


def _numbers(name: str, text: str, kind: type) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise InputError(f"{name} '{text}' is not a comma-separated list of numbers") from None


def main() -> None:
    """Every error is one line on standard error and an exit code: see `ending.py`."""
    end(lambda: app(standalone_mode=False))


if __name__ == "__main__":
    main()
