"""Random kernels on an OpenCL device against the interpreter: rows, products with whatever follows
them, and attention, of sizes that no vector and no tile divides."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from canao.compiler.pipeline import compile_graph
from canao.graph.dtypes import I32
from canao.graph.ir import TOKENS, Graph, Ids, Input, Node, Type, node
from canao.graph.verify import retype, verify
from canao.lower.scheduling import schedule_program, space
from canao.target import VECTORS, get_target
from tests.compiler import programs
from tests.oracle import FLOAT32

ROWS, LONGEST = 40, 70
POINTWISE = ("neg", "abs", "tanh", "erf", "sigmoid", "relu", "gelu", "gelu_tanh", "silu",
             "softplus", "round")  # fmt: skip
REDUCTIONS = ("reduce_sum", "reduce_mean", "reduce_max")


@dataclass
class Made:
    """A graph in the making; `rows` are values [1, s, width], the last one first."""

    rng: np.random.Generator
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    rows: list[tuple[str, int]] = field(default_factory=list)

    def add(self, op: str, *inputs: str, **attributes: object) -> str:
        name = f"{op}{len(self.nodes)}"
        self.nodes.append(node(op, inputs, name, **attributes))
        return name

    def constant(self, *shape: int, scale: float = 1.0) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = (scale * self.rng.standard_normal(shape)).astype(np.float32)
        return name

    def linear(self, x: str, width: int, columns: int, bias: bool) -> str:
        operands = [x, self.constant(columns, width, scale=width**-0.5)]
        return self.add("linear", *operands, *([self.constant(columns)] if bias else []))

    def attention(self, x: str, width: int, heads: int, size: int) -> str:
        """softmax(q k^T) v of all heads, as [1, s, heads size]."""
        q, k, v = (
            self.add("transpose", self.add("reshape", self.linear(x, width, heads * size, True),
                                           shape=(1, TOKENS, heads, size)), perm=perm)
            for perm in ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3))
        )  # fmt: skip
        weights = self.add("softmax", self.add("matmul", q, k))
        back = self.add("transpose", self.add("matmul", weights, v), perm=(0, 2, 1, 3))
        return self.add("reshape", back, shape=(1, TOKENS, heads * size))


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    made = Made(np.random.default_rng(draw(st.integers(0, 1 << 30))))
    width = draw(st.integers(1, 90))
    x = made.add("gather", made.constant(ROWS, width), "ids")
    made.rows.append((x, width))
    for _ in range(draw(st.integers(2, 7))):
        x, width = _step(draw, made, x, width)
        made.rows.insert(0, (x, width))
    slot = Input("ids", Type(I32, (1, TOKENS)), Ids(ROWS))
    graph = Graph((slot,), made.constants, tuple(made.nodes), (("out", x),), {}, LONGEST)
    return verify(retype(graph))


def _step(draw: st.DrawFn, made: Made, x: str, width: int) -> tuple[str, int]:
    kind = draw(st.sampled_from(("linear", "linear", "pointwise", "constant", "residual", "norm",
                                 "softmax", "less", "attention", "concat")))  # fmt: skip
    if kind == "linear":
        columns = draw(st.integers(1, 90))
        return made.linear(x, width, columns, draw(st.booleans())), columns
    if kind == "pointwise":
        return made.add(draw(st.sampled_from(POINTWISE)), x), width
    if kind == "constant":
        op = draw(st.sampled_from(("add", "mul", "sub", "maximum")))
        operands = [x, made.constant(width)]
        return made.add(op, *(operands if draw(st.booleans()) else reversed(operands))), width
    if kind == "residual":
        others = [name for name, columns in made.rows if columns == width]
        return made.add("add", x, draw(st.sampled_from(others))), width
    if kind == "norm":
        return made.add("layer_norm", x, made.constant(width), made.constant(width),
                        eps=1e-3), width  # fmt: skip
    if kind == "softmax":
        return made.add("softmax", x), width
    if kind == "less":  # a number of a row from each of its elements
        return made.add("sub", x, made.add(draw(st.sampled_from(REDUCTIONS)), x)), width
    if kind == "attention":
        heads, size = draw(st.integers(1, 3)), draw(st.integers(1, 40))
        return made.attention(x, width, heads, size), heads * size
    other, columns = draw(st.sampled_from(made.rows))
    return made.add("concat", x, other, axis=2), width + columns


def _settings(examples: int) -> settings:
    return settings(max_examples=examples, phases=(Phase.generate,), deadline=None,
                    derandomize=True, suppress_health_check=list(HealthCheck))  # fmt: skip


def _assert_right(graph: Graph, data: st.DataObject) -> None:
    """By default plans or others, in vectors of any width, fused or not."""
    target = get_target().on_opencl(data.draw(st.sampled_from(VECTORS)))
    stages = compile_graph(graph, target, fusion=data.draw(st.booleans()))
    plans = list(stages.plans)
    if data.draw(st.booleans()):
        plans = [data.draw(st.sampled_from(space(r, target))) for r in stages.program.regions]
    texts = [[np.random.default_rng(n).integers(0, ROWS, n)] for n in (1, 7, 33, LONGEST)]
    with tempfile.TemporaryDirectory() as folder:
        schedule = schedule_program(stages.program, plans, target)
        command = programs.build_schedule(schedule, target, Path(folder))
        programs.expect_near(command, graph, texts, 4 * FLOAT32, ("1",))


@_settings(5)
@given(graphs(), st.data())
def test_random_kernels(graph: Graph, data: st.DataObject) -> None:
    _assert_right(graph, data)


@pytest.mark.thorough
@_settings(150)
@given(graphs(), st.data())
def test_more_random_kernels(graph: Graph, data: st.DataObject) -> None:
    _assert_right(graph, data)
