"""Deterministic text form of a graph, one line a node."""

from __future__ import annotations

from typing import Any

from canao.graph.dtypes import DType
from canao.graph.ir import Graph, Node, Poly


def format_graph(graph: Graph) -> str:
    """The graph as text; constants by name and type only."""
    lines = [f"graph(max_length={graph.max_length}) {{"]
    lines += [f"  input {i.name}: {i.type}" for i in graph.inputs]
    lines += [f"  const {name}: {graph.types[name]}" for name in sorted(graph.constants)]
    lines += [f"  {format_node(graph, n)}" for n in graph.nodes]
    lines += [f"  output {name} = {value}" for name, value in graph.outputs]
    return "\n".join([*lines, "}", ""])


def format_node(graph: Graph, n: Node) -> str:
    attributes = ", ".join(f"{k}={_format(v)}" for k, v in n.attributes)
    tail = f" {{{attributes}}}" if attributes else ""
    return f"{n.output}: {graph.types[n.output]} = {n.op}({', '.join(n.inputs)}){tail}"


def _format(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_format(v) for v in value) + "]"
    if isinstance(value, DType):
        return repr(value.name)
    return str(value) if isinstance(value, Poly) else repr(value)
