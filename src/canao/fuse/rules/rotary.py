"""Rules for rotary positions: pairs of halves of a row are rotated by an angle of the position.

Models write it as x * cos + cat(-second half, first half) * sin. The sign goes into the table of
sines, and the two halves become a dimension that is read backwards: one pass over the row.
"""

from __future__ import annotations

import numpy as np

from canao.fuse.rewrite import Change, GraphView
from canao.graph.ir import Node, Shape, fixed, node


def signs_past_concat(g: GraphView, n: Node) -> Change | None:
    """concat(-a, b)  ->  concat(a, b) * (-1, 1)"""
    rank = len(g.shape(n.output))
    if n.op != "concat" or n.attribute("axis") != rank - 1:
        return None
    negated = [g.made_by(i, "neg") for i in n.inputs]
    widths = fixed(tuple(g.shape(i)[-1] for i in n.inputs))
    if not any(negated) or widths is None:
        return None
    signs = [np.full(w, -1 if neg else 1, np.float32)
             for w, neg in zip(widths, negated, strict=True)]  # fmt: skip
    inputs = [neg.inputs[0] if neg else i for i, neg in zip(n.inputs, negated, strict=True)]
    joined = Node("concat", tuple(inputs), g.fresh("v"), n.attributes, n.where)
    name = g.fresh("signs")
    made = node("mul", (joined.output, name), g.fresh("v"), where=n.where)
    return Change({n.output: made.output}, (joined, made), {name: np.concatenate(signs)})


def rotate_halves(g: GraphView, n: Node) -> Change | None:
    """x * c + concat(right, left of x) * s  ->  x * c + x flipped * s, by halves"""
    if n.op != "add":
        return None
    for one, other in (n.inputs, n.inputs[::-1]):
        straight, crossed = g.made_by(one, "mul"), g.made_by(other, "mul")
        if straight is None or crossed is None:
            continue
        for swapped, s in (crossed.inputs, crossed.inputs[::-1]):
            found = _swapped(g, swapped)
            if found is None or not g.only_used_by(swapped, crossed):
                continue
            x, half = found
            if x not in straight.inputs:
                continue
            c = straight.inputs[1 - straight.inputs.index(x)]
            if all(g.shape(i)[-1:] == g.shape(x)[-1:] for i in (c, s)):
                return _rotated(g, n, (x, c, s), half)
    return None


def _swapped(g: GraphView, name: str) -> tuple[str, int] | None:
    """(x, width of a half) where the value is the right half of x and then its left."""
    n = g.made_by(name, "concat")
    if n is None or len(n.inputs) != 2:
        return None
    right, left = (g.made_by(i, "slice") for i in n.inputs)
    if right is None or left is None or right.inputs != left.inputs:
        return None
    x, axis = right.inputs[0], len(g.shape(name)) - 1
    width = g.shape(x)[-1]
    places = [(v.attribute("axis"), v.attribute("start"), v.attribute("stop"))
              for v in (right, left)]  # fmt: skip
    if n.attribute("axis") != axis or not isinstance(width, int) or width % 2:
        return None
    half = width // 2
    return (x, half) if places == [(axis, half, width), (axis, 0, half)] else None


def _rotated(g: GraphView, n: Node, operands: tuple[str, str, str], half: int) -> Change:
    x, c, s = operands
    made: list[Node] = []

    def emit(op: str, *inputs: str, **attributes: object) -> str:
        made.append(node(op, inputs, g.fresh("v"), where=n.where, **attributes))
        return made[-1].output

    def halves(name: str) -> Shape:
        return (*g.shape(name)[:-1], 2, half)

    by_halves, cos, sin = (emit("reshape", name, shape=halves(name)) for name in (x, c, s))
    flipped = emit("flip", by_halves, axis=len(g.shape(x)) - 1)
    straight, crossed = emit("mul", by_halves, cos), emit("mul", flipped, sin)
    total = emit("add", straight, crossed)
    return Change({n.output: emit("reshape", total, shape=g.shape(n.output))}, made)
