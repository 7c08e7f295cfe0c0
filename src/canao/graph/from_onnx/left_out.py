"""What of an ONNX file is not in the graph that it becomes, and why nothing is lost by it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from canao.graph.from_onnx.inputs import MASKS, POSITIONS
from canao.graph.from_onnx.load import Model
from canao.graph.ir import Graph

_SHOWN = 3


def left_out(model: Model, graph: Graph) -> list[tuple[str, str]]:
    """(what, why): inputs, outputs and weights of `model` that its graph has no place for, and
    parts of the file that are no computation."""
    given = {i.name for i in model.graph.input if i.name not in model.tensors}
    read = {name for n in model.graph.node for name in n.input}
    read.update(o.name for o in model.graph.output)
    found = [*_inputs(sorted(given), read), *_outputs(model, graph)]
    unread = sorted(name for name in model.tensors if name not in read)
    if unread:
        found.append((f"weights {_few(unread)}", "no operator reads them"))
    return [*found, *model.remarks]


def _inputs(given: Sequence[str], read: set[str]) -> Iterator[tuple[str, str]]:
    for name in given:
        if name in MASKS:
            yield f"input {name}", "is 1 for every token: nothing is padded"
        elif name in POSITIONS:
            yield f"input {name}", "is 0, 1, 2 and so on"
        elif name not in read:  # token types of a model that has none
            yield f"input {name}", "no operator reads it"


def _outputs(model: Model, graph: Graph) -> Iterator[tuple[str, str]]:
    kept = {value for value, _ in graph.outputs}
    for o in model.graph.output:
        if o.name not in kept and plain_name(o.name) not in kept:
            yield f"output {o.name}", "is no float tensor computed from the ids"


def plain_name(name: str) -> str:
    """An output's name as graphs, C and manifests have it."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else "_" for c in name)[:100]


def _few(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
