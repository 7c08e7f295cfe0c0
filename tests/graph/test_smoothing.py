"""Smoothed graphs: the same function in float32, to the bit, and a better one in int8."""

from __future__ import annotations

import numpy as np
import pytest

from canao.graph.dtypes import I32
from canao.graph.interp import interpret
from canao.graph.ir import TOKENS, Graph, Ids, Input, Type, node
from canao.graph.verify import retype, verify
from canao.precision.agreement import distances
from canao.precision.quantize import in_precision
from canao.precision.smoothing import factors, smoothed

WIDTH = 64


def graph_of(residual: bool = False, uneven: bool = True) -> Graph:
    """A norm, two products that read it, and one that reads an activation of the first. Where
    uneven, one channel of the norm is large, and so is one of the activations. With a residual, the
    norm's result is read by an addition as well."""
    rng = np.random.default_rng(3)
    constants = {
        "table": rng.standard_normal((40, WIDTH)).astype(np.float32),
        "gain": np.ones(WIDTH, np.float32), "shift": np.zeros(WIDTH, np.float32),
        **{w: rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) / 8 for w in ("a", "b", "c")},
    }  # fmt: skip
    if uneven:
        constants["gain"][5] = 900
        constants["a"][:, 5] /= 900
        constants["b"][:, 5] /= 900
        constants["a"][9] *= 500
        constants["c"][:, 9] /= 500
    nodes = [
        node("gather", ("table", "ids"), "x"),
        node("layer_norm", ("x", "gain", "shift"), "n", eps=1e-5),
        node("linear", ("n", "a"), "p", where="first"), node("linear", ("n", "b"), "q"),
        node("gelu", ("p",), "h"), node("linear", ("h", "c"), "r"),
        node("add", ("r", "q"), "sum"),
        node("add", ("sum", "n" if residual else "q"), "y"),
        node("relu", ("y",), "end"),
    ]  # fmt: skip
    slot = Input("ids", Type(I32, (1, TOKENS)), Ids(40))
    return verify(retype(Graph((slot,), constants, tuple(nodes), (("end", "end"),), {}, 64)))


TEXTS = [[np.random.default_rng(i).integers(0, 40, 9)] for i in range(3)]


@pytest.mark.parametrize("residual", [False, True])
def test_smoothing_changes_no_bit_in_float32_and_helps_in_int8(residual: bool) -> None:
    graph = graph_of(residual)
    found = factors(graph, TEXTS[:2])
    assert set(found) == {"n", "h"} and found["n"].argmax() == 5 and found["h"].argmax() == 9
    calm = verify(smoothed(graph, found))
    for given in TEXTS:
        want, got = (interpret(g, given, np.float32)["end"] for g in (graph, calm))
        assert np.array_equal(want, got)
    # A norm that something else reads stays as it is; else it costs nothing.
    divided = {n.inputs[0] for n in calm.nodes if n.op == "mul"}
    assert divided == ({"n", "h"} if residual else {"h"})
    before, after = distances(graph, [in_precision(g, "int8") for g in (graph, calm)], TEXTS)
    assert 20 * after < before


def test_even_channels_and_shared_tables_are_left_alone() -> None:
    even, graph = graph_of(uneven=False), graph_of()
    assert factors(even, TEXTS) == {} and smoothed(even, {}) is even
    nodes = tuple(n if n.output != "r" else node("linear", ("h", "b"), "r") for n in graph.nodes)
    shared = factors(graph.replace(nodes=nodes), TEXTS)
    assert shared == {}, "b is read by two products of different values"
