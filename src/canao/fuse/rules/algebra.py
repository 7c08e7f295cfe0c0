"""The rewrite rules: exact identities of constants, views and the laws of arithmetic.

CLEANUP removes what does not depend on the input, and runs with and without fusion. ALGEBRA
uses the associative and distributive laws (DNNFusion, PLDI 2021, section 4.2) and merges linear
layers that read the same input; it belongs to fusion.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from canao.fuse.rewrite import Change, GraphView, named
from canao.fuse.rules.attention_bias import (
    biases_apart,
    mask_to_bias,
    near_columns,
    own_views,
    scale_into_table,
    scale_past_take_along_axis,
)
from canao.fuse.rules.causal import causal_attention, matmul_to_linear
from canao.fuse.rules.fold_weights import (
    columns_into_weights,
    columns_past_residual,
    scale_into_weights,
)
from canao.fuse.rules.positions import positional, tabulate
from canao.fuse.rules.recognize import (
    columns_into_norm,
    divide_by_constant,
    find_gelu,
    find_norm,
    find_select,
    find_silu,
    scale_past_matmul,
)
from canao.fuse.rules.rotary import rotate_halves, signs_past_concat
from canao.fuse.rules.views import (
    join_reshapes,
    join_transposes,
    pointwise_past_concat,
    pointwise_past_transpose,
    slice_of_concat,
    split_past_transpose,
    transpose_past_merge,
)
from canao.graph.dtypes import I32
from canao.graph.ir import Node, fixed, node
from canao.graph.ops import OPS, VIEWS

_FOLD_LIMIT = 1 << 26  # elements; a folded constant is stored in the weights file


def _folded(g: GraphView, n: Node, array: np.ndarray) -> Change:
    name = g.fresh("const")
    return Change({n.output: name}, constants={name: array})


def fold_constants(g: GraphView, n: Node) -> Change | None:
    """op(constants)  ->  constant"""
    if n.op == "expand" or not n.inputs or any(i not in g.constants for i in n.inputs):
        return None
    if g.types[n.output].dtype.numpy is None:
        return None  # no constant holds rows of levels
    shape = fixed(g.shape(n.output))
    if shape is None or not _foldable(g, n, math.prod(shape)):
        return None
    arrays = [g.constants[i] for i in n.inputs]
    exact = [a.astype(np.float64) if a.dtype == np.float32 else a for a in arrays]
    result = OPS[n.op].meaning(exact, dict(n.attributes) | {"s": 0})
    return _folded(g, n, np.ascontiguousarray(result, g.types[n.output].dtype.numpy))


def _foldable(g: GraphView, n: Node, elements: int) -> bool:
    """Whether a result of so many elements may be stored in place of its operands."""
    grows = elements - sum(g.constants[i].size for i in n.inputs)
    return elements <= _FOLD_LIMIT and g.room_for(max(0, grows))


def _least(g: GraphView, name: str) -> float:
    """A lower bound of an integer value's elements; -inf where none is known."""
    known: dict[str, float] = {}
    waiting = [name]
    while waiting:
        n = g.producer.get(waiting[-1])
        read = _bounded_by(n) if n is not None and g.array(waiting[-1]) is None else ()
        missing = [i for i in read if i not in known]
        waiting += missing
        if not missing:
            done = waiting.pop()
            known[done] = sum(known[i] for i in read) if read else _least_alone(g, done)
    return known[name]


def _bounded_by(n: Node) -> tuple[str, ...]:
    """The operands whose bounds make up that of n's result."""
    if n.op in VIEWS or (n.op == "cast" and n.attribute("dtype") == I32):
        return n.inputs[:1]
    return n.inputs if n.op == "add" else ()


def _least_alone(g: GraphView, name: str) -> float:
    """The bound of a constant, an input, or a value that does not follow from its operands'."""
    array, n = g.array(name), g.producer.get(name)
    if array is not None:
        return float(array.min()) if array.size else float("inf")
    # Of the inputs, token and type ids are checked to be >= 0 before a run.
    return 0.0 if n is None or n.op == "arange" else float("-inf")


def decide_compare(g: GraphView, n: Node) -> Change | None:
    """ge(x, c) where x >= c always holds  ->  true"""
    if n.op != "ge" or g.types[n.inputs[0]].dtype != I32:
        return None
    bound = g.array(n.inputs[1])
    if bound is None or not bound.size or _least(g, n.inputs[0]) < bound.max():
        return None
    name, shape = g.fresh("const"), g.shape(n.output)
    true = node("expand", (name,), g.fresh("v"), where=n.where, shape=shape)
    return Change({n.output: true.output}, (true,), {name: np.array(True)})


def _uniform(g: GraphView, name: str) -> Any:
    """The value that every element of `name` has, if that is known from constants."""
    n = g.producer.get(name)
    while n is not None and n.op in VIEWS:
        name, n = n.inputs[0], g.producer.get(n.inputs[0])
    array = g.array(name)
    if array is None or array.size == 0 or (array != array.flat[0]).any():
        return None
    return array.flat[0]


def known_where(g: GraphView, n: Node) -> Change | None:
    """where(true, x, y)  ->  x"""
    if n.op != "where":
        return None
    condition = _uniform(g, n.inputs[0])
    if condition is None:
        return None
    chosen = n.inputs[1] if condition else n.inputs[2]
    if g.shape(chosen) == g.shape(n.output):
        return Change({n.output: chosen})
    shape = g.shape(n.output)
    spread = node("expand", (chosen,), g.fresh("v"), where=n.where, shape=shape)
    return Change({n.output: spread.output}, (spread,))


