"""What a compiled model costs besides its latency: loading, the first inference, memory, compiling.

    python benchmarks/footprint.py [--models bert-base] [--lengths 8,32,128] [--repeats 5]
    python benchmarks/footprint.py --table

Every figure comes from a process of its own, as often as --repeats says; tables have medians. The
weights are read once before, so that they are in the page cache. Records go to
results/footprint.jsonl, unless badly measured (README.md); --table writes the tables of
footprint.md from them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from footprint_table import write_page
from peers.host import OFFLINE, on_cores
from peers.models import MODELS
from peers.records import Record, Records
from peers.results import Results, add_options, file_of

from canao.artifact.directory import Artifact
from canao.build import build_program
from canao.device.base import Failure, MeasureConfig
from canao.device.bench import local_device
from canao.errors import CanaoError, DeviceError, InputError
from canao.machine import local_machine
from canao.target import get_target

HERE = Path(__file__).resolve().parent
RECORDS = HERE / "results" / "footprint.jsonl"
_SAMPLES, _WARMUP = 20, 5

# Prints seconds: import; files checked; library and weights mapped; all weights read and hashed.
_LOAD = """
import json, sys, time
clock = [time.perf_counter()]
import numpy, canao
from canao.artifact.directory import Artifact
from canao.inference.compiled_model import CompiledModel
clock.append(time.perf_counter())
artifact = Artifact.load(sys.argv[1])
artifact.verify(whole=False)
clock.append(time.perf_counter())
model = CompiledModel(artifact)
clock.append(time.perf_counter())
artifact.verify()
clock.append(time.perf_counter())
print(json.dumps([b - a for a, b in zip(clock, clock[1:])]))
"""
# Prints seconds: capture by torch.export, all the rest.
_COMPILE = """
import json, sys, time
from pathlib import Path
from unittest import mock
from canao.compiler import loading
from canao.compiler.pipeline import compile_model
from peers.models import build_body
body, spent = build_body(sys.argv[1], "sdpa"), []
def trace(*arguments):
    start = time.perf_counter()
    graph = captured(*arguments)
    spent.append(time.perf_counter() - start)
    return graph
captured = loading.trace
start = time.perf_counter()
with mock.patch.object(loading, "trace", trace):
    compile_model(body, sys.argv[2])
print(json.dumps([spent[0], time.perf_counter() - start - spent[0]]))
"""


def measure(model: str, lengths: Sequence[int], repeats: int, core: int) -> Record:
    """All figures of one model, on one core."""
    stamp = local_device().environment((core,))
    with tempfile.TemporaryDirectory(prefix="canao-footprint-") as name, on_cores((core,)):
        folder = Path(name)
        warm = folder / "cache"
        with mock.patch.dict(os.environ, CANAO_CACHE=str(warm)):
            build_program({"main.c": "int main(void) { return 0; }"}, get_target())
        compiling = [_compile(model, folder, warm) for _ in range(repeats)]
        artifact = Artifact.load(folder / "artifact")
        artifact.verify()  # and reads the weights
        loading = [_json(_LOAD, str(artifact.path)) for _ in range(repeats)]
        runs = {str(n): [_run(artifact, n, core) for _ in range(repeats)] for n in lengths}
        weights = artifact.weights.stat().st_size
    return {
        "kind": "footprint", "model": model, "length": 0, "threads": 1, "cpu": stamp["cpu"],
        "isa": stamp["isa"], "environment": stamp,
        "weights_bytes": weights,
        "compile_s": [[round(x, 3) for x in row] for row in compiling],
        "load_s": [[round(x, 6) for x in row] for row in loading], "runs": runs,
    }  # fmt: skip


def _compile(model: str, folder: Path, warm: Path) -> list[float]:
    """Seconds of the capture and of the rest.

    The cache is as after the first build on a machine: it holds the toolchain's own libraries and
    nothing of the model.
    """
    with tempfile.TemporaryDirectory(dir=folder) as name:
        cache = Path(name) / "cache"
        shutil.copytree(warm, cache, symlinks=True)
        return _json(_COMPILE, model, str(folder / "artifact"), CANAO_CACHE=str(cache))


def _run(artifact: Artifact, length: int, core: int) -> dict[str, float]:
    """Milliseconds of opening, of the first inference and of the median; peak bytes."""
    config = MeasureConfig(length=length, samples=_SAMPLES, warmup=_WARMUP, cores=(core,))
    timing = local_device().measure(artifact, config)
    if isinstance(timing, Failure):
        raise DeviceError(timing.message)
    return {"open_ms": timing.load_ms, "first_ms": timing.cold_ms,
            "steady_ms": timing.percentile(50), "peak_bytes": timing.peak_bytes}  # fmt: skip


def _json(program: str, *arguments: str, **variables: str) -> Any:
    """What a program prints last, run in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, cwd=HERE,
        env=os.environ | OFFLINE | variables,
    )  # fmt: skip
    if done.returncode:
        raise DeviceError(done.stderr.strip().splitlines()[-1] if done.stderr else "no message")
    return json.loads(done.stdout.splitlines()[-1])


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--table", action="store_true", help="write footprint.md's tables and end")
    parser.add_argument("--models", default="bert-base", help="by commas")
    parser.add_argument("--lengths", default="8,32,128", help="tokens of the text, by commas")
    parser.add_argument("--repeats", type=int, default=5)
    add_options(parser, RECORDS)
    parser.add_argument("--page", type=Path, help="the page to write; default: footprint.md")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    options = _parse(arguments)
    try:
        records = Records(file_of(options, RECORDS))
        if not options.table:
            lengths, models = options.lengths.split(","), options.models.split(",")
            if options.repeats < 1 or not all(n.isdigit() and int(n) for n in lengths):
                raise InputError("--lengths and --repeats are whole numbers from 1")
            if not set(models) <= set(MODELS):
                raise InputError(f"--models are of {', '.join(MODELS)}")
            core, results = local_machine().cores[0], Results.start(records, options.draft)
            for model in models:
                run = partial(measure, model, [int(n) for n in lengths], options.repeats, core)
                results.take(f"footprint: {model}", run)
            results.close()
        if options.page or not options.draft:
            write_page(records.read(), options.page)
    except CanaoError as error:
        print(f"footprint: error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
