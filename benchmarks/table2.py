"""Table 2 of the paper on this machine, and layers before and after fusion.

    python benchmarks/table2.py --work DIR [--models ...] [--threads 1,2] [--rounds 100]
    python benchmarks/table2.py --layers
    python benchmarks/table2.py --table

The first measures LiteRT, CANAO with one kernel for every layer, and CANAO with fusion, on all
models in one interleaved run, so that any two of the nine can be compared. The second times
nothing. Records go to results/table2.jsonl, replacing those of the same measurement; what was
badly measured is refused (README.md). --table writes the tables of table2.md from them. DIR is that
of speed.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from layers import count_layers
from peers.catalog import CANAO, ENGINES, UNFUSED, Contestant
from peers.host import python_of, without_folders
from peers.interleave import block_sizes, joined, loaded, race
from peers.machine import Machine
from peers.models import MODELS, random_ids
from peers.progress import say
from peers.records import Record, Records
from peers.results import Results, add_options, file_of
from peers.store import Store
from table2_table import write_page

from canao.device.bench import local_device
from canao.errors import CanaoError, DeviceError, InputError
from canao.machine import local_machine

RECORDS = Path(__file__).resolve().parent / "results" / "table2.jsonl"
GPUS = RECORDS.with_name("gpu.jsonl")
LENGTH = 128  # tokens, the paper's
CONTESTANTS = (ENGINES["litert"], UNFUSED, ENGINES[CANAO])
# Those of the paper's table; BERT(ours) is the one of 28 layers.
TABLE_MODELS = ("distilbert", "bert-base", "deep-narrow")
# Those of DNNFusion's table that there are configurations of.
LAYER_MODELS = ("distilbert", "bert-base", "mobilebert", "deep-narrow")


def measure(
    work: Path, models: Sequence[str], cores: Sequence[int], rounds: int, block_s: float
) -> Record:
    """One run of all models and contestants, as many threads as cores."""
    stamp = local_device().environment(cores)
    with ExitStack() as stack:
        fields, cases = {}, {}
        for model in models:
            store = Store.open(work, model)
            missing = _missing(store)
            texts = store.texts(f"text-{LENGTH}", [random_ids(LENGTH).numpy()])
            contestants = [Contestant(e.name, e, LENGTH, threads=len(cores))
                           for e in CONTESTANTS if e.name not in missing]  # fmt: skip
            fields[model] = stack.enter_context(loaded(store, contestants, texts, cores))
            fields[model].unavailable |= missing
            case = store.case(texts)
            cases[model] = {k: case[k] for k in ("flops", "parameters", "sensitivity")}
        whole = joined(fields)
        sizes = block_sizes(whole, block_s)
        say(f"measuring on {len(cores)} core(s)")
        race(whole, Machine(cores), rounds, lambda label, _: (0, sizes[label]))
    return {
        **_identity("table2", ",".join(models), LENGTH, len(cores)), "cases": cases,
        "engines": whole.engines(), "unavailable": whole.unavailable,
        "versions": whole.used_versions, "environment": stamp,
        "options": {"rounds": rounds, "block_s": block_s},
        "peak_flops": [round(x) for x in whole.peak_flops],
        "bandwidth": [round(x) for x in whole.bandwidth],
    }  # fmt: skip


def _missing(store: Store) -> dict[str, str]:
    """Compile both ways; why not, by the engine's name, for a model that does not compile."""
    missing = {}
    for engine in (UNFUSED, ENGINES[CANAO]):
        try:
            store.compile(engine.takes)
        except DeviceError as error:
            missing[engine.name] = f"does not compile: {without_folders(str(error))}"
    return missing


def _identity(kind: str, model: str, length: int, threads: int) -> dict[str, Any]:
    stamp = local_device().environment()
    return {"kind": kind, "model": model, "length": length, "threads": threads,
            "cpu": stamp["cpu"], "isa": stamp["isa"]}  # fmt: skip


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--table", action="store_true", help="write table2.md's tables")
    parser.add_argument("--layers", action="store_true", help="count layers, before and after")
    parser.add_argument("--work", type=Path, help="folder for models and conversions: measure")
    parser.add_argument("--models", help="by commas; default: those of the paper's table")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--block", type=float, default=0.05, help="seconds of a turn")
    add_options(parser, RECORDS)
    parser.add_argument("--page", type=Path, help="the page to write; default: table2.md")
    options = parser.parse_args(arguments)
    if not (options.table or options.layers or options.work):
        parser.error("give --work, --layers or --table")
    if options.draft and options.table and not options.page:
        parser.error("no table is made of drafts, unless --page names a page for it")
    if options.rounds < 1 or options.block <= 0:
        parser.error("--rounds is at least 1, --block over 0")
    return options


def _models(text: str | None, default: Sequence[str]) -> Sequence[str]:
    names = text.split(",") if text else default
    for name in names:
        if name not in MODELS:
            raise InputError(f"model '{name}' is not one of {', '.join(MODELS)}")
    return names


def _cores(text: str) -> list[list[int]]:
    """The cores of each thread count that was asked for."""
    allowed = local_machine().cores
    words = text.split(",")
    if not all(word.isdigit() and 1 <= int(word) <= len(allowed) for word in words):
        raise InputError(f"threads '{text}': give numbers from 1 to {len(allowed)}, by commas")
    return [list(allowed[: int(word)]) for word in words]


def _run(options: argparse.Namespace) -> None:
    records = Records(file_of(options, RECORDS))
    if options.layers or options.work:
        _record(options, Results.start(records, options.draft))
    if options.table:
        write_page(records.read(), Records(GPUS).read(), options.page)


def _record(options: argparse.Namespace, results: Results) -> None:
    if options.layers:
        for name in _models(options.models, LAYER_MODELS):
            counted = count_layers(name)
            row = {**_identity("layers", name, counted["length"], 0), **counted}
            results.put(f"layers: {name}", row)
    if options.work:
        for engine in CONTESTANTS:
            python_of(engine.environment)
        models = _models(options.models, TABLE_MODELS)
        for cores in _cores(options.threads):
            run = partial(measure, options.work.resolve(), models, cores, options.rounds,
                          options.block)  # fmt: skip
            results.take(f"table2: {', '.join(models)}, {len(cores)} thread(s)", run)
    results.close()


def main(arguments: Sequence[str]) -> int:
    try:
        _run(_parse(arguments))
    except CanaoError as error:
        say(f"table2: error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        say("table2: interrupted; nothing of the run under way is recorded")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
