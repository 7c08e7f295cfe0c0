"""Process replay: hashes of the C that CANAO generates for a corpus of models, targets and plans.

    python -m tests.replay            compare with tests/replay.json; exit code 1 if any differs
    python -m tests.replay --update   record the hashes of this tree
    python -m tests.replay --dump DIR write the texts as well, for diff
    python -m tests.replay --only bert-  models with this in their names only

A change that is meant to change no generated code shows here that it changed none. The recorded
hashes are those of one version of torch and transformers, whose graphs the corpus is captured from.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from canao.build import library_files
from canao.compiler.pipeline import compile_graph
from canao.compiler.stages import Stages
from canao.graph.from_torch.trace import trace
from canao.graph.ir import Graph
from canao.isa.registry import isas_of
from canao.lower.scheduling import default_plans, space
from canao.precision.kv_cache import KV_CACHES
from canao.precision.quantize import FLOAT32, PRECISIONS
from canao.target import Target, get_target
from tests.compiler import families, models

RECORD = Path(__file__).with_suffix(".json")
X86, ARM = get_target("x86_64-linux"), get_target("aarch64-linux")
TARGETS = (*(X86.with_isa(isa) for isa in ("scalar", "avx2", "avx512")), ARM)
EVERY = tuple(t.with_isa(isa.name) for t in (X86, ARM) for isa in isas_of(t.triple)
              if isa.name != "scalar" or t is X86)  # fmt: skip
# Libraries for processors that differ, of which each has its own kernels.
LEVELS = (X86.with_isa("scalar,avx2"), X86.with_isa("avx2,avx512amx"),
          ARM.with_isa("neon,neon_i8mm"))  # fmt: skip
# Instruction sets whose products of a precision have ways of their own: dot products, and blocks.
OWN_WAYS = ((X86.with_isa("avx512vnni"), "int8"), (X86.with_isa("avx512amx"), "bf16"),
            (X86.with_isa("avx2"), "int8-7bit"), (ARM.with_isa("neon_i8mm"), "int8"))  # fmt: skip
# GPUs, and OpenCL on CPUs.
GPU, WIDE = X86.on_opencl(4), X86.on_opencl(16)
# The models that are compiled in every precision for every instruction set.
ENCODER, DECODER = "bert-odd", "gpt2-three_heads"


@dataclass(frozen=True)
class Case:
    """One program of the corpus: `plans` is how each region runs, by default or otherwise. Results
    in precisions that a target has no instructions for are emulated."""

    name: str
    graph: Graph
    target: Target
    fusion: bool = True
    plans: str = "default"
    precision: str = FLOAT32
    kv_cache: str = FLOAT32

    def stages(self) -> Stages:
        planner = default_plans if self.plans == "default" else other_plans
        return compile_graph(
            self.graph, self.target, fusion=self.fusion, planner=planner, allow_emulation=True,
            precision=self.precision, kv_cache=self.kv_cache,
        )  # fmt: skip

    def text(self) -> str:
        """The C of its kernels, and for several instruction sets of what chooses among them."""
        stages = self.stages()
        text = "".join(level.source.code + level.source.header for level in stages.levels)
        if len(stages.levels) > 1:
            text += library_files([level.source for level in stages.levels])["cpu_levels.c"].text
        return text


def other_plans(program: Any, target: Target) -> list[Any]:
    """Of each region's legal plans one that is not the first, another for each region."""
    out = []
    for i, region in enumerate(program.regions):
        plans = space(region, target)
        out.append(plans[(7 * i + 3) % len(plans)])
    return out


def graphs() -> Iterator[tuple[str, Callable[[], Graph]]]:
    """Small models of every family and of odd shapes, to be captured."""
    for name in models.SHAPES:
        yield f"bert-{name}", lambda name=name: trace(models.classifier(name, layers=1), 512)
    yield "bert-qa", lambda: trace(models.spans(), 512)
    yield "bert-encoder", lambda: trace(models.encoder("prime", layers=1, max_length=64), 64)
    for name in models.MOBILE:
        yield f"mobile-{name}", lambda name=name: trace(models.mobile(name, layers=1), 512)
    for name in models.DECODERS:
        yield f"gpt2-{name}", lambda name=name: trace(models.decoder(name, layers=1), 200)
    yield "gpt2-bare", lambda: trace(models.bare_decoder(), 130)
    for name in families.FAMILIES:
        yield f"family-{name}", lambda name=name: trace(families.make(name), 128)
        if name in ("Bert", "DebertaV2", "ConvBert", "ModernBert"):
            yield f"lm-{name}", lambda name=name: trace(families.make(name, "ForMaskedLM"), 128)


