"""`--precision auto`: the fastest library that keeps the accuracy that is asked for.

Each precision that may be faster on the target is compiled, and checked: on labelled text if there
is any, else by the outputs of random texts. Those that pass are timed in turns, so that whatever
else the machine does meets all of them alike. What is not clearly faster loses to what is more
precise.

A decoder reads a text at once and writes one token by one, which waits for weights and not for
products: its time is that of a text that it reads and one of the same length that it writes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from canao.accuracy.gate import NO_COLUMNS, Checked, compile_checked, require_runnable
from canao.accuracy.measure import labelled_text, require_there
from canao.artifact.directory import Artifact
from canao.artifact.files import staged_directory, write_json
from canao.artifact.manifest import sealed
from canao.artifact.temporary import WorkingDirectory
from canao.compiler.heads import read_model
from canao.compiler.packaging import check_destination
from canao.compiler.pipeline import compile_model, has_instructions
from canao.defaults import LIMITS, MAX_LOSS, NEAR_COSINE, NEAR_LARGEST, silent
from canao.device.base import Device, Failure, MeasureConfig, Measurement
from canao.device.bench import local_device
from canao.device.opencl import chosen_device
from canao.errors import AccuracyError, DeviceError, InputError, NotFiniteError
from canao.fuse.simplify import rewritten
from canao.isa.registry import ISAS
from canao.isa.table import TileOps
from canao.lower.scheduling import product_in, target_in
from canao.precision.quantize import FLOAT32, INT8, SEVEN_BITS, WEIGHTS
from canao.target import CPU, Target, get_target

_ROUNDS, _SAMPLES = 7, 16
_LENGTH = 128  # tokens of the texts that are timed, where the model takes so many
_CLEARLY = 0.97  # of a more precise library's time: less is faster


@dataclass(frozen=True, slots=True)
class Tried:
    """A precision, and what became of it: milliseconds, and of what, or why it was left out."""

    precision: str
    ms: float | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Fastest:
    """The library that was chosen, and all that were tried."""

    artifact: Artifact
    tried: tuple[Tried, ...]


def candidates(target: Target, resumes: bool = False) -> tuple[str, ...]:
    """Precisions that may be the fastest on a target, the most precise first: float32, those of
    half precision that it has instructions for, int8, and that of 7 bits where these are multiplied
    in another way. For a model that continues texts also weights of int8 alone, which is all that a
    token waits for."""
    if target.backend != CPU:
        able = (name for name in ("fp16", WEIGHTS, INT8) if has_instructions(target, name))
        return (FLOAT32, *(name for name in able if resumes or name != WEIGHTS))
    half = (name for name in ("fp16", "bf16") if target_in(target, name) != target)
    weights = (WEIGHTS,) if resumes and has_instructions(target, WEIGHTS) else ()
    seven = (SEVEN_BITS,) if _loops(target, SEVEN_BITS) != _loops(target, INT8) else ()
    return (FLOAT32, *half, *weights, INT8, *seven)


def _loops(target: Target, precision: str) -> list[TileOps]:
    """The inner loops of products in a precision, of each instruction set of a library."""
    product = product_in(precision)
    return [ISAS[t.isa].tiles[product] for t in target_in(target, precision).levels]


def compile_fastest(
    model: str | Path | Any, out: str | Path, data: Any = None, *, max_loss: float = MAX_LOSS,
    metric: str | None = None, columns: Mapping[str, Any] = NO_COLUMNS,
    progress: Callable[[str], None] = silent, **options: Any,
) -> Fastest:  # fmt: skip
    """`compile_model` with the same options, in the precision that runs fastest here among those
    that lose `max_loss` points of labelled text `data` at most, or without data have outputs near
    float32's (precision/agreement.py). Data are given as for `compile_checked`.

    A model whose layers have precisions of their own has them in every other candidate than
    float32. For a target that is not this machine nothing can be timed, and the least precise that
    passes is chosen. InputError if data are given for such a target, as they can't be checked.
    NotFiniteError if the model's numbers are none in float32 already: no precision mends that.
    """
    target, out = options.get("target") or get_target(), Path(out)
    check_destination(out)
    if isinstance(data, str | Path):
        require_there(data)
    read = read_model(model, **options)
    data = labelled_text(data, read.head, **columns) if isinstance(data, str | Path) else data
    given = options.get("fusion", True), options.get("limits", LIMITS)
    resumes = rewritten(read.graph, *given)[0].resumes
    del read  # its weights need not wait in memory
    with WorkingDirectory("canao-fastest") as folder:
        made, tried = dict[str, Artifact](), list[Tried]()
        for name in candidates(target, resumes):
            try:
                made[name] = _compiled(
                    model, folder / name, data, name, max_loss, metric, progress, options
                )
            except NotFiniteError:
                raise
            except AccuracyError as error:
                progress(f"{name} is left out: {error}")
                tried.append(Tried(name, None, str(error)))
        times = _times(made, target, progress)
        chosen = _chosen(made, times)
        length = _length(made.values())
        what = f"{length} tokens read, and as many written" if resumes else f"{length} tokens"
        tried += [Tried(n, times.get(n), what if n in times else "") for n in made]
        manifest = dict(made[chosen].manifest) | {
            "tried": [[t.precision, t.ms, t.why] for t in tried]
        }
        with staged_directory(out) as staged:
            shutil.copytree(made[chosen].path, staged, dirs_exist_ok=True)
            write_json(staged / "manifest.json", sealed(manifest))
    return Fastest(Artifact.load(out), tuple(tried))


def fastest_precision(
    model: Any, device: Device, config: MeasureConfig, progress: Callable[[str], None] = silent,
    among: Sequence[str] | None = None,
) -> str:  # fmt: skip
    """The precision in which the library of an encoder takes least time on a device, under a
    protocol; of those that take about as long, the most precise. Its weights may be random: what a
    precision loses is not looked at. `among` are those that may be chosen, the most precise first;
    None: all `candidates`. DeviceError if one cannot be measured."""
    names = candidates(device.target) if among is None else among
    with WorkingDirectory("canao-fastest") as folder:
        made = {
            name: compile_model(model, folder / name, target=device.target, precision=name)
            for name in names
        }
        return _chosen(made, _in_turns(made, device, config, progress))


def _compiled(
    model: Any, place: Path, data: Any, name: str, max_loss: float, metric: str | None,
    progress: Callable[[str], None], options: Mapping[str, Any],
) -> Artifact:  # fmt: skip
    """A library in a precision; AccuracyError if it loses too much."""
    if name == FLOAT32:
        return compile_model(model, place, parts=False, **options)
    if data is not None:
        checked: Checked = compile_checked(
            model, place, data, precision=name, max_loss=max_loss, metric=metric,
            progress=progress, **options,
        )  # fmt: skip
        return checked.artifact
    artifact = compile_model(model, place, precision=name, **options)
    near = artifact.manifest["agreement"]
    if near["cosine"] < NEAR_COSINE or near["largest"] > NEAR_LARGEST:
        raise AccuracyError(
            f"on random texts its outputs have a cosine of {near['cosine']:.4f} to float32's and "
            f"differ by {near['largest']:.2g} standard deviations; --check it on your data"
        )
    return artifact


def _times(
    made: Mapping[str, Artifact], target: Target, progress: Callable[[str], None]
) -> dict[str, float]:
    """Milliseconds of each library at a usual length, by the median of turns; of none where the
    libraries don't run here."""
    try:
        require_runnable(target, "")
    except InputError:
        return {}
    config = MeasureConfig(length=_length(made.values()), warmup=2, samples=_SAMPLES)
    device = local_device() if target.backend == CPU else chosen_device()
    return _in_turns(made, device, config, progress)


