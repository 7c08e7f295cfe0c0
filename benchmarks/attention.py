"""What it is worth that attention multiplies bf16 on AMX: libraries in int8 with it and without.

    python benchmarks/attention.py [--lengths 32,128,256,512] [--rounds 10]
    python benchmarks/attention.py --table

MiniLM-L6 (of `pip install 'canao[demo]'`) is compiled in int8 twice, with the same products by
blocks: for `avx512amx` alone, whose attention multiplies bf16, and for `avx512vnni` as well, where
attention stays in float32 (docs/precision.md). Both run by turns on one core. Records go to
results/attention.jsonl, unless badly measured (README.md); --table writes the table of
docs/precision.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from marks import footnotes, marked
from pages import by_machine, fill, table
from peers.catalog import LEAST_COSINE, own_label
from peers.interleave import distances
from peers.ratios import by_round, interval, median_ms, ratio
from peers.records import Record, Records
from peers.results import Results, add_options, file_of

from canao.artifact.directory import Artifact
from canao.cli.demo_command import packaged_teacher
from canao.compiler.pipeline import compile_model
from canao.device.base import MeasureConfig, Timing
from canao.device.bench import BenchDevice, local_device
from canao.errors import CanaoError, DeviceError, InputError
from canao.precision.quantize import INT8
from canao.target import get_target

HERE = Path(__file__).resolve().parent
RECORDS, PAGE = HERE / "results" / "attention.jsonl", HERE.parent / "docs" / "precision.md"
KIND, AMX = "attention", "avx512amx"
# What runs, by the instruction sets that it is compiled for; the last of them is what both run on.
ROUNDED, PLAIN = own_label(INT8), "attention in float32"
LIBRARIES = {ROUNDED: AMX, PLAIN: f"avx512vnni,{AMX}"}
SAMPLES = 40


def compiled(folder: Path) -> dict[str, Artifact]:
    """Both libraries; InputError where the processor has no AMX."""
    if AMX not in get_target().extensions:
        raise InputError("this processor has no AMX: attention is in float32 in all libraries")
    return {
        name: compile_model(packaged_teacher(), folder / name.replace(" ", "-"), precision=INT8,
                            target=get_target().with_isa(isas), tuned=False)
        for name, isas in LIBRARIES.items()
    }  # fmt: skip


def measure(
    device: BenchDevice, libraries: Mapping[str, Artifact], length: int, rounds: int
) -> Record:
    config, stamp = MeasureConfig(length=length, samples=SAMPLES), device.environment()
    samples: dict[str, list[list[float]]] = {name: [] for name in libraries}
    for turn in range(rounds):
        for name in list(libraries)[:: -1 if turn % 2 else 1]:
            timing = device.measure(libraries[name], config)
            if not isinstance(timing, Timing):
                raise DeviceError(timing.message)
            samples[name].append([round(ms * 1e3, 1) for ms in timing.samples_ms])
    said = {name: _vectors(device, artifact, length) for name, artifact in libraries.items()}
    engines = {}
    for name, of in samples.items():
        difference, cosine = distances(said[name], said[PLAIN])
        engines[name] = {"samples_us": of, "precision": INT8, "difference": difference,
                         "cosine": cosine, "right": cosine >= LEAST_COSINE}  # fmt: skip
    return {"kind": KIND, "model": "minilm-l6", "length": length, "threads": 1,
            "cpu": stamp["cpu"], "isa": stamp["isa"], "environment": stamp,
            "engines": engines}  # fmt: skip


def _vectors(device: BenchDevice, artifact: Artifact, length: int) -> np.ndarray:
    """What a library gives of a random text."""
    ids = np.random.default_rng(length).integers(1000, 30000, length)
    others = [np.zeros_like(ids)] * (len(artifact.manifest["inputs"]) - 1)
    return device.run(artifact, [ids, *others])


def lengths(records: Sequence[Record]) -> str:
    """A row for each length: milliseconds, and how many times as fast bf16 in attention is."""
    rows = [["tokens", f"{PLAIN}, ms", "in bf16, ms", "times as fast", "95 % confidence"],
            ["--:"] * 5]  # fmt: skip
    for r in sorted(records, key=lambda r: r["length"]):
        low, high = interval(by_round(r, PLAIN, ROUNDED))
        rows.append([marked(str(r["length"]), r),
                     *(f"{median_ms(r['engines'][name]):.3g}" for name in (PLAIN, ROUNDED)),
                     f"{ratio(r, PLAIN, ROUNDED):.2f}x", f"{low:.2f} to {high:.2f}"])
    return table(rows) + footnotes(records)


def sections(records: Sequence[Record]) -> dict[str, str]:
    return {"attention": by_machine(records, KIND, lengths)}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--lengths", default="32,128,256,512", help="tokens of the text")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--table", action="store_true", help="write the table of precision.md")
    add_options(parser, RECORDS)
    given = parser.parse_args(arguments)
    try:
        records = Records(file_of(given, RECORDS))
        if given.table:
            fill(PAGE, sections(records.read()))
            return 0
        results, device = Results.start(records, given.draft), local_device()
        with tempfile.TemporaryDirectory() as folder:
            libraries = compiled(Path(folder))
            for length in map(int, given.lengths.split(",")):
                title = f"{KIND}: {length} tokens"
                results.take(title, partial(measure, device, libraries, length, given.rounds))
        if given.draft:
            print(sections(records.read())["attention"])
        results.close()
    except CanaoError as error:
        print(f"attention: error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
