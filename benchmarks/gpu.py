"""Models on an OpenCL device, fused and not, in float32 and fp16, in interleaved rounds; beside
PyTorch on the same GPU where that is NVIDIA's.

    python benchmarks/gpu.py --device opencl:0 [--torch cuda] [--models minilm-l6,...] [--rounds 10]
    python benchmarks/gpu.py --table

The models of speed.md with random weights, at 128 tokens, batch 1. In each round every library is
timed in a process of its own, one after the other; a time is from ids on the host to results on
the host. With --torch the model is timed in this process as well, in turns with the libraries and
in the same way: as it is, and compiled with CUDA graphs (torch.compile, mode 'reduce-overhead'), in
float32 without TF32 and in halves. Outputs are compared with those of the same model in float32 on
this machine's CPU. What is not near is not recorded.

Records go to results/gpu.jsonl, unless badly measured (README.md); --table writes the table of
docs/gpu.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import torch
from marks import footnotes
from pages import fill, table
from peers.models import MODELS, SEED, build_body, randomise
from peers.progress import say
from peers.records import Record
from peers.results import Results, add_options
from peers.script import ended, recorded

from canao.accuracy.verified import failures, verified
from canao.api import get_device
from canao.artifact.directory import Artifact
from canao.artifact.temporary import WorkingDirectory
from canao.compiler.pipeline import compile_model
from canao.device.base import MeasureConfig, Timing
from canao.device.opencl import OpenClDevice
from canao.errors import DeviceError, InputError
from canao.machine import local_machine

HERE = Path(__file__).resolve().parent
RECORDS, PAGE = HERE / "results" / "gpu.jsonl", HERE.parent / "docs" / "gpu.md"
IDENTITY = ("gpu", "model", "length")
LENGTH = 128
# What is compared, by name: precision, and whether it is fused.
WAYS = {"fused": ("float32", True), "unfused": ("float32", False), "fp16": ("fp16", True)}
# The same of PyTorch: type, and how it is compiled, None for not at all.
TORCH = {"eager": (torch.float32, None), "graphs": (torch.float32, "reduce-overhead"),
         "eager fp16": (torch.float16, None), "graphs fp16": (torch.float16, "reduce-overhead")}
WARMUP = 10


def made(name: str) -> torch.nn.Module:
    torch.manual_seed(SEED)
    body = build_body(name, "eager")
    randomise(body)
    return body.eval()


def libraries(name: str, device: OpenClDevice, folder: Path) -> Mapping[str, Artifact]:
    """The model's libraries; DeviceError if one computes something else."""
    made(name).save_pretrained(folder / "model")
    found = {}
    for way, (precision, fusion) in WAYS.items():
        found[way] = compile_model(
            folder / "model", folder / way, target=device.target, precision=precision,
            fusion=fusion, max_length=LENGTH,
        )  # fmt: skip
        wrong = list(failures(verified(found[way], folder / "model", device)))
        if wrong:
            raise DeviceError(f"{name}, {way}: not near float32 on the CPU at {wrong} tokens")
    return found


