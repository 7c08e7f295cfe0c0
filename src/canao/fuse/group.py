"""Operator fusion: Graph -> Program of regions, each one kernel.

The planner of DNNFusion (PLDI 2021, Listing 1): seeds are one-to-one ops, smallest result first;
a block grows to its successors, then to its predecessors, as the table of mapping types allows.
Four things are added. A merge must have a form (a kernel that computes it), and must stay
convex. A RED cell is allowed where the form is a schedule by tiles. Blocks that hold no
one-to-one op grow too, after all seeds. A block may have a second result, narrow rows, as products
read what a norm makes, where a residual connection reads it in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from canao.errors import UnsupportedError
from canao.fuse.forms.attention import ScorePaths
from canao.fuse.forms.form import Form, form_of
from canao.fuse.yellow_cells import YellowCellPolicy
from canao.graph.dtypes import NARROW
from canao.graph.ir import Graph, Node, dim_at
from canao.graph.ops import (
    MANY_TO_MANY,
    ONE_TO_MANY,
    ONE_TO_ONE,
    OPS,
    REORGANIZE,
    SHUFFLE,
    mapping_type,
)

GREEN, YELLOW, RED = "green", "yellow", "red"
_O, _N, _M, _R, _S = ONE_TO_ONE, ONE_TO_MANY, MANY_TO_MANY, REORGANIZE, SHUFFLE
# (producer, consumer) -> (type of the block, colour): DNNFusion, Table 3.
TABLE = {
    (_O, _O): (_O, GREEN), (_O, _N): (_N, GREEN), (_O, _M): (_M, GREEN),
    (_O, _R): (_R, GREEN), (_O, _S): (_S, GREEN),
    (_N, _O): (_N, GREEN), (_N, _N): (_N, YELLOW), (_N, _M): (_M, RED),
    (_N, _R): (_N, YELLOW), (_N, _S): (_N, YELLOW),
    (_M, _O): (_M, GREEN), (_M, _N): (_M, YELLOW), (_M, _M): (_M, RED),
    (_M, _R): (_M, YELLOW), (_M, _S): (_M, YELLOW),
    (_R, _O): (_R, GREEN), (_R, _N): (_N, YELLOW), (_R, _M): (_M, YELLOW),
    (_R, _R): (_R, GREEN), (_R, _S): (_R, GREEN),
    (_S, _O): (_S, GREEN), (_S, _N): (_N, YELLOW), (_S, _M): (_M, YELLOW),
    (_S, _R): (_R, GREEN), (_S, _S): (_S, GREEN),
}  # fmt: skip
# Nodes of a region at most: more would be a function without end, whose form takes long to find.
_MOST_NODES = 128
# Sizes are compared at this many tokens when seeds are ordered.
_NOMINAL_TOKENS = 128

# Whether a backend has a kernel for a form.
Legal = Callable[[Graph, Form], bool]
# Whether a node of a form that the backend has no kernel for runs on the CPU beside it.
Apart = Callable[[Graph, Node, Form], bool]
# The output of a region, and what is beside it or ''.
Results = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Region:
    """Nodes that run as one kernel: `form` says how, `output` is the value it stores. `beside` is
    one of narrow rows that it stores as well, made of the rows that the output has, or ''. `apart`:
    the backend has no kernel for it, and the CPU runs it."""

    nodes: tuple[Node, ...]
    output: str
    form: Form
    mapping: str
    beside: str = ""
    apart: bool = False

    @property
    def outputs(self) -> tuple[str, ...]:
        """All values that it stores."""
        return (self.output, self.beside) if self.beside else (self.output,)

    @property
    def made_of(self) -> tuple[Node, ...]:
        """The nodes up to the one that makes the output: what follows makes what is beside it."""
        made = next(i for i, n in enumerate(self.nodes) if n.output == self.output)
        return self.nodes[: made + 1] if self.beside else self.nodes

    @property
    def ops(self) -> tuple[str, ...]:
        return tuple(n.op for n in self.nodes)


@dataclass(frozen=True, slots=True)
class Merge:
    """One line of the planner's log: what was tried, under which cell, and what came of it."""

    producer: str
    consumer: str
    cell: str
    result: str