def _length(made: Iterable[Artifact]) -> int:
    """Tokens of the text that libraries are timed with: a decoder writes as many after it."""
    return min(_LENGTH, *(
        max(1, a.max_length // 2) if a.resumes else a.max_length for a in made
    ))  # fmt: skip


def _in_turns(
    made: Mapping[str, Artifact], device: Device, config: MeasureConfig,
    progress: Callable[[str], None],
) -> dict[str, float]:  # fmt: skip
    """Milliseconds of each library on a device, the median of turns, so that whatever else runs
    meets all of them alike; DeviceError if one fails."""
    turns = dict[str, list[float]]()
    for _ in range(_ROUNDS):
        for name, artifact in made.items():
            turns.setdefault(name, []).append(_of_text(name, artifact, device, config))
    times = {name: median(several) for name, several in turns.items()}
    progress(", ".join(f"{name} {ms:.3f} ms" for name, ms in times.items()))
    return times


def _of_text(name: str, artifact: Artifact, device: Device, config: MeasureConfig) -> float:
    """Milliseconds of a text; of a decoder, with as many tokens after it, one by one."""
    ms = _median_ms(name, device.measure(artifact, config))
    if artifact.resumes and config.length < artifact.max_length:
        ms += config.length * _median_ms(name, device.measure_next(artifact, config))
    return ms


def _median_ms(name: str, timing: Measurement) -> float:
    if isinstance(timing, Failure):
        raise DeviceError(f"{name}: {timing.stage} failed: {timing.message}")
    return timing.percentile(50)


def _chosen(made: Mapping[str, Artifact], times: Mapping[str, float]) -> str:
    """The fastest; of those that take about as long, the most precise, which comes first. The least
    precise where nothing is known."""
    if not times:
        return list(made)[-1]
    best = next(iter(made))
    for name in made:
        if times[name] < _CLEARLY * times[best]:
            best = name
    return best
