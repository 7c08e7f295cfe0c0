"""Whether a sequence can be run piece by piece, and the graph that does it.

It can where only causal attention mixes tokens: the results of new tokens then depend on these and
on the keys and values of earlier tokens, which attention caches. A table that is read in the order
of the tokens, as learned positions are, is then read from the first new token's position on.
"""

from __future__ import annotations

import numpy as np

from canao.graph.dtypes import I32
from canao.graph.ir import TOKENS, Graph, Input, Node, Positions, Shape, Type, node, product
from canao.graph.ops import OPS
from canao.graph.verify import retype

POSITIONS = "positions"
_BY_ROW = ("linear", "quantized_linear", "rows_of_levels", "layer_norm", "softmax", "reduce_sum",
           "reduce_mean", "reduce_max")


class _Mixes(Exception):
    """A node mixes tokens, or reads or stores them other than one after another."""


def resuming(graph: Graph) -> Graph:
    """The graph that continues sequences, if it has causal attention and can; else itself."""
    if all(n.op != "causal_attention" for n in graph.nodes):
        return graph
    try:
        return _Follower(graph).continued()
    except _Mixes:
        return graph


class _Follower:
    """Follows the dimension of the tokens through a graph, from the inputs on.

    axis[name] is that dimension's place in a value, None where the value is the same at all
    lengths. Every other value has it exactly once.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.axis: dict[str, int | None] = dict.fromkeys(graph.constants)
        self.axis.update({i.name: _place(i.type.shape) for i in graph.inputs})
        self.nodes: list[Node] = []
        self.tables: dict[str, np.ndarray] = {}

    def continued(self) -> Graph:
        for n in self.graph.nodes:
            if n.op == "slice" and n.inputs[0] in self.graph.constants and self._grows(n):
                self._read_from_position(n)
            else:
                self.nodes.append(n)
            self.axis[n.output] = self._follow(n)
        for _, value in self.graph.outputs:
            axis, shape = self.axis[value], self.graph.shape(value)
            if axis is None or product(shape[:axis]) != 1:
                raise _Mixes
        inputs = self.graph.inputs
        if self.tables:
            inputs = (*inputs, Input(POSITIONS, Type(I32, (1, TOKENS)), Positions()))
        return retype(
            self.graph.replace(
                inputs=inputs, nodes=tuple(self.nodes), resumes=True,
                constants={**self.graph.constants, **self.tables},
            )
        )  # fmt: skip

    def _grows(self, n: Node) -> bool:
        return any(not isinstance(d, int) for d in self.graph.shape(n.output))

    def _read_from_position(self, n: Node) -> None:
        """slice(rows, 0, s)  ->  gather(rows, positions)"""
        shape, rows = self.graph.shape(n.output), self.graph.constants[n.inputs[0]]
        axis = n.attribute("axis")
        if n.attribute("start") != 0 or axis != len(shape) - 2 or product(shape[:axis]) != 1:
            raise _Mixes
        table = f"{n.output}.rows"
        self.tables[table] = rows.reshape(rows.shape[axis:])
        whole = len(shape) == 3
        read = n.output if whole else f"{n.output}.read"
        self.nodes.append(node("gather", (table, POSITIONS), read, where=n.where))
        if not whole:
            self.nodes.append(node("reshape", (read,), n.output, where=n.where, shape=shape))

    def _follow(self, n: Node) -> int | None:
        """The place of the tokens' dimension in the result; _Mixes if an element depends on other
        tokens than its own."""
        shape = self.graph.shape(n.output)
        place = _place(shape)
        axes = [self.axis[i] for i in n.inputs]
        sizes = [len(self.graph.shape(i)) for i in n.inputs]
        if OPS[n.op].pointwise or n.op == "expand":
            # Counted from the last dimension, as broadcasting does.
            kept = all(
                a is None or (place is not None and a - size == place - len(shape))
                for a, size in zip(axes, sizes, strict=True)
            )
            # A constant spread over the tokens is the same at each of them.
            alike = n.op == "expand" or place is None or any(a is not None for a in axes)
        elif n.op in _BY_ROW:
            kept, alike = place == axes[0] and not any(a is not None for a in axes[1:]), True
            kept = kept and (place is None or axes[0] != sizes[0] - 1)
        else:
            kept, alike = self._kept(n, axes, place), True
        if not kept or not alike:
            raise _Mixes
        return place

    def _kept(self, n: Node, axes: list[int | None], place: int | None) -> bool:
        shape = self.graph.shape(n.inputs[0]) if n.inputs else ()
        if n.op == "causal_attention":
            return all(a == place == len(shape) - 2 for a in axes)
        if n.op in ("gather", "quantized_gather"):
            return axes[-1] == place and not any(a is not None for a in axes[:-1])
        if n.op == "transpose":
            return place is None or n.attribute("perm")[place] == axes[0]
        if n.op == "reshape":
            after = self.graph.shape(n.output)
            return place is None or (
                axes[0] is not None and product(shape[: axes[0]]) == product(after[:place])
            )
        if n.op == "slice":
            return n.inputs[0] in self.graph.constants or (
                axes[0] == place and n.attribute("axis") != place
            )
        if n.op == "concat":
            return n.attribute("axis") != place and all(a == place for a in axes)
        return False


def _place(shape: Shape) -> int | None:
    """The place of the tokens' dimension; None where nothing depends on their count."""
    varying = [i for i, d in enumerate(shape) if not isinstance(d, int)]
    if len(varying) > 1 or any(shape[i] != TOKENS for i in varying):
        raise _Mixes
    return varying[0] if varying else None