@dataclass(frozen=True, slots=True)
class Program:
    """A graph cut into regions, in an order in which they can run."""

    graph: Graph
    regions: tuple[Region, ...]
    log: tuple[Merge, ...] = ()


@dataclass(slots=True, eq=False)
class _Block:
    nodes: list[Node]
    mapping: str
    tried: bool = False


def unfused(graph: Graph, legal: Legal, apart: Apart | None = None) -> Program:
    """One region for each node: the baseline that fusion is compared with."""
    return Program(graph, tuple(_region(graph, legal, apart, [n], (n.output, ""), m)
                                for n, m in _mappings(graph)))  # fmt: skip


def fuse(
    graph: Graph, legal: Legal, yellow_cells: YellowCellPolicy, apart: Apart | None = None
) -> Program:
    """The graph's regions after operator fusion, each of a form that is `legal` on the backend.
    `yellow_cells` is a policy of fuse/yellow_cells.py. A node that is in no such region is one by
    itself where the CPU may run it `apart`; UnsupportedError names one that nothing runs."""
    return _Planner(graph, legal, yellow_cells, apart).program()


def _mappings(graph: Graph) -> Iterator[tuple[Node, str]]:
    """Each node with its mapping type. Constants, and views of them, count as weights."""
    fixed = set(graph.constants)
    for n in graph.nodes:
        weights = [i in fixed for i in n.inputs]
        types = [graph.types[i] for i in n.inputs]
        if OPS[n.op].view and all(weights):
            fixed.add(n.output)
        yield n, mapping_type(n.op, types, weights, graph.types[n.output])


def _region(
    graph: Graph, legal: Legal, apart: Apart | None, nodes: Sequence[Node], results: Results,
    mapping: str,
) -> Region:  # fmt: skip
    output, beside = results
    form = form_of(graph, nodes, output, beside)
    if form is None or not legal(graph, form):
        n = next((n for n in nodes if n.output == output), nodes[0])
        if form is not None and apart and len(nodes) == 1 and apart(graph, n, form):
            return Region(tuple(nodes), output, form, mapping, beside, apart=True)
        raise UnsupportedError(
            f"operator {n.op} {graph.types[n.output]} at {n.where or 'the top of the model'}: "
            "no kernel computes it yet; remove it from the model"
        )
    return Region(tuple(nodes), output, form, mapping, beside)


