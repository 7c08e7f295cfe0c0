"""How long a text may be: no table must be read outside its rows by ids that the model computes."""

from __future__ import annotations

from canao.errors import UnsupportedError
from canao.graph.ir import FLOATS, Graph, Node, dim_at

_VIEWS = ("reshape", "transpose", "slice", "expand", "flip")
_TRUTHS = ("eq", "ne", "ge", "gt", "le", "lt", "logical_and", "logical_or", "logical_not")
Interval = tuple[int, int]
# What an int32 may be: of what is not known, or may have wrapped around.
_ANY = (-(1 << 31), (1 << 31) - 1)


def limited(graph: Graph) -> Graph:
    """The graph for texts as long as all tables that are read at computed ids allow.

    Positions that start behind that of padding, for one, leave fewer than the table has rows.
    UnsupportedError where a text of one token could read outside of a table already.
    """
    made = _made_of_inputs(graph)
    reads = [n for n in graph.nodes if n.op == "gather" and n.inputs[1] in made]
    if not reads or all(_fits(graph, n, graph.max_length) for n in reads):
        return graph
    for n in reads:
        if not _fits(graph, n, 1):
            rows = graph.shape(n.inputs[0])[0]
            raise UnsupportedError(
                f"operator gather at {n.where or 'the top of the model'}: the ids that it reads "
                f"are not bound to its {rows} rows; compute them from positions"
            )
    # Bounds at fewer tokens lie within those at more.
    fits, fails = 1, graph.max_length
    while fails - fits > 1:
        middle = (fits + fails) // 2
        if all(_fits(graph, n, middle) for n in reads):
            fits = middle
        else:
            fails = middle
    return graph.replace(max_length=fits)


def _made_of_inputs(graph: Graph) -> set[str]:
    """The values that nodes compute from the inputs."""
    found = {i.name for i in graph.inputs}
    for n in graph.nodes:
        if any(name in found for name in n.inputs):
            found.add(n.output)
    return found - {i.name for i in graph.inputs}


def _fits(graph: Graph, read: Node, s: int) -> bool:
    low, high = _bounds(graph, read.inputs[1], s)
    return low >= 0 and high < dim_at(graph.shape(read.inputs[0])[0], s)


def _bounds(graph: Graph, wanted: str, s: int) -> Interval:
    """The least and the largest that an element of a value may be, at s tokens."""
    known: dict[str, Interval] = {}
    for i in graph.inputs:
        known[i.name] = (0, i.limit - 1) if i.limit not in (0, FLOATS) else _ANY
    for n in graph.nodes:
        if graph.types[n.output].dtype != "f32":
            for name in n.inputs:
                array = graph.constants.get(name)
                if array is not None and array.size and array.dtype.kind != "f":
                    known[name] = (int(array.min()), int(array.max()))
            low, high = _of_node(n, [known.get(name, _ANY) for name in n.inputs], s)
            known[n.output] = (low, high) if _ANY[0] <= low and high <= _ANY[1] else _ANY
        if n.output == wanted:
            break
    return known.get(wanted, _ANY)


def _of_node(n: Node, inner: list[Interval], s: int) -> Interval:
    if n.op in _TRUTHS or (n.op == "cast" and n.attribute("dtype") == "bool"):
        return 0, 1
    if n.op == "arange":
        return 0, max(0, dim_at(n.attribute("stop"), s) - 1)
    if n.op in _VIEWS or n.op == "cast":
        return inner[0]
    if n.op == "cumsum":
        low, high = inner[0]
        return min(low, low * s), max(high, high * s)
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