def in_torch(name: str, place: str) -> Mapping[str, Callable[[], torch.Tensor]]:
    """Calls of the model in PyTorch on a device, from ids on the host to results there; DeviceError
    if one computes something else."""
    ids = torch.randint(1000, 30000, (1, LENGTH), generator=torch.Generator().manual_seed(SEED))
    with torch.inference_mode():
        want = made(name)(ids)[0]
    calls = {}
    for way, (dtype, mode) in TORCH.items():
        model = made(name).to(place, dtype)
        model = torch.compile(model, mode=mode) if mode else model

        def call(model: torch.nn.Module = model) -> torch.Tensor:
            with torch.inference_mode():
                return model(ids.to(place))[0].float().cpu()

        for _ in range(WARMUP):
            got = call()
        near = torch.nn.functional.cosine_similarity(got.flatten(), want.flatten(), dim=0)
        if not near >= (0.99 if dtype == torch.float16 else 0.9999):
            raise DeviceError(f"{name}, PyTorch {way}: cosine {near:.4f} to float32 on the CPU")
        calls[way] = call
    return calls


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measured(
    name: str, device: OpenClDevice, rounds: int, samples: int, place: str | None
) -> Record:
    with WorkingDirectory("canao-gpu") as folder:
        found = libraries(name, device, folder)
        beside = in_torch(name, place) if place else {}
        times: dict[str, list[float]] = {way: [] for way in (*WAYS, *beside)}
        config = MeasureConfig(length=LENGTH, samples=samples, warmup=max(3, samples // 10))
        for number in range(rounds):
            say(f"{name}: round {number + 1} of {rounds}")
            for way, artifact in found.items():
                timing = device.measure(artifact, config)
                if not isinstance(timing, Timing):
                    raise DeviceError(f"{name}, {way}: {timing.message}")
                times[way].append(median(timing.samples_ms))
            for way, call in beside.items():
                seconds(call)
                times[way].append(1e3 * median(seconds(call) for _ in range(samples)))
        launches = {way: len(device.profile(a, config)) for way, a in found.items()}
    versions = {"torch": torch.__version__, "torch_device": torch.cuda.get_device_name()
                } if place == "cuda" else {}  # fmt: skip
    return {"kind": "gpu", "cpu": local_machine().cpu, "gpu": device.gpu.shown, **versions,
            "model": name, "length": LENGTH, "vector": device.target.vector, "launches": launches,
            "rounds_ms": times}  # fmt: skip


def rows(records: Sequence[Record]) -> str:
    """A row for each model on each GPU: medians of the rounds, and of the ratios within rounds."""
    lines = [["GPU", "model", "launches, fused and not", "fused, ms", "unfused, ms",
              "unfused / fused", "fp16, ms", *(f"PyTorch {way}, ms" for way in TORCH)],
             ["---", "---", *["--:"] * (5 + len(TORCH))]]  # fmt: skip
    for r in records:
        of = r["rounds_ms"]
        ratio = median(u / f for u, f in zip(of["unfused"], of["fused"], strict=True))
        lines.append([
            r["gpu"], r["model"], f"{r['launches']['fused']}, {r['launches']['unfused']}",
            f"{median(of['fused']):.2f}", f"{median(of['unfused']):.2f}", f"{ratio:.2f}",
            f"{median(of['fp16']):.2f}",
            *(f"{median(of[way]):.2f}" if way in of else "-" for way in TORCH),
        ])  # fmt: skip
    return table(lines) + footnotes(records) if records else "No records yet.\n"


def write_page(records: Sequence[Record]) -> None:
    fill(PAGE, {"gpu": rows(records)})


def _run(options: argparse.Namespace, results: Results) -> None:
    try:
        device = get_device(options.device)
    except DeviceError as error:
        if not options.if_there:
            raise
        say(f"gpu: nothing is measured: {error}")
        return
    if not isinstance(device, OpenClDevice):
        raise InputError(f"--device {options.device}: name an OpenCL device, as opencl:0")
    for name in options.models.split(","):
        if name not in MODELS:
            raise InputError(f"--models '{name}' is not one of {', '.join(MODELS)}")
        results.take(name, lambda: measured(  # noqa: B023
            name, device, options.rounds, options.samples, options.torch  # noqa: B023
        ))  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="opencl", help="an OpenCL device")
    parser.add_argument("--if-there", action="store_true", help="end well where it is not there")
    parser.add_argument("--torch", choices=("cuda",), help="time PyTorch there as well")
    parser.add_argument("--models", default=",".join(MODELS), help="of speed.md, between commas")
    parser.add_argument("--rounds", type=int, default=10, help="of all libraries of a model")
    parser.add_argument("--samples", type=int, default=30, help="of a library in a round")
    parser.add_argument("--table", action="store_true", help="write the table of docs/gpu.md")
    add_options(parser, RECORDS)
    options = parser.parse_args(arguments)
    return ended("gpu", lambda: recorded(
        options, RECORDS, IDENTITY, write_page, lambda results: _run(options, results)
    ))  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