class _Planner:
    def __init__(
        self, graph: Graph, legal: Legal, yellow_cells: YellowCellPolicy, apart: Apart | None
    ) -> None:
        self.graph, self.legal, self.yellow_cells = graph, legal, yellow_cells
        self.apart = apart
        self.order = {n.output: i for i, n in enumerate(graph.nodes)}
        self.users, self.kept = graph.users(), graph.output_values()
        self.mapping = {n.output: m for n, m in _mappings(graph)}
        self.block = {n.output: _Block([n], self.mapping[n.output]) for n in graph.nodes}
        self.log: list[Merge] = []

    def program(self) -> Program:
        self._join_attention()
        simple = (ONE_TO_ONE, REORGANIZE, SHUFFLE, ONE_TO_MANY, MANY_TO_MANY)
        for mapping in simple:
            seeds = [n for n in self.graph.nodes if self.mapping[n.output] == mapping]
            for n in sorted(seeds, key=self._size):
                self._grow(n)
        blocks = {id(b): b for b in self.block.values()}
        last = sorted(blocks.values(), key=lambda b: self.order[self._output(b.nodes)])
        regions = tuple(
            _region(self.graph, self.legal, self.apart, b.nodes, self._results(b.nodes), b.mapping)
            for b in last
        )
        return Program(self.graph, regions, tuple(self.log))

    def _size(self, n: Node) -> int:
        return dim_at(self.graph.types[n.output].elements, _NOMINAL_TOKENS)

    def _join_attention(self) -> None:
        """Merge the two matmuls of attention with the softmax between them. All three at once: any
        two of them are many-to-many ops that no kernel computes together."""
        made, paths = self.graph.producers(), ScorePaths(self.graph.nodes)
        for mix in self.graph.nodes:
            after = [mix]
            while mix.op == "matmul" and after[0].inputs[0] in made:
                after.insert(0, made[after[0].inputs[0]])
                if after[0].op != "reshape":
                    break
            found = paths.chain(after[0].inputs[0]) if after[0].op == "softmax" else None
            if found is not None:
                inside = dict.fromkeys(n.output for n in (found[0], *found[1], *after))
                self._merge([self.block[name] for name in inside], "attention", RED)

    def _grow(self, seed: Node) -> None:
        block = self.block[seed.output]
        if block.tried:
            return
        while True:
            output = self._output(block.nodes)
            successors = {
                id(self.block[u.output]): self.block[u.output] for u in self.users[output]
            }
            if not any(self._try(block, s) for s in successors.values()):
                break
            block = self.block[seed.output]
        while any(self._try(p, block) for p in self._predecessors(block)):
            block = self.block[seed.output]
        block.tried = True

    def _predecessors(self, block: _Block) -> list[_Block]:
        names = (i for n in block.nodes for i in n.inputs if i in self.block)
        found = {id(self.block[i]): self.block[i] for i in names}
        return [b for b in found.values() if b is not block]

    def _try(self, producer: _Block, consumer: _Block) -> bool:
        if producer is consumer:
            return False
        mapping, colour = TABLE[producer.mapping, consumer.mapping]
        if colour == YELLOW and not self.yellow_cells(
            producer.mapping, consumer.mapping
        ):
            self._note(producer, consumer, colour, "slower when measured")
            return False
        return self._merge([producer, consumer], mapping, colour)

    def _merge(self, blocks: Sequence[_Block], mapping: str, colour: str) -> bool:
        """Make one block of several if it has the outputs of one, is convex and has a form."""
        if sum(len(b.nodes) for b in blocks) > _MOST_NODES:
            return False
        nodes = sorted({n for b in blocks for n in b.nodes}, key=lambda n: self.order[n.output])
        output, beside = self._results(nodes)
        if len(self._outputs(nodes)) != 1 + bool(beside) or not self._convex(nodes):
            return False
        if beside and not self._ready(nodes, output):
            return False
        form = form_of(self.graph, nodes, output, beside)
        if form is None or not self.legal(self.graph, form):
            self._note(blocks[0], blocks[-1], colour, "no kernel")
            return False
        self._note(blocks[0], blocks[-1], colour, "fused")
        merged = _Block(nodes, MANY_TO_MANY if mapping == "attention" else mapping)
        for n in nodes:
            self.block[n.output] = merged
        return True

    def _note(self, producer: _Block, consumer: _Block, colour: str, result: str) -> None:
        names = (self._output(producer.nodes), self._output(consumer.nodes))
        cell = f"{producer.mapping} -> {consumer.mapping}: {colour}"
        self.log.append(Merge(*names, cell, result))

    def _outputs(self, nodes: Iterable[Node]) -> list[str]:
        inside = {n.output for n in nodes}
        return [n.output for n in nodes if n.output in self.kept
                or any(u.output not in inside for u in self.users[n.output])]  # fmt: skip

    def _output(self, nodes: Sequence[Node]) -> str:
        return self._results(nodes)[0]

    def _results(self, nodes: Sequence[Node]) -> Results:
        """The first output that is not narrow, and the first narrow one beside that."""
        outputs = self._outputs(nodes) or [nodes[-1].output]
        narrow = [name for name in outputs if self.graph.types[name].dtype in NARROW]
        wide = [name for name in outputs if name not in narrow]
        return (wide[0], narrow[0] if narrow else "") if wide else (narrow[0], "")

    def _ready(self, nodes: Sequence[Node], output: str) -> bool:
        """Whether all that the nodes read is there when `output` can be made. Regions run in the
        order of their outputs, so what is beside one may not wait for any other."""
        inside = {n.output for n in nodes}
        return all(self.order.get(i, -1) < self.order[output]
                   for n in nodes for i in n.inputs if i not in inside)  # fmt: skip

    def _convex(self, nodes: Sequence[Node]) -> bool:
        """Whether no path leaves the block and comes back, as one along a residual edge can."""
        inside = {n.output for n in nodes}
        last = max(self.order[name] for name in inside)
        stack = [u for name in inside for u in self.users[name] if u.output not in inside]
        seen: set[str] = set()
        while stack:
            n = stack.pop()
            if n.output in inside:
                return False
            if n.output not in seen and self.order[n.output] < last:
                seen.add(n.output)
                stack.extend(self.users[n.output])
        return True
