"""Stages: what each step of a compilation made, and what can be counted of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from canao.emit.c.unit import Source
from canao.fuse.group import Program, Region
from canao.fuse.rewrite import Firing
from canao.graph.dtypes import F32, I8, DType
from canao.graph.ir import Graph, Node
from canao.graph.ops import OPS
from canao.lower.scheduling import default_plans
from canao.precision.quantize import BACK, FLOAT32, precision_of, quantizable
from canao.schedule.plan import Plan
from canao.schedule.schedule import Schedule
from canao.target import Target

# FLOPs in the manifest are given at this length, the paper's (section 4.1).
NOMINAL_LENGTH = 128


@dataclass(frozen=True, slots=True)
class Level:
    """A program for one instruction set: how its regions run, and its C."""

    program: Program
    target: Target
    plans: tuple[Plan, ...]
    schedule: Schedule
    source: Source

    @property
    def tuned(self) -> tuple[bool, ...]:
        """For each region, whether its plan is another than the default."""
        defaults = default_plans(self.program, self.target)
        return tuple(p != d for p, d in zip(self.plans, defaults, strict=True))


@dataclass(frozen=True, slots=True)
class Stages:
    """Everything between the captured graph and the C text.

    captured   as imported, one node for each operator of the source model
    float32    after rewrites
    levels     the program for each instruction set of the library, the narrowest first
    smoothed   values whose channels were divided before they were rounded
    others     precisions that some products may be in, besides that of the library
    """

    captured: Graph
    firings: tuple[Firing, ...]
    float32: Graph
    levels: tuple[Level, ...]
    precision: str = FLOAT32
    kv_cache: str = FLOAT32
    smoothed: tuple[str, ...] = ()
    others: tuple[str, ...] = BACK

    @property
    def widest(self) -> Level:
        """The level that runs where the processor has all that the target has."""
        return self.levels[-1]

    @property
    def program(self) -> Program:
        """The graph in the precision that was asked for, cut into regions: that of all levels."""
        return self.widest.program

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The widest level's."""
        return self.widest.plans

    @property
    def schedule(self) -> Schedule:
        """The widest level's, whose weights are laid out for all levels."""
        return self.widest.schedule

    @property
    def source(self) -> Source:
        """The widest level's."""
        return self.widest.source

    @property
    def target(self) -> Target:
        """The widest level's."""
        return self.widest.target

    @property
    def operators(self) -> int:
        """How many operators the model has before fusion."""
        return len(self.captured.nodes)

    @property
    def kernels(self) -> int:
        """How many kernels are left after fusion."""
        return len(self.program.regions)

    @property
    def smoothed_at(self) -> tuple[str, ...]:
        """The places of products that read smoothed values."""
        return tuple(n.where for n in quantizable(self.float32)
                     if n.op == "linear" and n.inputs[0] in self.smoothed)  # fmt: skip

    def kept_in(self, precision: str) -> tuple[str, ...]:
        """The places of products and tables in a precision that is not the library's."""
        if precision == self.precision:
            return ()
        graph, found = self.program.graph, quantizable(self.float32)
        made, wanted = graph.producers(), precision_of(precision).weights
        return tuple(n.where for n in found if weights_of(graph, made[n.output]) == wanted)


def weights_of(graph: Graph, product: Node) -> DType:
    """The type of the weights of a product, or of a table that rows are looked up in."""
    return graph.types[next(i for i in product.inputs if i in graph.constants)].dtype


def counts(names: Sequence[str]) -> dict[str, int]:
    """How often each name occurs, in the order of first occurrence."""
    return {name: names.count(name) for name in dict.fromkeys(names)}


def region_flops(graph: Graph, region: Region, length: int) -> int:
    """Floating-point operations of a region at `length` tokens (at most the model's maximum)."""
    s = min(length, graph.max_length)
    return sum(
        OPS[n.op].flops([graph.types[i] for i in n.inputs], graph.types[n.output], s)
        for n in region.nodes
    )


def total_flops(stages: Stages, length: int) -> int:
    """Floating-point operations of one sequence of `length` tokens."""
    graph = stages.program.graph
    return sum(region_flops(graph, r, length) for r in stages.program.regions)


def parameter_count(stages: Stages) -> int:
    graph = stages.captured
    return sum(a.size for name, a in graph.constants.items()
               if graph.types[name].dtype in (F32, I8))  # fmt: skip
