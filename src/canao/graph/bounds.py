"""The longest sequence that a graph may be given: tables are read at indices that the model
computes itself, and none may be read outside of its rows."""

from __future__ import annotations

from collections.abc import Sequence

from canao.errors import UnsupportedError
from canao.graph.dtypes import BOOL
from canao.graph.ir import Dim, Graph, Ids, Input, Node, Positions, dim_at
from canao.graph.ops import OPS

Interval = tuple[int, int]
# What an int32 may be: of what is not known, or may have wrapped around.
_ANY = (-(1 << 31), (1 << 31) - 1)
# What reads at indices, its last operand, and the dimension of its first that they are in.
_READS = {"gather": 0, "quantized_gather": 0, "take_along_axis": -1}


def limited(graph: Graph) -> Graph:
    """The graph for sequences as long as all tables that are read at computed ids allow.

    RoBERTa's first position, for example, is 2: of 514 rows 512 are left. UnsupportedError where a
    sequence of one token could already read outside of a table.
    """
    made = _made_of_inputs(graph)
    reads = [n for n in _reads(graph) if _indices(n) in made]
    if not reads or not _outside(graph, reads, graph.max_length):
        return graph
    wrong = _outside(graph, reads, 1)
    if wrong:
        raise _unbounded(graph, wrong[0])
    # Bounds at fewer tokens lie within those at more.
    fits, fails = 1, graph.max_length
    while fails - fits > 1:
        middle = (fits + fails) // 2
        if _outside(graph, reads, middle):
            fails = middle
        else:
            fits = middle
    return graph.replace(max_length=fits)


def require_bounds(graph: Graph) -> Graph:
    """The graph, if no element is read outside of its table at any length, whatever the ids.

    UnsupportedError otherwise. Call it after `tabulate` has fired: what depends on positions only
    is then a constant, whose elements are known here.
    """
    wrong = _outside(graph, _reads(graph), graph.max_length)
    if wrong:
        raise _unbounded(graph, wrong[0])
    return graph


def _unbounded(graph: Graph, read: Node) -> UnsupportedError:
    return UnsupportedError(
        f"operator {read.op} at {read.where or 'the top of the model'}: its indices are not "
        f"bound to the {_room(graph, read)} there are; compute them from positions"
    )


def _reads(graph: Graph) -> list[Node]:
    """What reads at indices that nodes compute. Ids that are given, the library checks."""
    given = {i.name for i in graph.inputs}
    return [n for n in graph.nodes if n.op in _READS and _indices(n) not in given]


def _indices(read: Node) -> str:
    return read.inputs[-1]


def _room(graph: Graph, read: Node) -> Dim:
    return graph.shape(read.inputs[0])[_READS[read.op]]


def _made_of_inputs(graph: Graph) -> set[str]:
    """The values that nodes compute from the inputs."""
    found = {i.name for i in graph.inputs}
    for n in graph.nodes:
        if any(name in found for name in n.inputs):
            found.add(n.output)
    return found - {i.name for i in graph.inputs}


def _outside(graph: Graph, reads: Sequence[Node], s: int) -> list[Node]:
    """Those of `reads` that may read outside of their table at s tokens."""
    if not reads:
        return []
    bounds, found = _bounds(graph, s), []
    for n in reads:
        low, high = bounds.get(_indices(n), _ANY)
        if low < 0 or high >= dim_at(_room(graph, n), s):
            found.append(n)
    return found


def _bounds(graph: Graph, s: int) -> dict[str, Interval]:
    """The least and the largest that an element of each whole number may be, at s tokens."""
    known: dict[str, Interval] = {}
    for i in graph.inputs:
        known[i.name] = _of_input(i, graph.max_length)
    for name, array in graph.constants.items():
        if array.size and array.dtype.kind != "f":
            known[name] = (int(array.min()), int(array.max()))
    for n in graph.nodes:
        if graph.types[n.output].dtype.kind != "float":
            low, high = _of_node(n, [known.get(name, _ANY) for name in n.inputs], s)
            known[n.output] = (low, high) if _ANY[0] <= low and high <= _ANY[1] else _ANY
    return known


def _of_input(slot: Input, max_length: int) -> Interval:
    match slot.kind:
        case Positions():
            return 0, max_length - 1
        case Ids(limit) if limit is not None:
            return 0, limit - 1
    return _ANY


def _of_node(n: Node, inner: list[Interval], s: int) -> Interval:
    if OPS[n.op].result == BOOL or (n.op == "cast" and n.attribute("dtype") == BOOL):
        return 0, 1
    if n.op == "arange":
        return 0, max(0, dim_at(n.attribute("stop"), s) - 1)
    if OPS[n.op].view or n.op == "cast":
        return inner[0]
    if n.op == "cumsum":
        low, high = inner[0]
        return min(low, low * s), max(high, high * s)
    if n.op in ("where", "concat"):
        parts = inner[1:] if n.op == "where" else inner
        return min(low for low, _ in parts), max(high for _, high in parts)
    if n.op == "neg":
        return -inner[0][1], -inner[0][0]
    if n.op not in ("add", "sub", "mul", "maximum", "minimum"):
        return _ANY
    (a, b), (c, d) = inner
    products = (a * c, a * d, b * c, b * d)
    return {
        "add": (a + c, b + d), "sub": (a - d, b - c), "mul": (min(products), max(products)),
        "maximum": (max(a, c), max(b, d)), "minimum": (min(a, c), min(b, d)),
    }[n.op]  # fmt: skip
