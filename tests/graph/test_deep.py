"""Graphs that are deep, and graphs whose values fan out and meet again: no pass goes through all
paths, and none goes down by recursion."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from canao.compiler.pipeline import compile_graph
from canao.defaults import LIMITS, Limits
from canao.errors import InputError
from canao.fuse.forms.attention import ScorePaths
from canao.fuse.forms.form import form_of
from canao.fuse.rewrite import GraphView, Rewrite, apply
from canao.fuse.rules.algebra import ALGEBRA
from canao.graph.bounds import limited, require_bounds
from canao.graph.builder import require_nodes
from canao.graph.dtypes import F32, I32
from canao.graph.interp import outputs
from canao.graph.ir import TOKENS, Graph, Ids, Input, Node, Type, node
from canao.graph.resume import resuming
from canao.graph.text import format_graph
from canao.graph.verify import retype, verify
from canao.lower.scheduling import default_plans, schedule_program
from canao.target import get_target

DEEP, WIDE = 10_000, 200
SECONDS = 60  # for one pass over the deepest, on a machine that does other things too
_TABLE = np.linspace(-1, 1, 36, dtype=np.float32).reshape(9, 4)
_CONSTANTS = {"table": _TABLE, "c": np.full(4, 1.001, np.float32), "one": np.array(1, np.int32),
              "zero": np.array(0, np.int32), "square": np.eye(4, dtype=np.float32)}  # fmt: skip


def graph(nodes: list[Node], result: str) -> Graph:
    """Nodes on the rows `x0` of the ids."""
    ids = Input("input_ids", Type(I32, (1, TOKENS)), Ids(9))
    first = node("gather", ("table", "input_ids"), "x0")
    return retype(Graph((ids,), _CONSTANTS, (first, *nodes), (("y", result),), {}, 32))


def chain(op: str, count: int, *more: str, first: str = "x0", name: str = "x",
          **attributes: Any) -> list[Node]:  # fmt: skip
    """name1 = op(first, more), name2 = op(name1, more) ..."""
    names = [first, *(f"{name}{i}" for i in range(1, count + 1))]
    return [node(op, (a, *more), b, **attributes) for a, b in zip(names, names[1:], strict=False)]


def diamond(op: str, count: int, *, first: str = "x0", name: str = "x", **more: Any) -> list[Node]:
    """name1 = op(first, start), name2 = op(name1, name1) ..."""
    names = [first, *(f"{name}{i}" for i in range(1, count + 1))]
    return [node(op, (a, a), b, **more) for a, b in zip(names, names[1:], strict=False)]


def positions(count: int, twice: bool) -> Graph:
    """Rows times what is computed from positions."""
    made = [node("arange", (), "p0", stop=TOKENS)]
    made += (diamond("maximum", count, first="p0", name="p") if twice
             else chain("add", count, "zero", first="p0", name="p"))  # fmt: skip
    made += [node("cast", (f"p{count}",), "f", dtype=F32),
             node("reshape", ("f",), "g", shape=(1, TOKENS, 1)), node("mul", ("x0", "g"), "y")]
    return graph(made, "y")


def small(count: int) -> Graph:
    """Positions that are taken apart and added again: their indices are computed anew each time."""
    made = [node("arange", (), "p", stop=TOKENS),
            node("reshape", ("p",), "q0", shape=(1, TOKENS, 1))]  # fmt: skip
    for i in range(count):
        made += [node("transpose", (f"q{i}",), f"r{i}", perm=(2, 1, 0)),
                 node("maximum", (f"r{i}", f"q{i}"), f"q{i + 1}")]  # fmt: skip
    made += [node("cast", (f"q{count}",), "f", dtype=F32), node("mul", ("x0", "f"), "y")]
    return graph(made, "y")


def attention(between: list[Node], last: str) -> Graph:
    made = [node("transpose", ("x0",), "t", perm=(0, 2, 1)), node("matmul", ("x0", "t"), "s0"),
            *between, node("softmax", (last,), "w"), node("matmul", ("w", "x0"), "y")]  # fmt: skip
    return graph(made, "y")


def read_at(ids: list[Node], last: str) -> Graph:
    """Rows looked up at ids that are computed."""
    low = [node("minimum", (last, "one"), "m"), node("maximum", ("m", "zero"), "n")]
    return graph([*ids, *low, node("gather", ("table", "n"), "y")], "y")


GRAPHS: dict[str, Callable[[int], Graph]] = {
    "pointwise": lambda n: graph(chain("tanh", n), f"x{n}"),
    "sums": lambda n: graph(diamond("add", n), f"x{n}"),
    "products": lambda n: graph(diamond("mul", n), f"x{n}"),
    "quotients": lambda n: graph(diamond("div", n), f"x{n}"),
    "constant sums": lambda n: graph(diamond("add", n, first="c", name="k")
                                     + [node("mul", ("x0", f"k{n}"), "y")], "y"),
    "softmaxes": lambda n: graph(chain("softmax", n), f"x{n}"),
    "norms": lambda n: graph(chain("layer_norm", n, "c", "c", eps=1e-5), f"x{n}"),
    "linear layers": lambda n: graph(chain("linear", n, "square"), f"x{n}"),
    "scores": lambda n: attention(diamond("add", n, first="s0", name="s"), f"s{n}"),
    "scaled scores": lambda n: attention(chain("mul", n, "c1", first="s0", name="s"), f"s{n}"),
    "positions": lambda n: positions(n, twice=False),
    "positions that meet": lambda n: positions(n, twice=True),
    "positions taken apart": small,
    "ids": lambda n: read_at(chain("add", n, "one", first="input_ids", name="i"), f"i{n}"),
    "ids that meet": lambda n: read_at(diamond("maximum", n, first="input_ids", name="i"), f"i{n}"),
    "bounds": lambda n: graph([*diamond("add", n, first="input_ids", name="i"),
                               node("ge", (f"i{n}", "zero"), "b"),
                               node("reshape", ("b",), "r", shape=(1, TOKENS, 1)),
                               node("where", ("r", "x0", "c"), "y")], "y"),
    "transposes": lambda n: graph(chain("transpose", n, perm=(0, 2, 1)), f"x{n // 2 * 2}"),
    "slices": lambda n: graph(chain("slice", n, axis=2, start=0, stop=4), f"x{n}"),
    "flips": lambda n: graph(chain("flip", n, axis=2), f"x{n}"),
    "expansions": lambda n: graph(chain("expand", n, shape=(1, TOKENS, 4)), f"x{n}"),
}  # fmt: skip
_CONSTANTS["c1"] = np.array(1.001, np.float32)


def proposals(g: GraphView, rule: Rewrite) -> int:
    """How often a rule matches, each node of the graph being tried once."""
    return sum(rule.propose(g, n) is not None for n in g.nodes)


@pytest.mark.parametrize("name", GRAPHS)
def test_every_pass_over_a_deep_graph(name: str) -> None:
    """Each rule is tried at every node, and every other pass is done once."""
    deep = GRAPHS[name](DEEP)
    began = time.monotonic()
    assert len(format_graph(deep).splitlines()) > DEEP
    verify(deep)
    assert limited(deep).nodes and resuming(deep).nodes
    require_bounds(deep)
    paths, view = ScorePaths(deep.nodes), GraphView(deep, 0)
    for n in deep.nodes:
        assert n.output not in paths or n.op in ("matmul", "add", "mul", "reshape")
    for rule in ALGEBRA:
        proposals(view, rule)
    assert time.monotonic() - began < SECONDS


@pytest.mark.parametrize("name", GRAPHS)
def test_values_that_meet_again_and_again(name: str) -> None:
    """Compiled whole, and rewritten to the same values; a path for each way through would never
    end."""
    made = GRAPHS[name](WIDE)
    began = time.monotonic()
    stages = compile_graph(made, get_target(), planner=default_plans)
    assert stages.source.code
    rewritten, _ = apply(made, ALGEBRA)
    ids = np.array([1, 0, 8], np.int32)
    with np.errstate(all="ignore"):
        want, got = outputs(made, [ids])[0], outputs(rewritten, [ids])[0]
    same = np.isclose(want, got, rtol=1e-3) | ~np.isfinite(want) | (np.abs(want) > 1e30)
    assert same.all()
    assert time.monotonic() - began < SECONDS


def test_concatenations_that_double_are_no_kernel_without_end() -> None:
    """What is joined to itself 20 times has a million pieces."""
    count = 20
    made = graph(diamond("concat", count, axis=2), f"x{count}")
    began = time.monotonic()
    assert form_of(made, made.nodes[1:], f"x{count}") is None
    stages = compile_graph(made, get_target(), planner=default_plans)
    assert len(stages.program.regions) > 1 and time.monotonic() - began < SECONDS


def test_a_chain_of_scores_is_found_whole() -> None:
    """As a search through all operands would find it: exactly one of them leads to a product."""
    made = attention([
        node("mul", ("s0", "c1"), "a"), node("transpose", ("s0",), "b", perm=(0, 2, 1)),
        node("add", ("a", "b"), "d"),
    ], "d")  # fmt: skip
    paths = ScorePaths((*made.nodes[:6], node("add", ("d", "d"), "e")))
    found = paths.chain("d")
    assert found is not None
    assert (found[0].output, [n.output for n in found[1]]) == ("s0", ["a", "b", "d"])
    assert "e" not in paths and paths.chain("e") is None and "b" not in paths


def test_many_regions_are_scheduled_in_time() -> None:
    """Memory, names of kernels and places of weights for thousands of regions."""
    count = 1_000
    made = graph([n for i in range(count) for n in (
        node("linear", (f"x{i}", "square"), f"l{i}"), node("softmax", (f"l{i}",), f"x{i + 1}"),
    )], f"x{count}")  # fmt: skip
    stages = compile_graph(made, get_target(), planner=default_plans, fusion=False)
    began = time.monotonic()
    schedule = schedule_program(stages.program, stages.plans, get_target())
    assert len(schedule.steps) == len(made.nodes) and len(set(schedule.kernel_names())) < 5
    assert time.monotonic() - began < SECONDS


def test_limits() -> None:
    require_nodes(LIMITS.nodes, LIMITS)
    with pytest.raises(InputError, match="more than 20000 operators; give a larger --max-nodes"):
        require_nodes(LIMITS.nodes + 1, LIMITS)
    made = graph(diamond("add", 3, first="c", name="k") + [node("mul", ("x0", "k3"), "y")], "y")
    folded, log = apply(made, ALGEBRA)
    assert [f.rule for f in log].count("fold_constants") == 3 and len(folded.nodes) == 2


def test_constants_grow_by_what_is_allowed() -> None:
    """[n, 1] + [1, n] is a million numbers, computed from two thousand."""
    n = 1000
    constants = {**_CONSTANTS, "a": np.ones((n, 1), np.float32), "b": np.ones((1, n), np.float32)}
    total = [node("add", ("a", "b"), "ab"), node("reduce_max", ("ab",), "m"),
             node("slice", ("m",), "k", axis=0, start=0, stop=1),
             node("mul", ("x0", "k"), "y")]  # fmt: skip
    first = node("gather", ("table", "input_ids"), "x0")
    ids = Input("input_ids", Type(I32, (1, TOKENS)), Ids(9))
    made = retype(Graph((ids,), constants, (first, *total), (("y", "y"),), {}, 32))
    small, _ = apply(made, ALGEBRA, Limits(memory=8 * 1000))
    assert any(x.op == "add" for x in small.nodes)
    folded, _ = apply(made, ALGEBRA)
    assert all(x.op != "add" for x in folded.nodes)
