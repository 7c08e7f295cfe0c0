"""A library in another precision that loses no more than was allowed, on the user's labelled text.

Where int8 loses more, channels of activations that are much larger than others are smoothed
(precision/smoothing.py), as far as the user's texts show such. Where that is not enough, products
and tables go back to more bits, those first that move the model's outputs most, until the loss is
allowed: 1 of them, 2, 4, ... so that few libraries are built. They go back to bf16 where the target
has instructions that multiply it; only if that is not enough, and on other targets, to float32.
One at least stays in int8: a library without any is one in float32.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from canao.accuracy.measure import (
    Labelled,
    Opened,
    Predictions,
    for_task_of,
    labelled_text,
    predictions,
    require_there,
    truncated,
)
from canao.artifact.directory import Artifact
from canao.artifact.files import staged_directory, write_json
from canao.artifact.manifest import sealed
from canao.artifact.temporary import WorkingDirectory
from canao.compiler.heads import Model, read_model
from canao.compiler.packaging import check_destination
from canao.compiler.pipeline import compile_model, has_instructions, target_for
from canao.defaults import LIMITS, MAX_LOSS, Limits, silent
from canao.errors import AccuracyError, InputError, NotFiniteError
from canao.fuse.simplify import rewritten
from canao.graph.ir import Graph
from canao.inference.compiled_model import CompiledModel
from canao.inference.text_model import TextModel
from canao.isa.registry import ISAS
from canao.machine import local_machine
from canao.precision.agreement import distances
from canao.precision.quantize import (
    BFLOAT16,
    FLOAT32,
    check_precision,
    of_parts,
    precision_of,
    quantizable,
    with_one,
)
from canao.precision.smoothing import UNSMOOTHED, Factors, factors, smoothed
from canao.target import Target, get_target
from canao.train.data import TextData
from canao.train.metrics import check_metric

_SAMPLE = 4  # texts on which outputs are compared
_NAMED = 5  # products that a manifest, or an error, names
NO_COLUMNS: Mapping[str, Any] = MappingProxyType({})  # of data whose columns say what they are
_NOISE = 1e-9  # points: what rounding adds to the difference of two scores


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """How far outputs move if one product, or table, alone is in int8, in standard deviations."""

    name: str
    where: str
    moved: float


@dataclass(frozen=True, slots=True)
class Checked:
    """A library and what it was compared with.

    kept        places of what went back, and `back` the precision that it went back to; '' where
                nothing did
    hurting     all products and tables, those that move the outputs most first
    """

    artifact: Artifact
    float32: Predictions
    compiled: Predictions
    kept: tuple[str, ...]
    back: str
    hurting: tuple[Sensitivity, ...]

    @property
    def loss(self) -> float:
        """Points of the metric that are lost against float32."""
        return 100 * (self.float32.score.value - self.compiled.score.value)


def compile_checked(
    model: str | Path | Any, out: str | Path, data: Labelled | str | Path, *, precision: str,
    max_loss: float = MAX_LOSS, metric: str | None = None,
    columns: Mapping[str, Any] = NO_COLUMNS, progress: Callable[[str], None] = silent,
    opened: Opened | None = None, **options: Any,
) -> Checked:  # fmt: skip
    """`compile_model` with the same options, and what the library loses on `data.dev`. Data may be
    given as a path or a name, as for `labelled_text`, with its options as `columns`; what is lost
    is by `metric`, the task's usual one where none is named. `opened` says where libraries run;
    None: here.

    AccuracyError if it loses more than `max_loss` points though all but one of its products went
    back, NotFiniteError if the model's own numbers are none; nothing is written then.
    """
    check_precision(precision)
    if not 0 <= max_loss <= 100:
        raise InputError(f"--max-loss {max_loss:g}: give points of the metric, from 0 to 100")
    target = options.get("target") or get_target()
    emulation = options.get("allow_emulation", False)
    target_for(target, precision, allow_emulation=emulation)
    if opened is None:
        require_runnable(target, "check without --target and --isa, then compile with them")
        opened = CompiledModel
    check_destination(Path(out))
    if isinstance(data, str | Path):
        require_there(data)
    read = read_model(model, **options)
    if precision == FLOAT32 and not read.graph.parts:
        raise InputError(
            f"a check compares another precision with {FLOAT32}; give --precision int8, for one"
        )
    data = _data_for(read, data, columns, metric)
    for line in data.told:
        progress(line)
    with WorkingDirectory("canao-check") as folder:
        exact = {name: value for name, value in options.items() if name != "kv_cache"}
        reference = compile_model(model, folder / "reference", parts=False, **exact)
        data = for_task_of(reference, data)
        want = _by(metric, predictions(reference, data, opened))
        if not want.finite:
            raise NotFiniteError(
                f"{data.source or data.name}: in {FLOAT32} the model says numbers of some examples "
                "that are infinite or none, which nothing can be compared with; correct its weights"
            )
        progress(f"{FLOAT32}: {shown(want)} on {len(data.dev)} examples")
        if cut := truncated(reference, data, opened):
            progress(f"{cut} texts are truncated to the {reference.max_length} tokens of the model")
        float32 = rewritten(read.graph, options.get("fusion", True), _limits(options))[1]
        tried = list[_Tried]()
        for a in _attempts(float32, _sample(opened(reference), data), target, precision, emulation,
                           progress):  # fmt: skip
            artifact = _library(model, folder / "library", a, precision, progress, options)
            if artifact is None:
                tried.append(_Tried(np.inf, a))
                continue
            got = _by(metric, predictions(artifact, data, opened))
            places = tuple(s.where for s in a.kept)
            checked = Checked(artifact, want, got, places, a.back, a.hurting)
            lost = checked.loss if got.finite else np.inf
            tried.append(_Tried(lost, a))
            progress(f"{precision}, {a}: {shown(got)}, {_points(lost)} lost")
            if lost <= max_loss + _NOISE:
                return replace(checked, artifact=_written(checked, data, Path(out)))
    raise AccuracyError(_too_much(precision, tried, max_loss))


def _data_for(
    read: Model, data: Labelled | str | Path, columns: Mapping[str, Any], metric: str | None
) -> Labelled:
    """The data of a check, read for the model's task; InputError where the metric is not theirs."""
    found = labelled_text(data, read.head, **columns) if isinstance(data, str | Path) else data
    if isinstance(found, TextData):
        check_metric(metric, found)
    elif metric is not None:
        raise InputError(
            f"--metric {metric}: of words with labels it is the F1 of entities; leave it out"
        )
    return found


