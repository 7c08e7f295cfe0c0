"""The verifier: is a graph well formed? Run after every pass in tests and after import."""

from __future__ import annotations

from collections.abc import Sequence

from canao.graph.ir import Graph, Node, Type, constant_type
from canao.graph.ops import OPS
from canao.graph.shapes import ShapeError


class MalformedGraph(AssertionError):
    """A pass broke the graph: a defect of CANAO, not of the user's model."""


def infer(n: Node, types: Sequence[Type]) -> Type:
    """Type of a node's output by the op table; MalformedGraph if its operands don't fit."""
    row = OPS.get(n.op)
    if row is None or len(types) not in row.arity:
        raise MalformedGraph(f"{n.output}: no op {n.op} of {len(types)} operands")
    try:
        return row.shape(types, dict(n.attributes))
    except ShapeError as error:
        raise MalformedGraph(f"{n.output}: {error}") from None


def verify(graph: Graph) -> Graph:
    """The graph itself, if every name is defined once before its use and every type is right."""
    defined = {i.name: i.type for i in graph.inputs}
    for name, array in graph.constants.items():
        if name in defined:
            raise MalformedGraph(f"{name}: defined twice")
        defined[name] = constant_type(array)
    for n in graph.nodes:
        if n.output in defined:
            raise MalformedGraph(f"{n.output}: defined twice")
        missing = [name for name in n.inputs if name not in defined]
        if missing:
            raise MalformedGraph(f"{n.output}: reads {missing[0]} before it is defined")
        defined[n.output] = infer(n, [defined[name] for name in n.inputs])
    for _, value in graph.outputs:
        if value not in defined:
            raise MalformedGraph(f"output {value} is never defined")
    if dict(graph.types) != defined:
        wrong = [k for k in {*defined, *graph.types} if defined.get(k) != graph.types.get(k)]
        raise MalformedGraph(f"{sorted(wrong)[0]}: recorded type differs from the op table's")
    return graph


def retype(graph: Graph) -> Graph:
    """The graph with its types inferred anew and what no output needs left out."""
    needed = set(graph.output_values())
    kept: list[Node] = []
    for n in reversed(graph.nodes):
        if n.output in needed:
            kept.append(n)
            needed.update(n.inputs)
    types = {i.name: i.type for i in graph.inputs}
    constants = {k: v for k, v in graph.constants.items() if k in needed}
    types.update({k: constant_type(v) for k, v in constants.items()})
    for n in reversed(kept):
        types[n.output] = infer(n, [types[name] for name in n.inputs])
    return graph.replace(nodes=tuple(reversed(kept)), constants=constants, types=types)