def drop_identity(g: GraphView, n: Node) -> Change | None:
    """x + 0, x - 0, x * 1, x / 1  ->  x"""
    neutral = {"add": 0, "sub": 0, "mul": 1, "div": 1}.get(n.op)
    if neutral is None:
        return None
    sides = ((0, 1), (1, 0)) if n.op in ("add", "mul") else ((0, 1),)
    for kept, other in sides:
        same = g.shape(n.inputs[kept]) == g.shape(n.output)
        if same and _uniform(g, n.inputs[other]) == neutral:
            return Change({n.output: n.inputs[kept]})
    return None


def gather_known_rows(g: GraphView, n: Node) -> Change | None:
    """gather(table, slice(constant ids))  ->  slice(constant rows)"""
    cut = g.made_by(n.inputs[1], "slice") if n.op == "gather" else None
    if cut is None:
        return None
    table, ids = g.array(n.inputs[0]), g.array(cut.inputs[0])
    if table is None or ids is None:
        return None
    elements = ids.size * table.shape[1]
    if elements > _FOLD_LIMIT or not g.room_for(max(0, elements - table.size)):
        return None
    name = g.fresh("rows")
    rows = np.ascontiguousarray(table[ids])
    moved = Node("slice", (name,), g.fresh("v"), cut.attributes, n.where)
    return Change({n.output: moved.output}, (moved,), {name: rows})


def merge_linears(g: GraphView, n: Node) -> Change | None:
    """x Wq^T, x Wk^T, x Wv^T  ->  slices of x [Wq; Wk; Wv]^T"""
    if n.op != "linear":
        return None
    group = [u for u in g.users[n.inputs[0]] if u.op == "linear" and u.inputs[0] == n.inputs[0]]
    arity = {len(u.inputs) for u in group}
    if len(group) < 2 or group[0] is not n or len(arity) > 1:
        return None
    if any(i not in g.constants for u in group for i in u.inputs[1:]):
        return None
    parts = [[g.constants[i] for i in u.inputs[1:]] for u in group]
    stacked = [np.concatenate(column) for column in zip(*parts, strict=True)]
    names = [g.fresh("merged") for _ in stacked]
    merged = node("linear", (n.inputs[0], *names), g.fresh("v"), where=n.where)
    axis, start, cuts = len(g.shape(n.output)) - 1, 0, []
    for u in group:
        stop = start + g.constants[u.inputs[1]].shape[0]
        cuts.append(node("slice", (merged.output,), g.fresh("v"), where=u.where, axis=axis,
                         start=start, stop=stop))  # fmt: skip
        start = stop
    replaced = {u.output: c.output for u, c in zip(group, cuts, strict=True)}
    return Change(replaced, (merged, *cuts), dict(zip(names, stacked, strict=True)))


def _fixed(g: GraphView, name: str) -> bool:
    return g.array(name) is not None or positional(g, name)


def associate_constants(g: GraphView, n: Node) -> Change | None:
    """(x + a) + b, (x * a) * b with a, b known at compile time  ->  x + (a + b), x * (a * b)"""
    if n.op not in ("add", "mul"):
        return None
    for inner_name, b in (n.inputs, n.inputs[::-1]):
        inner = g.made_by(inner_name, n.op)
        if inner is None or not _fixed(g, b) or not g.only_used_by(inner_name, n):
            continue
        for x, a in (inner.inputs, inner.inputs[::-1]):
            if _fixed(g, a) and not _fixed(g, x):
                joined = node(n.op, (a, b), g.fresh("v"), where=n.where)
                outer = node(n.op, (x, joined.output), g.fresh("v"), where=n.where)
                return Change({n.output: outer.output}, (joined, outer))
    return None


def distribute(g: GraphView, n: Node) -> Change | None:
    """a * b + a * c  ->  a * (b + c)"""
    if n.op not in ("add", "sub"):
        return None
    left, right = (g.made_by(i, "mul") for i in n.inputs)
    if left is None or right is None or left is right:
        return None
    if not all(g.only_used_by(m.output, n) for m in (left, right)):
        return None
    for a, b in (left.inputs, left.inputs[::-1]):
        if a in right.inputs:
            c = right.inputs[1 - right.inputs.index(a)]
            inner = node(n.op, (b, c), g.fresh("v"), where=n.where)
            outer = node("mul", (a, inner.output), g.fresh("v"), where=n.where)
            return Change({n.output: outer.output}, (inner, outer))
    return None


CLEANUP = named(
    fold_constants,
    decide_compare,
    known_where,
    drop_identity,
    gather_known_rows,
    mask_to_bias,
    tabulate,
    find_select,
    matmul_to_linear,
    causal_attention,
)
ALGEBRA = CLEANUP + named(
    find_gelu,
    find_silu,
    find_norm,
    columns_into_norm,
    divide_by_constant,
    scale_past_matmul,
    join_reshapes,
    join_transposes,
    pointwise_past_transpose,
    pointwise_past_concat,
    slice_of_concat,
    split_past_transpose,
    transpose_past_merge,
    associate_constants,
    signs_past_concat,
    rotate_halves,
    biases_apart,
    scale_past_take_along_axis,
    scale_into_table,
    columns_into_weights,
    columns_past_residual,
    distribute,
    scale_into_weights,
    merge_linears,
    own_views,
    near_columns,
)
