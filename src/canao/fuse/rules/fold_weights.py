"""Rules that move constants into the weights of a product, where they cost nothing.

Most norms depend on what they scale; an affine one, as MobileBERT has, is a factor and a term
for each column, and so is the scale of attention's scores.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from canao.fuse.rewrite import Change, View
from canao.graph.ir import Node, node
from canao.graph.ops import VIEWS


def scale_into_weights(view: View, n: Node) -> Change | None:
    """(view(x W^T + b) y) * c  ->  view(x (c W)^T + c b) y"""
    if n.op != "mul":
        return None
    for product, factor in (n.inputs, n.inputs[::-1]):
        c, matmul = view.scalar(factor), view.made_by(product, "matmul")
        if c is None or matmul is None or not view.only_used_by(product, n):
            continue
        chain, user = [], matmul
        source = view.producer.get(matmul.inputs[0])
        while source and source.op in VIEWS and view.only_used_by(source.output, user):
            chain.append(source)
            user, source = source, view.producer.get(source.inputs[0])
        if source is None or source.op != "linear" or not view.only_used_by(source.output, user):
            continue
        arrays = [view.array(i) for i in source.inputs[1:]]
        if all(a is not None for a in arrays):
            return _rescaled(view, n, matmul, (source, *reversed(chain)), c)
    return None


def _rescaled(view: View, n: Node, matmul: Node, chain: tuple[Node, ...], c: float) -> Change:
    linear, *views = chain
    constants = {view.fresh("scaled"): (view.array(i) * np.float64(c)).astype(np.float32)
                 for i in linear.inputs[1:]}  # fmt: skip
    made = [Node("linear", (linear.inputs[0], *constants), view.fresh("v"), (), linear.where)]
    for v in views:
        made.append(Node(v.op, (made[-1].output,), view.fresh("v"), v.attributes, v.where))
    operands = (made[-1].output, matmul.inputs[1])
    made.append(Node("matmul", operands, view.fresh("v"), (), matmul.where))
    return Change({n.output: made[-1].output}, made, constants)


def columns_into_weights(view: View, n: Node) -> Change | None:
    """(x W^T + b) * c, (x W^T + b) + c  ->  x W'^T + b' with c a number for each column"""
    for name, _, c in by_columns(view, n):
        linear = view.made_by(name, "linear")
        if linear is None or not view.only_used_by(name, n):
            continue
        absorbed = _absorbed(view, linear, n.op, c)
        if absorbed is not None:
            made, constants = absorbed
            return Change({n.output: made.output}, (made,), constants)
    return None


def columns_past_residual(view: View, n: Node) -> Change | None:
    """(x W^T + b + y) * c, (x W^T + b + y) + c  ->  x W'^T + b' + y * c, x W^T + b' + y"""
    for name, factor, c in by_columns(view, n):
        total = view.made_by(name, "add")
        if total is None or not view.only_used_by(name, n):
            continue
        for product, y in (total.inputs, total.inputs[::-1]):
            linear = view.made_by(product, "linear")
            if linear is None or not view.only_used_by(product, total) or product == y:
                continue
            absorbed = _absorbed(view, linear, n.op, c)
            if absorbed is not None:
                made, constants = absorbed
                return _with_residual(view, n, made, (y, factor), constants)
    return None


def _with_residual(
    view: View, n: Node, made: Node, residual: tuple[str, str], constants: dict[str, np.ndarray]
) -> Change:
    """The product `made` plus y, or plus y times the factor where n is a product."""
    y, factor = residual
    nodes = [made]
    if n.op == "mul":
        nodes.append(node("mul", (y, factor), view.fresh("v"), where=n.where))
        y = nodes[-1].output
    nodes.append(node("add", (made.output, y), view.fresh("v"), where=n.where))
    return Change({n.output: nodes[-1].output}, nodes, constants)


def by_columns(view: View, n: Node) -> Iterator[tuple[str, str, np.ndarray]]:
    """(x, c, numbers of c) where n adds or multiplies x and a constant number for each column."""
    if n.op not in ("add", "mul"):
        return
    for x, c in (n.inputs, n.inputs[::-1]):
        array = view.array(c)
        if array is None:
            continue
        shape = view.shape(x)
        if shape != view.shape(n.output) or not isinstance(shape[-1], int):
            continue
        if array.size == 1 or array.size == array.shape[-1]:
            yield x, c, np.broadcast_to(array.reshape(-1).astype(np.float64), (shape[-1],))


def _absorbed(
    view: View, linear: Node, op: str, c: np.ndarray
) -> tuple[Node, dict[str, np.ndarray]] | None:
    """A product that gives (linear op c), and its new constants; None without known weights."""
    if any(i not in view.constants for i in linear.inputs[1:]):
        return None
    arrays = [view.constants[i] for i in linear.inputs[1:]]
    names, new = list(linear.inputs[1:]), list(arrays)
    if op == "mul":
        names = [view.fresh("scaled") for _ in arrays]
        new = [(a.T * c).T for a in arrays]
    elif len(arrays) == 2:
        names[1], new[1] = view.fresh("bias"), arrays[1] + c
    else:
        names.append(view.fresh("bias"))
        new.append(c)
    made = node("linear", (linear.inputs[0], *names), view.fresh("v"), where=linear.where)
    kept = linear.inputs
    return made, {k: np.ascontiguousarray(a, np.float32)
                  for k, a in zip(names, new, strict=True) if k not in kept}  # fmt: skip
