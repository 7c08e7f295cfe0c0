"""Attention in whole numbers of 16 bits, beside products in int8.

Queries, keys and the shares of softmax have a scale for each row, values one for each channel, all
symmetric, from -2047 to 2047: 16 times finer than int8, since few large shares would else leave
nothing of many small ones. Sums are exact in int32 up to 512 keys, after which kernels go on in
float32. Instructions that add two products of 16 bits do twice as many in a time as those of
float32.
"""

from __future__ import annotations

from dataclasses import replace

from canao.fuse.forms.attention import Attention
from canao.fuse.group import Program
from canao.graph.ir import Graph

LEVELS = 2047
_DEEPEST = (2**31 - 1) // LEVELS**2  # elements of a head whose sums int32 holds


def in_whole_numbers(program: Program) -> Graph:
    """The program's graph with both products of each attention region in whole numbers; those that
    keep a cache, and those with larger heads, stay in float32."""
    chosen = {
        n.output
        for r in program.regions if isinstance(r.form, Attention) and _fits(r.form)
        for n in r.nodes if n.op == "matmul"
    }  # fmt: skip
    nodes = tuple(
        replace(n, attributes=(*n.attributes, ("levels", LEVELS))) if n.output in chosen else n
        for n in program.graph.nodes
    )
    return program.graph.replace(nodes=nodes)


def _fits(form: Attention) -> bool:
    depth = form.q.shape[-1]
    return not form.cached and isinstance(depth, int) and depth <= _DEEPEST
