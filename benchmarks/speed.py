"""CANAO and its peers on the same models in interleaved runs.

    python benchmarks/speed.py --work DIR [--models ...] [--lengths ...] [--threads ...]
    python benchmarks/speed.py --work DIR --precision int8 [--isa avx2] [--models ...]
    python benchmarks/speed.py --work DIR --mrpc DATA [--stream]
    python benchmarks/speed.py --work DIR --families
    python benchmarks/speed.py --work DIR --roofline [--precision int8]
    python benchmarks/speed.py [--precision int8] --table

`make bench-setup` makes the engines' environments. One record a line goes to results/speed.jsonl;
what is there already is not measured again without --again, and what was badly measured is refused
(README.md). --table writes the tables of speed.md from it. In another precision than float32, every
engine that has it runs beside itself in float32; records go to results/int8.jsonl, tables to
int8.md. DIR keeps models and conversions, some gigabytes a model, for the next time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from int8_table import write_page as write_int8_page
from peers.catalog import ALL, CANAO, OWN_LABELS, Contestant, entrants, isa_of_machine, own_label
from peers.host import python_of, without_folders
from peers.interleave import Field, block_sizes, loaded, race, stream
from peers.machine import Machine
from peers.models import FAMILIES, MODELS, random_ids
from peers.progress import say
from peers.records import Record, Records
from peers.results import Results, file_of
from peers.roofline import measure_kernels
from peers.store import Store
from peers.texts import MODEL, mrpc, one_by_one, streaming
from speed_options import names, numbers, parse
from speed_table import write_page

from canao.device.bench import local_device
from canao.errors import CanaoError, DeviceError, InputError
from canao.machine import local_machine
from canao.precision.quantize import FLOAT32

RECORDS = Path(__file__).resolve().parent / "results" / "speed.jsonl"
REDUCED_RECORDS = RECORDS.with_name("int8.jsonl")
TEXTS_PER_BLOCK = 24
ROOFLINE_LENGTH = 128
FAMILIES_LENGTH = 128
FAMILIES_ENGINES = (CANAO, "ort", "ort-nosln")


@dataclass(frozen=True)
class Study:
    """What is run, and where records go."""

    work: Path
    results: Results
    engines: tuple[str, ...]
    rounds: int
    block_s: float
    cores: tuple[int, ...]
    again: bool
    isa: str = ""
    precision: str = FLOAT32

    def identity(self, kind: str, model: str, length: int, threads: int) -> Record:
        """What tells one record from another."""
        return {"kind": kind, "model": model, "length": length, "threads": threads,
                "cpu": local_device().environment()["cpu"],
                "isa": isa_of_machine(self.precision, self.isa)}  # fmt: skip

    def wanted(self, identity: Mapping[str, Any]) -> bool:
        if self.again or not self.results.holds(identity):
            return True
        say(f"{_title(identity)}: recorded already")
        return False

    def options(self) -> dict[str, Any]:
        return {"rounds": self.rounds, "block_s": self.block_s}


def run_latency(
    study: Study, model: str, lengths: Sequence[int], threads: Sequence[int],
    kind: str = "latency",
) -> None:  # fmt: skip
    """A record for every length and thread count of one model (of a family: kind 'family')."""
    cases = [(n, t) for n in lengths for t in threads
             if study.wanted(study.identity(kind, model, n, t))]  # fmt: skip
    if not cases:
        return
    store = Store.open(study.work, model, study.isa)
    missing = _compiled(study, store)
    for length, count in cases:
        identity = study.identity(kind, model, length, count)
        cores = study.cores[:count]
        contestants = [Contestant(name, ALL[name], length, threads=count)
                       for name in study.engines if name not in missing]  # fmt: skip
        texts = store.texts(f"text-{length}", [random_ids(length).numpy()])
        measure = partial(_latency, study, store, contestants, texts, cores, missing, identity)
        study.results.take(_title(identity), measure)


def _latency(
    study: Study, store: Store, contestants: Sequence[Contestant], texts: Path,
    cores: Sequence[int], missing: Mapping[str, str], identity: Record,
) -> Record:  # fmt: skip
    stamp = local_device().environment(cores)
    with loaded(store, contestants, texts, cores) as field:
        field.unavailable |= missing
        sizes = block_sizes(field, study.block_s)
        say(f"{_title(identity)}: measuring")
        race(field, Machine(cores), study.rounds, lambda label, _: (0, sizes[label]))
        return _row(identity, field, store.case(texts), stamp, study.options())


def run_texts(study: Study, kind: str, folder: Path, count: int, threads: int) -> None:
    """MRPC's sentences one by one (kind 'mrpc') or as a stream (kind 'stream')."""
    identity = study.identity(kind, MODEL, 0, threads)
    if not study.wanted(identity):
        return
    ids = mrpc(folder, count)
    store = Store.open(study.work, MODEL)
    missing = _compiled(study, store)
    texts, cores = store.texts(f"mrpc-{len(ids)}", ids), study.cores[:threads]
    listed = one_by_one if kind == "mrpc" else streaming
    contestants = listed([name for name in study.engines if name not in missing], threads)
    padded = {c.label: c.length for c in contestants if c.pad}
    options = {"padded": padded, "lengths": [len(text) for text in ids]}

    def measure() -> Record:
        stamp = local_device().environment(cores)
        with loaded(store, contestants, texts, cores) as field:
            field.unavailable |= missing
            say(f"{_title(identity)}: measuring")
            if kind == "mrpc":
                starts = range(0, len(ids), TEXTS_PER_BLOCK)
                blocks = [(start, min(TEXTS_PER_BLOCK, len(ids) - start)) for start in starts]
                turns = len(blocks) * max(1, study.rounds // len(blocks))
                race(field, Machine(cores), turns, lambda _, turn: blocks[turn % len(blocks)])
            else:
                stream(field, Machine(cores), study.rounds)
            return _row(identity, field, store.case(texts), stamp, options)

    study.results.take(_title(identity), measure)


def run_roofline(study: Study, model: str, threads: int, precision: str) -> None:
    """Time of every kernel of CANAO's library in a precision against what the machine can do."""
    kind = "roofline" if precision == FLOAT32 else f"{precision}-roofline"
    identity = study.identity(kind, model, ROOFLINE_LENGTH, threads)
    if not study.wanted(identity):
        return
    store, cores = Store.open(study.work, model), study.cores[:threads]
    missing = _compiled(study, store, own_label(precision))

    def measure() -> Record:
        stamp = local_device().environment(cores)
        if missing:
            return {**identity, "unavailable": missing, "environment": stamp}
        measured = measure_kernels(store, ROOFLINE_LENGTH, cores, precision)
        return {**identity, **measured, "environment": stamp}

    study.results.take(_title(identity), measure)


def _compiled(study: Study, store: Store, *engines: str) -> dict[str, str]:
    """Compile with CANAO, in all precisions that run, or for these engines; why not, by the engine,
    for a model that it does not compile yet."""
    missing = {}
    for name in engines or study.engines:
        if name not in OWN_LABELS:
            continue
        try:
            store.compile(ALL[name].takes)
        except DeviceError as error:
            missing[name] = f"not supported: {without_folders(str(error))}"
    return missing


def _row(
    identity: Record, field: Field, case: Mapping[str, Any], stamp: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Record:  # fmt: skip
    facts = {name: case[name] for name in ("flops", "parameters", "sensitivity")}
    return {
        **identity, **facts, "options": dict(options), "environment": dict(stamp),
        "versions": field.used_versions, "engines": field.engines(),
        "unavailable": field.unavailable,
        "peak_flops": [round(x) for x in field.peak_flops],
        "bandwidth": [round(x) for x in field.bandwidth],
    }  # fmt: skip


def _title(identity: Mapping[str, Any]) -> str:
    at = f" at {identity['length']}" if identity["length"] else ""
    return f"{identity['kind']}: {identity['model']}{at}, {identity['threads']} thread(s)"


def _steps(options: argparse.Namespace, study: Study) -> Iterator[None]:
    """Each measurement that was asked for, done when the next is asked."""
    threads = numbers(options.threads, "threads")
    if max(threads) > len(study.cores):
        raise InputError(f"{max(threads)} threads need as many cores; take --cores or fewer")
    if options.mrpc:
        kind = "stream" if options.stream else "mrpc"
        for count in threads:
            yield run_texts(study, kind, options.mrpc, options.texts, count)
        return
    lengths = numbers(options.lengths, "lengths")
    if options.families:
        study = replace(study, engines=FAMILIES_ENGINES)
        for model in FAMILIES:
            yield run_latency(study, model, (FAMILIES_LENGTH,), threads, "family")
        return
    for model in names(options.models, tuple(MODELS), "model"):
        if options.roofline:
            for count in threads:
                yield run_roofline(study, model, count, options.precision)
        else:
            kind = "latency" if options.precision == FLOAT32 else options.precision
            yield run_latency(study, model, lengths, threads, kind)


def main(arguments: Sequence[str]) -> int:
    try:
        options = parse(arguments, RECORDS)
        plain = options.precision == FLOAT32
        records = Records(file_of(options, RECORDS if plain else REDUCED_RECORDS))
        if options.table:
            (write_page if plain else write_int8_page)(records.read())
            return 0
        allowed = local_machine().cores
        cores = numbers(options.cores, "cores", 0) if options.cores else allowed
        if options.isa and options.isa == isa_of_machine(options.precision):
            raise InputError(f"--isa {options.isa} is this machine's own; leave it out")
        engines = names(options.engines, entrants(options.precision, options.isa), "engine")
        for name in engines:
            python_of(ALL[name].environment)
        results = Results.start(records, options.draft)
        study = Study(options.work.resolve(), results, engines, options.rounds, options.block,
                      cores, options.again, options.isa, options.precision)  # fmt: skip
        for _ in _steps(options, study):
            pass
        results.close()
    except CanaoError as error:
        say(f"speed: error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        say("speed: interrupted; the same command goes on where it was")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
