"""How long a text may be: no table must be read past its end by ids that the model computes."""

from __future__ import annotations

from canao.errors import UnsupportedError
from canao.graph.ir import Graph, Node, dim_at

_VIEWS = ("reshape", "transpose", "slice", "expand")
_TRUTHS = ("eq", "ne", "ge", "gt", "le", "lt", "logical_and", "logical_or", "logical_not")


def limited(graph: Graph) -> Graph:
    """The graph for texts as long as all tables that are read at computed ids allow.

    Positions that start behind that of padding, for one, leave fewer than the table has rows.
    """
    made, limits = graph.producers(), {i.name: i.limit for i in graph.inputs}
    longest = graph.max_length
    for n in graph.nodes:
        ids = n.inputs[1] if n.op == "gather" else ""
        if ids in made and _from_inputs(made, ids, limits):
            rows = dim_at(graph.shape(n.inputs[0])[0], 0)
            while longest and _most(graph, made, limits, ids, longest) >= rows:
                longest -= 1
            if not longest:
                raise UnsupportedError(
                    f"operator gather at {n.where or 'the top of the model'}: the ids that it "
                    f"reads have no bound below its {rows} rows; compute them from positions"
                )
    return graph if longest == graph.max_length else graph.replace(max_length=longest)


def _from_inputs(made: dict[str, Node], name: str, limits: dict[str, int]) -> bool:
    inner = made[name].inputs if name in made else ()
    return name in limits or any(_from_inputs(made, i, limits) for i in inner)


def _most(
    graph: Graph, made: dict[str, Node], limits: dict[str, int], name: str, s: int
) -> float:
    """An upper bound of a value's elements, none of which is negative, at s tokens."""
    if name in graph.constants:
        array = graph.constants[name]
        return float(array.max()) if array.size and array.min() >= 0 else float("inf")
    if name in limits:
        return limits[name] - 1 if limits[name] else float("inf")
    n = made[name]
    inner = [_most(graph, made, limits, i, s) for i in n.inputs]
    if n.op in _TRUTHS or (n.op == "cast" and n.attribute("dtype") == "bool"):
        return 1
    if n.op == "arange":
        return dim_at(n.attribute("stop"), s) - 1
    if n.op in _VIEWS or n.op == "cast":
        return inner[0]
    if n.op == "cumsum":
        return inner[0] * s
    if n.op in ("maximum", "minimum"):
        return max(inner) if n.op == "maximum" else min(inner)
    return {"add": sum(inner), "mul": inner[0] * inner[-1]}.get(n.op, float("inf"))
