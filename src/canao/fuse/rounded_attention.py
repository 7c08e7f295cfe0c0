"""Attention that multiplies bf16, where instructions multiply whole blocks of it.

With products of int8 or bf16 around it, attention in float32 would take most of the time of a long
text. Its two products then have an attribute `rounded`: what they read is rounded first, and sums
are float32's. Weights of values are rounded before they are divided by their sum, as kernels have
them: relative to the largest of their row (`of_largest`).
"""

from __future__ import annotations

from dataclasses import replace

from canao.fuse.forms.attention import Attention
from canao.fuse.group import Program
from canao.graph.dtypes import BF16, QUANTIZED
from canao.graph.ir import Graph, Node


def with_rounded_attention(program: Program) -> Graph:
    """The program's graph, whose attention multiplies bf16 if all that it multiplies comes of
    products in bf16 or int8; the graph itself where there is none. A decoder's stays as it is: it
    reads its cache."""
    graph = program.graph
    fewer = _of_fewer_bits(graph)
    changed = dict[str, Node]()
    for region in program.regions:
        form = region.form
        if isinstance(form, Attention) and not form.cached:
            scores, mix = (n for n in region.nodes if n.op == "matmul")
            if {*scores.inputs, mix.inputs[1]} <= fewer:
                changed[scores.output] = _with(scores, rounded=BF16)
                changed[mix.output] = _with(mix, rounded=BF16, of_largest=True)
    if not changed:
        return graph
    return graph.replace(nodes=tuple(changed.get(n.output, n) for n in graph.nodes))


def _with(n: Node, **attributes: object) -> Node:
    return replace(n, attributes=tuple(sorted({**dict(n.attributes), **attributes}.items())))


def _of_fewer_bits(graph: Graph) -> frozenset[str]:
    """Values all of whose products before them, back to the nearest, are in bf16 or int8."""
    found = dict[str, bool]()
    for n in graph.nodes:
        if n.op in ("linear", "quantized_linear"):
            found[n.output] = graph.types[n.inputs[0]].dtype in (BF16, *QUANTIZED)
        elif before := [found[i] for i in n.inputs if i in found]:
            found[n.output] = all(before)
    return frozenset(name for name, fewer in found.items() if fewer)