def _library(
    model: Any, place: Path, a: _Attempt, precision: str, progress: Callable[[str], None],
    options: Mapping[str, Any],
) -> Artifact | None:  # fmt: skip
    """The library of an attempt; None where the precision does not hold its numbers, which fewer
    products in it may."""
    try:
        return compile_model(
            model, place, precision=precision, kept={s.name: a.back for s in a.kept},
            smoothing=a.smoothing, **options,
        )  # fmt: skip
    except NotFiniteError:
        raise
    except AccuracyError as error:
        progress(f"{precision}, {a}: {error}")
        return None


@dataclass(frozen=True, slots=True)
class _Tried:
    """A library that was tried, and the points it lost; infinite where it says no numbers."""

    lost: float
    attempt: _Attempt


def _points(lost: float) -> str:
    return f"{lost:.2f} points" if np.isfinite(lost) else "all, as some numbers are infinite,"


def _too_much(precision: str, tried: Sequence[_Tried], max_loss: float) -> str:
    """What an error says where nothing that was tried loses little enough: all of it, the products
    that move the output most, and what would have been allowed."""
    listed = ", ".join(
        f"{t.lost:.2f} with {t.attempt}" if np.isfinite(t.lost) else f"all with {t.attempt}"
        for t in tried
    )
    nearest = min(tried, key=lambda t: t.lost)
    worst = ", ".join(f"{s.where} ({s.moved:.1e})" for s in nearest.attempt.hurting[:_NAMED])
    enough = math.ceil(100 * nearest.lost - 100 * _NOISE) / 100 if nearest.lost <= 100 else None
    remedy = "" if enough is None else (
        f"give {enough:.2f} or more, which holds with {nearest.attempt}, or "
    )
    return (f"{precision} loses {listed}; it moves outputs most at {worst}; --max-loss is "
            f"{max_loss:g} points: {remedy}compile in {FLOAT32}")  # fmt: skip


def require_runnable(target: Target, remedy: str) -> None:
    """InputError unless libraries for the target run here, as a check has to run them."""
    if not runs_here(target):
        raise InputError(
            f"a check runs the library, and this machine ({get_target().isa}) runs none for "
            f"{target.name} ({target.kernels_for}); {remedy}"
        )


def runs_here(target: Target) -> bool:
    """Whether libraries for the target run on this machine."""
    missing = set(ISAS[target.levels[0].isa].features).difference(local_machine().features)
    return target.triple == get_target().triple and not missing


def _by(metric: str | None, found: Predictions) -> Predictions:
    """The same, judged by another of its metrics."""
    return found if metric is None else replace(found, score=replace(found.score, primary=metric))


