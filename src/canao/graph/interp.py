"""The oracle: runs a graph node by node with NumPy, in float64 unless told otherwise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from canao.graph.ir import FLOATS, Graph
from canao.graph.ops import OPS


def interpret(
    graph: Graph, inputs: Sequence[np.ndarray], dtype: type[np.floating] = np.float64
) -> dict[str, np.ndarray]:
    """Every value of the graph for int inputs of shape [tokens] or float tensors, by name."""
    s = next((len(a) for a, i in zip(inputs, graph.inputs, strict=True) if i.limit != FLOATS), 1)
    values: dict[str, np.ndarray] = {}
    for slot, array in zip(graph.inputs, inputs, strict=True):
        floats = slot.limit == FLOATS
        values[slot.name] = (
            np.asarray(array, dtype) if floats else np.asarray(array).reshape(1, s)
        )
    for name, array in graph.constants.items():
        values[name] = array.astype(dtype) if array.dtype == np.float32 else array
    for n in graph.nodes:
        attributes = dict(n.attributes) | {"s": s}
        values[n.output] = OPS[n.op].meaning([values[i] for i in n.inputs], attributes)
    return values


def outputs(graph: Graph, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The graph's outputs in order."""
    values = interpret(graph, inputs)
    return [values[value] for _, value in graph.outputs]
