"""Rewrites and grouping: each rule fires where it should, nowhere else, and changes no value."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from canao.fuse import rewrite
from canao.fuse.forms.concat import Concat
from canao.fuse.forms.form import form_of
from canao.fuse.group import GREEN, RED, TABLE, YELLOW, fuse, unfused
from canao.fuse.rewrite import apply
from canao.fuse.rules.algebra import ALGEBRA, CLEANUP
from canao.fuse.yellow_cells import always, shipped
from canao.graph.dtypes import F32, I32
from canao.graph.interp import interpret, outputs
from canao.graph.ir import TOKENS, Graph, Ids, Input, Node, Type, constant_type, dim, node
from canao.graph.verify import infer, verify
from canao.lower.cpu.backend import CPU
from canao.lower.scheduling import default_plans, schedule_program
from canao.target import get_target
from tests.compiler.models import classifier
from tests.oracle import SAME, SHALLOW, assert_close

TARGET = get_target("x86_64-linux")
RNG = np.random.default_rng(0)
TABLE_ROWS = RNG.standard_normal((9, 6)).astype(np.float32)


def graph(nodes: list[Node], constants: dict[str, np.ndarray], *outputs: str) -> Graph:
    """A graph of one input `ids`, whose first node is usually a gather from `table`."""
    slot = Input("ids", Type(I32, (1, TOKENS)), Ids(9))
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


def _seeing(table: np.ndarray) -> Graph:
    """Attention with a bias: a table of distances, or one of all pairs of positions."""
    if table.ndim == 1:
        views = [node("diagonals", ("pairs",), "bias", longest=16)]
    else:
        views = [node("slice", ("pairs",), "rows", axis=0, start=0, stop=TOKENS),
                 node("slice", ("rows",), "bias", axis=1, start=0, stop=TOKENS)]  # fmt: skip
    nodes = [
        X,
        node("transpose", ("x",), "xt", perm=(0, 2, 1)),
        node("matmul", ("x", "xt"), "scores"),
        node("mul", ("scores", "c"), "scaled"),
        *views,
        node("add", ("bias", "scaled"), "masked"),
        node("softmax", ("masked",), "p"),
        node("matmul", ("p", "x"), "y"),
    ]
    return graph(nodes, {"table": TABLE_ROWS, "c": f32(0.5), "pairs": table})


FAR = np.finfo(np.float32).min
DISTANCES = np.arange(-15, 16)
PAIRS = np.subtract.outer(np.arange(16), np.arange(16))  # query - key


def _pointwise(*nodes: Node, shown: tuple[str, ...] = (), **constants: np.ndarray) -> Graph:
    return graph([X, *nodes], {"table": TABLE_ROWS, **constants}, *shown)


POSITIONS = (node("arange", (), "i", stop=TOKENS),
             node("reshape", ("i",), "down", shape=(1, TOKENS, 1)),
             node("reshape", ("i",), "across", shape=(1, 1, TOKENS)))  # fmt: skip
SCORES = (node("transpose", ("x",), "t", perm=(0, 2, 1)), node("matmul", ("x", "t"), "scores"))
PLACES = np.array([[[5, 0, 3]]], np.int32)


def _masked(rows: str) -> Graph:
    """Scores of keys that are not more than 2 after what `rows` says."""
    nodes = [*POSITIONS, *SCORES, node("reshape", (rows,), "r", shape=(1, TOKENS, 1)),
             node("sub", ("across", "r"), "d"), node("le", ("d", "two"), "m"),
             node("where", ("m", "scores", "z"), "masked"), node("softmax", ("masked",), "y")]
    return _pointwise(*nodes, two=np.array(2, np.int32), z=f32(-np.inf))


def _near(shown: tuple[str, ...] = ()) -> Graph:
    """Scores by distance, of which each pair has its own; `shown` shows those of all distances."""
    table = np.clip(np.arange(-15, 16), -3, 2).astype(np.int32)[None] + 3
    nodes = [node("matmul", ("x", "w"), "p"), node("diagonals", ("table1",), "at", longest=16),
             node("take_along_axis", ("p", "at"), "y")]  # fmt: skip
    return _pointwise(*nodes, w=W["wq"], table1=table, shown=shown)


def _biases() -> Graph:
    nodes = [*SCORES, node("exp", ("scores",), "e"), node("tanh", ("scores",), "h"),
             node("add", ("e", "h"), "biases"), node("add", ("biases", "scores"), "y")]
    return _pointwise(*nodes)


def _rotary(left: int) -> Graph:
    """Rotation by halves where `left` is 3."""
    nodes = [node("slice", ("x",), "a", axis=2, start=0, stop=left),
             node("slice", ("x",), "b", axis=2, start=left, stop=6),
             node("concat", ("b", "a"), "ba", axis=2), node("mul", ("ba", "s"), "bas"),
             node("mul", ("c", "x"), "xc"), node("add", ("xc", "bas"), "y")]
    return _pointwise(*nodes, c=f32(*range(6)), s=f32(*range(1, 7)))


def _erf_gelu(half: float) -> Graph:
    """Gelu in its parts where `half` is 0.5."""
    nodes = [node("div", ("x", "r"), "u"), node("erf", ("u",), "e"), node("add", ("e", "one"), "p"),
             node("mul", ("x", "p"), "xp"), node("mul", ("xp", "h"), "y")]
    return _pointwise(*nodes, r=f32(np.sqrt(2)), one=f32(1.0), h=f32(half))


def _norm_in_parts(numerator: str) -> Graph:
    """A layer norm in its parts where the numerator is d, x less its mean."""
    nodes = [node("reduce_mean", ("x",), "m"), node("sub", ("x", "m"), "d"),
             node("mul", ("d", "d"), "dd"), node("reduce_mean", ("dd",), "v"),
             node("add", ("v", "eps"), "ve"), node("sqrt", ("ve",), "root"),
             node("div", (numerator, "root"), "y")]
    return _pointwise(*nodes, eps=f32(1e-5))


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
    "matmul_to_linear": (
        lambda: _pointwise(node("matmul", ("x", "wq"), "y"), **W),
        lambda: _pointwise(node("transpose", ("x",), "t", perm=(0, 2, 1)),
                           node("matmul", ("x", "t"), "y")),
    ),
    "causal_attention": (
        lambda: _seeing(np.where(DISTANCES > 0, FAR, 0).astype(np.float32)),
        lambda: _seeing(np.where(abs(DISTANCES + 5) > 5, FAR, 0).astype(np.float32)),
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
    "pointwise_past_transpose": (
        lambda: _pointwise(node("transpose", ("x",), "a", perm=(0, 2, 1)),
                           node("tanh", ("x",), "t"),
                           node("transpose", ("t",), "b", perm=(0, 2, 1)),
                           node("add", ("a", "b"), "c"), node("mul", ("c", "n"), "cn"),
                           node("add", ("cn", "m"), "y"), n=f32(3.0),
                           m=f32(*range(6)).reshape(6, 1)),
        lambda: _pointwise(node("reshape", ("x",), "r", shape=(1, TOKENS, 2, 3)),
                           node("transpose", ("r",), "h", perm=(0, 2, 1, 3)),
                           node("tanh", ("h",), "y")),
    ),
    "pointwise_past_concat": (
        lambda: _pointwise(node("linear", ("x", "wq"), "q"), node("linear", ("x", "wk"), "k"),
                           node("concat", ("q", "k"), "c", axis=2), node("gelu", ("c",), "y"), **W),
        lambda: _pointwise(node("linear", ("x", "wq"), "q"),
                           node("concat", ("q", "x"), "c", axis=2), node("gelu", ("c",), "y"), **W),
    ),
    "slice_of_concat": (
        lambda: _pointwise(node("tanh", ("x",), "t"), node("concat", ("x", "t"), "c", axis=2),
                           node("slice", ("c",), "l", axis=2, start=6, stop=12),
                           node("slice", ("c",), "r", axis=2, start=7, stop=10), shown=("l", "r")),
        lambda: _pointwise(node("tanh", ("x",), "t"), node("concat", ("x", "t"), "c", axis=2),
                           node("slice", ("c",), "y", axis=2, start=5, stop=7)),
    ),
    "split_past_transpose": (
        lambda: _pointwise(node("transpose", ("x",), "a", perm=(0, 2, 1)),
                           node("reshape", ("a",), "y", shape=(1, 3, 2, TOKENS))),
        lambda: _pointwise(node("transpose", ("x",), "a", perm=(0, 2, 1)),
                           node("reshape", ("a",), "y", shape=(6, TOKENS))),
    ),
    "transpose_past_merge": (
        lambda: _pointwise(node("reshape", ("x",), "r", shape=(1, TOKENS, 2, 3)),
                           node("transpose", ("r",), "a", perm=(0, 2, 3, 1)),
                           node("reshape", ("a",), "m", shape=(1, 6, TOKENS)),
                           node("transpose", ("m",), "y", perm=(2, 0, 1))),
        lambda: _pointwise(node("transpose", ("x",), "a", perm=(0, 2, 1)),
                           node("reshape", ("a",), "m", shape=(6, TOKENS)),
                           node("transpose", ("m",), "y", perm=(1, 0))),
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
    "scale_into_weights": (_attention, lambda: _attention(scale_use=2)),
    "merge_linears": (
        lambda: graph([X, node("linear", ("x", "wq"), "q"), node("linear", ("x", "wk"), "k"),
                       node("mul", ("q", "k"), "y")], {"table": TABLE_ROWS, **W}),
        lambda: graph([X, node("linear", ("x", "wq"), "q"), node("linear", ("q", "wk"), "k")],
                      {"table": TABLE_ROWS, **W}),
    ),
    "tabulate": (
        lambda: _pointwise(*POSITIONS, node("cast", ("down",), "f", dtype=F32),
                           node("cos", ("f",), "c"), node("mul", ("x", "c"), "y")),
        lambda: _pointwise(node("slice", ("p",), "c", axis=1, start=0, stop=TOKENS),
                           node("mul", ("x", "c"), "y"), p=np.ones((1, 16, 1), np.float32)),
    ),
    "mask_to_bias": (
        lambda: _masked("down"),
        lambda: _masked("ids"),
    ),
    "find_gelu": (
        lambda: _erf_gelu(0.5),
        lambda: _erf_gelu(0.25),
    ),
    "find_select": (
        lambda: _pointwise(node("tanh", ("x",), "t"), node("ge", ("x", "h"), "m"),
                           node("lt", ("x", "t"), "l"), node("where", ("m", "x", "t"), "w"),
                           node("where", ("l", "w", "h"), "y"), h=f32(0.25)),
        lambda: _pointwise(node("eq", ("x", "h"), "m"), node("where", ("m", "x", "h"), "y"),
                           h=f32(0.25)),
    ),
    "find_silu": (
        lambda: _pointwise(node("sigmoid", ("x",), "s"), node("mul", ("x", "s"), "y")),
        lambda: _pointwise(node("sigmoid", ("x",), "s"), node("neg", ("x",), "m"),
                           node("mul", ("m", "s"), "y")),
    ),
    "find_norm": (
        lambda: _norm_in_parts("d"),
        lambda: _norm_in_parts("x"),
    ),
    "columns_into_norm": (
        lambda: _pointwise(node("layer_norm", ("x", "g", "b"), "n", eps=1e-5),
                           node("mul", ("n", "c"), "y"),
                           g=f32(*range(1, 7)), b=f32(*range(6)), c=f32(*range(2, 8))),
        lambda: _pointwise(node("layer_norm", ("x", "g", "b"), "n", eps=1e-5),
                           node("mul", ("n", "c"), "m"), node("add", ("m", "n"), "y"),
                           g=f32(*range(1, 7)), b=f32(*range(6)), c=f32(*range(2, 8))),
    ),
    "scale_past_matmul": (
        lambda: _pointwise(node("transpose", ("x",), "t", perm=(0, 2, 1)),
                           node("mul", ("x", "c"), "xc"), node("matmul", ("xc", "t"), "p"),
                           node("mul", ("t", "c"), "tc"), node("matmul", ("x", "tc"), "q"),
                           node("tanh", ("tc",), "h"), node("matmul", ("x", "h"), "r"),
                           c=f32(3.0), shown=("p", "q", "r")),
        lambda: _pointwise(node("transpose", ("x",), "t", perm=(0, 2, 1)),
                           node("mul", ("x", "c"), "xc"), node("matmul", ("xc", "t"), "y"),
                           c=f32(*range(6))),
    ),
    "divide_by_constant": (
        lambda: _pointwise(node("div", ("x", "c"), "y"), c=f32(3.0)),
        lambda: _pointwise(node("div", ("c", "x"), "y"), c=f32(3.0)),
    ),
    "signs_past_concat": (
        lambda: _pointwise(node("neg", ("x",), "m"),
                           node("concat", ("m", "x"), "y", axis=2)),
        lambda: _pointwise(node("neg", ("x",), "m"),
                           node("concat", ("m", "x"), "y", axis=1)),
    ),
    "rotate_halves": (lambda: _rotary(3), lambda: _rotary(2)),
    "biases_apart": (
        _biases,
        lambda: _pointwise(node("add", ("x", "c"), "t"), node("add", ("x", "t"), "y"), c=f32(2.0)),
    ),
    "scale_past_take_along_axis": (
        lambda: _pointwise(node("take_along_axis", ("x", "at"), "p"), node("mul", ("p", "c"), "y"),
                           at=PLACES, c=f32(2.0)),
        lambda: _pointwise(node("take_along_axis", ("x", "at"), "p"), node("mul", ("p", "c"), "y"),
                           at=PLACES, c=f32(2.0), shown=("y", "p")),
    ),
    "scale_into_table": (
        lambda: _pointwise(node("matmul", ("x", "w"), "p"), node("mul", ("p", "c"), "y"),
                           c=f32(2.0), w=W["wq"]),
        lambda: _pointwise(node("matmul", ("x", "w"), "p"), node("mul", ("p", "c"), "y"),
                           c=f32(2.0), w=W["wq"], shown=("y", "p")),
    ),
    "near_columns": (
        _near,
        lambda: _near(shown=("y", "p")),
    ),
    "own_views": (
        lambda: _pointwise(node("slice", ("p",), "c", axis=1, start=0, stop=TOKENS),
                           node("mul", ("x", "c"), "xc"), node("add", ("xc", "c"), "y"),
                           p=np.ones((1, 16, 6), np.float32)),
        lambda: _pointwise(node("slice", ("p",), "c", axis=1, start=0, stop=TOKENS),
                           node("mul", ("x", "c"), "y"), p=np.ones((1, 16, 6), np.float32)),
    ),
}  # fmt: skip


def same_values(before: Graph, after: Graph) -> None:
    for s in (1, 2, 7, 16):
        ids = np.arange(s) % 9
        for a, b in zip(outputs(before, [ids]), outputs(after, [ids]), strict=True):
            assert_close(a, b, tolerance=SAME, relative=SHALLOW)


def _hides(hidden: np.ndarray, other: float = 0.0) -> np.ndarray:
    return np.where(hidden, FAR, other).astype(np.float32)


@pytest.mark.parametrize(
    ("table", "causal"),
    ((_hides(PAIRS < 0), True), (_hides(PAIRS < 0, 0.5), False), (_hides(PAIRS < 1), False),
     (_hides((PAIRS < 0) | (PAIRS > 14)), False), (_hides(PAIRS > 0), False),
     (_hides((PAIRS < 0) | ((PAIRS == 3) & (np.arange(16) == 9))), False)),
)  # fmt: skip
def test_a_table_of_pairs_is_causal_where_it_hides_what_comes_later(
    table: np.ndarray, causal: bool
) -> None:
    rule = next(r for r in ALGEBRA if r.name == "causal_attention")
    assert bool(apply(_seeing(table), [rule])[1]) == causal


@pytest.mark.parametrize("rule", ALGEBRA, ids=lambda r: r.name)
def test_rule(rule) -> None:
    fires, stays = CASES[rule.name]
    rewritten, log = apply(fires(), [rule])
    assert log and {f.rule for f in log} == {rule.name}
    same_values(fires(), verify(rewritten))
    assert not apply(stays(), [rule])[1]
    assert "->" in rule.propose.__doc__


def test_a_firing_costs_no_more_in_a_deep_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Types are inferred of what it makes, not of the whole graph."""
    inferred = []
    monkeypatch.setattr(rewrite, "infer", lambda n, types: inferred.append(n) or infer(n, types))
    one = np.ones(6, np.float32)
    nodes = [X]
    for i in range(200):
        nodes.append(node("add", (nodes[-1].output, "one"), f"y{i}"))
        nodes.append(node("tanh", (f"y{i}",), f"t{i}"))
        nodes.append(node("add", (f"t{i}", "zero"), f"z{i}"))
    deep = graph(nodes, {"table": TABLE_ROWS, "one": one, "zero": 0 * one})
    rewritten, log = apply(deep, [r for r in ALGEBRA if r.name == "drop_identity"])
    assert len(log) == 200 and not inferred
    assert len(verify(rewritten).nodes) == len(nodes) - 200
    same_values(deep, rewritten)


