"""Prompt and token of a decoder in CANAO, ONNX Runtime and PyTorch, in interleaved runs.

    python benchmarks/generation.py --work DIR [--model gpt2] [--lengths 32,128] [--threads 1,2]
    python benchmarks/generation.py --work DIR --precision int8 [--kv-cache int8]
    python benchmarks/generation.py --work DIR --kv-cache fp16 --lengths 128,900
    python benchmarks/generation.py --work DIR --isa avx2
    python benchmarks/generation.py --table

The model is GPT-2 small with random weights; ONNX Runtime is given past keys and values, PyTorch
runs eagerly with its cache; CANAO also with weights in int8. `prompt` is the time of a text up to
the logits of its last token; `token` that of one more token after the others. Logits of each engine
are compared with PyTorch's.

With --precision or --kv-cache another library of CANAO runs beside its float32, and no peer; it is
recorded as a variant. With --isa, CANAO alone is compiled for a narrower instruction set than this
machine has, and recorded under that one's name.

Medians are printed and written, with all samples, to results/generation.jsonl, what was badly
measured is refused (README.md); --table writes the tables of docs/generation.md from it. `make
bench-setup` makes the engines' environments.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from generation_table import KIND, PARTS, VARIANT, write_page
from peers.catalog import CANAO, LEAST_COSINE, OWN, isa_of_machine, own_label
from peers.decoders import SHAPES, decoder, export
from peers.host import Worker
from peers.interleave import distances
from peers.protocol import Job, write_texts
from peers.ratios import is_own, median_ms
from peers.records import Records
from peers.results import Results, add_options, file_of

from canao.compiler.pipeline import compile_model
from canao.device.bench import local_device
from canao.errors import CanaoError, InputError
from canao.machine import local_machine
from canao.precision.kv_cache import KV_CACHES
from canao.precision.quantize import FLOAT32, PRECISIONS
from canao.target import get_target

RECORDS = Path(__file__).resolve().parent / "results" / "generation.jsonl"
PEERS = {"ort": "ort", "torch": OWN}  # and the environment that each runs in
CLOSE = 1e-3  # of the standard deviation of PyTorch's logits


@dataclass(frozen=True)
class Library:
    """One of CANAO's: the precision of its products, and what it keeps keys and values in."""

    precision: str = FLOAT32
    kv_cache: str = FLOAT32

    @property
    def label(self) -> str:
        kept = "" if self.kv_cache == FLOAT32 else f",kv-{self.kv_cache}"
        return own_label(self.precision) + kept

    @property
    def name(self) -> str:
        """What is rounded in it; that of float32 if nothing is."""
        rounded = [self.precision] if self.precision != FLOAT32 else []
        rounded += [f"kv-{self.kv_cache}"] if self.kv_cache != FLOAT32 else []
        return "-".join(rounded) or FLOAT32


PLAIN, INT8_WEIGHTS = Library(), Library("int8-weights")


@dataclass(frozen=True)
class Field:
    """Who runs: CANAO's libraries, for an instruction set or '', and peers."""

    kind: str
    libraries: tuple[Library, ...]
    peers: tuple[str, ...] = ()
    isa: str = ""

    @property
    def labels(self) -> list[str]:
        return [*(library.label for library in self.libraries), *self.peers]

    def precision(self, label: str) -> str:
        return next((x.name for x in self.libraries if x.label == label), FLOAT32)


@dataclass(frozen=True)
class Case:
    """What is measured once: a text of `length` tokens on so many threads."""

    model: str
    length: int
    threads: int
    cores: tuple[int, ...]
    rounds: int
    block: int


def field_of(precision: str, kv_cache: str, isa: str) -> Field:
    """Who runs where these options are given: peers only where none is."""
    other = Library(precision, kv_cache)
    if other != PLAIN:
        return Field(f"{VARIANT}{other.name}", (PLAIN, other), isa=isa)
    return Field(KIND, (PLAIN, INT8_WEIGHTS), () if isa else tuple(PEERS), isa)


def prepare(work: Path, name: str, field: Field) -> dict[str, str]:
    """The model as each engine takes it; what is a peer's is made once."""
    folder = work / f"generation-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "model.onnx"
    if field.peers and not file.is_file():
        staged = folder / "making.onnx"
        export(decoder(name), staged)
        # Weights beside the file are found by the name that it was written under.
        staged.rename(file)
    target = get_target().with_isa(field.isa) if field.isa else None
    models = {"ort": str(file), "torch": name}
    for library in field.libraries:
        out = folder / "-".join((library.label, *([field.isa] if field.isa else ())))
        compile_model(decoder(name), out, precision=library.precision, kv_cache=library.kv_cache,
                      target=target)  # fmt: skip
        models[library.label] = str(out)
    return models


