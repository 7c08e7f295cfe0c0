"""A graph that grows node by node: what both importers write into."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from canao.errors import UnsupportedError
from canao.graph.ir import Input, InputKind, Node, Type, constant_type, node
from canao.graph.verify import MalformedGraph, infer


class GraphBuilder(ABC):
    """Nodes, constants and inputs so far, and the type of every value."""

    def __init__(self) -> None:
        self.constants: dict[str, np.ndarray] = {}
        self.nodes: list[Node] = []
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
        name = f"v{len(self.nodes)}"
        n = node(op, inputs, name, where=self.where(), **attributes)
        try:
            self.types[name] = infer(n, [self.types[i] for i in inputs])
        except MalformedGraph as error:
            raise self.unsupported(f"operands of these shapes ({error})") from None
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
