"""Rewriting: named rules applied to a graph until none fires, with a log of what fired where."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from canao.defaults import LIMITS, Limits
from canao.fuse.forms.attention import ScorePaths
from canao.graph.ir import Graph, Node, Shape, constant_type, node
from canao.graph.verify import infer, retype

# More firings than this on one graph, and for each node of it, mean rules that undo each other.
_FIRINGS, _FIRINGS_OF_A_NODE = 20_000, 10
# A constant's elements have four bytes, and are computed in twice as many.
_ELEMENT_BYTES = 8
_NUMBERED = re.compile(r"\.(\d+)$")


class RewriteCycle(AssertionError):
    """Two rules undo each other: a defect of CANAO."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a rule wants: new nodes and constants, and which value replaces which.

    New nodes are placed before the matched node; nodes that are left without users are removed.
    """

    replace: Mapping[str, str]
    nodes: Sequence[Node] = ()
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A rewrite rule: what it wants to change at a node, None where it does not match. The
    docstring of `propose` shows it as  before  ->  after."""

    name: str
    propose: Callable[[GraphView, Node], Change | None]


def named(*rules: Callable[[GraphView, Node], Change | None]) -> tuple[Rewrite, ...]:
    """Rewrites called as the functions that propose them."""
    return tuple(Rewrite(rule.__name__, rule) for rule in rules)


@dataclass(frozen=True, slots=True)
class Firing:
    """One line of the log."""

    rule: str
    value: str
    where: str


class GraphView:
    """A graph as rules read it, by producers, users, constants and types. `change` edits it in
    place, and only where a rule fired: a firing costs the same in a deep model as in a shallow
    one."""

    def __init__(self, graph: Graph, serial: int, limits: Limits = LIMITS) -> None:
        self.max_length = graph.max_length
        self.types, self.constants = dict(graph.types), dict(graph.constants)
        self.producer, self.users = graph.producers(), graph.users()
        self.kept = graph.output_values()
        self.positions: Mapping[str, frozenset[tuple[int, ...]]] | None = None  # positions.py
        self._scores: ScorePaths | None = None
        self._bytes = sum(a.nbytes for a in graph.constants.values())
        self._most_bytes = self._bytes + limits.constants
        self._graph: Graph | None = graph
        self._source, self._outputs = graph, graph.outputs
        self._order = [n.output for n in graph.nodes]
        self._nodes: Sequence[Node] = graph.nodes
        self._unread = list(self.types)
        self._serial = serial

    def fresh(self, hint: str) -> str:
        """A name not used yet."""
        self._serial += 1
        return f"{hint}.{self._serial}"

    def shape(self, name: str) -> Shape:
        return self.types[name].shape

    def array(self, name: str) -> np.ndarray | None:
        """The constant called `name`, or None."""
        return self.constants.get(name)

    def scalar(self, name: str) -> float | None:
        """The number that the constant `name` holds; None if it is no constant of one element."""
        array = self.array(name)
        return float(array.reshape(())) if array is not None and array.size == 1 else None

    def room_for(self, elements: float) -> bool:
        """Whether constants may grow by so many elements. A rule asks before it computes any that
        are larger than those that they replace."""
        return self._bytes + elements * _ELEMENT_BYTES <= self._most_bytes

    def made_by(self, name: str, *ops: str) -> Node | None:
        """The node that makes `name`, if it is one of `ops`."""
        n = self.producer.get(name)
        return n if n is not None and n.op in ops else None

    def only_used_by(self, name: str, user: Node) -> bool:
        return self.users[name] == [user] and name not in self.kept

    @property
    def nodes(self) -> Sequence[Node]:
        """All nodes, in execution order."""
        return self._nodes

    @property
    def scores(self) -> ScorePaths:
        """Which values are scores of attention."""
        if self._scores is None:
            self._scores = ScorePaths(self._nodes)
        return self._scores

    @property
    def graph(self) -> Graph:
        """The graph as it is now."""
        if self._graph is None:
            self._graph = self._source.replace(
                nodes=tuple(self._nodes), outputs=self._outputs, constants=self.constants,
                types=self.types,
            )  # fmt: skip
        return self._graph

    def change(self, at: Node, change: Change) -> None:
        """Carry out what a rule wants at the node `at`."""
        self._graph = self.positions = self._scores = None
        readers = dict.fromkeys(u.output for old in change.replace for u in self.users[old])
        moved = set(self._define(at, change))
        for name in readers:
            moved |= self._rename(self.producer[name], change.replace)
        outputs = tuple((name, change.replace.get(v, v)) for name, v in self._outputs)
        if outputs != self._outputs:
            self._outputs, self.kept = outputs, frozenset(v for _, v in outputs)
        self._sweep([*self._unread, *change.replace, *change.constants,
                     *(n.output for n in change.nodes)])  # fmt: skip
        self._unread = []
        self._nodes = [self.producer[name] for name in self._order]
        if any(self.types.get(old, self.types[new]) != self.types[new]
               for old, new in change.replace.items()):  # fmt: skip
            for n in self._nodes:
                self.types[n.output] = infer(n, [self.types[i] for i in n.inputs])
        self._sort(name for name in moved if len(self.users.get(name, ())) > 1)

    def _define(self, at: Node, change: Change) -> Iterator[str]:
        """Add the new constants, and the new nodes before `at`; the names that these read."""
        for name, array in change.constants.items():
            self.constants[name], self.types[name] = array, constant_type(array)
            self.users.setdefault(name, [])
            self._bytes += array.nbytes
        place = self._order.index(at.output)
        self._order[place:place] = [n.output for n in change.nodes]
        for n in change.nodes:
            self.types[n.output] = infer(n, [self.types[i] for i in n.inputs])
            self.producer[n.output] = n
            self.users.setdefault(n.output, [])
            for name in dict.fromkeys(n.inputs):
                self.users[name].append(n)
                yield name

    def _rename(self, n: Node, replace: Mapping[str, str]) -> set[str]:
        """Make n read other values; the names of all that it reads then."""
        inputs = tuple(replace.get(i, i) for i in n.inputs)
        new = Node(n.op, inputs, n.output, n.attributes, n.where)
        self._forget(n)
        self.producer[n.output] = new
        for name in set(inputs):
            self.users[name].append(new)
        return set(inputs)

    def _forget(self, n: Node) -> None:
        for name in set(n.inputs):
            self.users[name] = [u for u in self.users[name] if u.output != n.output]

    def _sweep(self, unread: list[str]) -> None:
        """Remove those of `unread` that nothing reads, and what was there for them only."""
        dead = set()
        while unread:
            name = unread.pop()
            if name in self.kept or self.users.get(name, True):
                continue
            n = self.producer.pop(name, None)
            if n is not None:
                dead.add(name)
                self._forget(n)
                unread += n.inputs
            elif name in self.constants:
                self._bytes -= self.constants.pop(name).nbytes
            else:
                continue  # an input of the model
            del self.types[name], self.users[name]
        if dead:
            self._order = [name for name in self._order if name not in dead]

    def _sort(self, names: Iterable[str]) -> None:
        """Bring the users of each value into execution order."""
        place = {name: i for i, name in enumerate(self._order)}
        for name in names:
            self.users[name].sort(key=lambda n: place[n.output])