def test_all_rules_keep_a_models_values() -> None:
    from canao.compiler.loading import load_model

    _, captured = load_model(classifier("odd"), 32)
    ids, types = np.arange(9), np.zeros(9, int)
    want = outputs(captured, [ids, types])[0]
    for rules in (CLEANUP, ALGEBRA):
        got = outputs(verify(apply(captured, rules)[0]), [ids, types])[0]
        assert_close(got, want, tolerance=SHALLOW)


def test_table_is_dnnfusions() -> None:
    """23 cells that are not red (PLDI 2021, section 4.4.1: one rule of code generation each)."""
    colours = [colour for _, colour in TABLE.values()]
    assert len(colours) == 25 and colours.count(RED) == 2
    assert colours.count(GREEN) + colours.count(YELLOW) == 23


def test_attention_becomes_one_region() -> None:
    rewritten, _ = apply(_attention(), ALGEBRA)
    forms = [type(r.form).__name__ for r in fuse(rewritten, CPU.legal, always).regions]
    assert forms == ["Rows", "PackedGemm", "Attention"]


def test_shifted_tokens_side_by_side_are_one_region() -> None:
    """Each row beside the one that follows it, zeros after the last."""
    g = graph(
        [X, node("slice", ("x",), "next", axis=1, start=1, stop=TOKENS),
         node("expand", ("z",), "zeros", shape=(1, 1, 6)),
         node("concat", ("next", "zeros"), "moved", axis=1),
         node("concat", ("x", "moved"), "y", axis=2)],
        {"table": TABLE_ROWS, "z": f32(0.0)},
    )  # fmt: skip
    (region,) = fuse(g, CPU.legal, always).regions
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
    assert not CPU.legal(g, form_of(g, g.nodes[1:], "y"))
    assert ("linear", "add") in [r.ops for r in fuse(g, CPU.legal, always).regions]


