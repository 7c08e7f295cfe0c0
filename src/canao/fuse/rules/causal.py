"""Rules of decoders: attention that sees what came before, and products written the other way.

A causal mask is known by what it is at every position, not by how a model writes it: positions.py
has made a table of it, whose band ends at the query itself.
"""

from __future__ import annotations

import numpy as np

from canao.fuse.access import resolve
from canao.fuse.forms.attention import band_of
from canao.fuse.rewrite import Change, View
from canao.graph.ir import TOKENS, Node, node


def causal_attention(view: View, n: Node) -> Change | None:
    """softmax(q k^T * c + mask) v where the mask hides later keys  ->  causal_attention(q, k, v)"""
    softmax = view.made_by(n.inputs[0], "softmax") if n.op == "matmul" else None
    masked = view.made_by(softmax.inputs[0], "add") if softmax else None
    if softmax is None or masked is None or not view.only_used_by(masked.output, softmax):
        return None
    name = _unmasked(view, masked)
    if name is None or not view.only_used_by(name, masked):
        return None
    scores, scale = _scaled(view, name)
    if scores is None or view.shape(scores.output)[-2:] != (TOKENS, TOKENS):
        return None
    key = scores.inputs[1]
    shape = view.shape(key)
    if view.shape(scores.inputs[0]) != (*shape[:-2], shape[-1], shape[-2]):
        return None
    turned, nodes = view.made_by(key, "transpose"), []
    last = (*range(len(shape) - 2), len(shape) - 1, len(shape) - 2)
    if turned is not None and turned.attribute("perm") == last:
        key = turned.inputs[0]
    else:
        nodes.append(node("transpose", (key,), view.fresh("v"), where=n.where, perm=last))
        key = nodes[-1].output
    operands = (scores.inputs[0], key, n.inputs[1])
    nodes.append(
        node("causal_attention", operands, view.fresh("v"), where=n.where, scale=scale)
    )
    return Change({n.output: nodes[-1].output}, nodes)


def _unmasked(view: View, masked: Node) -> str | None:
    """The scores that a causal mask is added to, else None."""
    for scores, mask in (masked.inputs, masked.inputs[::-1]):
        if _causal(view, mask):
            return scores
    return None


def _causal(view: View, mask: str) -> bool:
    """Whether a term hides what comes later, at every position, and nothing else."""
    read = resolve(view.graph, view.nodes, mask)
    if read is None or read.shape[-2:] != (TOKENS, TOKENS):
        return False
    return band_of(view.graph, read) == (view.max_length - 1, 0)


def _scaled(view: View, name: str) -> tuple[Node | None, float]:
    """The product that gives the scores, and the constant that it is multiplied by."""
    scores, n = view.made_by(name, "matmul"), view.made_by(name, "mul", "div")
    if scores is not None:
        return scores, 1.0
    if n is None:
        return None, 1.0
    for inner, factor in (n.inputs, n.inputs[::-1]):
        array, scores = view.array(factor), view.made_by(inner, "matmul")
        if scores is None or array is None or array.size != 1:
            continue
        if view.only_used_by(inner, n) and (n.op == "mul" or inner == n.inputs[0]):
            c = float(array.reshape(()))
            return scores, c if n.op == "mul" else 1 / c
    return None, 1.0


def product_with_weights(view: View, n: Node) -> Change | None:
    """x W with constant W  ->  linear(x, W^T)"""
    weights = view.array(n.inputs[1]) if n.op == "matmul" else None
    if weights is None or weights.ndim != 2:
        return None
    name = view.fresh("weights")
    made = node("linear", (n.inputs[0], name), view.fresh("v"), where=n.where)
    return Change({n.output: made.output}, (made,), {name: np.ascontiguousarray(weights.T)})
