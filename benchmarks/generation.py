"""Prompt and token of a decoder in CANAO, ONNX Runtime and PyTorch, in interleaved runs.

    python benchmarks/generation.py --work DIR [--model gpt2] [--lengths 32,128] [--threads 1,2]
    python benchmarks/generation.py --table

The model is GPT-2 small with random weights; ONNX Runtime is given past keys and values, PyTorch
runs eagerly with its cache; CANAO also with weights in int8. `prompt` is the time of a text up to
the logits of its last token; `token` that of one more token after the others. Logits of each engine
are compared with PyTorch's.
Medians are printed and written, with all samples, to results/generation.jsonl, what was badly
measured is refused (README.md); --table writes the table of docs/generation.md from it. `make
bench-setup` makes the engines' environments.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from marks import footnotes, marked
from pages import Record, by_machine, fill, table, threads_of
from peers.catalog import LEAST_COSINE, OWN
from peers.decoders import SHAPES, decoder, export
from peers.host import Worker
from peers.interleave import distances
from peers.protocol import Job, write_texts
from peers.ratios import median_ms, ratio
from peers.records import Records
from peers.results import Results, add_options, file_of

from canao.compiler.pipeline import compile_model
from canao.device.bench import local_device
from canao.errors import CanaoError
from canao.machine import local_machine
from canao.precision.quantize import FLOAT32

PAGE = Path(__file__).resolve().parents[1] / "docs" / "generation.md"
RECORDS = Path(__file__).resolve().parent / "results" / "generation.jsonl"
INT8_WEIGHTS = "int8-weights"
OWN_INT8 = f"canao-{INT8_WEIGHTS}"
ENGINES = {"canao": OWN, OWN_INT8: OWN, "ort": "ort", "torch": OWN}
PARTS = ("prompt", "token")
CLOSE = 1e-3  # of the standard deviation of PyTorch's logits


@dataclass(frozen=True)
class Case:
    """What is measured once: a text of `length` tokens on so many threads."""

    model: str
    length: int
    threads: int
    cores: tuple[int, ...]
    rounds: int
    block: int


def prepare(work: Path, name: str) -> dict[str, str]:
    """The model as each engine takes it; made once."""
    folder = work / f"generation-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    file, own = folder / "model.onnx", {"canao": FLOAT32, OWN_INT8: INT8_WEIGHTS}
    if not file.is_file():
        staged = folder / "making.onnx"
        export(decoder(name), staged)
        # Weights beside the file are found by the name that it was written under.
        staged.rename(file)
    for label, precision in own.items():
        compile_model(decoder(name), folder / label, precision=precision)
    return {label: str(folder / label) for label in own} | {"ort": str(file), "torch": name}


def measure(case: Case, models: dict[str, str], work: Path) -> dict[str, dict[str, Any]]:
    """Samples and differences by `part/engine`; engines take turns, in another order each round."""
    rng = np.random.default_rng(case.length)
    texts = work / f"prompt-{case.length}.npz"
    write_texts(str(texts), [rng.integers(0, SHAPES[case.model][3], case.length)])
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for label, engine, part in _contestants():
            kind = "canao" if engine == OWN_INT8 else engine
            job = Job(models[engine], str(texts), case.threads, case.cores,
                      options=(part, f"engine={kind}"))  # fmt: skip
            log = work / f"worker-{engine}-{part}.log"
            workers[label] = stack.enter_context(
                closing(Worker("decode", ENGINES[engine], job, log))
            )
        logits = {label: _logits(worker, work) for label, worker in workers.items()}
        samples: dict[str, list[list[int]]] = {label: [] for label in workers}
        for turn in range(case.rounds):
            order = sorted(workers, reverse=bool(turn % 2))
            for label in order:
                reply = workers[label].ask({"do": "run", "first": 0, "count": case.block})
                samples[label].append([round(ns / 1000) for ns in reply["ns"]])
    return {
        label: _compared(label, logits[label], logits["prompt/torch"]) | {"samples_us": rounds}
        for label, rounds in samples.items()
    }


def _contestants() -> Iterator[tuple[str, str, str]]:
    for engine in ENGINES:
        for part in PARTS:
            yield f"{part}/{engine}", engine, part


def _logits(worker: Worker, work: Path) -> np.ndarray:
    file = work / "logits.npy"
    worker.ask({"do": "outputs", "to": str(file)})
    return np.load(file)


def _compared(label: str, logits: np.ndarray, reference: np.ndarray) -> dict[str, Any]:
    """How far logits are from those of PyTorch's prompt, and whether that is right. Weights in int8
    are no roundings off: of these, the cosine says it, as in speed.py."""
    difference, cosine = distances(logits, reference)
    low = label.endswith(OWN_INT8)
    return {
        "precision": INT8_WEIGHTS if low else FLOAT32, "difference": float(f"{difference:.2g}"),
        "cosine": float(f"{cosine:.6g}"),
        "right": cosine >= LEAST_COSINE if low else difference <= CLOSE,
    }  # fmt: skip


def medians(records: Sequence[Record]) -> str:
    """A row for each model, length and part: medians in milliseconds, and how many times as fast
    CANAO is as peers in float32, and with weights in int8 as in float32."""
    pairs = (*((e, "canao") for e in ("ort", "torch")), ("canao", OWN_INT8))
    rows = [["model", "", *ENGINES, *(f"{own} against {e}" for e, own in pairs)]]
    rows.append(["---", "---", *["--:"] * (len(ENGINES) + len(pairs))])
    for r in records:
        for part in PARTS:
            what = f"prompt of {r['length']}" if part == "prompt" else f"token after {r['length']}"
            rows.append([marked(r["model"], r), f"{what}, {threads_of(r)}",
                         *(_cell(r, part, e) for e in ENGINES),
                         *(_cell(r, part, *pair) for pair in pairs)])  # fmt: skip
    return table(rows) + footnotes(records)


def _cell(record: Record, part: str, engine: str, faster: str = "") -> str:
    """Milliseconds of an engine, or how many times as fast another one is; older records have
    fewer."""
    labels = [f"{part}/{e}" for e in (engine, faster) if e]
    if not record["engines"].keys() >= set(labels):
        return "-"
    if faster:
        return f"{ratio(record, *labels):.2f}x"
    return f"{median_ms(record['engines'][labels[0]]):.3g}"


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, help="folder for models")
    parser.add_argument("--table", action="store_true", help="write docs/generation.md's table")
    parser.add_argument("--model", default="gpt2", choices=SHAPES)
    parser.add_argument("--lengths", default="32,128", help="tokens of the text")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--block", type=int, default=5, help="inferences of an engine's turn")
    parser.add_argument("--cores", help="cores to use; default: all allowed ones, in order")
    add_options(parser, RECORDS)
    given = parser.parse_args(arguments)
    if given.table == bool(given.work) or (given.table and given.draft):
        parser.error("give --work, or --table without --draft")
    records = Records(file_of(given, RECORDS))
    if given.table:
        fill(PAGE, {"generation": by_machine(records.read(), "generation", medians)})
        return
    named = given.cores.split(",") if given.cores else local_machine().cores
    work: Path = given.work.resolve()
    results = Results.start(records, given.draft)
    models = prepare(work, given.model)
    for length in map(int, given.lengths.split(",")):
        for threads in map(int, given.threads.split(",")):
            cores = tuple(int(core) for core in named[:threads])
            case = Case(given.model, length, threads, cores, given.rounds, given.block)
            title = f"generation: {case.model}, {length} tokens, {threads} thread(s)"
            results.take(title, partial(_row, case, models, work))
    results.close()


def _row(case: Case, models: dict[str, str], work: Path) -> dict[str, Any]:
    """The record of a case, told as it is made."""
    stamp = local_device().environment(case.cores)
    engines = measure(case, models, work)
    for label, found in engines.items():
        print(f"{case.length:5} tokens {case.threads} thread(s)  {label:13} "
              f"{median_ms(found):9.3f} ms, logits differ by {found['difference']}")  # fmt: skip
    return {"kind": "generation", "model": case.model, "length": case.length,
            "threads": case.threads, "cpu": stamp["cpu"], "isa": stamp["isa"],
            "environment": stamp, "engines": engines}  # fmt: skip


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except CanaoError as error:
        print(f"generation: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
