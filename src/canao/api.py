"""The Python interface: compile, load, search, distil, tune. The command line is a thin layer on
it."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from canao.artifact.certificate_file import unfitting
from canao.artifact.directory import Artifact
from canao.artifact.temporary import WorkingDirectory
from canao.defaults import CORES, DEVICE, PRECISION, TARGET, TUNE_SECONDS, silent
from canao.device.base import Device, MeasureConfig
from canao.device.certify import check_budget
from canao.device.cores import named_cores
from canao.device.lease import Lease, Leased
from canao.device.names import device_of
from canao.device.null import NOWHERE
from canao.errors import InputError
from canao.inference.compiled_model import CompiledModel
from canao.machine import local_machine
from canao.search.options import DEFAULTS, Event, SearchOptions
from canao.target import Target, get_target
from canao.train.distillation.general_options import GeneralOptions
from canao.train.options import TrainOptions, TrainProgress

if TYPE_CHECKING:
    from canao.model.arch import Arch
    from canao.model.directory.hub import ModelPlace
    from canao.search import SearchResult
    from canao.search.executor import Executor
    from canao.search.fallback import Precisions
    from canao.search.joining import Joined
    from canao.search.options import Finish
    from canao.search.study.team import Team
    from canao.train.data import TextData
    from canao.train.distillation.general import Distilled
    from canao.train.trainer import Trainer
    from canao.tuning import TuningResult

EXECUTORS = ("ray",)
_PROTOCOL, _TRAINING = DEFAULTS.measure, DEFAULTS.training
_GENERAL, DISTIL_DIR = GeneralOptions(), Path("runs/distil")


def compile(
    model: str | Path | Any, out: str | Path | None = None, *, revision: str | None = None,
    target: str | Target = TARGET, threads: int = _PROTOCOL.threads, fusion: bool = True,
    tuned: bool = True, ignored: Collection[str] = (), precision: str = PRECISION,
    kv_cache: str = PRECISION,
) -> CompiledModel:  # fmt: skip
    """Compile a Hugging Face directory, an .onnx file or a torch module, and load it.

    A text that names nothing here is a model on the Hugging Face Hub, at its `revision`: a branch,
    a tag or a commit. A `Path` is never such a name.

    The artifact is written to `out`, or to a temporary directory that is removed with the returned
    model. For a target other than this machine use `compile_model` in canao.compiler.pipeline.
    Kernels use the plans that `tune` found fastest here; without `tuned`, the default plans.
    `ignored` names files and entries of the directory that would be refused ('config.json:name')
    and that have no effect on the model. `precision` of products is 'float32', 'bf16', 'fp16',
    'int8', 'int8-7bit' or 'int8-weights' (docs/precision.md), or 'auto': the fastest of those whose
    outputs stay near float32's.
    `kv_cache` is what a decoder keeps keys and values of earlier tokens in: 'float32', 'fp16' or
    'int8'.
    """
    machine = get_target(target) if isinstance(target, str) else target
    options = {"revision": revision, "target": machine, "fusion": fusion, "tuned": tuned,
               "ignored": ignored, "kv_cache": kv_cache}  # fmt: skip
    if out is not None:
        return CompiledModel(_made(model, out, precision, **options), threads)
    folder = WorkingDirectory("canao-model")
    place = folder.path / "model"
    compiled = CompiledModel(_made(model, place, precision, **options), threads)
    weakref.finalize(compiled, folder.cleanup)
    return compiled


def _made(model: Any, out: str | Path, precision: str, **options: Any) -> Artifact:
    from canao.accuracy.fastest import compile_fastest
    from canao.compiler.pipeline import compile_model
    from canao.precision.quantize import AUTO

    if precision == AUTO:
        return compile_fastest(model, out, **options).artifact
    return compile_model(model, out, precision=precision, **options)


def tune(
    model: str | Path | Any, *, revision: str | None = None, target: str | Target | None = None,
    device: str | Device = DEVICE, length: int = _PROTOCOL.length,
    threads: int = _PROTOCOL.threads, budget_s: float = TUNE_SECONDS, fresh: bool = False,
    progress: Callable[[str], None] | None = None, precision: str = PRECISION,
) -> TuningResult:  # fmt: skip
    """Measure plans of a model's kernels on a device; later compilations for it use the fastest.

    Plans are measured at `length` tokens and with `threads` threads; their results are the same at
    any length. What was measured before is not measured again, unless `fresh` discards it.
    `revision` is that of a model named on the Hub. Libraries of each `precision` are tuned for
    themselves.
    """
    from canao.tuning import tune_model

    machine = get_target(target) if isinstance(target, str) else target
    where = device_of(device) if isinstance(device, str) else device
    return tune_model(
        model, revision=revision, target=machine, device=where, length=length, threads=threads,
        budget_s=budget_s, fresh=fresh, progress=progress, precision=precision,
    )  # fmt: skip


def load(
    path: str | Path, *, threads: int = _PROTOCOL.threads, verify: bool = False
) -> CompiledModel:
    """Load an artifact directory, after checking every file against its manifest.

    Weights are checked by size and fingerprint; with `verify` they are read whole, as `canao bench`
    and `canao certify` do. A certificate beside it that is not of these files, or of another
    machine, is worth a note on standard error.
    """
    artifact = Artifact.load(path)
    artifact.verify(whole=verify)
    model = CompiledModel(artifact, threads)
    note = unfitting(artifact, local_machine().stamp)
    if note is not None:
        print(f"canao: note: {note}", file=sys.stderr)
    return model


def get_device(name: str = DEVICE) -> Device:
    """The device called `name`, as `--device` takes it: 'local' is this machine, 'ssh:HOST' another
    one, 'adb' a phone; docs/devices.md has them all."""
    return device_of(name)


def search(
    *, teacher: str | Path, data: str | Path, budget_ms: float | Sequence[float],
    revision: str | None = None, ignored: Collection[str] = (),
    run_dir: str | Path = DEFAULTS.run_dir, device: str | Device | Sequence[Device] = DEVICE,
    task: str | None = DEFAULTS.task, text_columns: Sequence[str] = (),
    label_column: str | None = None, unlabelled: str | None = None,
    label_separator: str | None = None, data_revision: str | None = None,
    length: int = _PROTOCOL.length, threads: int = _PROTOCOL.threads, cores: str = CORES,
    trials: int = DEFAULTS.trials, controller: str = DEFAULTS.controller,
    seed: int = DEFAULTS.seed, percentile: float = DEFAULTS.percentile,
    others_limit: float = DEFAULTS.others_limit,
    samples: int = _PROTOCOL.samples, max_minutes: float = DEFAULTS.max_minutes,
    metric: str | None = _TRAINING.metric, ranker: str = _TRAINING.ranker,
    quick_steps: int = _TRAINING.quick_steps, supernet_steps: int = _TRAINING.supernet_steps,
    epochs: int = _TRAINING.final_epochs, teacher_epochs: int | None = _TRAINING.teacher_epochs,
    teacher_lr: float | None = _TRAINING.teacher_lr,
    precision: str = PRECISION, max_loss: float = DEFAULTS.max_loss,
    quantized_epochs: int | None = _TRAINING.quantized_epochs,
    losses: str = _TRAINING.losses, relation_heads: int = _TRAINING.relation_heads,
    relation_layer: int | None = _TRAINING.relation_layer,
    augment: int = _TRAINING.augment, augment_model: str | Path | None = _TRAINING.augment_model,
    prune_vocabulary: bool = _TRAINING.prune_vocabulary, vocabulary: int = _TRAINING.vocabulary,
    unlabelled_text: str | Path | None = None,
    train_device: str = _TRAINING.device, train_dtype: str = _TRAINING.dtype,
    size_mb: float | None = DEFAULTS.size_mb, memory_mb: float | None = DEFAULTS.memory_mb,
    min_accuracy: float | None = DEFAULTS.min_accuracy,
    from_run: str | Path | None = None, study: str | Joined | None = None,
    executor: str | None = None,
    progress: Callable[[Event], None] | None = None, train_progress: TrainProgress | None = None,
) -> SearchResult:  # fmt: skip
    """Search the student architecture, distil it, compile it and certify its library.

    teacher      Hugging Face directory, or name on the Hub, of an encoder, fine-tuned for the
                 labels or not; docs/search.md lists the families
    revision     branch, tag or commit of a teacher that is named on the Hub
    ignored      files and entries of the teacher's directory that would be refused
    data         labelled text: a TSV, CSV or JSONL file, or .conll of words with labels, a
                 directory with train and dev files, or a data set of the Hugging Face Hub by name,
                 as 'glue/mrpc', at `data_revision`
    task         'text-classification', 'text-regression', 'token-classification',
                 'multi-label-classification' or 'sentence-embedding', whose data may be a .txt
                 file; None: what the labels are
    text_columns, label_column   the columns of the data, if their names do not say what they are
    unlabelled   what the label column has where there is no label: such examples are left out
    label_separator   what stands between two labels of an example, if it may have several and they
                 are no lists
    budget_ms    limit for the latency at `percentile`, with sequences of `length` tokens; with
                 several devices one for each, or one for all
    device       where libraries run (docs/devices.md); several, 'adb:A,adb:B', for one student that
                 keeps its budget on each: it has a library for each, RUN/artifact, artifact-2, ...
    teacher_epochs, teacher_lr   of the teacher's fine-tuning. None: rate, epochs and all else are
                 chosen on a held-out part of the training set (docs/training.md)
    ranker       what candidates' proxy scores are: 'short', the score after `quick_steps` of
                 distillation; 'supernet', that as a part of a supernet, which is trained for
                 `supernet_steps` once; 'fitted', that before any training; 'pruning', the share of
                 the teacher that is kept
    length       tokens of the measured sequence; training sequences are truncated to it, too
    cores        that threads are pinned to: 'big', 'middle' or 'little' ones, or numbers, as '4,5';
                 '': the fastest
    others_limit share of a core that other programs may take while a library is judged
    precision    of the products of all libraries; 'auto': the one in which the teacher is fastest
                 on the device, and the next more precise one where the best student's library
                 loses more than `max_loss` in it. In another one than float32 the best student's
                 is run on the development set, and its score is the library's
    max_loss     points of the metric that it may lose there against float32; where it loses more,
                 products go back to float32, and that library is measured
    quantized_epochs   the last of `epochs`, in which the student is rounded as its library will be;
                 None: a third of them, one at least
    losses       of the distillation, by name and with weights, as 'logits=1,relations=0.5'
    relation_heads, relation_layer   of the loss 'relations': into how many parts vectors are cut,
                 and which of the teacher's layers is compared with, from 1; None: the last
    augment      altered copies of each training example that finalists learn from the teacher
    augment_model   directory of a masked language model that says which words may stand in them;
                 None: words that are near in the teacher's embeddings
    prune_vocabulary   students keep only the tokens that the training texts use, and what any other
                 text needs: smaller libraries, whose texts are cut into more tokens where they have
                 words that no training text has
    vocabulary   tokens that they keep then at least: the teacher's commonest beside those; 0: none
    unlabelled_text   more texts for that: a .txt file with one a line, or a table with the columns
                 that the texts of `data` are in
    train_device, train_dtype   where training computes (cpu, cuda, mps; auto: a GPU if there is
                 one), and its products in what (float32, bf16; auto: bf16 where that is faster);
                 the library runs on `device`
    size_mb, memory_mb   limits for all files of the artifact, and for the memory of a process that
                 runs the library and has read all its weights, in millions of bytes
    min_accuracy the least score of the finished student, by the metric that ranks candidates
    from_run     directory of another run with the same teacher, data and training, whose teacher,
                 students and kernel times are used and added to: for a second budget
    study        a database in which trials are kept, so that other processes judge, too (`worker`):
                 'postgresql://USER@HOST/DATABASE', 'sqlite:///FILE', or 'grpc://HOST:PORT' of
                 Optuna's proxy, and behind # a name, if there are several searches in it
    executor     'ray': proxy scores are computed on a Ray cluster; None: in this process

    Called again with the same `run_dir`, it continues where it stopped. Raises BudgetError if
    nothing keeps the budget, InputError if an argument cannot be used.
    """
    given = dict(locals())  # what another process is told that is to do the same
    from canao.model.directory.checkpoint import content
    from canao.model.directory.hub import resolve
    from canao.precision.quantize import AUTO, INT8
    from canao.search import fallback
    from canao.search.elsewhere import Elsewhere
    from canao.search.joining import Joined, arguments_of
    from canao.search.latency.kernels import Imported
    from canao.search.loop import Shared, run_search
    from canao.search.study.sharing import FROM, TRAINED, sharing, trained_in
    from canao.search.study.team import Offer
    from canao.train.data import load_data
    from canao.train.distillation.unlabelled import Unlabelled, read_unlabelled
    from canao.train.engine.compute import training_device
    from canao.train.engine.threads import making_way
    from canao.train.records import digest
    from canao.train.trainer import Trainer

    # Options first: what is wrong with one is said before anything is downloaded or read. What
    # `auto` will be is measured later; int8 has all options that any other precision has.
    run_dir = Path(run_dir)
    budgets = [budget_ms] if isinstance(budget_ms, int | float) else list(budget_ms)
    options = SearchOptions(
        budget_ms=budgets[0] if budgets else 0.0, run_dir=run_dir, task=task, trials=trials,
        max_minutes=max_minutes, controller=controller, seed=seed, percentile=percentile,
        others_limit=others_limit,
        measure=MeasureConfig(length=length, threads=threads, samples=samples),
        training=TrainOptions(
            max_length=length, seed=seed, metric=metric, ranker=ranker, quick_steps=quick_steps,
            supernet_steps=supernet_steps, final_epochs=epochs, teacher_epochs=teacher_epochs,
            teacher_lr=teacher_lr, precision=INT8 if precision == AUTO else precision,
            quantized_epochs=quantized_epochs, losses=losses, relation_heads=relation_heads,
            relation_layer=relation_layer, augment=augment,
            augment_model=None if augment_model is None else str(Path(augment_model).resolve()),
            prune_vocabulary=prune_vocabulary, vocabulary=vocabulary,
            device=train_device, dtype=train_dtype,
        ),
        max_loss=max_loss, size_mb=size_mb, memory_mb=memory_mb, min_accuracy=min_accuracy,
    )  # fmt: skip
    training_device(train_device)
    if executor not in (None, *EXECUTORS):
        raise InputError(f"--executor '{executor}' is not one of {', '.join(EXECUTORS)}")
    say, told_of = train_progress or silent, progress or silent
    where, *further = several = devices_of(device)
    budgets = budgets_of(budgets, several)
    if further and study is not None:
        raise InputError("--study is of a search on one device; leave it out")
    team = study.team if isinstance(study, Joined) else _team(study, told_of)
    options = replace(options, measure=replace(
        options.measure, cores=named_cores(cores, where.machine, threads)
    ))  # fmt: skip
    leases: dict[str, Lease] = {}
    (where, lease), *others = (_leased(one, leases, told_of) for one in several)
    place = resolve(teacher, revision, ignored)
    texts = load_data(
        data, task, seed, text_columns=text_columns, label_column=label_column,
        unlabelled=unlabelled, revision=data_revision, label_separator=label_separator,
    )  # fmt: skip
    more = Unlabelled() if unlabelled_text is None else read_unlabelled(unlabelled_text, texts)
    told = (*texts.told, *more.told)
    options = replace(options, data_told=told, identity={
        **_teacher_facts(place), "data": texts.source,
        "columns": ", ".join((*texts.columns, texts.label_column)),
        **_text_facts(unlabelled_text), **_label_facts(texts, label_separator),
    })  # fmt: skip
    contents = {} if team is None else {
        "the teacher": digest(content(place.path)),
        "the text": digest(texts.content(), [asdict(example) for example in more.examples]),
    }

    def a_trainer(work: Path, training: TrainOptions) -> Trainer:
        return Trainer(place.path, texts, work, training, say, ignored, more.examples)

    with sharing(run_dir, None if from_run is None else Path(from_run)) as other, making_way(lease):
        if isinstance(study, Joined):
            return study.run(
                options, a_trainer, where, lambda name: _compiler(where, name, lease), contents,
                told_of,
            )  # fmt: skip
        asked = replace(options, left_out=fallback.left_out(run_dir))
        options, theirs = asked, asked
        among = _precisions(lambda: a_trainer(run_dir / TRAINED, asked.training), where, asked)
        if precision == AUTO:
            options = fallback.chosen(asked, other, among, told_of)
            # The other run may be in another precision than this one is by now.
            theirs = asked if other is None else fallback.like(asked, other)
        work = trained_in(run_dir, other, theirs.facts())

        def searched(options: SearchOptions, told_of: Callable[[Event], None]) -> SearchResult:
            trainer = a_trainer(work, options.training)
            source = {} if other is None else {FROM: str(other)}
            options = replace(
                options, data_told=(*told, *trainer.told()), times_of=other,
                identity={**options.identity, **source},
            )  # fmt: skip
            offer = Offer(arguments_of(given, place.commit), contents, str(work.resolve()))
            shared = Shared(team, None if team is None else offer, _executor(
                executor, partial(Trainer, place.path, texts, work.resolve(), options.training,
                                  silent, ignored, more.examples),
                (place.path, work), where.place, options.training,
            ))  # fmt: skip
            elsewhere = tuple(
                Elsewhere(
                    one, budget, named_cores(cores, one.machine, threads),
                    _compiler(one, options.precision, own),
                    _finisher(one, texts, options, trainer.judged),
                )
                for (one, own), budget in zip(others, budgets[1:], strict=True)
            )  # fmt: skip
            return run_search(
                options, trainer, _compiler(where, options.precision, lease), where,
                Imported(trainer.blank, where.target, options.precision), told_of,
                _finisher(where, texts, options, trainer.judged), shared, elsewhere,
            )  # fmt: skip

        if precision != AUTO:
            return searched(options, told_of)
        return fallback.in_turn(
            searched, options, told_of, lambda left: fallback.after(left, asked, among, told_of)
        )


def devices_of(given: str | Device | Sequence[Device]) -> list[Device]:
    """The devices of a search, the first of which it finds its way by."""
    if isinstance(given, str):
        names = [name.strip() for name in given.split(",")]
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"--device {given}: names {name} twice; name each once")
        return [get_device(name) for name in names]
    found: list[Device] = [*given] if isinstance(given, Sequence) else [given]
    if not found:
        raise InputError("no device; give one, as 'local'")
    return found


def budgets_of(given: Sequence[float], devices: Sequence[Device]) -> list[float]:
    """A budget of latency for each device."""
    budgets = list(given) * (len(devices) if len(given) == 1 else 1)
    if len(budgets) != len(devices):
        raise InputError(
            f"{len(budgets)} latency budgets for {len(devices)} "
            f"device{'' if len(devices) == 1 else 's'} ({', '.join(d.name for d in devices)}); "
            "give one for each, or one for all"
        )
    for budget in budgets:
        check_budget(budget, DEFAULTS.percentile)
    return budgets


def _leased(
    device: Device, leases: dict[str, Lease], told_of: Callable[[Event], None]
) -> tuple[Device, Lease]:
    """A device that is measured on alone, and the lease of its machine, one for all its devices."""
    if device.place not in leases:
        leases[device.place] = Lease(
            device.place, lambda line: told_of(Event("team", line)), remote=device.remote
        )
    lease = leases[device.place]
    return (device if device.name == NOWHERE else Leased(device, lease)), lease


def search_devices(
    devices: Sequence[str | Device], budgets: Sequence[float], *,
    run_dir: str | Path = DEFAULTS.run_dir, from_run: str | Path | None = None,
    progress: Callable[[Event], None] | None = None, **options: Any,
) -> dict[str, SearchResult]:  # fmt: skip
    """A student for each of several devices, by the device's name, with the options of `search`;
    for one student that keeps its budget on all of them give these to `search`.

    budgets   one for each device in milliseconds, or one for all

    Each is in a run directory below `run_dir`, and they share the teacher and all that is trained.
    BudgetError, once all were tried, if a budget is kept by none.
    """
    from canao.search.several import search_each_device

    def one(device: Device, budget: float, place: Path, other: Path | None) -> SearchResult:
        return search(
            device=device, budget_ms=budget, run_dir=place, from_run=other, progress=progress,
            **options,
        )  # fmt: skip

    if options.get("study") is not None:
        raise InputError("study is of a search on one device; search for each with from_run")
    made = [device for given in devices for device in devices_of(given)]
    other = None if from_run is None else Path(from_run)
    pairs = list(zip(made, budgets_of(budgets, made), strict=True))
    return search_each_device(pairs, Path(run_dir), other, one, progress or silent)


def search_budgets(
    budgets: Sequence[float], *, run_dir: str | Path = DEFAULTS.run_dir,
    from_run: str | Path | None = None, progress: Callable[[Event], None] | None = None,
    **options: Any,
) -> dict[float, SearchResult]:  # fmt: skip
    """A student for each of several latency budgets in milliseconds, with the options of `search`.

    Each is in a run directory below `run_dir`, as '4ms', and they share the teacher and all that is
    trained; RUN/students.json names them for `pick`. BudgetError, once all were tried, if a budget
    is kept by none.
    """
    from canao.search.several import search_each

    def one(budget: float, place: Path, other: Path | None) -> SearchResult:
        return search(
            budget_ms=budget, run_dir=place, from_run=other, progress=progress, **options
        )

    if options.get("study") is not None:
        raise InputError("study is of a search with one budget; search for each with from_run")
    other = None if from_run is None else Path(from_run)
    return search_each(budgets, Path(run_dir), other, one, progress or silent)[0]


def worker(
    *, study: str, run_dir: str | Path | None = None, teacher: str | Path | None = None,
    data: str | Path | None = None, augment_model: str | Path | None = None,
    unlabelled_text: str | Path | None = None, shared: str | Path | None = None,
    train_device: str = _TRAINING.device, train_dtype: str | None = None,
    progress: Callable[[Event], None] | None = None, train_progress: TrainProgress | None = None,
) -> int:  # fmt: skip
    """Judge candidates of a search that was started with the same `study`, until it has enough of
    them; returns how many. docs/search.md says more.

    study        the database of the search, as `canao.search` has it
    run_dir      where this process trains and measures; None: the first of runs/worker-1, -2, ...
                 that is free
    teacher, data, augment_model, unlabelled_text   of the search, where this machine has them
                 elsewhere; None: by the paths that the search was given
    shared       the run directory of the search as this machine sees it, from which the fine-tuned
                 teacher comes; None: by its path there
    train_device, train_dtype   as of `canao.search`; None: that of the search

    InputError names what differs where this process would not judge as the search does.
    """
    from canao.search.joining import Joined, own_place
    from canao.search.study.team import Team
    from canao.search.study.url import parse_study

    told_of = progress or silent
    team = Team(parse_study(study), lambda line: told_of(Event("team", line)))
    given = {"teacher": teacher, "data": data, "augment_model": augment_model,
             "unlabelled_text": unlabelled_text, "train_dtype": train_dtype}  # fmt: skip
    if teacher is not None:
        given["revision"] = None
    with own_place(None if run_dir is None else Path(run_dir)) as folder:
        joined = Joined(team, folder, None if shared is None else Path(shared))
        arguments = joined.arguments(search.__annotations__)
        arguments |= {name: value for name, value in given.items()
                      if value is not None or name == "revision"}  # fmt: skip
        search(
            **arguments | {"train_device": train_device}, run_dir=folder, study=joined,
            progress=progress, train_progress=train_progress,
        )  # fmt: skip
        return joined.judged


def distil(
    *, teacher: str | Path, text: str | Path, arch: str | Arch, revision: str | None = None,
    ignored: Collection[str] = (), run_dir: str | Path = DISTIL_DIR, tokens: int = _GENERAL.tokens,
    length: int = _GENERAL.length, batch: int = _GENERAL.batch, lr: float = _GENERAL.lr,
    losses: str = _GENERAL.losses, seed: int = _GENERAL.seed, train_device: str = _GENERAL.device,
    train_dtype: str = _GENERAL.dtype, train_progress: TrainProgress | None = None,
) -> Distilled:  # fmt: skip
    """Distil an encoder on plain text, which needs no labels; `search` takes it as a teacher.

    teacher      Hugging Face directory, or name on the Hub, of an encoder, at its `revision`;
                 docs/search.md lists the families
    text         a .txt file, plain or .gz, with one text a line
    arch         'L6 H192 A6 F768': layers, width, heads, FFN units; or an Arch
    tokens       that the student sees in all
    losses       by name, as for `search`, without those of logits and labels

    Called again with the same `run_dir`, it goes on where it stopped. InputError if an argument
    cannot be used.
    """
    from canao.model.arch import Arch
    from canao.model.directory.hub import resolve
    from canao.search.study.run_file import locked
    from canao.train.distillation.general import distil_text

    run_dir = Path(run_dir)
    shape = Arch.parse(arch) if isinstance(arch, str) else arch
    options = GeneralOptions(
        tokens=tokens, length=length, batch=batch, lr=lr, losses=losses, seed=seed,
        device=train_device, dtype=train_dtype,
    )  # fmt: skip
    place = resolve(teacher, revision, ignored)
    with locked(run_dir):
        return distil_text(
            place.path, Path(text), shape, run_dir, options, train_progress or silent, ignored
        )


def _teacher_facts(place: ModelPlace) -> dict[str, str]:
    """What must stay when a run resumes: the directory, or the name on the Hub and its commit."""
    if place.hub is None or place.commit is None:
        return {"teacher": str(place.path.resolve())}
    return {"teacher": place.hub, "teacher_commit": place.commit}


def _text_facts(path: str | Path | None) -> dict[str, str]:
    """The same of texts without labels, if there are some."""
    return {} if path is None else {"unlabelled_text": str(Path(path).resolve())}


def _label_facts(data: TextData, separator: str | None) -> dict[str, str]:
    """The same of what the labels are, where that is not said by the option alone."""
    found = {"task": data.kind} if data.kind else {}
    return found | ({} if separator is None else {"label_separator": separator})


def _precisions(
    trainer: Callable[[], Trainer], device: Device, options: SearchOptions
) -> Precisions:
    """What `auto` may choose for a device, and how: by libraries of the teacher's shape."""
    from canao.accuracy.fastest import candidates, fastest_precision
    from canao.search.fallback import Precisions

    def fastest(among: Sequence[str], say: Callable[[str], None]) -> str:
        made = trainer()
        model = made.blank(made.teacher_arch())
        return fastest_precision(model, device, options.search_measure, say, among)

    return Precisions(candidates(device.target), fastest)