def shown(of: Predictions) -> str:
    """The metric that counts, in points."""
    return f"{of.score.primary} {100 * of.score.value:.2f}"


def sensitivities(
    graph: Graph, texts: Sequence[Sequence[np.ndarray]], precision: str,
    progress: Callable[[str], None] = silent,
) -> tuple[Sensitivity, ...]:  # fmt: skip
    """How far each product of a float32 graph moves its first output if it alone is in a
    precision, or in that which the model itself names for it."""
    own, found = of_parts(graph), list[Sensitivity]()
    used = {n.output: own.get(n.output, precision) for n in quantizable(graph)}
    products = [n for n in quantizable(graph) if used[n.output] != FLOAT32]
    alone = (with_one(graph, n.output, used[n.output]) for n in products)
    moved = distances(graph, alone, texts)
    for i, (n, far) in enumerate(zip(products, moved, strict=True)):
        if i % 8 == 0:
            progress(f"products and tables looked at: {i} of {len(products)}")
        found.append(Sensitivity(n.output, n.where, far))
    return tuple(sorted(found, key=lambda s: -s.moved))


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A library to be tried: what goes back to which precision, what is smoothed, and how far the
    rest moves the output."""

    kept: tuple[Sensitivity, ...]
    back: str
    smoothing: Factors
    hurting: tuple[Sensitivity, ...]

    def __str__(self) -> str:
        smoothed = f", {len(self.smoothing)} values smoothed" if self.smoothing else ""
        if not self.kept:
            return f"all {len(self.hurting)} products and tables{smoothed}"
        return (
            f"{len(self.kept)} of {len(self.hurting)} products and tables in {self.back}{smoothed}"
        )


def _attempts(
    graph: Graph, texts: Sequence[Sequence[np.ndarray]], target: Target, precision: str,
    emulation: bool, progress: Callable[[str], None],
) -> Iterator[_Attempt]:  # fmt: skip
    """What to try of a float32 graph, the fastest first. It is smoothed only where products, one by
    one, move its output less then."""
    whole = precision_of(precision).whole
    back = _backs(target, precision, emulation)
    hurting, smoothing = sensitivities(graph, texts, precision, progress), UNSMOOTHED
    yield _Attempt((), "", smoothing, hurting)
    if uneven := factors(graph, texts) if whole else UNSMOOTHED:
        calmer = sensitivities(smoothed(graph, uneven), texts, precision, progress)
        if sum(s.moved**2 for s in calmer) < sum(s.moved**2 for s in hurting):
            hurting, smoothing = calmer, uneven
            yield _Attempt((), "", smoothing, hurting)
    for name in back:
        for count in _counts(len(hurting) - 1):
            yield _Attempt(hurting[:count], name, smoothing, hurting)


def _backs(target: Target, precision: str, emulation: bool) -> tuple[str, ...]:
    """What products in a precision go back to, one after another."""
    faster = has_instructions(target, BFLOAT16) or emulation
    return (BFLOAT16, FLOAT32) if precision_of(precision).whole and faster else (FLOAT32,)


def _counts(most: int) -> Iterator[int]:
    """1, 2, 4, ... and `most`, if that is not 0."""
    count = 1
    while count < most:
        yield count
        count *= 2
    if most > 0:
        yield most


def _limits(options: Mapping[str, Any]) -> Limits:
    limits: Limits = options.get("limits", LIMITS)
    return limits


def _sample(opened: TextModel, data: Labelled) -> list[list[np.ndarray]]:
    """What the library is given for some of the texts, spread over all."""
    examples = data.task.inputs(data.dev) if isinstance(data, TextData) else data.dev
    with opened as model:
        return [
            model.arrays(e.text, e.pair)
            for e in examples[:: max(1, len(examples) // _SAMPLE)][:_SAMPLE]
        ]


def _written(checked: Checked, data: Labelled, out: Path) -> Artifact:
    """The artifact at `out`, whole, with what the check found in its manifest."""
    source = checked.artifact
    manifest = dict(source.manifest) | {
        "check": {
            "data": data.source or data.name,
            "examples": len(data.dev),
            "metric": checked.float32.score.primary,
            "float32": checked.float32.score.value,
            "compiled": checked.compiled.score.value,
            "agreement": checked.compiled.agreement(checked.float32),
            "hurting": [[s.where, s.moved] for s in checked.hurting[:_NAMED]],
        }
    }
    with staged_directory(out) as staged:
        shutil.copytree(source.path, staged, dirs_exist_ok=True)
        write_json(staged / "manifest.json", sealed(manifest))
    return Artifact.load(out)
