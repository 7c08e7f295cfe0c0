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

from canao.compiler.pipeline import compile_graph
from canao.compiler.stages import Stages
from canao.graph.from_torch.trace import trace
from canao.graph.ir import Graph
from canao.lower.scheduling import default_plans, space
from canao.target import Target, get_target
from tests.compiler import families, models

RECORD = Path(__file__).with_suffix(".json")
X86, ARM = get_target("x86_64-linux"), get_target("aarch64-linux")
TARGETS = (*(X86.with_isa(isa) for isa in ("scalar", "avx2", "avx512")), ARM)


@dataclass(frozen=True)
class Case:
    """One program of the corpus: `plans` is how each region runs, by default or otherwise."""

    name: str
    graph: Graph
    target: Target
    fusion: bool = True
    plans: str = "default"

    def stages(self) -> Stages:
        planner = default_plans if self.plans == "default" else other_plans
        return compile_graph(self.graph, self.target, fusion=self.fusion, planner=planner)


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
    """Every graph on every target, fused; unfused and under other plans on one or two."""
    for name, capture in graphs():
        if only not in name:
            continue
        graph = capture()
        for target in TARGETS:
            yield Case(name, graph, target)
        yield Case(name, graph, X86.with_isa("avx512"), fusion=False)
        for target in (X86, ARM):
            yield Case(name, graph, target, plans="other")


def key(case: Case) -> str:
    fusion = "fused" if case.fusion else "unfused"
    return f"{case.name} {case.target.name}-{case.target.isa} {fusion} {case.plans} plans"


def digests(only: str = "", dump: Path | None = None) -> dict[str, str]:
    """Case -> hash of its C, header and weight layout; of the refusal where there is one."""
    found = {}
    for case in corpus(only):
        try:
            source = case.stages().source
            text = source.code + source.header
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
