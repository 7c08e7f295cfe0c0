"""Rules of decoders: causal attention, and linear layers that are written as matmuls.

A causal mask is known by its elements, not by how a model writes it: positions.py has made it a
table, which is a sliding window that ends at the query itself.
"""

from __future__ import annotations

import numpy as np

from canao.fuse.access import resolve
from canao.fuse.forms.attention import window_of
from canao.fuse.rewrite import Change, GraphView
from canao.graph.ir import TOKENS, Node, node


def causal_attention(g: GraphView, n: Node) -> Change | None:
    """softmax(q k^T * c + mask) v where the mask hides later keys  ->  causal_attention(q, k, v)"""
    softmax = g.made_by(n.inputs[0], "softmax") if n.op == "matmul" else None
    masked = g.made_by(softmax.inputs[0], "add") if softmax else None
    if softmax is None or masked is None or not g.only_used_by(masked.output, softmax):
        return None
    name = _unmasked(g, masked)
    if name is None or not g.only_used_by(name, masked):
        return None
    scores, scale = _scaled(g, name)
    if scores is None or g.shape(scores.output)[-2:] != (TOKENS, TOKENS):
        return None
    key = scores.inputs[1]
    shape = g.shape(key)
    if g.shape(scores.inputs[0]) != (*shape[:-2], shape[-1], shape[-2]):
        return None
    turned, nodes = g.made_by(key, "transpose"), []
    last = (*range(len(shape) - 2), len(shape) - 1, len(shape) - 2)
    if turned is not None and turned.attribute("perm") == last:
        key = turned.inputs[0]
    else:
        nodes.append(node("transpose", (key,), g.fresh("v"), where=n.where, perm=last))
        key = nodes[-1].output
    operands = (scores.inputs[0], key, n.inputs[1])
    nodes.append(
        node("causal_attention", operands, g.fresh("v"), where=n.where, scale=scale)
    )
    return Change({n.output: nodes[-1].output}, nodes)


def _unmasked(g: GraphView, masked: Node) -> str | None:
    """The scores that a causal mask is added to, else None."""
    for scores, mask in (masked.inputs, masked.inputs[::-1]):
        if _causal(g, mask):
            return scores
    return None


def _causal(g: GraphView, mask: str) -> bool:
    """Whether a bias is -inf for every key after its query, and 0 for all others."""
    read = resolve(g.graph, g.producer, mask)
    if read is None or read.shape[-2:] != (TOKENS, TOKENS):
        return False
    return window_of(g.graph, read) == (g.max_length - 1, 0)


def _scaled(g: GraphView, name: str) -> tuple[Node | None, float]:
    """The matmul q k^T that gives the scores `name`, and the constant that it is scaled by."""
    scores, n = g.made_by(name, "matmul"), g.made_by(name, "mul", "div")
    if scores is not None:
        return scores, 1.0
    if n is None:
        return None, 1.0
    for inner, factor in (n.inputs, n.inputs[::-1]):
        array, scores = g.array(factor), g.made_by(inner, "matmul")
        if scores is None or array is None or array.size != 1:
            continue
        if g.only_used_by(inner, n) and (n.op == "mul" or inner == n.inputs[0]):
            c = float(array.reshape(()))
            return scores, c if n.op == "mul" else 1 / c
    return None, 1.0


def matmul_to_linear(g: GraphView, n: Node) -> Change | None:
    """x W with constant W  ->  linear(x, W^T)"""
    weights = g.array(n.inputs[1]) if n.op == "matmul" else None
    if weights is None or weights.ndim != 2:
        return None
    name = g.fresh("weights")
    made = node("linear", (n.inputs[0], name), g.fresh("v"), where=n.where)
    return Change({n.output: made.output}, (made,), {name: np.ascontiguousarray(weights.T)})
