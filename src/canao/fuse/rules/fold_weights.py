"""Rules that move constants into the weights of a linear layer, where they cost nothing.

Most norms depend on what they scale; an affine one, as MobileBERT has, is a factor and a term
for each column, and so is the scale of attention's scores.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from canao.fuse.rewrite import Change, GraphView
from canao.graph.ir import Node, node
from canao.graph.ops import VIEWS


def scale_into_weights(g: GraphView, n: Node) -> Change | None:
    """(view(x W^T + b) y) * c  ->  view(x (c W)^T + c b) y"""
    if n.op != "mul":
        return None
    for product, factor in (n.inputs, n.inputs[::-1]):
        c, matmul = g.scalar(factor), g.made_by(product, "matmul")
        if c is None or matmul is None or not g.only_used_by(product, n):
            continue
        chain, user = [], matmul
        source = g.producer.get(matmul.inputs[0])
        while source and source.op in VIEWS and g.only_used_by(source.output, user):
            chain.append(source)
            user, source = source, g.producer.get(source.inputs[0])
        if source is None or source.op != "linear" or not g.only_used_by(source.output, user):
            continue
        arrays = [g.array(i) for i in source.inputs[1:]]
        if all(a is not None for a in arrays):
            return _rescaled(g, n, matmul, (source, *reversed(chain)), c)
    return None


def _rescaled(g: GraphView, n: Node, matmul: Node, chain: tuple[Node, ...], c: float) -> Change:
    linear, *views = chain
    constants = {g.fresh("scaled"): (g.array(i) * np.float64(c)).astype(np.float32)
                 for i in linear.inputs[1:]}  # fmt: skip
    made = [Node("linear", (linear.inputs[0], *constants), g.fresh("v"), (), linear.where)]
    for v in views:
        made.append(Node(v.op, (made[-1].output,), g.fresh("v"), v.attributes, v.where))
    operands = (made[-1].output, matmul.inputs[1])
    made.append(Node("matmul", operands, g.fresh("v"), (), matmul.where))
    return Change({n.output: made[-1].output}, made, constants)


def columns_into_weights(g: GraphView, n: Node) -> Change | None:
    """(x W^T + b) * c, (x W^T + b) + c  ->  x W'^T + b' with c a number for each column"""
    for name, _, c in by_columns(g, n):
        linear = g.made_by(name, "linear")
        if linear is None or not g.only_used_by(name, n):
            continue
        absorbed = _absorbed(g, linear, n.op, c)
        if absorbed is not None:
            made, constants = absorbed
            return Change({n.output: made.output}, (made,), constants)
    return None


def columns_past_residual(g: GraphView, n: Node) -> Change | None:
    """(x W^T + b + y) * c, (x W^T + b + y) + c  ->  x W'^T + b' + y * c, x W^T + b' + y"""
    for name, factor, c in by_columns(g, n):
        total = g.made_by(name, "add")
        if total is None or not g.only_used_by(name, n):
            continue
        for product, y in (total.inputs, total.inputs[::-1]):
            linear = g.made_by(product, "linear")
            if linear is None or not g.only_used_by(product, total) or product == y:
                continue
            absorbed = _absorbed(g, linear, n.op, c)
            if absorbed is not None:
                made, constants = absorbed
                return _with_residual(g, n, made, (y, factor), constants)
    return None


def _with_residual(
    g: GraphView, n: Node, made: Node, residual: tuple[str, str], constants: dict[str, np.ndarray]
) -> Change:
    """`made` plus y; plus y times the factor where n multiplies."""
    y, factor = residual
    nodes = [made]
    if n.op == "mul":
        nodes.append(node("mul", (y, factor), g.fresh("v"), where=n.where))
        y = nodes[-1].output
    nodes.append(node("add", (made.output, y), g.fresh("v"), where=n.where))
    return Change({n.output: nodes[-1].output}, nodes, constants)


def by_columns(g: GraphView, n: Node) -> Iterator[tuple[str, str, np.ndarray]]:
    """(x, c, numbers of c) where n adds or multiplies x and a constant number for each column."""
    if n.op not in ("add", "mul"):
        return
    for x, c in (n.inputs, n.inputs[::-1]):
        array = g.array(c)
        if array is None:
            continue
        shape = g.shape(x)
        if not shape or shape != g.shape(n.output) or not isinstance(shape[-1], int):
            continue
        if array.size == 1 or array.size == array.shape[-1]:
            yield x, c, np.broadcast_to(array.reshape(-1).astype(np.float64), (shape[-1],))


def _absorbed(
    g: GraphView, linear: Node, op: str, c: np.ndarray
) -> tuple[Node, dict[str, np.ndarray]] | None:
    """A linear node that computes (linear op c), and its new constants; None if the weights are
    computed."""
    if any(i not in g.constants for i in linear.inputs[1:]):
        return None
    arrays = [g.constants[i] for i in linear.inputs[1:]]
    names, new = list(linear.inputs[1:]), list(arrays)
    if op == "mul":
        names = [g.fresh("scaled") for _ in arrays]
        new = [(a.T * c).T for a in arrays]
    elif len(arrays) == 2:
        names[1], new[1] = g.fresh("bias"), arrays[1] + c
    else:
        names.append(g.fresh("bias"))
        new.append(c)
    made = node("linear", (linear.inputs[0], *names), g.fresh("v"), where=linear.where)
    kept = linear.inputs
    return made, {k: np.ascontiguousarray(a, np.float32)
                  for k, a in zip(names, new, strict=True) if k not in kept}  # fmt: skip
