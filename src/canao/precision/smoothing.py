"""Smoothing: channels of activations that are much larger than others are made less so.

A row is rounded by its largest magnitude, so that one channel which is a thousand times as large as
the others leaves these no levels. Such a channel is divided by a factor before it is rounded, and
the weights that read it are multiplied by the same: the product stays what it was (Xiao et al.
2022, "SmoothQuant", section 4, with a migration strength of 0.5). Factors are powers of two, so
that in float32 no bit of a result changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from canao.graph.interp import interpret
from canao.graph.ir import Graph, Node, node
from canao.graph.verify import retype
from canao.precision.quantize import quantizable

_UNEVEN = 4.0  # the largest factor over the usual one, from which on it is worth a multiplication
_MOST = 16  # binary orders of magnitude of a factor

Factors = Mapping[str, np.ndarray]
UNSMOOTHED: Factors = MappingProxyType({})


def factors(graph: Graph, texts: Sequence[Sequence[np.ndarray]]) -> Factors:
    """By what the channels of values are divided that products read, [k] for each value: the root
    of the largest magnitude of a channel in some texts over that of the weights that read it. Of
    values whose channels are about alike there are none."""
    read = _read(graph)
    largest = {x: np.zeros(graph.constants[of[0].inputs[1]].shape[1]) for x, of in read.items()}
    for given in texts:
        values = interpret(graph, given, np.float32)
        for x, top in largest.items():
            np.maximum(top, np.abs(values[x]).reshape(-1, len(top)).max(0), out=top)
    found = {x: _factor(top, [graph.constants[n.inputs[1]] for n in read[x]])
             for x, top in largest.items()}  # fmt: skip
    return {x: f for x, f in found.items() if f.max() >= _UNEVEN * np.median(f)}


def _factor(largest: np.ndarray, weights: Sequence[np.ndarray]) -> np.ndarray:
    read = np.max([np.abs(w).max(0) for w in weights], 0)
    usable = (largest > 0) & (read > 0) & np.isfinite(largest)
    with np.errstate(divide="ignore", invalid="ignore"):
        order = np.where(usable, 0.5 * np.log2(largest / read), np.nan)
    order = np.nan_to_num(order - np.nanmedian(order) if usable.any() else order)
    exponent = np.clip(np.rint(order), -_MOST, _MOST).astype(np.int32)
    return np.ldexp(np.float32(1), exponent)


def smoothed(graph: Graph, of: Factors) -> Graph:
    """A float32 graph whose products read values that are divided so. A norm that nothing but them
    reads gives its result divided; other values are multiplied by one over the factors."""
    if not of:
        return graph
    constants, nodes = dict(graph.constants), list[Node]()
    read, users, given_out = _read(graph), graph.users(), graph.output_values()
    products = {n.output: x for x in of for n in read[x]}
    for n in graph.nodes:
        if n.output in products:
            x, weight = products[n.output], n.inputs[1]
            constants[f"{weight}.smoothed"] = graph.constants[weight] * of[x]
            n = replace(n, inputs=(_divided(x), f"{weight}.smoothed", *n.inputs[2:]))
        if n.output not in of:
            nodes.append(n)
            continue
        x, inverse = n.output, 1 / of[n.output]
        alone = len(users[x]) == len(read[x]) and x not in given_out
        if alone and n.op == "layer_norm" and all(i in constants for i in n.inputs[1:]):
            names = tuple(f"{_divided(x)}.{i}" for i in n.inputs[1:])
            for name, i in zip(names, n.inputs[1:], strict=True):
                constants[name] = constants[i] * inverse
            nodes.append(replace(n, inputs=(n.inputs[0], *names), output=_divided(x)))
        else:
            constants[f"{x}.inverse"] = inverse
            nodes += [n, node("mul", (x, f"{x}.inverse"), _divided(x), where=n.where)]
    return retype(graph.replace(nodes=tuple(nodes), constants=constants))


def _divided(x: str) -> str:
    return f"{x}.smoothed"


def _read(graph: Graph) -> dict[str, list[Node]]:
    """Values that quantised products read, and these products; but for values of which weights are
    shared with what reads another value, such as a table of embeddings."""
    users, made, found = graph.users(), graph.producers(), dict[str, list[Node]]()
    for n in quantizable(graph):
        if n.op == "linear" and n.inputs[0] in made:
            found.setdefault(n.inputs[0], []).append(n)
    return {
        x: products for x, products in found.items()
        if all(set(u.inputs[:2]) == {x, n.inputs[1]} for n in products for u in users[n.inputs[1]])
    }  # fmt: skip
