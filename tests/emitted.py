"""What `canao compile --emit` prints of a classifier of one small layer, for some targets.

    python -m tests.emitted     {case: {stage: text}} as JSON

The others, and other precisions, are in tests/replay.py, which keeps hashes and no texts.

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
_ARM = get_target("aarch64-linux")
_TARGETS = (*(_X86.with_isa(isa) for isa in ("scalar", "avx2", "avx512")), _ARM)
_WITH_INT8 = (_X86.with_isa("avx512vnni"), _ARM.with_isa("neon_i8mm"))
# Case -> target and precision.
IN_FLOAT32 = {f"{t.name}-{t.isa}": (t, "float32") for t in _TARGETS}
IN_INT8 = {f"{t.name}-{t.isa}-int8": (t, "int8") for t in _WITH_INT8}
CASES = IN_FLOAT32 | IN_INT8


def classifier() -> torch.nn.Module:
    """Every kind of kernel that BERT has, of sizes that no tile and no vector divides."""
    config = BertConfig(
        vocab_size=50, hidden_size=20, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=44, max_position_embeddings=32, num_labels=3,
    )  # fmt: skip
    return BertForSequenceClassification(config).eval()


def emitted() -> dict[str, dict[str, str]]:
    graph = trace(classifier(), 32)
    staged = {name: compile_graph(graph, target, planner=default_plans, precision=precision)
              for name, (target, precision) in CASES.items()}  # fmt: skip
    return {name: {stage: format_stage(stage, stages) for stage in STAGES}
            for name, stages in staged.items()}  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(emitted()))
