"""Rules that bring what models add to the scores of attention into terms of its form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from canao.fuse.forms.attention import MASKED, chain
from canao.fuse.rewrite import Change, View
from canao.fuse.rules.positions import is_table, positional
from canao.graph.ir import Node, node
from canao.graph.ops import VIEWS


def mask_to_term(view: View, n: Node) -> Change | None:
    """where(mask of positions, x, -inf)  ->  x + where(mask of positions, 0, -inf)"""
    if n.op != "where" or n.inputs[0] in view.constants or not positional(view, n.inputs[0]):
        return None
    mask, x, other = n.inputs
    masked = view.array(other)
    if masked is None or masked.size != 1 or masked.reshape(()) > MASKED:
        return None
    if view.shape(x) != view.shape(n.output) or positional(view, x):
        return None
    zero = view.fresh("zero")
    term = node("where", (mask, zero, other), view.fresh("v"), where=n.where)
    total = node("add", (x, term.output), view.fresh("v"), where=n.where)
    return Change({n.output: total.output}, (term, total), {zero: np.array(0, np.float32)})


def terms_apart(view: View, n: Node) -> Change | None:
    """scores + (a + b)  ->  scores + a + b"""
    if n.op != "add":
        return None
    for scores, terms in (n.inputs, n.inputs[::-1]):
        inner = view.made_by(terms, "add")
        if inner is None or not view.only_used_by(terms, n) or _scores(view, terms):
            continue
        if _scores(view, scores):
            first = node("add", (scores, inner.inputs[0]), view.fresh("v"), where=n.where)
            both = node("add", (first.output, inner.inputs[1]), view.fresh("v"), where=n.where)
            return Change({n.output: both.output}, (first, both))
    return None


def _scores(view: View, name: str) -> bool:
    return chain(view.producer, name) is not None


def _scalar(view: View, n: Node) -> tuple[str, str] | None:
    """(x, c) of a product by one number."""
    for x, c in (n.inputs, n.inputs[::-1]):
        array = view.array(c)
        if array is not None and array.size == 1 and view.shape(x) == view.shape(n.output):
            return x, c
    return None


def scale_past_pick(view: View, n: Node) -> Change | None:
    """view(pick(x)) * c  ->  view(pick(x * c))"""
    found = _scalar(view, n) if n.op == "mul" else None
    if found is None:
        return None
    chain_, user = list[Node](), n
    source = view.producer.get(found[0])
    while source and source.op in VIEWS and view.only_used_by(source.output, user):
        chain_.insert(0, source)
        user, source = source, view.producer.get(source.inputs[0])
    if source is None or source.op != "pick" or not view.only_used_by(source.output, user):
        return None
    x, places = source.inputs
    scaled = node("mul", (x, found[1]), view.fresh("v"), where=n.where)
    made = [scaled, node("pick", (scaled.output, places), view.fresh("v"), where=source.where)]
    for v in chain_:
        made.append(Node(v.op, (made[-1].output,), view.fresh("v"), v.attributes, v.where))
    return Change({n.output: made[-1].output}, made)


def scale_into_table(view: View, n: Node) -> Change | None:
    """(x C) * c with a constant C  ->  x (C * c)"""
    found = _scalar(view, n) if n.op == "mul" else None
    product = view.made_by(found[0], "matmul") if found else None
    if found is None or product is None or not view.only_used_by(found[0], n):
        return None
    if view.array(product.inputs[1]) is None:
        return None
    scaled = node("mul", (product.inputs[1], found[1]), view.fresh("v"), where=n.where)
    made = node("matmul", (product.inputs[0], scaled.output), view.fresh("v"), where=product.where)
    return Change({n.output: made.output}, (scaled, made))


def near_columns(view: View, n: Node) -> Change | None:
    """pick(x C, diagonals(t)) with constants C, t  ->  only columns that t names for this text"""
    columns = view.array(n.inputs[1]) if n.op == "matmul" else None
    if columns is None or n.output in view.kept:
        return None
    tables = {_distances(view, u) for u in view.users[n.output]}
    found = tables.pop() if len(tables) == 1 else None
    if found is None:
        return None
    name, longest = found
    table = view.constants[name].reshape(-1)
    if len(table) != 2 * longest - 1 or not 0 <= table.min() <= table.max() < columns.shape[-1]:
        return None
    near = view.fresh("near")
    made = node("distance_matmul", (*n.inputs, near), view.fresh("v"), where=n.where,
                longest=longest)  # fmt: skip
    return Change({n.output: made.output}, (made,), {near: table})


def _distances(view: View, pick: Node) -> tuple[str, int] | None:
    """The table of a pick by distance, and the length that it is for."""
    name = pick.inputs[-1]
    while pick.op == "pick" and view.made_by(name, *VIEWS, "diagonals") is not None:
        n = view.producer[name]
        if n.op == "diagonals":
            known = view.array(n.inputs[0]) is not None
            return (n.inputs[0], n.attribute("longest")) if known else None
        if n.op == "slice":
            return None
        name = n.inputs[0]
    return None


def own_views(view: View, n: Node) -> Change | None:
    """f(view(x)), g(view(x))  ->  each with a view of its own, where views cost nothing"""
    shared = [i for i in n.inputs if _shared(view, i)]
    if not shared:
        return None
    made, renamed = list[Node](), dict[str, str]()
    for name in shared:
        for v in _views(view, name):
            renamed[v.output] = view.fresh("v")
            inner = renamed.get(v.inputs[0], v.inputs[0])
            made.append(Node(v.op, (inner,), renamed[v.output], v.attributes, v.where))
    inputs = tuple(renamed.get(i, i) for i in n.inputs)
    made.append(Node(n.op, inputs, view.fresh("v"), n.attributes, n.where))
    return Change({n.output: made[-1].output}, made)


def _shared(view: View, name: str) -> bool:
    """Whether several nodes read this view, of a table or for products of activations: each of
    these reads through views of its own, and none of them has to be stored."""
    if view.made_by(name, *VIEWS, "diagonals") is None or len(view.users[name]) < 2:
        return False
    ops = {u.op for u in view.users[name]}
    return is_table(view, name) or ("matmul" in ops and ops <= {"matmul", *VIEWS})


def _views(view: View, name: str) -> Sequence[Node]:
    out: list[Node] = []
    while view.made_by(name, *VIEWS, "diagonals") is not None:
        out.insert(0, view.producer[name])
        name = view.producer[name].inputs[0]
    return out
