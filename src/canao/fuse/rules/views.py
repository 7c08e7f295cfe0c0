"""Rules that bring views to where they meet: transposes past what is computed element by element,
and apart from reshapes that only split or merge dimensions.

A model that keeps its channels before its tokens turns around whatever it computes by rows. Once
two transposes meet they are one, or none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from canao.fuse.rewrite import Change, GraphView
from canao.graph.ir import Dim, Node, dim_add, dim_mul, node
from canao.graph.ops import OPS


def join_reshapes(g: GraphView, n: Node) -> Change | None:
    """reshape(reshape(x))  ->  reshape(x)"""
    inner = g.made_by(n.inputs[0], "reshape") if n.op == "reshape" else None
    if inner is None:
        return None
    if g.shape(inner.inputs[0]) == g.shape(n.output):
        return Change({n.output: inner.inputs[0]})
    joined = Node("reshape", inner.inputs, g.fresh("v"), n.attributes, n.where)
    return Change({n.output: joined.output}, (joined,))


def join_transposes(g: GraphView, n: Node) -> Change | None:
    """transpose(transpose(x))  ->  transpose(x), or x"""
    inner = g.made_by(n.inputs[0], "transpose") if n.op == "transpose" else None
    if inner is None:
        return None
    perm = tuple(inner.attribute("perm")[p] for p in n.attribute("perm"))
    if perm == tuple(range(len(perm))):
        return Change({n.output: inner.inputs[0]})
    joined = node("transpose", inner.inputs, g.fresh("v"), where=n.where, perm=perm)
    return Change({n.output: joined.output}, (joined,))


def _turned(g: GraphView, name: str) -> Node | None:
    """The transpose that makes `name`, if what lay side by side no longer does."""
    n = g.made_by(name, "transpose")
    return n if n is not None and n.attribute("perm")[-1] != len(g.shape(name)) - 1 else None


def pointwise_past_transpose(g: GraphView, n: Node) -> Change | None:
    """f(transpose(x), transpose(y), c)  ->  transpose(f(x, y, transpose(c)))  with constants c"""
    if not OPS[n.op].pointwise:
        return None
    turned = [_turned(g, i) for i in n.inputs]
    perms = {t.attribute("perm") for t in turned if t}
    if len(perms) != 1 or not all(
        t or g.array(i) is not None for t, i in zip(turned, n.inputs, strict=True)
    ):
        return None
    perm, inputs, constants = perms.pop(), [], {}
    if any(len(g.shape(i)) > len(perm) for i in n.inputs):
        return None
    for t, name in zip(turned, n.inputs, strict=True):
        array = g.array(name)
        if t is None and array is not None and array.size > 1:
            padded = array.reshape((1,) * (len(perm) - array.ndim) + array.shape)
            name = g.fresh("turned")
            constants[name] = np.ascontiguousarray(padded.transpose(np.argsort(perm)))
        inputs.append(t.inputs[0] if t else name)
    straight = Node(n.op, tuple(inputs), g.fresh("v"), n.attributes, n.where)
    back = node("transpose", (straight.output,), g.fresh("v"), where=n.where, perm=perm)
    return Change({n.output: back.output}, (straight, back), constants)


def pointwise_past_concat(g: GraphView, n: Node) -> Change | None:
    """f(concat(x W^T, y V^T))  ->  concat(f(x W^T), f(y V^T))"""
    joined = g.made_by(n.inputs[0], "concat") if len(n.inputs) == 1 else None
    if joined is None or not OPS[n.op].pointwise or not g.only_used_by(joined.output, n):
        return None
    if not all(g.made_by(i, "linear") for i in joined.inputs):
        return None  # elsewhere it would only be computed in pieces
    parts = [Node(n.op, (i,), g.fresh("v"), n.attributes, n.where) for i in joined.inputs]
    outputs = tuple(p.output for p in parts)
    after = Node("concat", outputs, g.fresh("v"), joined.attributes, joined.where)
    return Change({n.output: after.output}, (*parts, after))


def slice_of_concat(g: GraphView, n: Node) -> Change | None:
    """slice(concat(x, y)) within y  ->  slice(y), or y"""
    joined = g.made_by(n.inputs[0], "concat") if n.op == "slice" else None
    if joined is None or joined.attribute("axis") != n.attribute("axis"):
        return None
    axis = n.attribute("axis")
    first: Dim = 0
    start, stop = n.attribute("start"), n.attribute("stop")
    for name in joined.inputs:
        size = g.shape(name)[axis]
        last = dim_add(first, size)
        if (start, stop) == (first, last):
            return Change({n.output: name})
        if all(isinstance(d, int) for d in (start, stop, first, last)) and (
            first <= start and stop <= last
        ):
            cut = node("slice", (name,), g.fresh("v"), where=n.where, axis=axis,
                       start=start - first, stop=stop - first)  # fmt: skip
            return Change({n.output: cut.output}, (cut,))
        first = last
    return None


def split_past_transpose(g: GraphView, n: Node) -> Change | None:
    """reshape(transpose(x)) that splits dimensions  ->  transpose(reshape(x))"""
    turned = _turned(g, n.inputs[0]) if n.op == "reshape" else None
    if turned is None:
        return None
    groups = _splits(g.shape(turned.output), g.shape(n.output))
    if groups is None:
        return None
    perm, shape = turned.attribute("perm"), g.shape(n.output)
    moved, parts = _moved(perm, groups)
    split = node("reshape", turned.inputs, g.fresh("v"), where=n.where,
                 shape=tuple(shape[i] for part in parts for i in part))  # fmt: skip
    back = node("transpose", (split.output,), g.fresh("v"), where=n.where, perm=moved)
    return Change({n.output: back.output}, (split, back))


def transpose_past_merge(g: GraphView, n: Node) -> Change | None:
    """transpose(reshape(transpose(x))) that merges dimensions  ->  reshape(transpose(x))"""
    merged = g.made_by(n.inputs[0], "reshape") if n.op == "transpose" else None
    if merged is None or g.made_by(merged.inputs[0], "transpose") is None:
        return None
    groups = _splits(g.shape(merged.output), g.shape(merged.inputs[0]))
    if groups is None:
        return None
    perm = tuple(i for p in n.attribute("perm") for i in groups[p])
    turned = node("transpose", merged.inputs, g.fresh("v"), where=n.where, perm=perm)
    shape = g.shape(n.output)
    back = node("reshape", (turned.output,), g.fresh("v"), where=merged.where, shape=shape)
    return Change({n.output: back.output}, (turned, back))


def _moved(
    perm: Sequence[int], groups: Sequence[tuple[int, ...]]
) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Dimension i after a transpose became groups[i]: its permutation of the parts, and for each
    dimension before it the parts that it becomes."""
    parts = [groups[perm.index(i)] for i in range(len(perm))]
    places = [i for part in parts for i in part]
    moved = [places.index(i) for i in range(len(places))]
    return tuple(moved), parts


def _splits(whole: Sequence[Dim], parts: Sequence[Dim]) -> list[tuple[int, ...]] | None:
    """For each dimension of `whole` the dimensions of `parts` that it falls into, at least one of
    them into several that are not 1; None if they do not nest so."""
    groups, at = [], 0
    for size in whole:
        if at == len(parts):
            return None
        group, have = [at], parts[at]
        while have != size:
            at += 1
            if at == len(parts):
                return None
            group.append(at)
            have = dim_mul(have, parts[at])
        groups.append(tuple(group))
        at += 1
    several = any(sum(parts[i] != 1 for i in group) > 1 for group in groups)
    return groups if at == len(parts) and several else None
