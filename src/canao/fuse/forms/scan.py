"""Whole numbers of the tokens, computed one after another: positions that skip padding.

The position of a token is then the number of tokens before it that are no padding, a running sum.
A sequence has few tokens, so one thread computes them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from canao.graph.dtypes import F32
from canao.graph.ir import Dim, Graph, Node, product
from canao.graph.ops import OPS


@dataclass(frozen=True, slots=True)
class Scan:
    """`body` on each of `length` elements in their order. `operands` says what each value read is:
    the name of a value of as many elements, or a number."""

    length: Dim
    body: tuple[Node, ...]
    operands: Mapping[str, str | int]
    output: str


def scan_form(graph: Graph, nodes: Sequence[Node], output: str) -> Scan | None:
    """The Scan form, if every node computes whole numbers or truths of the tokens, one by one."""
    length = graph.types[output].elements
    operands: dict[str, str | int] = {}
    for n in nodes:
        t = graph.types[n.output]
        rows = product(t.shape[:-1])
        if t.dtype == F32 or t.elements != length or (n.op == "cumsum" and rows != 1):
            return None
        if OPS[n.op].view and n.op != "reshape":
            return None
        if not OPS[n.op].whole and n.op not in ("cumsum", "reshape"):
            return None
        for name in n.inputs:
            if name not in operands:
                known = _operand(graph, name, length)
                if known is None:
                    return None
                operands[name] = known
    return Scan(length, tuple(nodes), operands, output)


def _operand(graph: Graph, name: str, length: Dim) -> str | int | None:
    array = graph.constants.get(name)
    if graph.types[name].dtype == F32:
        return None
    if array is not None:
        return int(array.reshape(())) if array.size == 1 else None
    return name if graph.types[name].elements == length else None
