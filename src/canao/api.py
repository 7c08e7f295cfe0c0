"""The Python interface: compile, load, search. The command line is a thin layer over it."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from canao.artifact.directory import Artifact
from canao.device.base import Device, MeasureConfig
from canao.errors import InputError
from canao.inference.compiled_model import CompiledModel
from canao.target import Target, get_target

if TYPE_CHECKING:
    from canao.search import SearchResult
    from canao.search.options import Event
    from canao.tuning import Report

DEVICES = ("local", "null")
TrainReport = Callable[[str, int, int, str], None]


def compile(
    model: str | Path | Any, out: str | Path | None = None, *, target: str | Target = "host",
    threads: int = 1, fusion: bool = True, tuned: bool = True,
) -> CompiledModel:  # fmt: skip
    """Compile a Hugging Face directory, an .onnx file or a torch module, and load it.

    The artifact is written to `out`, or kept in a temporary directory as long as the returned
    model lives. For a target other than this machine use `compile_model` in canao.compiler.
    Kernels run as `tune` found best on this machine; without `tuned`, by the default plans.
    """
    from canao.compiler import compile_model

    machine = get_target(target) if isinstance(target, str) else target
    if out is not None:
        artifact = compile_model(model, out, target=machine, fusion=fusion, tuned=tuned)
        return CompiledModel(artifact, threads)
    folder = tempfile.TemporaryDirectory(prefix="canao-")
    place = Path(folder.name) / "model"
    artifact = compile_model(model, place, target=machine, fusion=fusion, tuned=tuned)
    compiled = CompiledModel(artifact, threads)
    weakref.finalize(compiled, folder.cleanup)
    return compiled


def tune(
    model: str | Path | Any, *, target: str | Target = "host", length: int = 128, threads: int = 1,
    budget_s: float = 90.0, fresh: bool = False, progress: Callable[[str], None] | None = None,
) -> Report:  # fmt: skip
    """Measure plans of a model's kernels on this machine; later compilations use the fastest.

    Plans are measured at `length` tokens and `threads`, and compute the same at any other. What
    was measured earlier is not measured again, unless `fresh` forgets it.
    """
    from canao.tuning import tune_model

    machine = get_target(target) if isinstance(target, str) else target
    return tune_model(
        model, target=machine, length=length, threads=threads, budget_s=budget_s, fresh=fresh,
        progress=progress,
    )  # fmt: skip


def load(path: str | Path, *, threads: int = 1, verify: bool = False) -> CompiledModel:
    """Load an artifact directory, after checking every file against its manifest.

    Weights are compared by size and fingerprint; `verify` reads all of them, as `canao bench` and
    `canao certify` do.
    """
    artifact = Artifact.load(path)
    artifact.verify(whole=verify)
    return CompiledModel(artifact, threads)


def get_device(name: str = "local") -> Device:
    """The device called `name`: 'local' is this machine; 'null' compiles and never runs."""
    if name == "local":
        from canao.device.local import LocalDevice

        return LocalDevice()
    if name == "null":
        from canao.device.null import NullDevice

        return NullDevice()
    raise InputError(f"device '{name}' is not one of {', '.join(DEVICES)}")


def search(
    *, teacher: str | Path, data: str | Path, budget_ms: float, run_dir: str | Path = "runs/search",
    device: str | Device = "local", task: str = "text-classification", length: int = 128,
    threads: int = 1, trials: int = 16, controller: str = "policy", seed: int = 0,
    percentile: float = 90.0, samples: int = 1024, max_minutes: float = 0.0,
    metric: str | None = None, quick_steps: int | None = None, epochs: int | None = None,
    teacher_epochs: int | None = None, teacher_lr: float | None = None,
    progress: Callable[[Event], None] | None = None,
    train_progress: TrainReport | None = None,
) -> SearchResult:  # fmt: skip
    """Search the student architecture, distil it, compile it and certify its library.

    teacher      Hugging Face directory of a BERT model, fine-tuned for the labels or not
    data         labelled text: a TSV, CSV or JSONL file, or a directory with train and dev files
    budget_ms    the latency that `percentile` of the samples must keep, at `length` tokens
    length       tokens of the measured input; training texts are cut there as well

    Run again with the same `run_dir`, it goes on where it was. Raises BudgetError if nothing
    keeps the budget, InputError for what cannot be used.
    """
    from canao.search import SearchOptions, run_search
    from canao.search.options import silent
    from canao.train.data import load_data
    from canao.train.trainer import Trainer, TrainOptions

    run_dir = Path(run_dir)
    measure = MeasureConfig(length=length, threads=threads, samples=samples)
    chosen: dict[str, Any] = {
        "quick_steps": quick_steps,
        "final_epochs": epochs,
        "teacher_epochs": teacher_epochs,
        "teacher_lr": teacher_lr,
    }
    training = TrainOptions(
        max_length=length, seed=seed, metric=metric,
        **{name: value for name, value in chosen.items() if value is not None},
    )  # fmt: skip
    facts = asdict(training)
    del facts["threads"]  # changes the time, not the result
    options = SearchOptions(
        budget_ms=budget_ms, run_dir=run_dir, trials=trials, max_minutes=max_minutes,
        controller=controller, seed=seed, percentile=percentile, measure=measure,
        identity={"teacher": str(Path(teacher).resolve()), "data": str(Path(data).resolve()),
                  "task": task, **{f"training.{k}": str(v) for k, v in facts.items()}},
    )  # fmt: skip
    where = get_device(device) if isinstance(device, str) else device
    texts = load_data(data, task=task, seed=seed)
    trainer = Trainer(teacher, texts, run_dir / "train", training, train_progress or _quiet)
    return run_search(options, trainer, _compiler(where), where, progress or silent)


def _compiler(device: Device) -> Callable[[Path, Path], Artifact]:
    from canao.compiler import compile_model

    return lambda model_dir, out: compile_model(model_dir, out, target=device.target)


def _quiet(stage: str, done: int, total: int, note: str) -> None:
    """The training callback that says nothing."""
