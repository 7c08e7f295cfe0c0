"""int8: products of float32 by constants become products of whole numbers, exact in int32.

Activations are quantised as they come, a scale for each token; weights once, a scale for each
output channel; both are symmetric, from -127 to 127. Nothing is calibrated. What is around the
products stays in float32: bias, norms, softmax, residuals.

Left in float32 is what costs little and decides much: products of few rows, whatever the length, as
a pooler's and a classifier's of one token, and those that the model gives out, as a head's are.

Embeddings that are looked up and nothing else lie in int8 as well, a scale for each row.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from canao.defaults import PRECISION
from canao.errors import InputError
from canao.graph.ir import Graph, Node, Poly, node
from canao.graph.meanings import LEVELS
from canao.graph.ops import OPS
from canao.graph.verify import retype

FLOAT32, INT8 = PRECISION, "int8"
PRECISIONS = (FLOAT32, INT8)
_LARGE = 1 << 16  # elements of a table that is worth it
_DEEPEST = (2**31 - 1) // LEVELS**2  # products whose sums int32 holds, whatever the numbers


def quantizable(graph: Graph) -> tuple[Node, ...]:
    """What of a float32 graph int8 is for, in its order: products, and look-ups in large tables."""
    given_out, tables = _given_out(graph), _tables(graph)
    return tuple(
        n for n in graph.nodes
        if (n.op == "gather" and n.inputs[0] in tables)
        or (n.op == "linear" and n.output not in given_out and _worthwhile(graph, n))
    )  # fmt: skip


def quantized(graph: Graph, kept: Collection[str] = ()) -> Graph:
    """The graph in int8, but for what stays in float32: what `quantizable` leaves out, and those
    nodes whose results are named by `kept`."""
    return _rewritten(graph, {n.output for n in quantizable(graph)}.difference(kept))


def with_one(graph: Graph, name: str) -> Graph:
    """The graph with one of its nodes in int8, and nothing else."""
    return _rewritten(graph, {name})


def _rewritten(graph: Graph, chosen: Collection[str]) -> Graph:
    constants, nodes = dict(graph.constants), list[Node]()
    rows: dict[str, str] = {}  # value -> the same, quantised
    for n in graph.nodes:
        if n.op == "gather" and n.output in chosen:
            table, ids = n.inputs
            levels, scales = f"{table}.i8", f"{table}.scales"
            if levels not in constants:
                constants[levels], units = channels(graph.constants[table])
                constants[scales] = units[:, None]
            nodes.append(node("quantized_gather", (levels, scales, ids), n.output, where=n.where))
            continue
        if n.output not in chosen:
            nodes.append(n)
            continue
        x, weight, *bias = n.inputs
        if x not in rows:
            rows[x] = f"{x}.q8"
            nodes.append(node("quantize", (x,), rows[x], where=n.where))
        levels, scales = f"{weight}.i8", f"{weight}.scales"
        if levels not in constants:
            constants[levels], constants[scales] = channels(graph.constants[weight])
        operands = (rows[x], levels, scales, *bias)
        nodes.append(node("quantized_linear", operands, n.output, where=n.where))
    return retype(graph.replace(nodes=tuple(nodes), constants=constants))


def channels(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[n, k] as int8 of [n, k] and float32 scales [n]: each row over its largest magnitude / 127,
    rounded half to even. A row of zeros has the scale 0."""
    top = np.abs(weight).max(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        levels = np.where(top[:, None] > 0, np.rint(weight / top[:, None] * LEVELS), 0)
    return levels.astype(np.int8), (top / np.float32(LEVELS)).astype(np.float32)


def _tables(graph: Graph) -> frozenset[str]:
    """Tables that rows are looked up in and nothing else reads, if they are large."""
    users = graph.users()
    return frozenset(
        name for name, array in graph.constants.items()
        if array.dtype == np.float32 and array.ndim == 2 and array.size >= _LARGE
        and all(u.op == "gather" and name not in u.inputs[1:] for u in users[name])
    )  # fmt: skip


def _worthwhile(graph: Graph, n: Node) -> bool:
    """Whether a product's rows grow with the text, its weights are known, and its sums fit."""
    x, *weights = n.inputs
    shape = graph.shape(x)
    grows = any(isinstance(d, Poly) for d in shape[:-1])
    known = all(name in graph.constants for name in weights)
    depth = shape[-1]
    fits = isinstance(depth, int) and depth <= _DEEPEST
    return grows and known and fits and x not in graph.constants


def _given_out(graph: Graph) -> frozenset[str]:
    """The values that are outputs, or of which outputs are views."""
    made, found = graph.producers(), set[str]()
    waiting = list(graph.output_values())
    while waiting:
        name = waiting.pop()
        found.add(name)
        n = made.get(name)
        if n is not None and OPS[n.op].view:
            waiting.append(n.inputs[0])
    return frozenset(found)


def in_precision(graph: Graph, precision: str, kept: Collection[str] = ()) -> Graph:
    """A float32 graph with its products in a precision, but for those in `kept`."""
    return quantized(graph, kept) if precision == INT8 else graph


def check_precision(name: str) -> None:
    """InputError if there is no such precision."""
    if name not in PRECISIONS:
        raise InputError(f"precision '{name}' is not one of {', '.join(PRECISIONS)}")
