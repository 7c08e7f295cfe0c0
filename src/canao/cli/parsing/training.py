"""The commands that train: search, distil, demo, and the report of a search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from canao.api import DISTIL_DIR, EXECUTORS
from canao.cli.demo_command import DemoOptions, run_demo
from canao.cli.parsing.options import (
    PROTOCOL,
    Cores,
    DeviceNames,
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
    names_of,
    numbers_of,
)
from canao.cli.printing import out
from canao.cli.search_command import (
    search_and_report,
    search_each_and_report,
    search_each_device_and_report,
    work_and_report,
)
from canao.defaults import CORES, DEVICE, PRECISION, field_defaults
from canao.errors import InputError
from canao.search.controllers.controller import NAMES as CONTROLLERS
from canao.search.options import DEFAULTS
from canao.train.data import TASKS
from canao.train.distillation.general_options import GeneralOptions
from canao.train.options import RANKERS

_TRAINING = DEFAULTS.training
_DEMO = field_defaults(DemoOptions)
_GENERAL = GeneralOptions()


def search(
    teacher: Annotated[
        str, typer.Option(help="directory, or name on the Hub, of a BERT, DistilBERT, RoBERTa, "
                          "ELECTRA or MobileBERT")
    ],
    data: Annotated[
        str, typer.Option(help="TSV, CSV or JSONL file, directory of train and dev, or a data set "
                          "of the Hugging Face Hub, as glue/mrpc")
    ],
    budget_ms: Annotated[
        str | None, typer.Option(help="latency budget in milliseconds; of several devices one for "
                                 "each, as 20,35, or one for all")
    ] = None,
    budgets: Annotated[
        str | None, typer.Option(help="several of them instead, as 2,4,8: a student for each")
    ] = None,
    revision: Revision = None,
    ignore: Ignore = None,
    out_dir: Annotated[Path, typer.Option("--out", "-o", help="run directory; resumes")] = (
        DEFAULTS.run_dir
    ),
    task: Annotated[
        str | None, typer.Option(help=", ".join(TASKS) + "; default what the labels are")
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
    device: DeviceNames = DEVICE,
    each_device: Annotated[
        bool, typer.Option("--each-device", help="a student for each of several devices, instead "
                           "of one for all")
    ] = False,
    length: Length = PROTOCOL.length,
    threads: Threads = PROTOCOL.threads,
    cores: Cores = CORES,
    trials: Annotated[int, typer.Option(help="candidates that get a proxy score")] = (
        DEFAULTS.trials
    ),
    controller: Annotated[str, typer.Option(help=", ".join(CONTROLLERS))] = DEFAULTS.controller,
    seed: Annotated[int, typer.Option(help="of controller and training")] = DEFAULTS.seed,
    percentile: Percentile = DEFAULTS.percentile,
    others_limit: OthersLimit = DEFAULTS.others_limit,
    samples: Samples = PROTOCOL.samples,
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
    size_mb: SizeMb = DEFAULTS.size_mb,
    memory_mb: MemoryMb = DEFAULTS.memory_mb,
    min_accuracy: Annotated[
        float | None, typer.Option(help="least score of the student, by --metric: 0.9 is 90 %")
    ] = DEFAULTS.min_accuracy,
    from_run: Annotated[
        Path | None, typer.Option("--from", help="another run of the same teacher, data and "
                                  "training, whose teacher and students are used")
    ] = None,
    study: Annotated[
        str | None, typer.Option(help="database of the trials, so that `canao worker` can join: "
                                 "postgresql://USER@HOST/DATABASE or grpc://HOST:PORT, and a "
                                 "name behind #")
    ] = None,
    executor: Annotated[
        str | None, typer.Option(help=f"where proxy scores are computed: {', '.join(EXECUTORS)}; "
                                 "default in this process")
    ] = None,
) -> None:
    """Search, distil, compile and certify a student within a latency budget."""
    options: dict[str, Any] = dict(
        teacher=teacher, revision=revision, ignored=ignore or (), data=data, device=device,
        task=task,
        text_columns=names_of(text_columns), label_column=label_column, unlabelled=unlabelled,
        label_separator=label_separator, data_revision=data_revision, length=length,
        threads=threads, cores=cores, trials=trials, controller=controller, seed=seed,
        percentile=percentile, others_limit=others_limit, samples=samples,
        max_minutes=max_minutes, metric=metric,
        ranker=ranker, quick_steps=quick_steps, supernet_steps=supernet_steps, epochs=epochs,
        teacher_epochs=teacher_epochs, teacher_lr=teacher_lr, precision=precision,
        max_loss=max_loss, quantized_epochs=quantized_epochs, losses=losses,
        relation_heads=relation_heads, relation_layer=relation_layer, augment=augment,
        augment_model=augment_model, prune_vocabulary=prune_vocabulary,
        vocabulary=vocabulary, unlabelled_text=unlabelled_text, train_device=train_device,
        train_dtype=train_dtype, size_mb=size_mb, memory_mb=memory_mb, min_accuracy=min_accuracy,
        study=study, executor=executor,
    )  # fmt: skip
    if (budget_ms is None) == (budgets is None):
        raise InputError("give --budget-ms, or several with --budgets, and not both")
    if budgets is not None and study is not None:
        raise InputError("--study is of a search with one budget; start one for each of --budgets, "
                         "with --from")  # fmt: skip
    if each_device and (budgets is not None or study is not None):
        raise InputError("--each-device goes with --budget-ms, and without --study; leave one out")
    asked = numbers_of("--budget-ms", budget_ms or "", float)
    if each_device:
        search_each_device_and_report(asked, out_dir, from_run, **options)
    elif budgets is not None:
        search_each_and_report(budgets, out_dir, from_run, **options)
    else:
        several = asked[0] if len(asked) == 1 else asked
        search_and_report(out_dir, budget_ms=several, from_run=from_run, **options)


def worker(
    study: Annotated[str, typer.Option(help="database of the search, as of search")],
    out_dir: Annotated[
        Path | None, typer.Option("--out", "-o", help="own run directory; default the first of "
                                  "runs/worker-1, -2, ... that is free")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="the search's, where this machine has it elsewhere")
    ] = None,
    data: Annotated[str | None, typer.Option(help="alike")] = None,
    augment_model: Annotated[str | None, typer.Option(help="alike")] = None,
    unlabelled_text: Annotated[Path | None, typer.Option(help="alike")] = None,
    shared: Annotated[
        Path | None, typer.Option(help="run directory of the search as it is seen from here; "
                                  "default by its path there")
    ] = None,
    train_device: Annotated[str, typer.Option(help="as of search")] = _TRAINING.device,
    train_dtype: Annotated[
        str | None, typer.Option(help="as of search; default that of the search")
    ] = None,
) -> None:
    """Judge candidates of a search that another process runs, until it has enough."""
    work_and_report(
        study=study, run_dir=out_dir, teacher=teacher, data=data, augment_model=augment_model,
        unlabelled_text=unlabelled_text, shared=shared, train_device=train_device,
        train_dtype=train_dtype,
    )  # fmt: skip


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


def report(run_dir: Annotated[Path, typer.Argument(help="run directory of a search")]) -> None:
    """Write the HTML report of a run, finished or not."""
    from canao.report.write import write_report

    out.print(str(write_report(run_dir)), soft_wrap=True, markup=False)
