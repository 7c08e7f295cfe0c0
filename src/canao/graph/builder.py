"""A graph that grows node by node: what both importers write into."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from canao.defaults import LIMITS, Limits
from canao.errors import InputError, UnsupportedError
from canao.graph.ir import Input, InputKind, Node, Type, constant_type, dim_at, node
from canao.graph.verify import MalformedGraph, infer

# Elements that no value has: sizes stay far from the limits of integers.
_HUGE = 1 << 60


class GraphBuilder(ABC):
    """Nodes, constants and inputs so far, and the type of every value, for sequences of at most
    `max_length` tokens. There are no more nodes than `limits` allow."""

    def __init__(self, max_length: int, limits: Limits = LIMITS) -> None:
        self.max_length, self.limits = max_length, limits
        self.constants: dict[str, np.ndarray] = {}
        self.nodes: list[Node] = []
        self.made: dict[str, Node] = {}  # the same, by what they make
        self.types: dict[str, Type] = {}
        self.inputs: list[Input] = []

    @abstractmethod
    def where(self) -> str:
        """The place in the source model that is being imported."""

    @abstractmethod
    def unsupported(self, what: str) -> UnsupportedError:
        """The error that says what of the operator being imported is not supported."""

    def emit(self, op: str, *inputs: str, **attributes: Any) -> str:
        """The name of the result of a new node; UnsupportedError if its operands don't fit."""
        require_nodes(len(self.nodes) + 1, self.limits)
        name = f"v{len(self.nodes)}"
        n = node(op, inputs, name, where=self.where(), **attributes)
        try:
            made = infer(n, [self.types[i] for i in inputs])
        except MalformedGraph as error:
            raise self.unsupported(f"operands of these shapes ({error})") from None
        if any(abs(dim_at(d, s)) > _HUGE for s in (1, self.max_length)
               for d in (made.elements, *made.shape)):  # fmt: skip
            raise self.unsupported("a result of more elements than can be counted")
        self.types[name], self.made[name] = made, n
        self.nodes.append(n)
        return name

    def constant(self, array: np.ndarray) -> str:
        """The name of a new constant."""
        name = f"c{len(self.constants)}"
        self.constants[name], self.types[name] = array, constant_type(array)
        return name

    def input(self, name: str, of: Type, kind: InputKind) -> str:
        """A new input of the graph; its name."""
        self.inputs.append(Input(name, of, kind))
        self.types[name] = of
        return name


def require_nodes(count: int, limits: Limits) -> None:
    """InputError if a graph of so many operators is larger than allowed."""
    if count > limits.nodes:
        raise InputError(
            f"the graph has more than {limits.nodes} operators; give a larger --max-nodes if that "
            "is meant"
        )
