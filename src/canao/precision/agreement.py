"""How far a graph in another precision is from the same in float32, on random texts.

Both are run by the interpreter, whose numbers are those of every instruction set. That needs no
data and no device, and tells nothing of accuracy on a task; it shows a model that quantisation
breaks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from canao.errors import AccuracyError
from canao.graph.dtypes import I8
from canao.graph.interp import interpret
from canao.graph.ir import Graph, Ids, shape_at

_LENGTHS = (8, 32, 64)  # tokens of the texts, where the model takes so many
_IDS = 1000  # ids are below this where a model does not say what it takes


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of the outputs of all texts, the worst.

    cosine    between the numbers of an output in both
    largest   difference, in standard deviations of the output
    """

    cosine: float
    largest: float


def agreement(float32: Graph, other: Graph) -> Agreement:
    """Of two graphs that compute the same in two precisions; inputs and outputs are the same.

    AccuracyError if a product has rows, or a cache of int8 keys or values, that are not finite: no
    levels stand for these.
    """
    cosines, differences = [1.0], [0.0]
    for given in _texts(float32):
        want, got = (interpret(g, given, np.float32) for g in (float32, other))
        _require_finite(other, got)
        pairs = zip(float32.outputs, other.outputs, strict=True)
        for a, b in ((want[x], got[y]) for (_, x), (_, y) in pairs):
            a, b = (array.astype(np.float64).ravel() for array in (a, b))
            norms = np.linalg.norm(a) * np.linalg.norm(b)
            cosines.append(float(a @ b / norms) if norms else float(np.array_equal(a, b)))
            spread = a.std() or np.abs(a).max() or 1.0
            differences.append(float(np.abs(a - b).max() / spread))
    return Agreement(min(cosines), max(differences))


def _require_finite(graph: Graph, values: Mapping[str, np.ndarray]) -> None:
    for n in graph.nodes:
        if n.op == "quantize" and not np.isfinite(values[n.inputs[0]]).all():
            raise AccuracyError(
                f"{n.where}: the activations of a random text are not finite, and int8 cannot hold "
                "them; compile in float32, or correct the weights"
            )
        kept = n.inputs[1:] if dict(n.attributes).get("cache") == I8 else ()
        if not all(np.isfinite(values[name]).all() for name in kept):
            raise AccuracyError(
                f"{n.where}: keys or values of a random text are not finite, and int8 cannot hold "
                "them; leave --kv-cache out, or correct the weights"
            )


def _texts(graph: Graph) -> Iterator[list[np.ndarray]]:
    """An array for each input that is given, of several lengths."""
    rng = np.random.default_rng(0)
    for length in dict.fromkeys(min(n, graph.max_length) for n in _LENGTHS):
        yield [
            rng.integers(0, slot.kind.limit or _IDS, length)
            if isinstance(slot.kind, Ids)
            else rng.standard_normal(shape_at(slot.type.shape, length)).astype(np.float32)
            for slot in graph.inputs
            if slot.given
        ]


def distances(
    float32: Graph, others: Iterable[Graph], texts: Sequence[Sequence[np.ndarray]]
) -> Iterator[float]:
    """How far the first output of each of the others is from that of `float32`, over given texts:
    the root of the mean square, in standard deviations of the output."""
    wanted = [_first(float32, given) for given in texts]
    spread = sum(float(np.var(a)) or float(np.mean(a**2)) for a in wanted) or 1.0
    for other in others:
        pairs = zip(wanted, texts, strict=True)
        square = sum(float(np.mean((a - _first(other, given)) ** 2)) for a, given in pairs)
        yield float(np.sqrt(square / spread))


def _first(graph: Graph, given: Sequence[np.ndarray]) -> np.ndarray:
    output: np.ndarray = interpret(graph, given, np.float32)[graph.outputs[0][1]]
    return output.astype(np.float64)
