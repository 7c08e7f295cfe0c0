"""Whether a library computes on a device what its model computes on this machine: in float32, or,
as a GPU's driver is to be judged and not a precision, in the library's own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, cast

import numpy as np

from canao.artifact.directory import Artifact
from canao.artifact.temporary import WorkingDirectory
from canao.artifact.verification import Verification, write_verification
from canao.compiler.pipeline import compile_model
from canao.defaults import (
    NEAR_COSINE,
    NEAR_LARGEST,
    PRECISION,
    SAME_COSINE,
    SAME_LARGEST,
    silent,
)
from canao.device.base import Device
from canao.device.bench import local_device
from canao.device.opencl import OpenClDevice
from canao.errors import DeviceError, InputError

LENGTHS = (1, 7, 8, 17, 31, 33, 64, 127, 128)  # tokens: tiles of kernels and their neighbours
LOADS = 16  # of a library on a GPU, all of which must give the same bits
_IDS = 1000  # ids are below this where a library does not say what it takes


@dataclass(frozen=True, slots=True)
class Compared:
    """The outputs for a text of random ids, and those of the same text on this machine.

    cosine    between all numbers of an output in both, of the output where it is least; 0 where
              they are not finite
    largest   difference of two numbers, in standard deviations of their output; infinite where
              numbers are not finite
    holds     whether that is as near as the library's precision allows
    """

    length: int
    cosine: float
    largest: float
    holds: bool


def limits(artifact: Artifact) -> tuple[float, float]:
    """The least cosine and the largest difference that a library's precision allows."""
    kept = (artifact.manifest.get("kv_cache") or {}).get("precision", PRECISION)
    same = artifact.precision == kept == PRECISION
    return (SAME_COSINE, SAME_LARGEST) if same else (NEAR_COSINE, NEAR_LARGEST)


def beside(artifact: Artifact) -> str:
    """The precision that a library is compared with."""
    return artifact.precision if artifact.on_gpu else PRECISION


