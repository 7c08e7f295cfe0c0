"""Rewrites and grouping: each rule fires where it should, nowhere else, and changes no value."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from canao.fuse.algebra import ALGEBRA, CLEANUP
from canao.fuse.concat import Concat
from canao.fuse.form import form_of
from canao.fuse.group import GREEN, RED, TABLE, YELLOW, fuse, unfused
from canao.fuse.profile import always, measured
from canao.fuse.rewrite import apply
from canao.graph.interp import interpret, outputs
from canao.graph.ir import TOKENS, Graph, Input, Node, Type, constant_type, dim, node
from canao.graph.verify import infer, verify
from canao.schedule.memory import plan_memory
from tests.compiler.models import classifier

RNG = np.random.default_rng(0)
TABLE_ROWS = RNG.standard_normal((9, 6)).astype(np.float32)


def graph(nodes: list[Node], constants: dict[str, np.ndarray], *outputs: str) -> Graph:
    """A graph of one input `ids`, whose first node is usually a gather from `table`."""
    slot = Input("ids", Type("i32", (1, TOKENS)), 9)
    types = {"ids": slot.type, **{k: constant_type(v) for k, v in constants.items()}}
    for n in nodes:
        types[n.output] = infer(n, [types[i] for i in n.inputs])
    named = tuple((f"out{i}", name) for i, name in enumerate(outputs or (nodes[-1].output,)))
    return verify(Graph((slot,), constants, tuple(nodes), named, types, 16))


def f32(*values: float) -> np.ndarray:
    return np.array(values if len(values) > 1 else values[0], np.float32)


X = node("gather", ("table", "ids"), "x")
W = {k: RNG.standard_normal((6, 6)).astype(np.float32) for k in ("wq", "wk", "wv")}


def _attention(scale_use: int = 1) -> Graph:
    nodes = [X]
    for k in "qkv":
        nodes.append(node("linear", ("x", f"w{k}"), k))
        nodes.append(node("reshape", (k,), f"{k}4", shape=(1, TOKENS, 2, 3)))
        perm = (0, 2, 3, 1) if k == "k" else (0, 2, 1, 3)
        nodes.append(node("transpose", (f"{k}4",), f"{k}t", perm=perm))
    nodes += [
        node("matmul", ("qt", "kt"), "scores"),
        node("mul", ("scores", "c"), "scaled"),
        node("softmax", ("scaled",), "p"),
        node("matmul", ("p", "vt"), "mix"),
        node("transpose", ("mix",), "back", perm=(0, 2, 1, 3)),
        node("reshape", ("back",), "y", shape=(1, TOKENS, 6)),
    ]
    shown = ("y",) if scale_use == 1 else ("y", "scores")
    return graph(nodes, {"table": TABLE_ROWS, **W, "c": f32(0.5)}, *shown)


def _pointwise(*nodes: Node, shown: tuple[str, ...] = (), **constants: np.ndarray) -> Graph:
    return graph([X, *nodes], {"table": TABLE_ROWS, **constants}, *shown)


def _gelu(half: float) -> Graph:
    return _pointwise(
        node("div", ("x", "root"), "u"), node("erf", ("u",), "e"), node("add", ("one", "e"), "p"),
        node("mul", ("x", "p"), "xp"), node("mul", ("half", "xp"), "y"),
        root=f32(2**0.5), one=f32(1.0), half=f32(half),
    )  # fmt: skip


def _norm(minus: str) -> Graph:
    """A norm written out; what is subtracted from x is its mean, or is not."""
    return _pointwise(
        node("reduce_mean", ("x",), "m"), node("mul", ("m", "two"), "m2"),
        node("sub", ("x", minus), "c"), node("mul", ("c", "c"), "cc"),
        node("reduce_mean", ("cc",), "v"), node("add", ("v", "eps"), "ve"),
        node("sqrt", ("ve",), "r"), node("div", ("c", "r"), "y"), two=f32(2.0), eps=f32(1e-5),
    )  # fmt: skip


def _scaled_norm(*shown: str) -> Graph:
    return _pointwise(
        node("layer_norm", ("x", "g", "b"), "n", eps=1e-5), node("mul", ("n", "a"), "na"),
        node("add", ("b", "na"), "y"), g=f32(*range(1, 7)), b=f32(*range(6)), a=f32(*range(2, 8)),
        shown=shown,
    )  # fmt: skip


def _scaled_product(*shown: str) -> Graph:
    return _pointwise(
        node("mul", ("x", "c"), "xc"), node("transpose", ("x",), "t", perm=(0, 2, 1)),
        node("matmul", ("xc", "t"), "y"), c=f32(0.5), shown=shown,
    )  # fmt: skip


# rule -> (a graph in which it fires, one that looks alike in which it must not)
CASES: dict[str, tuple[Callable[[], Graph], Callable[[], Graph]]] = {
    "fold_constants": (
        lambda: _pointwise(node("add", ("a", "b"), "ab"), node("mul", ("x", "ab"), "y"),
                           a=f32(1.5), b=f32(2.0)),
        lambda: _pointwise(node("mul", ("x", "a"), "y"), a=f32(1.5)),
    ),
    "decide_compare": (
        lambda: _pointwise(node("ge", ("ids", "zero"), "m"), node("reshape", ("m",), "m3",
                           shape=(1, TOKENS, 1)), node("where", ("m3", "x", "z"), "y"),
                           zero=np.array(0, np.int32), z=f32(0.0)),
        lambda: _pointwise(node("ge", ("ids", "one"), "m"), node("reshape", ("m",), "m3",
                           shape=(1, TOKENS, 1)), node("where", ("m3", "x", "z"), "y"),
                           one=np.array(1, np.int32), z=f32(0.0)),
    ),
    "known_where": (
        lambda: _pointwise(node("where", ("t", "x", "z"), "y"), t=np.array(False), z=f32(3.0)),
        lambda: _pointwise(node("where", ("t", "x", "z"), "y"),
                           t=np.array([True, False] * 3), z=f32(3.0)),
    ),
    "drop_identity": (
        lambda: _pointwise(node("add", ("z", "x"), "y0"), node("div", ("y0", "one"), "y"),
                           z=f32(0.0), one=f32(1.0)),
        lambda: _pointwise(node("sub", ("z", "x"), "y"), z=f32(0.0)),
    ),
    "gather_known_rows": (
        lambda: graph([X, node("slice", ("pos",), "p", axis=1, start=0, stop=TOKENS),
                       node("gather", ("table", "p"), "e"), node("add", ("x", "e"), "y")],
                      {"table": TABLE_ROWS, "pos": np.arange(16, dtype=np.int32)[None] % 9}),
        lambda: _pointwise(node("add", ("x", "x"), "y")),
    ),
    "join_reshapes": (
        lambda: _pointwise(node("reshape", ("x",), "a", shape=(1, TOKENS, 2, 3)),
                           node("reshape", ("a",), "y", shape=(1, TOKENS, 3, 2))),
        lambda: _pointwise(node("reshape", ("x",), "y", shape=(1, TOKENS, 2, 3))),
    ),
    "join_transposes": (
        lambda: _pointwise(node("transpose", ("x",), "a", perm=(0, 2, 1)),
                           node("transpose", ("a",), "y", perm=(1, 0, 2))),
        lambda: _pointwise(node("transpose", ("x",), "y", perm=(0, 2, 1))),
    ),
    "associate_constants": (
        lambda: _pointwise(node("mul", ("x", "a"), "xa"), node("mul", ("b", "xa"), "y"),
                           a=f32(*range(1, 7)), b=f32(3.0)),
        lambda: _pointwise(node("mul", ("x", "a"), "xa"), node("add", ("b", "xa"), "y"),
                           a=f32(*range(1, 7)), b=f32(3.0)),
    ),
    "columns_into_weights": (
        lambda: _pointwise(node("linear", ("x", "wq"), "p"), node("mul", ("p", "a"), "pa"),
                           node("add", ("b", "pa"), "y"), a=f32(*range(1, 7)), b=f32(2.0), **W),
        lambda: _pointwise(node("linear", ("x", "wq"), "p"), node("mul", ("p", "a"), "pa"),
                           a=f32(*range(1, 7)), shown=("pa", "p"), **W),
    ),
    "columns_past_residual": (
        lambda: _pointwise(node("linear", ("x", "wq"), "p"), node("add", ("x", "p"), "xp"),
                           node("mul", ("xp", "a"), "xpa"), node("add", ("xpa", "b"), "y"),
                           a=f32(*range(1, 7)), b=f32(*range(6)), **W),
        lambda: _pointwise(node("linear", ("x", "wq"), "p"), node("add", ("p", "p"), "pp"),
                           node("mul", ("pp", "a"), "y"), a=f32(*range(1, 7)), **W),
    ),
    "distribute": (
        lambda: _pointwise(node("exp", ("x",), "e"), node("tanh", ("x",), "t"),
                           node("mul", ("x", "e"), "xe"), node("mul", ("t", "x"), "tx"),
                           node("add", ("xe", "tx"), "y")),
        lambda: _pointwise(node("exp", ("x",), "e"), node("tanh", ("x",), "t"),
                           node("mul", ("x", "e"), "xe"), node("mul", ("t", "x"), "tx"),
                           node("add", ("xe", "tx"), "y"), shown=("y", "xe")),
    ),
    "find_gelu": (lambda: _gelu(0.5), lambda: _gelu(0.25)),
    "find_silu": (
        lambda: _pointwise(node("sigmoid", ("x",), "s"), node("mul", ("s", "x"), "y")),
        lambda: _pointwise(node("sigmoid", ("x",), "s"), node("mul", ("s", "x"), "y"),
                           shown=("y", "s")),
    ),
    "find_norm": (lambda: _norm("m"), lambda: _norm("m2")),
    "columns_into_norm": (_scaled_norm, lambda: _scaled_norm("y", "n", "na")),
    "divide_by_constant": (
        lambda: _pointwise(node("div", ("x", "c"), "y"), c=f32(3.0)),
        lambda: _pointwise(node("div", ("c", "x"), "y"), c=f32(3.0)),
    ),
    "scale_past_matmul": (_scaled_product, lambda: _scaled_product("y", "xc")),
    "scale_into_weights": (_attention, lambda: _attention(scale_use=2)),
    "merge_products": (
        lambda: graph([X, node("linear", ("x", "wq"), "q"), node("linear", ("x", "wk"), "k"),
                       node("mul", ("q", "k"), "y")], {"table": TABLE_ROWS, **W}),
        lambda: graph([X, node("linear", ("x", "wq"), "q"), node("linear", ("q", "wk"), "k")],
                      {"table": TABLE_ROWS, **W}),
    ),
}  # fmt: skip


def test_both_ways_to_write_gelu_tanh() -> None:
    """As Transformers has it, and with x taken out of the brackets."""
    constants = {"k": f32((2 / np.pi) ** 0.5), "c": f32(0.044715), "one": f32(1.0),
                 "half": f32(0.5)}  # fmt: skip
    end = [node("tanh", ("u",), "t"), node("add", ("t", "one"), "p"),
           node("mul", ("half", "x"), "hx"), node("mul", ("hx", "p"), "y")]  # fmt: skip
    square = node("mul", ("x", "x"), "x2")
    sums = (
        [square, node("mul", ("x2", "x"), "x3"), node("mul", ("x3", "c"), "cx"),
         node("add", ("x", "cx"), "sum"), node("mul", ("sum", "k"), "u")],
        [square, node("mul", ("x2", "c"), "cx"), node("add", ("cx", "one"), "sum"),
         node("mul", ("x", "k"), "kx"), node("mul", ("kx", "sum"), "u")],
    )  # fmt: skip
    for start in sums:
        before = _pointwise(*start, *end, **constants)
        after, _ = apply(before, ALGEBRA)
        assert [n.op for n in after.nodes] == ["gather", "gelu_tanh"]
        same_values(before, after)


def same_values(before: Graph, after: Graph) -> None:
    for s in (1, 2, 7, 16):
        ids = np.arange(s) % 9
        for a, b in zip(outputs(before, [ids]), outputs(after, [ids]), strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", ALGEBRA, ids=lambda r: r.name)
def test_rule(rule) -> None:
    fires, stays = CASES[rule.name]
    rewritten, log = apply(fires(), [rule])
    assert log and {f.rule for f in log} == {rule.name}
    same_values(fires(), verify(rewritten))
    assert not apply(stays(), [rule])[1]
    assert "->" in rule.picture


def test_all_rules_keep_a_models_values() -> None:
    from canao.compiler import load_model

    _, captured = load_model(classifier("odd"), 32)
    ids, types = np.arange(9), np.zeros(9, int)
    want = outputs(captured, [ids, types])[0]
    for rules in (CLEANUP, ALGEBRA):
        got = outputs(verify(apply(captured, rules)[0]), [ids, types])[0]
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_table_is_dnnfusions() -> None:
    """23 cells that are not red (PLDI 2021, section 4.4.1: one rule of code generation each)."""
    colours = [colour for _, colour in TABLE.values()]
    assert len(colours) == 25 and colours.count(RED) == 2
    assert colours.count(GREEN) + colours.count(YELLOW) == 23


def test_attention_becomes_one_region() -> None:
    rewritten, _ = apply(_attention(), ALGEBRA)
    forms = [type(r.form).__name__ for r in fuse(rewritten, always).regions]
    assert forms == ["Rows", "Product", "Attention"]


def test_shifted_tokens_side_by_side_are_one_region() -> None:
    """Each row beside the one that follows it, zeros after the last."""
    g = graph(
        [X, node("slice", ("x",), "next", axis=1, start=1, stop=TOKENS),
         node("expand", ("z",), "zeros", shape=(1, 1, 6)),
         node("concat", ("next", "zeros"), "moved", axis=1),
         node("concat", ("x", "moved"), "y", axis=2)],
        {"table": TABLE_ROWS, "z": f32(0.0)},
    )  # fmt: skip
    (region,) = fuse(g).regions
    assert isinstance(region.form, Concat) and len(region.ops) == 5
    assert [(p.column, p.bounds) for p in region.form.pieces] == [
        (0, ()),
        (6, ((1, 0, dim((-1, 1))),)),
        (6, ((1, dim((-1, 1)), TOKENS),)),
    ]


def test_a_norm_of_the_residual_stays_out_of_the_product() -> None:
    """Tiles of the product hold no row of what is added to it."""
    g = graph(
        [X, node("layer_norm", ("x", "g", "b"), "n", eps=1e-5), node("linear", ("x", "wq"), "p"),
         node("add", ("p", "n"), "y")],
        {"table": TABLE_ROWS, **W, "g": f32(*range(1, 7)), "b": f32(*range(6))},
    )  # fmt: skip
    assert form_of(g, g.nodes[1:], "y") is None
    assert ("linear", "add") in [r.ops for r in fuse(g, always).regions]


def test_yellow_cells_obey_the_profile() -> None:
    rewritten, _ = apply(_attention(), ALGEBRA)
    never = fuse(rewritten, lambda producer, consumer: False)
    assert len(never.regions) > len(fuse(rewritten, always).regions)
    assert all("yellow" not in m.cell or m.result != "fused" for m in never.log)
    assert any(m.result == "slower when measured" for m in never.log)


def test_shipped_profile_is_of_yellow_cells() -> None:
    yellow = {f"{a} -> {b}" for (a, b), (_, colour) in TABLE.items() if colour == YELLOW}
    assert measured() and set(measured()) <= yellow


def test_a_residual_path_out_of_a_block_keeps_it_apart() -> None:
    """x -> exp -> linear -> add(x'): exp and the add cannot join around the product."""
    g = graph(
        [X, node("exp", ("x",), "e"), node("linear", ("e", "wq"), "p"),
         node("softmax", ("p",), "s"), node("linear", ("s", "wk"), "p2"),
         node("add", ("p2", "e"), "y")],
        {"table": TABLE_ROWS, **W},
    )  # fmt: skip
    regions = fuse(g, always).regions
    assert not any({"exp", "add"} <= set(r.ops) for r in regions)
    order = {r.output: i for i, r in enumerate(regions)}
    for i, region in enumerate(regions):
        inside = {n.output for n in region.nodes}
        for n in region.nodes:
            assert all(order[v] < i for v in n.inputs if v in order and v not in inside)


def test_unfused_has_a_region_for_each_node() -> None:
    g, _ = apply(_attention(), CLEANUP)
    assert [r.output for r in unfused(g).regions] == [n.output for n in g.nodes]


def test_interpreter_gives_every_value() -> None:
    values = interpret(_attention(), [np.arange(5)])
    np.testing.assert_allclose(values["p"].sum(-1), 1.0)


@pytest.mark.parametrize("read_by_all", (False, True))
def test_values_share_memory_where_threads_keep_to_their_rows(read_by_all: bool) -> None:
    """Without a barrier between them, unless another thread's rows of the first are read."""
    nodes = [X, node("linear", ("x", "up"), "wide1"), node("linear", ("wide1", "down"), "narrow1"),
             node("linear", ("narrow1", "up"), "wide2"), node("linear", ("wide2", "down"), "y")]
    if read_by_all:
        nodes[3:3] = [node("transpose", ("wide1",), "t", perm=(0, 2, 1)),
                      node("matmul", ("wide1", "t"), "square")]  # fmt: skip
    up = np.ones((24, 6), np.float32)
    shown = ("y", "square") if read_by_all else ("y",)
    g = graph(nodes, {"table": TABLE_ROWS, "up": up, "down": up.T.copy()}, *shown)
    memory = plan_memory(unfused(g))
    assert (memory.offsets["wide1"] == memory.offsets["wide2"]) is not read_by_all