def corpus(only: str = "") -> Iterator[Case]:
    """Every graph on every target, fused; unfused and under other plans on one or two; in fewer
    bits where that is done in other ways. Two of them in all precisions on all targets."""
    for name, capture in graphs():
        if only not in name:
            continue
        graph = capture()
        for target in TARGETS:
            yield Case(name, graph, target)
        yield Case(name, graph, X86.with_isa("avx512"), fusion=False)
        for target in (X86, ARM, GPU):
            yield Case(name, graph, target, plans="other")
        yield Case(name, graph, GPU)
        for target, precision in OWN_WAYS:
            yield Case(name, graph, target, precision=precision)
        if name in (ENCODER, DECODER):
            yield from in_fewer_bits(name, graph)


def in_fewer_bits(name: str, graph: Graph) -> Iterator[Case]:
    """Every precision, what a cache may hold, and several instruction sets in one library."""
    own = {(target.isa, precision) for target, precision in OWN_WAYS}
    for target in EVERY:
        for precision in PRECISIONS:
            known = precision == FLOAT32 and target in TARGETS
            if not known and (target.isa, precision) not in own:
                yield Case(name, graph, target, precision=precision)
    for precision in ("fp16", "int8-weights", "int8"):
        yield Case(name, graph, GPU, precision=precision)
        yield Case(name, graph, WIDE, fusion=False, precision=precision)
    for target, precision in OWN_WAYS:
        yield Case(name, graph, target, plans="other", precision=precision)
        yield Case(name, graph, target, fusion=False, precision=precision)
    for target in LEVELS:
        for precision in (FLOAT32, "int8"):
            yield Case(name, graph, target, precision=precision)
    if name != DECODER:
        return
    for kept in KV_CACHES:
        for target in (*EVERY, GPU) if kept != FLOAT32 else ():
            yield Case(name, graph, target, kv_cache=kept)
        yield Case(name, graph, X86.with_isa("avx512vnni"), precision="int8", kv_cache=kept)


def key(case: Case) -> str:
    isas = "+".join(target.kernels_for for target in case.target.levels)
    isas += str(case.target.vector or "")
    fusion = "fused" if case.fusion else "unfused"
    text = f"{case.name} {case.target.name}-{isas} {fusion} {case.plans} plans"
    text += f" {case.precision}" if case.precision != FLOAT32 else ""
    return text + (f" cache {case.kv_cache}" if case.kv_cache != FLOAT32 else "")


def digests(only: str = "", dump: Path | None = None) -> dict[str, str]:
    """Case -> hash of its C, header and weight layout; of the refusal where there is one."""
    found = {}
    for case in corpus(only):
        try:
            text = case.text()
        except Exception as error:  # noqa: BLE001 - what is refused is part of the record
            text = f"{type(error).__name__}: {error}"
        found[key(case)] = hashlib.sha256(text.encode()).hexdigest()[:24]
        if dump is not None:
            (dump / f"{key(case).replace(' ', '_')}.c").write_text(text, encoding="utf-8")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true", help="record the hashes of this tree")
    parser.add_argument("--dump", type=Path, help="directory for the texts")
    parser.add_argument("--only", default="", help="part of the names of models")
    options = parser.parse_args()
    if options.dump:
        options.dump.mkdir(parents=True, exist_ok=True)
    versions = f"torch {torch.__version__.split('+')[0]}, transformers {transformers.__version__}"
    now = {"versions": versions, "hashes": digests(options.only, options.dump)}
    if options.update and not options.only:
        RECORD.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
        print(f"{len(now['hashes'])} programs recorded under {versions}")
        return 0
    then = json.loads(RECORD.read_text(encoding="utf-8"))
    if then["versions"] != versions:
        print(f"recorded under {then['versions']}, this is {versions}: graphs may differ")
    known = {k: v for k, v in then["hashes"].items() if options.only in k.split()[0]}
    changed = [k for k in {**known, **now["hashes"]} if known.get(k) != now["hashes"].get(k)]
    print("\n".join([*changed, f"{len(changed)} of {len(now['hashes'])} programs changed"]))
    return int(bool(changed))


if __name__ == "__main__":
    sys.exit(main())
