"""Rules that turn what models add to the scores of attention, or mask them by, into biases of the
form Attention (forms/attention.py)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from canao.fuse.forms.attention import MASKED
from canao.fuse.rewrite import Change, GraphView
from canao.fuse.rules.positions import is_table, positional
from canao.graph.ir import Node, node
from canao.graph.ops import VIEWS

_MOST_VIEWS = 16  # on the way from a value to a reader


def mask_to_bias(g: GraphView, n: Node) -> Change | None:
    """where(mask of positions, x, -inf)  ->  x + where(mask of positions, 0, -inf)"""
    if n.op != "where" or n.inputs[0] in g.constants or not positional(g, n.inputs[0]):
        return None
    mask, x, other = n.inputs
    masked = g.array(other)
    if masked is None or masked.size != 1 or masked.reshape(()) > MASKED:
        return None
    if g.shape(x) != g.shape(n.output) or positional(g, x):
        return None
    zero = g.fresh("zero")
    bias = node("where", (mask, zero, other), g.fresh("v"), where=n.where)
    total = node("add", (x, bias.output), g.fresh("v"), where=n.where)
    return Change({n.output: total.output}, (bias, total), {zero: np.array(0, np.float32)})


def biases_apart(g: GraphView, n: Node) -> Change | None:
    """scores + (a + b)  ->  scores + a + b"""
    if n.op != "add":
        return None
    for scores, biases in (n.inputs, n.inputs[::-1]):
        inner = g.made_by(biases, "add")
        if inner is None or not g.only_used_by(biases, n) or biases in g.scores:
            continue
        if scores in g.scores:
            first = node("add", (scores, inner.inputs[0]), g.fresh("v"), where=n.where)
            both = node("add", (first.output, inner.inputs[1]), g.fresh("v"), where=n.where)
            return Change({n.output: both.output}, (first, both))
    return None


def _scalar(g: GraphView, n: Node) -> tuple[str, str] | None:
    """(x, c) where n is x * c with a constant number c."""
    for x, c in (n.inputs, n.inputs[::-1]):
        array = g.array(c)
        if array is not None and array.size == 1 and g.shape(x) == g.shape(n.output):
            return x, c
    return None


def scale_past_take_along_axis(g: GraphView, n: Node) -> Change | None:
    """view(take_along_axis(x)) * c  ->  view(take_along_axis(x * c))"""
    found = _scalar(g, n) if n.op == "mul" else None
    if found is None:
        return None
    chain_, user = list[Node](), n
    source = g.producer.get(found[0])
    while source and source.op in VIEWS and g.only_used_by(source.output, user):
        chain_.append(source)
        user, source = source, g.producer.get(source.inputs[0])
    if source is None or source.op != "take_along_axis" or not g.only_used_by(source.output, user):
        return None
    x, indices = source.inputs
    scaled = node("mul", (x, found[1]), g.fresh("v"), where=n.where)
    made = [scaled, node("take_along_axis", (scaled.output, indices), g.fresh("v"),
                         where=source.where)]  # fmt: skip
    for v in reversed(chain_):
        made.append(Node(v.op, (made[-1].output,), g.fresh("v"), v.attributes, v.where))
    return Change({n.output: made[-1].output}, made)


def scale_into_table(g: GraphView, n: Node) -> Change | None:
    """(x C) * c with a constant C  ->  x (C * c)"""
    found = _scalar(g, n) if n.op == "mul" else None
    product = g.made_by(found[0], "matmul") if found else None
    if found is None or product is None or not g.only_used_by(found[0], n):
        return None
    if g.array(product.inputs[1]) is None:
        return None
    scaled = node("mul", (product.inputs[1], found[1]), g.fresh("v"), where=n.where)
    made = node("matmul", (product.inputs[0], scaled.output), g.fresh("v"), where=product.where)
    return Change({n.output: made.output}, (scaled, made))


def near_columns(g: GraphView, n: Node) -> Change | None:
    """take_along_axis(x C, diagonals(t)) with constants C, t  ->  only the columns that t names"""
    columns = g.array(n.inputs[1]) if n.op == "matmul" else None
    if columns is None or n.output in g.kept:
        return None
    tables = {_distances(g, u) for u in g.users[n.output]}
    found = tables.pop() if len(tables) == 1 else None
    if found is None:
        return None
    name, longest = found
    table = g.constants[name].reshape(-1)
    if len(table) != 2 * longest - 1 or not 0 <= table.min() <= table.max() < columns.shape[-1]:
        return None
    near = g.fresh("near")
    made = node("distance_matmul", (*n.inputs, near), g.fresh("v"), where=n.where,
                longest=longest)  # fmt: skip
    return Change({n.output: made.output}, (made,), {near: table})


def _distances(g: GraphView, take: Node) -> tuple[str, int] | None:
    """The constant by whose diagonals `take` reads, and the longest sequence that it is for."""
    name = take.inputs[-1]
    while take.op == "take_along_axis" and g.made_by(name, *VIEWS, "diagonals") is not None:
        n = g.producer[name]
        if n.op == "diagonals":
            known = g.array(n.inputs[0]) is not None
            return (n.inputs[0], n.attribute("longest")) if known else None
        if n.op == "slice":
            return None
        name = n.inputs[0]
    return None


def own_views(g: GraphView, n: Node) -> Change | None:
    """f(view(x)), g(view(x))  ->  each with a view of its own, where views cost nothing"""
    shared = [i for i in n.inputs if _shared(g, i)]
    # A chain of views that each has readers of its own would be copied for each of them.
    if not shared or max(len(_views(g, i)) for i in shared) > _MOST_VIEWS:
        return None
    made, renamed = list[Node](), dict[str, str]()
    for name in shared:
        for v in _views(g, name):
            renamed[v.output] = g.fresh("v")
            inner = renamed.get(v.inputs[0], v.inputs[0])
            made.append(Node(v.op, (inner,), renamed[v.output], v.attributes, v.where))
    inputs = tuple(renamed.get(i, i) for i in n.inputs)
    made.append(Node(n.op, inputs, g.fresh("v"), n.attributes, n.where))
    return Change({n.output: made[-1].output}, made)


def _shared(g: GraphView, name: str) -> bool:
    """Whether several nodes read this view, and would do so for free through one of their own: of a
    table, or as operands of products of activations."""
    if g.made_by(name, *VIEWS, "diagonals") is None or len(g.users[name]) < 2:
        return False
    ops = {u.op for u in g.users[name]}
    return is_table(g, name) or ("matmul" in ops and ops <= {"matmul", *VIEWS})


def _views(g: GraphView, name: str) -> Sequence[Node]:
    out: list[Node] = []
    while g.made_by(name, *VIEWS, "diagonals") is not None:
        out.append(g.producer[name])
        name = g.producer[name].inputs[0]
    return out[::-1]