def verified(
    artifact: Artifact, model: str | Path | Any, device: Device, longest: int | None = None,
    threads: int = 1, *, revision: str | None = None, ignored: Collection[str] = (),
) -> list[Compared]:  # fmt: skip
    """The library on the device, on random ids of several lengths up to `longest`, beside a library
    that is compiled of `model` for this machine, in the precision that `beside` says. InputError if
    the model is not the one that the library was compiled from."""
    artifact.verify()
    texts = _texts(artifact, longest)
    given = device.run_batch(artifact, texts, threads)
    with WorkingDirectory("canao-verify") as folder:
        reference = compile_model(
            model, folder / "model", revision=revision, ignored=ignored,
            max_length=artifact.max_length, precision=beside(artifact), allow_emulation=True,
        )  # fmt: skip
        _require_alike(artifact, reference, model)
        wanted = local_device().run_batch(reference, texts, threads)
    allowed = limits(artifact)
    return [
        _compared(len(text[0]), mine, float32, allowed)
        for text, mine, float32 in zip(texts, given, wanted, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found of a library on a device.

    compared    its outputs beside float32's
    differing   of LOADS loads, how many gave other bits than the first one; None on a CPU, whose
                compiler is not the driver's
    """

    compared: tuple[Compared, ...]
    differing: int | None


def examined(
    artifact: Artifact, model: str | Path | Any, device: Device, longest: int | None = None,
    threads: int = 1, *, revision: str | None = None, ignored: Collection[str] = (),
    say: Callable[[str], None] = silent,
) -> Verdict:  # fmt: skip
    """`verified`, and on a GPU `differing_loads` as well."""
    found = verified(
        artifact, model, device, longest, threads, revision=revision, ignored=ignored
    )  # fmt: skip
    differing = None
    if artifact.on_gpu:  # `verified` has refused any other device than OpenCL's, leased or not
        say(f"loading the library {LOADS} times")
        differing = differing_loads(artifact, cast(OpenClDevice, device), longest, LOADS)
    return Verdict(tuple(found), differing)


def require_right(artifact: Artifact, device: Device, verdict: Verdict) -> None:
    """DeviceError unless all of it holds."""
    if verdict.differing:
        raise DeviceError(
            f"{artifact.path}: {verdict.differing} of {LOADS} loads on {device.name} gave other "
            "bits than the first one: its driver gets a kernel wrong; take another driver or device"
        )
    if wrong := list(failures(verdict.compared)):
        cosine, largest = limits(artifact)
        other = "--no-fusion" if artifact.on_gpu else "another --isa"
        raise DeviceError(
            f"{artifact.path}: outputs on {device.name} are not near {beside(artifact)}'s at "
            f"{', '.join(map(str, wrong))} tokens ({artifact.precision} allows a cosine from "
            f"{cosine:g} and a difference to {largest:g}); compile it again from this model, or "
            f"with {other}"
        )


def keep_verdict(artifact: Artifact, device: Device, verdict: Verdict) -> None:
    """Keep beside a library what holds of it on a GPU, where its certificate asks for it;
    InputError if that cannot be."""
    if artifact.on_gpu:
        rows = tuple((one.length, one.cosine, one.largest) for one in verdict.compared)
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        write_verification(artifact, Verification(
            device.name, device.machine.stamp, artifact.digest, LOADS, rows, now
        ))  # fmt: skip


def differing_loads(
    artifact: Artifact, device: OpenClDevice, longest: int | None, loads: int
) -> int:
    """How many of so many loads of a library, each in a process of its own for which the driver
    compiles the kernels anew, give other bits than the first one. A driver that gets a kernel wrong
    may do so from time to time only."""
    texts = _texts(artifact, longest)
    with device.compiled_anew():
        first = device.run_batch(artifact, texts)
        return sum(_differ(first, device.run_batch(artifact, texts)) for _ in range(loads - 1))


def _differ(a: Sequence[Sequence[np.ndarray]], b: Sequence[Sequence[np.ndarray]]) -> bool:
    pairs = ((x, y) for one, other in zip(a, b, strict=True)
             for x, y in zip(one, other, strict=True))  # fmt: skip
    return not all(x.tobytes() == y.tobytes() for x, y in pairs)


def _texts(artifact: Artifact, longest: int | None) -> list[list[np.ndarray]]:
    """Random ids for each input, of each length."""
    if longest is not None and not 1 <= longest <= artifact.max_length:
        raise InputError(f"--length {longest}: give 1 to {artifact.max_length}, the library's most")
    most = min(longest or LENGTHS[-1], artifact.max_length)
    lengths = sorted({most, *(n for n in LENGTHS if n < most)})
    rng = np.random.default_rng(0)
    return [
        [rng.integers(0, slot["limit"] or _IDS, length) for slot in artifact.manifest["inputs"]]
        for length in lengths
    ]


def _require_alike(artifact: Artifact, reference: Artifact, model: str | Path | Any) -> None:
    for what in ("inputs", "outputs"):
        if artifact.manifest[what] != reference.manifest[what]:
            raise InputError(f"{model}: has other {what} than {artifact.path}; give the model that "
                             "it was compiled from")  # fmt: skip


def _compared(
    length: int, mine: Sequence[np.ndarray], float32: Sequence[np.ndarray],
    allowed: tuple[float, float],
) -> Compared:  # fmt: skip
    pairs = [_nearness(*pair) for pair in zip(mine, float32, strict=True)]
    cosine, largest = min(c for c, _ in pairs), max(d for _, d in pairs)
    return Compared(length, cosine, largest, cosine >= allowed[0] and largest <= allowed[1])


def _nearness(mine: np.ndarray, float32: np.ndarray) -> tuple[float, float]:
    """Cosine and largest difference, as `Compared` has them."""
    a, b = (array.astype(np.float64).ravel() for array in (mine, float32))
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return 0.0, float("inf")
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    cosine = float(a @ b / norms) if norms else float(np.array_equal(a, b))
    spread = b.std() or np.abs(b).max() or 1.0
    return min(1.0, cosine), float(np.abs(a - b).max() / spread)


def failures(found: Sequence[Compared]) -> Iterator[int]:
    """The lengths at which outputs are not near enough."""
    return (one.length for one in found if not one.holds)
