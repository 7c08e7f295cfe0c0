"""The oracle: runs a graph node by node with NumPy, in float64 unless told otherwise.

A graph that resumes runs a sequence piece by piece with a `cache`, at first an empty dictionary: it
holds keys and values of each attention, and with them the count of tokens that came before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from canao.graph.ir import Graph, Ids, Node, Tensor, shape_at
from canao.graph.ops import OPS

Cache = dict[str, list[np.ndarray]]


def interpret(
    graph: Graph,
    inputs: Sequence[np.ndarray],
    dtype: type[np.floating] = np.float64,
    cache: Cache | None = None,
) -> dict[str, np.ndarray]:
    """Every value of the graph for int inputs of shape [tokens] or float tensors, by name.

    NumPy says nothing of what overflows or is not a number: who asks for the values looks at them.
    """
    cache = {} if cache is None else cache
    given = [i for i in graph.inputs if i.given]
    s = next((len(a) for a, i in zip(inputs, given, strict=True) if isinstance(i.kind, Ids)), 1)
    past = next((keys.shape[-2] for keys, _ in cache.values()), 0)
    values: dict[str, np.ndarray] = {}
    for slot, array in zip(given, inputs, strict=True):
        floats = isinstance(slot.kind, Tensor)
        values[slot.name] = (
            np.asarray(array, dtype) if floats else np.asarray(array).reshape(1, s)
        )
    for slot in graph.inputs:
        if not slot.given:
            values[slot.name] = np.arange(past, past + s).reshape(shape_at(slot.type.shape, s))
    for name, array in graph.constants.items():
        values[name] = array.astype(dtype, copy=False) if array.dtype == np.float32 else array
    with np.errstate(all="ignore"):
        for n in graph.nodes:
            attributes = dict(n.attributes) | {"s": s}
            operands = [values[i] for i in n.inputs]
            if n.op == "causal_attention":
                operands = _remembered(n, operands, cache)
            values[n.output] = OPS[n.op].meaning(operands, attributes)
    return values


def _remembered(n: Node, operands: list[np.ndarray], cache: Cache) -> list[np.ndarray]:
    """Queries, and the keys and values of all tokens so far."""
    q, *new = operands
    before = cache.get(n.output, [x[..., :0, :] for x in new])
    cache[n.output] = [np.concatenate(pair, -2) for pair in zip(before, new, strict=True)]
    return [q, *cache[n.output]]


def outputs(graph: Graph, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The graph's outputs in order."""
    values = interpret(graph, inputs)
    return [values[value] for _, value in graph.outputs]
