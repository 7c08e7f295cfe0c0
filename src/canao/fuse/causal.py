"""What depends on positions alone: causal masks, and tables read in the order of the tokens.

A mask is recognized by what it is at every position, not by how a model writes it.
"""

from __future__ import annotations

import numpy as np

from canao.fuse.rewrite import Change, View
from canao.graph.ir import TOKENS, Node, node
from canao.graph.ops import OPS

# What is added to a score to hide it; models differ, and none that is meant otherwise is this far.
_HIDDEN = -1e30
_FOLD_LIMIT = 1 << 26  # elements


def _by_position(view: View, name: str, s: int) -> np.ndarray | None:
    """The value at s tokens, if it is a function of positions and constants; else None."""
    nodes = _ancestors(view, name)
    if nodes is None:
        return None
    values = dict(view.graph.constants)
    for n in (n for n in view.graph.nodes if n.output in nodes):
        attributes = dict(n.attributes) | {"s": s}
        values[n.output] = OPS[n.op].meaning([values[i] for i in n.inputs], attributes)
    return values[name]


def _ancestors(view: View, name: str) -> set[str] | None:
    """What nodes make on the way to a value; None if an input of the graph is among them."""
    found: set[str] = set()
    stack = [name]
    while stack:
        name = stack.pop()
        if name in view.graph.constants or name in found:
            continue
        if name not in view.producer:
            return None
        found.add(name)
        stack.extend(view.producer[name].inputs)
    return found


def causal_attention(view: View, n: Node) -> Change | None:
    """softmax(q k^T * c + mask) v where the mask hides later keys  ->  causal_attention(q, k, v)"""
    softmax = view.made_by(n.inputs[0], "softmax") if n.op == "matmul" else None
    masked = softmax and view.made_by(softmax.inputs[0], "add", "where")
    if not masked or not view.only_used_by(masked.output, softmax):
        return None
    name = _unmasked(view, masked)
    if name is None or not view.only_used_by(name, masked):
        return None
    scores, scale = _scaled(view, name)
    if scores is None or view.shape(scores.output)[-2:] != (TOKENS, TOKENS):
        return None
    key = scores.inputs[1]
    turned, nodes = view.made_by(key, "transpose"), []
    last = (*range(len(view.shape(key)) - 2), len(view.shape(key)) - 1, len(view.shape(key)) - 2)
    if turned is not None and turned.attribute("perm") == last:
        key = turned.inputs[0]
    else:
        nodes.append(node("transpose", (key,), view.fresh("v"), where=n.where, perm=last))
        key = nodes[-1].output
    operands = (scores.inputs[0], key, n.inputs[1])
    if view.shape(operands[0]) != view.shape(key):
        return None
    nodes.append(
        node("causal_attention", operands, view.fresh("v"), where=n.where, scale=scale)
    )
    return Change({n.output: nodes[-1].output}, nodes)


def _unmasked(view: View, masked: Node) -> str | None:
    """The scores that a causal mask is added to or chosen from, else None."""
    if masked.op == "where":
        condition, kept, hidden = masked.inputs
        fill = view.array(hidden)
        hides = fill is not None and fill.size == 1 and fill.reshape(()) <= _HIDDEN
        return kept if hides and _causal(view, condition) else None
    for scores, mask in (masked.inputs, masked.inputs[::-1]):
        if _causal(view, mask):
            return scores
    return None


def _causal(view: View, mask: str) -> bool:
    """Whether a mask hides, from the shortest text to the longest, what comes later, no more."""
    for s in (2, view.graph.max_length):
        array = _by_position(view, mask, s)
        if array is None or array.shape[-2:] != (s, s):
            return False
        hidden = ~array if array.dtype == np.bool_ else array <= _HIDDEN
        if array.dtype != np.bool_ and array[~hidden].any():
            return False
        if (hidden == np.tri(s, dtype=bool)).any():
            return False
    return True


def _scaled(view: View, name: str) -> tuple[Node | None, float]:
    """The product that gives the scores, and the constant that it is multiplied by."""
    scores, n = view.made_by(name, "matmul"), view.made_by(name, "mul", "div")
    if scores is not None:
        return scores, 1.0
    for inner, factor in (n.inputs, n.inputs[::-1]) if n else ():
        array, scores = view.array(factor), view.made_by(inner, "matmul")
        if scores is None or array is None or array.size != 1:
            continue
        if view.only_used_by(inner, n) and (n.op == "mul" or inner == n.inputs[0]):
            c = float(array.reshape(()))
            return scores, c if n.op == "mul" else 1 / c
    return None, 1.0


def gather_by_position(view: View, n: Node) -> Change | None:
    """gather(table, function of positions)  ->  slice(constant rows)"""
    if n.op != "gather" or view.array(n.inputs[0]) is None:
        return None
    table, ids = view.array(n.inputs[0]), n.inputs[1]
    shape, longest = view.shape(ids), view.graph.max_length
    if shape.count(TOKENS) != 1 or not all(d == TOKENS or d == 1 for d in shape):
        return None
    whole = _by_position(view, ids, longest)
    if whole is None or whole.min() < 0 or whole.max() >= len(table):
        return None
    start = _by_position(view, ids, 2).ravel()
    if whole.size * table.shape[1] > _FOLD_LIMIT or (whole.ravel()[:2] != start).any():
        return None
    name = view.fresh("rows")
    rows = np.ascontiguousarray(table[whole])
    cut = node("slice", (name,), view.fresh("v"), where=n.where, axis=shape.index(TOKENS),
               start=0, stop=TOKENS)  # fmt: skip
    return Change({n.output: cut.output}, (cut,), {name: rows})


def product_with_weights(view: View, n: Node) -> Change | None:
    """x W with constant W  ->  linear(x, W^T)"""
    weights = view.array(n.inputs[1]) if n.op == "matmul" else None
    if weights is None or weights.ndim != 2:
        return None
    name = view.fresh("weights")
    made = node("linear", (n.inputs[0], name), view.fresh("v"), where=n.where)
    return Change({n.output: made.output}, (made,), {name: np.ascontiguousarray(weights.T)})
