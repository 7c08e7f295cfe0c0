"""A small corpus of scheduled programs, on every instruction set: what the tests of lowering and of
schedules look at. A program is made once in a process."""

from __future__ import annotations

from functools import cache

from canao.compiler.pipeline import compile_graph
from canao.compiler.stages import Stages
from canao.graph.ir import Graph
from canao.lower.scheduling import default_plans
from tests import replay

# Every form of kernel, tied and untied embeddings, causal attention, sizes that no tile divides.
NAMES = (
    "bert-odd", "bert-narrow_heads", "mobile-odd", "gpt2-three_heads", "gpt2-untied", "lm-Bert",
    "family-MPNet", "family-DebertaV2", "family-ModernBert", "family-ConvBert",
)  # fmt: skip
TARGETS = {target.isa: target for target in replay.TARGETS}
PLANS = {"default": default_plans, "other": replay.other_plans}


@cache
def graph(name: str) -> Graph:
    return dict(replay.graphs())[name]()


@cache
def staged(name: str, isa: str, plans: str = "default") -> Stages:
    """A program by its default plans, or by others of the legal ones."""
    return compile_graph(graph(name), TARGETS[isa], planner=PLANS[plans])


def staged_all(name: str) -> list[Stages]:
    """A program on every instruction set, by its default plans and by others."""
    return [staged(name, isa, plans) for isa in TARGETS for plans in PLANS]