def test_yellow_cells_obey_the_policy() -> None:
    rewritten, _ = apply(_attention(), ALGEBRA)
    never = fuse(rewritten, CPU.legal, lambda producer, consumer: False)
    assert len(never.regions) > len(fuse(rewritten, CPU.legal, always).regions)
    assert all("yellow" not in m.cell or m.result != "fused" for m in never.log)
    assert any(m.result == "slower when measured" for m in never.log)


def test_shipped_measurements_are_of_yellow_cells() -> None:
    yellow = {f"{a} -> {b}" for (a, b), (_, colour) in TABLE.items() if colour == YELLOW}
    for machines in shipped().values():
        assert machines
        for machine in machines:
            assert machine.cells and set(machine.cells) <= yellow


def test_a_residual_path_out_of_a_block_keeps_it_apart() -> None:
    """x -> exp -> linear -> add(x'): exp and the add cannot join around the product."""
    g = graph(
        [X, node("exp", ("x",), "e"), node("linear", ("e", "wq"), "p"),
         node("softmax", ("p",), "s"), node("linear", ("s", "wk"), "p2"),
         node("add", ("p2", "e"), "y")],
        {"table": TABLE_ROWS, **W},
    )  # fmt: skip
    regions = fuse(g, CPU.legal, always).regions
    assert not any({"exp", "add"} <= set(r.ops) for r in regions)
    order = {r.output: i for i, r in enumerate(regions)}
    for i, region in enumerate(regions):
        inside = {n.output for n in region.nodes}
        for n in region.nodes:
            assert all(order[v] < i for v in n.inputs if v in order and v not in inside)


def test_unfused_has_a_region_for_each_node() -> None:
    g, _ = apply(_attention(), CLEANUP)
    assert [r.output for r in unfused(g, CPU.legal).regions] == [n.output for n in g.nodes]


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
    program = unfused(g, CPU.legal)
    memory = schedule_program(program, default_plans(program, TARGET), TARGET).memory
    assert (memory.offsets["wide1"] == memory.offsets["wide2"]) is not read_by_all
