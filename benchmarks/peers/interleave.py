"""Contestants in one interleaved run: all loaded, one at a time, the order turned every round."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from canao.errors import DeviceError
from peers.catalog import Contestant, obstacle
from peers.host import Worker, without_folders
from peers.machine import Machine
from peers.protocol import Job
from peers.store import Store

_CALIBRATION = 4  # inferences; the first is left out
Block = tuple[int, int]  # the first text, and how many inferences


@dataclass
class Field:
    """The contestants of a run, and what is known of each by its label.

    samples     microseconds, one list a round
    preempted   how often threads lost their core to others during the samples
    """

    workers: dict[str, Worker] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    differences: dict[str, float] = field(default_factory=dict)
    cosines: dict[str, float] = field(default_factory=dict)
    precisions: dict[str, str] = field(default_factory=dict)
    right: dict[str, bool] = field(default_factory=dict)
    samples: dict[str, list[list[int]]] = field(default_factory=dict)
    preempted: dict[str, int] = field(default_factory=dict)
    peak_flops: list[float] = field(default_factory=list)
    bandwidth: list[float] = field(default_factory=list)
    used_versions: dict[str, str] = field(default_factory=dict)

    def ask(self, label: str, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """The worker's reply; one that fails is out of the run, with its samples."""
        try:
            return self.workers[label].ask(request)
        except DeviceError as error:
            self.drop(label, str(error))
            return None

    def sample(self, label: str, request: Mapping[str, Any]) -> None:
        """Ask, and keep the times as one round's."""
        reply = self.ask(label, request)
        if reply is not None:
            self.samples[label].append([max(1, round(ns / 1000)) for ns in reply["ns"]])
            self.preempted[label] = self.preempted.get(label, 0) + reply["preempted"]

    def drop(self, label: str, why: str) -> None:
        """Leave a contestant out, and say why."""
        print(f"{label}: {why}", file=sys.stderr, flush=True)
        self.unavailable[label] = without_folders(why)
        self.samples.pop(label, None)
        worker = self.workers.pop(label, None)
        if worker is not None:
            worker.close()

    def engines(self) -> dict[str, dict[str, Any]]:
        """For the record: precision, difference and cosine to PyTorch in float32, whether that is
        right, preemptions, samples."""
        return {
            label: {
                "precision": self.precisions[label],
                "difference": float(f"{self.differences[label]:.3g}"),
                "cosine": float(f"{self.cosines[label]:.6g}"),
                "right": self.right[label],
                "preempted": self.preempted.get(label, 0),
                "samples_us": rounds,
            }
            for label, rounds in self.samples.items()
        }


@contextmanager
def loaded(
    store: Store, contestants: Sequence[Contestant], texts: Path, cores: Sequence[int]
) -> Iterator[Field]:
    """Every contestant that loads, its outputs compared with PyTorch's; all ended on leaving."""
    field_ = Field()
    reference = store.case(texts)["hidden"]
    try:
        for contestant in contestants:
            why = obstacle(contestant.engine)
            if why is not None:
                field_.drop(contestant.label, why)
                continue
            try:
                worker = _start(store, contestant, texts, cores)
            except DeviceError as error:
                field_.drop(contestant.label, str(error))
                continue
            field_.workers[contestant.label] = worker
            field_.used_versions |= worker.versions
            _compare(field_, contestant, store.folder / "outputs.npy", reference)
        yield field_
    finally:
        for worker in field_.workers.values():
            worker.close()


def joined(fields: Mapping[str, Field]) -> Field:
    """Fields of several models as one, in which labels are `model/label`; for one race of all.

    The workers stay those of the fields, which end them.
    """
    whole = Field()
    for model, part in fields.items():
        for name in ("workers", "unavailable", "differences", "cosines", "precisions", "right",
                     "samples"):  # fmt: skip
            own = getattr(part, name)
            getattr(whole, name).update({f"{model}/{label}": own[label] for label in own})
        whole.used_versions |= part.used_versions
    return whole


def _start(store: Store, contestant: Contestant, texts: Path, cores: Sequence[int]) -> Worker:
    engine = contestant.engine
    job = Job(
        str(store.model_file(contestant)), str(texts), contestant.threads, tuple(cores),
        contestant.length if contestant.pad else 0, contestant.sessions,
        (*engine.options, *contestant.options, f"model={store.model}"),
    )  # fmt: skip
    log = store.folder / f"worker-{contestant.label}.log"
    return Worker(engine.module, engine.environment, job, log)


def _compare(field_: Field, contestant: Contestant, file: Path, reference: np.ndarray) -> None:
    """Largest difference to PyTorch in float32, in standard deviations of its output; and the
    cosine between all numbers of both."""
    label, engine = contestant.label, contestant.engine
    if field_.ask(label, {"do": "outputs", "to": str(file)}) is None:
        return
    outputs = np.load(file)
    file.unlink()
    if outputs.shape != reference.shape:
        field_.drop(label, f"its output is {outputs.shape}, PyTorch's {reference.shape}")
        return
    difference, cosine = distances(outputs, reference)
    field_.differences[label], field_.cosines[label] = difference, cosine
    field_.precisions[label] = engine.precision
    field_.right[label] = engine.right(difference, cosine)
    field_.samples[label] = []


def distances(outputs: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """The largest difference in standard deviations of the reference, 1e9 of what is not finite;
    and the cosine of both arrays, 0 of that."""
    if not np.isfinite(outputs).all():
        return 1e9, 0.0
    a, b = (array.astype(np.float64).ravel() for array in (outputs, reference))
    largest = float(np.abs(a - b).max() / b.std())
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return largest, float(a @ b) / norms if norms else 0.0


def race(field_: Field, machine: Machine, rounds: int, block: Callable[[str, int], Block]) -> None:
    """Fill the samples. `block` says what a contestant runs in a round.

    One inference at the head of each block is discarded: it finds another's data in the caches.
    """
    for turn in range(rounds):
        field_.peak_flops.append(machine.peak_flops())
        field_.bandwidth.append(machine.bandwidth())
        for label in list(field_.samples)[:: -1 if turn % 2 else 1]:
            first, count = block(label, turn)
            if field_.ask(label, {"do": "run", "first": first, "count": 1}) is not None:
                field_.sample(label, {"do": "run", "first": first, "count": count})


def block_sizes(field_: Field, seconds: float) -> dict[str, int]:
    """Inferences of each contestant that take about `seconds`, at least 1."""
    sizes = {}
    for label in list(field_.samples):
        reply = field_.ask(label, {"do": "run", "first": 0, "count": _CALIBRATION})
        if reply is not None:
            sizes[label] = max(1, round(1e9 * seconds / statistics.median(reply["ns"][1:])))
    return sizes


def stream(field_: Field, machine: Machine, rounds: int) -> None:
    """Fill the samples with one figure a round: the time of all texts, in microseconds."""
    for turn in range(rounds + 1):
        field_.peak_flops.append(machine.peak_flops())
        field_.bandwidth.append(machine.bandwidth())
        for label in list(field_.samples)[:: -1 if turn % 2 else 1]:
            if turn:
                field_.sample(label, {"do": "stream"})
            else:
                field_.ask(label, {"do": "stream"})  # a round to warm up
