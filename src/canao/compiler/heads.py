"""What a model's head is, for the manifest: its task, what makes scores of its output, and how it
continues a text.

An ONNX file, or a module, may compute its scores itself: it ends in softmax, sigmoid, or the
logarithm of one. Scores must then not be made of scores. How the end is written differs from
exporter to exporter, so it is not looked for by its operators: what follows the last product is run
on random numbers, and its results tell.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from canao.compiler.loading import inventory_of, load_model, locate
from canao.defaults import LIMITS, Limits
from canao.errors import UnsupportedError
from canao.graph.ir import Graph, Node, shape_at
from canao.graph.ops import OPS
from canao.inference.tasks.table import TASKS
from canao.model.directory.generation import describe_generation
from canao.model.directory.loaded_model import LoadedModel
from canao.model.directory.task import describe_head
from canao.model.inventory.inventory import Inventory

# Nodes whose results may be any numbers.
_ANY = ("linear", "quantized_linear", "matmul", "distance_matmul", "causal_attention", "layer_norm",
        "gather", "quantized_gather", "take_along_axis", "arange", "cumsum")  # fmt: skip
_TOKENS = 3
_NUMBERS = 400  # of an output, enough that none holds by chance what is looked for
# Of normal random numbers; saturates every activation.
_SPREAD = 12.0
_CLOSE = 1e-6
# What ends a graph, and what makes scores of its values. Of functions that are not probabilities
# the values are the scores.
_ENDS: Mapping[str, str] = {
    "softmax": "identity", "log_softmax": "exp", "sigmoid": "identity", "log_sigmoid": "exp",
    "bounded": "identity", "half": "identity",
}  # fmt: skip
_SAID: Mapping[str, str] = {
    "softmax": "the graph ends in softmax: its values are the scores",
    "log_softmax": "the graph ends in log-softmax: scores are the exponentials of its values",
    "sigmoid": "the graph ends in sigmoid: its values are the scores",
    "log_sigmoid": "the graph ends in log-sigmoid: scores are the exponentials of its values",
    "bounded": "the graph ends in a function with bounds, like tanh: its values are the scores",
    "half": "the graph ends in a function with one bound, like relu: its values are the scores",
}
_BOUNDS = ("bounded", "half")


def describe(
    loaded: LoadedModel, graph: Graph, inventory: Inventory | None = None
) -> dict[str, Any]:
    """The manifest's entries about the head of a model, as it was imported (see `describe_head` and
    `describe_generation`), with

    activation   what makes scores of the first output, if describe_head or the graph's end says it
    head_end     "" or what the graph ends in, for people
    """
    head = describe_head(loaded, [name for name, _ in graph.outputs])
    task, end = TASKS.get(head["task"]), ""
    if task is not None and task.scored:
        end = _end_of_all(graph, graph.outputs[: max(1, len(task.outputs))])
        if end in _BOUNDS and not task.bounded:
            end = ""  # softmax is taken of these as of any logits
    if end:
        head["activation"] = _ENDS[end]
    generation = describe_generation(loaded, head["task"], inventory)
    return {**head, "head_end": _SAID.get(end, ""), **generation}


def _end_of_all(graph: Graph, outputs: Sequence[tuple[str, str]]) -> str:
    """What several outputs end in, as `end_of` has it; UnsupportedError if they differ."""
    (first, value), *others = outputs
    end = end_of(graph, value)
    for name, other_value in others:
        other = end_of(graph, other_value)
        if other != end:
            raise UnsupportedError(
                f"output '{first}' ends in {end or 'logits'} and '{name}' in "
                f"{other or 'logits'}; export both alike"
            )
    return end


@dataclass(frozen=True, slots=True)
class Model:
    """A model as it was imported: what the manifest will say of its head, and its graph."""

    head: Mapping[str, Any]
    graph: Graph


def read_model(
    model: str | Path | Any, *, revision: str | None = None, max_length: int | None = None,
    ignored: Collection[str] = (), limits: Limits = LIMITS, **_: Any,
) -> Model:  # fmt: skip
    """What `compile_model` takes, by the same options, of which the others have no effect on it."""
    found, place = locate(model, revision, ignored)
    inventory = inventory_of(found, ignored, place)
    source, graph = load_model(found, max_length, inventory, limits)
    return Model(describe(source, graph, inventory), graph)


def end_of(graph: Graph, output: str) -> str:
    """What makes the values of an output: a key of _ENDS, or "" for plain numbers such as logits.

    That is seen from its values, where those that it is computed from are random.
    """
    tail, sources = _tail(graph, output)
    if not any(not OPS[n.op].view and n.op != "cast" for n in tail):
        return ""
    random = np.random.default_rng(0)
    first = _run(graph, tail, sources, output, random)
    more = range(1, -(-_NUMBERS // first.size))
    runs = [first, *(_run(graph, tail, sources, output, random) for _ in more)]
    return _kind(np.concatenate([r.reshape(-1, first.shape[-1]) for r in runs]))


def _tail(graph: Graph, output: str) -> tuple[list[Node], list[str]]:
    """The nodes behind the last products before an output, in order, and what they read of others
    that are no constants."""
    made = graph.producers()
    needed, sources = {output}, []
    found: list[Node] = []
    for n in reversed(graph.nodes):
        if n.output not in needed:
            continue
        if n.op in _ANY:
            sources.append(n.output)
        else:
            found.append(n)
            needed.update(n.inputs)
    inputs = [i.name for i in graph.inputs if i.name in needed and i.name not in made]
    return found[::-1], [*sources, *inputs]


def _run(
    graph: Graph, tail: list[Node], sources: list[str], output: str, random: np.random.Generator
) -> np.ndarray:
    """An output, computed from random numbers in place of what comes before the tail."""
    values: dict[str, np.ndarray] = {}
    for name in sources:
        kind = graph.types[name]
        shape = shape_at(kind.shape, _TOKENS)
        drawn = random.normal(0, _SPREAD, shape)
        values[name] = drawn if kind.dtype.kind == "float" else np.zeros(shape, np.int64)
    for name in _constants(graph, tail):
        array = graph.constants[name]
        values[name] = array.astype(np.float64) if array.dtype == np.float32 else array
    with np.errstate(all="ignore"):
        for n in tail:
            attributes = dict(n.attributes) | {"s": _TOKENS}
            values[n.output] = OPS[n.op].meaning([values[i] for i in n.inputs], attributes)
    return values[output]


def _constants(graph: Graph, tail: list[Node]) -> Iterator[str]:
    return (i for n in tail for i in n.inputs if i in graph.constants)


def _kind(rows: np.ndarray) -> str:
    """What values [.., columns] are, from what holds for all of them."""
    if not np.isfinite(rows).all():
        return ""
    many = rows.shape[-1] > 1
    low, high = rows.min(), rows.max()
    if low >= -_CLOSE and high <= 1 + _CLOSE:
        return "softmax" if many and np.allclose(rows.sum(-1), 1, atol=_CLOSE) else "sigmoid"
    if high <= _CLOSE and many and np.allclose(np.exp(rows).sum(-1), 1, atol=_CLOSE):
        return "log_softmax"
    if high < 0:
        return "log_sigmoid"
    if np.abs(rows).max() <= 1 + _CLOSE:
        return "bounded"
    return "half" if low >= -_CLOSE else ""
