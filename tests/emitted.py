"""What `canao compile --emit` prints of a classifier of one small layer, for every target.

    python -m tests.emitted     {target: {stage: text}} as JSON

As a program, so that a test can run it under several seeds of Python's hashes.
"""

from __future__ import annotations

import json

import torch
from transformers import BertConfig, BertForSequenceClassification

from canao.cli.stage_text import format_stage
from canao.compiler.pipeline import compile_graph
from canao.graph.from_torch.trace import trace
from canao.lower.scheduling import default_plans
from canao.target import get_target

STAGES = ("graph", "fused", "plan", "source")
_X86 = get_target("x86_64-linux")
_TARGETS = (*(_X86.with_isa(isa) for isa in ("scalar", "avx2", "avx512")),
            get_target("aarch64-linux"))  # fmt: skip
TARGETS = {f"{t.name}-{t.isa}": t for t in _TARGETS}


def classifier() -> torch.nn.Module:
    """Every kind of kernel that BERT has, of sizes that no tile and no vector divides."""
    config = BertConfig(
        vocab_size=50, hidden_size=20, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=44, max_position_embeddings=32, num_labels=3,
    )  # fmt: skip
    return BertForSequenceClassification(config).eval()


def emitted() -> dict[str, dict[str, str]]:
    graph = trace(classifier(), 32)
    staged = {name: compile_graph(graph, t, planner=default_plans) for name, t in TARGETS.items()}
    return {name: {stage: format_stage(stage, stages) for stage in STAGES}
            for name, stages in staged.items()}  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(emitted()))
