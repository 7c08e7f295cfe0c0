"""Rewriting: named rules applied to a graph until none fires, with a log of what fired where."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from canao.graph.ir import Graph, Node, Shape, node
from canao.graph.verify import retype

# More firings than this on one graph mean rules that undo each other.
_LIMIT = 20_000
VIEWS = ("reshape", "transpose", "slice", "expand")
_NUMBERED = re.compile(r"\.(\d+)$")


class RuleCycle(AssertionError):
    """Two rules undo each other: a defect of CANAO."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a rule wants: new nodes and constants, and values that stand for old ones.

    New nodes are placed where the matched node stood; nodes left without users go away.
    """

    replace: Mapping[str, str]
    nodes: Sequence[Node] = ()
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rule:
    """A named rewrite. Its docstring shows it as  before  ->  after."""

    name: str
    rewrite: Callable[[View, Node], Change | None]

    @property
    def picture(self) -> str:
        return (self.rewrite.__doc__ or "").strip().splitlines()[0]


@dataclass(frozen=True, slots=True)
class Firing:
    """One line of the log."""

    rule: str
    value: str
    where: str


class View:
    """What rules see of a graph: producers, users, constants, shapes."""

    def __init__(self, graph: Graph, serial: int) -> None:
        self.graph = graph
        self.producer = graph.producers()
        self.users = graph.users()
        self.kept = graph.output_values()
        self.positions: Mapping[str, frozenset[tuple[int, ...]]] | None = None  # positions.py
        self._serial = serial

    def fresh(self, hint: str) -> str:
        """A name not used yet."""
        self._serial += 1
        return f"{hint}.{self._serial}"

    @property
    def serial(self) -> int:
        return self._serial

    def shape(self, name: str) -> Shape:
        return self.graph.types[name].shape

    def array(self, name: str) -> np.ndarray | None:
        """The constant called `name`, or None."""
        return self.graph.constants.get(name)

    def made_by(self, name: str, *ops: str) -> Node | None:
        """The node that makes `name`, if it is one of `ops`."""
        n = self.producer.get(name)
        return n if n is not None and n.op in ops else None

    def only_used_by(self, name: str, user: Node) -> bool:
        return self.users[name] == [user] and name not in self.kept


def apply(graph: Graph, rules: Sequence[Rule]) -> tuple[Graph, tuple[Firing, ...]]:
    """The graph after applying `rules`, in their order, until none fires; and the log.

    The rule that fired last goes first: in a deep model it fires in each layer.
    """
    log: list[Firing] = []
    last: tuple[Rule, ...] = ()
    # Names made by an earlier call must not be made again.
    serial = max((int(m[1]) for m in map(_NUMBERED.search, graph.types) if m), default=0)
    while True:
        view = View(graph, serial)
        found = _first(view, (*last, *rules))
        if found is None:
            return graph, tuple(log)
        rule, n, change = found
        last = (rule,)
        log.append(Firing(rule.name, n.output, n.where))
        if len(log) > _LIMIT:
            raise RuleCycle(f"rules fire without end, last {rule.name} at {n.output}")
        serial = view.serial
        graph = _changed(graph, n, change)


def shared(graph: Graph) -> Graph:
    """The graph with one constant in place of those that rules made alike for each layer."""
    first: dict[tuple[str, bytes], str] = {}
    renamed: dict[str, str] = {}
    for name, array in graph.constants.items():
        if _NUMBERED.search(name):
            content = hashlib.blake2b(np.ascontiguousarray(array).tobytes()).digest()
            renamed[name] = first.setdefault((str(graph.types[name]), content), name)
    nodes = tuple(
        Node(n.op, tuple(renamed.get(i, i) for i in n.inputs), n.output, n.attributes, n.where)
        for n in graph.nodes
    )
    outputs = tuple((name, renamed.get(value, value)) for name, value in graph.outputs)
    return retype(graph.replace(nodes=nodes, outputs=outputs))


def stored(graph: Graph) -> Graph:
    """The graph with a copy for each output that is an input or a constant, as it is or once
    rules have taken away all that was done to it: kernels store outputs, and callers read them."""
    made = graph.producers()
    copies = {value: f"copy of {value}" for _, value in graph.outputs if value not in made}
    nodes = [node("reshape", (value,), name, shape=graph.shape(value))
             for value, name in copies.items()]  # fmt: skip
    outputs = tuple((name, copies.get(value, value)) for name, value in graph.outputs)
    return retype(graph.replace(nodes=(*graph.nodes, *nodes), outputs=outputs))


def _first(view: View, rules: Sequence[Rule]) -> tuple[Rule, Node, Change] | None:
    for rule in rules:
        for n in view.graph.nodes:
            change = rule.rewrite(view, n)
            if change is not None:
                return rule, n, change
    return None


def _changed(graph: Graph, at: Node, change: Change) -> Graph:
    def renamed(name: str) -> str:
        return change.replace.get(name, name)

    nodes: list[Node] = []
    for n in graph.nodes:
        if n is at:
            nodes.extend(change.nodes)
        inputs = tuple(renamed(i) for i in n.inputs)
        nodes.append(
            n if inputs == n.inputs else Node(n.op, inputs, n.output, n.attributes, n.where)
        )
    outputs = tuple((name, renamed(value)) for name, value in graph.outputs)
    constants = {**graph.constants, **change.constants}
    return retype(graph.replace(nodes=tuple(nodes), outputs=outputs, constants=constants))