def apply(
    graph: Graph, rules: Sequence[Rewrite], limits: Limits = LIMITS
) -> tuple[Graph, tuple[Firing, ...]]:
    """The graph after applying `rules`, in their order, until none fires; and the log.

    The rule that fired last goes first: in a deep model it fires in each layer. Constants grow by
    what `limits` allow at most.
    """
    log: list[Firing] = []
    last: tuple[Rewrite, ...] = ()
    # Names made by an earlier call must not be made again.
    serial = max((int(m[1]) for m in map(_NUMBERED.search, graph.types) if m), default=0)
    g, most = GraphView(graph, serial, limits), _FIRINGS + _FIRINGS_OF_A_NODE * len(graph.nodes)
    while True:
        found = _first(g, (*last, *rules))
        if found is None:
            return (retype(g.graph) if log else graph), tuple(log)
        rule, n, change = found
        last = (rule,)
        log.append(Firing(rule.name, n.output, n.where))
        if len(log) > most:
            raise RewriteCycle(f"rules fire without end, last {rule.name} at {n.output}")
        g.change(n, change)


def shared(graph: Graph) -> Graph:
    """The graph with one constant in place of equal ones that rules made, one for each layer."""
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
    """The graph with a copy for each output that is an input or a constant: callers read outputs
    where kernels have stored them. Rules may have removed all that a model does to such a value."""
    made = graph.producers()
    copies = {value: f"copy of {value}" for _, value in graph.outputs if value not in made}
    nodes = [node("reshape", (value,), name, shape=graph.shape(value))
             for value, name in copies.items()]  # fmt: skip
    outputs = tuple((name, copies.get(value, value)) for name, value in graph.outputs)
    return retype(graph.replace(nodes=(*graph.nodes, *nodes), outputs=outputs))


def _first(g: GraphView, rules: Sequence[Rewrite]) -> tuple[Rewrite, Node, Change] | None:
    for rule in rules:
        for n in g.nodes:
            change = rule.propose(g, n)
            if change is not None:
                return rule, n, change
    return None
