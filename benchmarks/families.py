"""Compares models of extreme sizes with Transformers in float32.

    python benchmarks/families.py --run      compiles and compares, writes results/families.jsonl
    python benchmarks/families.py --table    writes the table into docs/models.md

Models are random (tests/compiler/families.py), libraries are as `canao compile` builds them. A
record is what was compiled, the largest difference at any length, and the CPU time of export and
of what follows until the C is written. Those that are recorded are not run again; those that differ
by more than the tolerance, or were badly measured (README.md), are refused.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from marks import footnotes, marked  # noqa: E402
from pages import fill, table  # noqa: E402
from peers.records import Records  # noqa: E402
from peers.results import Results, add_options, file_of  # noqa: E402

from canao.compiler.loading import load_model  # noqa: E402
from canao.compiler.pipeline import compile_graph, compile_model  # noqa: E402
from canao.errors import CanaoError  # noqa: E402
from canao.inference.compiled_model import CompiledModel  # noqa: E402
from canao.lower.scheduling import default_plans  # noqa: E402
from canao.target import get_target  # noqa: E402
from tests.compiler.families import make, reference, text  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "families.jsonl"
PAGE = ROOT / "docs" / "models.md"
TOLERANCE = 1e-4  # absolute, of outputs of the size of 1
LENGTHS = (1, 7, 8, 17, 31, 33, 64, 127, 128)
TINY = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
# name -> (family, head, what is extreme, lengths beside the maximum)
EXTREMES: dict[str, tuple[str, str, dict[str, Any], tuple[int, ...]]] = {
    "1 layer": ("Bert", "Model", {"num_hidden_layers": 1}, LENGTHS),
    "head size 8": ("Bert", "Model", {"hidden_size": 96, "num_attention_heads": 12}, LENGTHS),
    "head size 128": ("Bert", "Model", {"hidden_size": 256, "num_attention_heads": 2}, LENGTHS),
    "vocabulary 250,000": ("XLMRoberta", "ForMaskedLM",
                           {**TINY, "vocab_size": 250_000, "max_position_embeddings": 68},
                           (1, 17)),
    "512 positions": ("Bert", "Model", {"max_position_embeddings": 512}, (511,)),
    "8,192 positions": ("ModernBert", "Model",
                        {**TINY, "max_position_embeddings": 8192, "local_attention": 128,
                         "num_hidden_layers": 3, "global_attn_every_n_layers": 2},
                        (4097, 8191)),
    "48 layers": ("Bert", "Model", {"num_hidden_layers": 48}, (1, 33, 128)),
    "48 layers, rotary, local": ("ModernBert", "Model",
                                 {"num_hidden_layers": 48, "global_attn_every_n_layers": 3},
                                 (1, 33, 128)),
    "24 layers, disentangled": ("DebertaV2", "Model", {"num_hidden_layers": 24}, (1, 33, 128)),
    # Without norms, random weights this deep move PyTorch's float32 by 0.3 from its float64.
    "24 layers, bottlenecks, layer norms": ("MobileBert", "Model",
                               {"num_hidden_layers": 24, "normalization_type": "layer_norm"},
                               (1, 33, 128)),
}  # fmt: skip


def compare(
    model: torch.nn.Module, lengths: Iterable[int], threads: int = 1
) -> dict[str, Any]:
    """Compile and compare at `lengths` and the maximum: the largest difference, times in s."""
    start = time.process_time()
    graph = load_model(model)[1]
    exported = time.process_time()
    compile_graph(graph, get_target(), planner=default_plans)
    lowered = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        artifact = compile_model(model, Path(folder) / "out", tuned=False)
        manifest = artifact.manifest
        names = tuple(i["name"] for i in manifest["inputs"])
        worst, tried = 0.0, sorted({*lengths, manifest["max_length"]})
        with CompiledModel(artifact, threads) as compiled:
            for length in tried:
                ids = text(model, names, length)
                got, want = compiled.run(*(i[None] for i in ids)), reference(model, names, ids)
                worst = max(worst, *(float(np.abs(got[k] - want[k]).max()) for k in want))
    return {"lengths": tried, "difference": worst, "tolerance": TOLERANCE,
            "export_s": round(exported - start, 2), "lower_s": round(lowered - exported, 2),
            "kernels": len(manifest["kernels"]), "toolchain": manifest["toolchain"]}  # fmt: skip


def run(only: str, results: Results) -> None:
    """Every record that is not there yet is made and appended."""
    torch.set_num_threads(1)
    for name, (family, head, changes, lengths) in EXTREMES.items():
        known = {"name": name, "family": family, "head": head}
        if only in name and not results.holds(known):
            model = make(family, head, **changes)
            results.take(name, lambda m=model, n=lengths, k=known: {**k, **compare(m, n)})
    results.close()


def extremes(found: Sequence[dict[str, Any]]) -> str:
    rows = [["what", "model", "tokens", "largest difference", "export, s", "graph to C, s"],
            ["---", "---", "---", "---:", "---:", "---:"]]  # fmt: skip
    for r in sorted(found, key=lambda r: list(EXTREMES).index(r["name"])):
        tokens = ", ".join(map(str, r["lengths"]))
        rows.append([marked(r["name"], r), f"{r['family']}{r['head']}", tokens,
                     f"{r['difference']:.1e}", f"{r['export_s']:.1f}",
                     f"{r['lower_s']:.1f}"])  # fmt: skip
    return table(rows) + footnotes(found)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Compare extreme sizes with Transformers.")
    parser.add_argument("--run", action="store_true", help="compile and compare (minutes)")
    parser.add_argument("--only", default="", help="part of the names of what to run")
    parser.add_argument("--table", action="store_true", help="write the table into docs/models.md")
    add_options(parser, RESULTS)
    given = parser.parse_args(arguments)
    try:
        records = Records(file_of(given, RESULTS), ("name",))
        if given.run:
            run(given.only, Results.start(records, given.draft))
        if given.table and not given.draft:
            fill(PAGE, {"extremes": extremes(records.read())})
    except CanaoError as error:
        print(f"families: error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