def _compiler(device: Device, precision: str, lease: Lease) -> Callable[[Path, Path], Artifact]:
    from canao.compiler.pipeline import compile_model

    def compiled(model_dir: Path, out: Path) -> Artifact:
        with lease.working():
            return compile_model(model_dir, out, target=device.target, precision=precision)

    return compiled


def _team(study: str | None, progress: Callable[[Event], None]) -> Team | None:
    """The processes that work on a study, of which this one begins the search."""
    if study is None:
        return None
    from canao.search.study.team import Team
    from canao.search.study.url import parse_study

    return Team(parse_study(study), lambda line: progress(Event("team", line)), new=True)


def _executor(
    name: str | None, make: Callable[[], Trainer], needed: Sequence[Path], device: str,
    training: TrainOptions,
) -> Executor | None:  # fmt: skip
    """Where proxy scores are computed; None: in this process."""
    if name is None:
        return None
    from canao.search.ray_executor import RayExecutor

    return RayExecutor(
        make, needed, device, cpus=training.threads or 1, gpus=int(training.device == "cuda")
    )


def _finisher(
    device: Device, data: TextData, options: SearchOptions,
    judged: Callable[[], TextData] | None = None,
) -> Finish:  # fmt: skip
    """Compiles a finished student and has its library say what `data.dev` is, or that of
    `judged()`, which the teacher labels: for the certificate, where the device runs it, and in
    another precision than float32 to check what that loses."""
    from canao.accuracy.certified import scored
    from canao.accuracy.gate import compile_checked, require_runnable, runs_here
    from canao.accuracy.verified import LENGTHS, beside, examined, keep_verdict, require_right
    from canao.compiler.pipeline import compile_model, target_for
    from canao.device.device_model import opened_on
    from canao.search.options import Finished

    metric, target, opened = options.training.metric, device.target, opened_on(device)
    here = opened is CompiledModel
    if options.precision != PRECISION:
        target_for(target, options.precision)  # before anything is trained
        if here:
            require_runnable(target, f"search in {PRECISION}")

    def proven(artifact: Artifact, model_dir: Path, say: Callable[[str], None]) -> None:
        if artifact.on_gpu:  # a certificate asks for that
            say(f"comparing the library on {device.name} with {beside(artifact)} here")
            longest = min(artifact.max_length, max(LENGTHS[-1], options.measure.length))
            verdict = examined(artifact, model_dir, device, longest, say=say)
            require_right(artifact, device, verdict)
            keep_verdict(artifact, device, verdict)

    def finish(model_dir: Path, out: Path, say: Callable[[str], None]) -> Finished:
        texts = replace(judged() if judged else data, told=())
        if options.precision != PRECISION:
            found = compile_checked(
                model_dir, out, texts, precision=options.precision, max_loss=options.max_loss,
                metric=metric, target=target, progress=say, opened=opened,
            )  # fmt: skip
            proven(found.artifact, model_dir, say)
            return Finished(found.artifact, *scored(found.artifact, texts, metric, found.compiled))
        artifact = compile_model(model_dir, out, target=target)
        proven(artifact, model_dir, say)
        if here and not runs_here(target):
            return Finished(artifact)
        say("running the library on the development set")
        return Finished(artifact, *scored(artifact, texts, metric, opened=opened))

    return finish