def measure(
    case: Case, field: Field, models: Mapping[str, str], work: Path
) -> dict[str, dict[str, Any]]:
    """Samples and differences by `part/engine`; engines take turns, in another order each round."""
    rng = np.random.default_rng(case.length)
    texts = work / f"prompt-{case.length}.npz"
    write_texts(str(texts), [rng.integers(0, SHAPES[case.model][3], case.length)])
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for engine, part in _contestants(field.labels):
            kind = CANAO if is_own(engine) else engine
            job = Job(models[engine], str(texts), case.threads, case.cores,
                      options=(part, f"engine={kind}"))  # fmt: skip
            log = work / f"worker-{engine}-{part}.log"
            workers[f"{part}/{engine}"] = stack.enter_context(
                closing(Worker("decode", PEERS.get(engine, OWN), job, log))
            )
        reference = _reference(case, texts, work)
        logits = {label: _logits(worker, work) for label, worker in workers.items()}
        samples: dict[str, list[list[int]]] = {label: [] for label in workers}
        for turn in range(case.rounds):
            order = sorted(workers, reverse=bool(turn % 2))
            for label in order:
                reply = workers[label].ask({"do": "run", "first": 0, "count": case.block})
                samples[label].append([round(ns / 1000) for ns in reply["ns"]])
    return {
        label: _compared(field.precision(label.partition("/")[2]), logits[label], reference)
        | {"samples_us": rounds}
        for label, rounds in samples.items()
    }


def _contestants(engines: Sequence[str]) -> Iterator[tuple[str, str]]:
    for engine in engines:
        for part in PARTS:
            yield engine, part


def _reference(case: Case, texts: Path, work: Path) -> np.ndarray:
    """PyTorch's logits, whether it takes part or not; its worker ends before anything is timed."""
    job = Job(case.model, str(texts), case.threads, case.cores, options=("prompt", "engine=torch"))
    with closing(Worker("decode", OWN, job, work / "worker-reference.log")) as worker:
        return _logits(worker, work)


def _logits(worker: Worker, work: Path) -> np.ndarray:
    file = work / "logits.npy"
    worker.ask({"do": "outputs", "to": str(file)})
    return np.load(file)


def _compared(precision: str, logits: np.ndarray, reference: np.ndarray) -> dict[str, Any]:
    """How far logits are from those of PyTorch's prompt, and whether that is right. What is rounded
    is no roundings off: of it, the cosine says it, as in speed.py."""
    difference, cosine = distances(logits, reference)
    close = difference <= CLOSE if precision == FLOAT32 else cosine >= LEAST_COSINE
    return {"precision": precision, "difference": float(f"{difference:.2g}"),
            "cosine": float(f"{cosine:.6g}"), "right": close}  # fmt: skip


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, help="folder for models")
    parser.add_argument("--table", action="store_true", help="write docs/generation.md's tables")
    parser.add_argument("--model", default="gpt2", choices=SHAPES)
    parser.add_argument("--precision", default=FLOAT32, choices=PRECISIONS,
                        help="another library of CANAO's, beside its float32 alone")
    parser.add_argument("--kv-cache", default=FLOAT32, choices=KV_CACHES,
                        help="what that one keeps keys and values in")
    parser.add_argument("--isa", default="",
                        help="CANAO alone, compiled for a narrower instruction set than this "
                             "machine has, such as avx2 where there is VNNI")
    parser.add_argument("--lengths", default="32,128", help="tokens of the text")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--block", type=int, default=5, help="inferences of an engine's turn")
    parser.add_argument("--cores", help="cores to use; default: all allowed ones, in order")
    add_options(parser, RECORDS)
    given = parser.parse_args(arguments)
    if given.table == bool(given.work) or (given.table and given.draft):
        parser.error("give --work, or --table without --draft")
    return given


def main(arguments: Sequence[str]) -> None:
    given = parse(arguments)
    records = Records(file_of(given, RECORDS))
    if given.table:
        write_page(records.read())
        return
    named = given.cores.split(",") if given.cores else local_machine().cores
    work: Path = given.work.resolve()
    if given.isa == get_target().isa:
        raise InputError(f"--isa {given.isa} is this machine's own; leave it out")
    field = field_of(given.precision, given.kv_cache, given.isa)
    results = Results.start(records, given.draft)
    models = prepare(work, given.model, field)
    for length in map(int, given.lengths.split(",")):
        for threads in map(int, given.threads.split(",")):
            cores = tuple(int(core) for core in named[:threads])
            case = Case(given.model, length, threads, cores, given.rounds, given.block)
            title = f"{field.kind}: {case.model}, {length} tokens, {threads} thread(s)"
            results.take(title, partial(_row, case, field, models, work))
    results.close()


def _row(case: Case, field: Field, models: Mapping[str, str], work: Path) -> dict[str, Any]:
    """The record of a case, told as it is made."""
    stamp = local_device().environment(case.cores)
    engines = measure(case, field, models, work)
    for label, found in engines.items():
        print(f"{case.length:5} tokens {case.threads} thread(s)  {label:13} "
              f"{median_ms(found):9.3f} ms, logits differ by {found['difference']}")  # fmt: skip
    return {"kind": field.kind, "model": case.model, "length": case.length,
            "threads": case.threads, "cpu": stamp["cpu"],
            "isa": isa_of_machine(field.libraries[-1].precision, field.isa),
            "environment": stamp, "engines": engines}  # fmt: skip


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except CanaoError as error:
        print(f"generation: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
