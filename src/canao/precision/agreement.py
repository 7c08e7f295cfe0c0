"""How far a graph in another precision is from the same in float32, on random texts.

Both are run by the interpreter, whose numbers are those of every instruction set. That needs no
data and no device, and tells nothing of accuracy on a task; it shows a model that quantisation
breaks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from canao.errors import AccuracyError, NotFiniteError
from canao.graph.dtypes import F16
from canao.graph.interp import interpret
from canao.graph.ir import Graph, Ids, Node, shape_at

_LENGTHS = (8, 32, 64)  # tokens of the texts, where the model takes so many
_IDS = 1000  # ids are below this where a model does not say what it takes
_PRODUCTS = ("linear", "quantized_linear")
# How many operands of an op have to be numbers: rows, and queries, keys and values.
_READ = {"quantize": 1, "narrow": 1, "linear": 1, "quantized_linear": 1, "causal_attention": 3}
_HALF_SUMS = 2_000_000_000  # products of halves that are added up one by one: some seconds


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of the outputs of all texts, the worst.

    cosine    between the numbers of an output in both
    largest   difference, in standard deviations of the output
    """

    cosine: float
    largest: float


def agreement(
    float32: Graph, other: Graph, called: str = "this precision", half_block: int | None = None
) -> Agreement:
    """Of two graphs that compute the same in two precisions; inputs and outputs are the same.

    called       what errors call the other precision
    half_block   how many products of halves the target adds up in half precision, as `Block` in
                 isa/table.py has it: the sums of the other graph are then rounded so, on as many of
                 the texts as take seconds, the shortest first; None: sums are of float32

    NotFiniteError where an output, or what a product reads or gives, is infinite or no number in
    float32; AccuracyError where it is so in the other precision only. Neither says how near the
    outputs are, and int8 and fp16 would hide it: no levels stand for such numbers.
    """
    cosines, differences, room = list[float](), list[float](), _HALF_SUMS
    for given in _texts(float32):
        want = interpret(float32, given, np.float32)
        if (wrong := not_finite(float32, want)) is not None:
            raise NotFiniteError(
                f"{wrong} of a random text are not finite in float32, which no other precision can "
                "be compared with; correct the weights, or compile in float32"
            )
        halves = _with_half_sums(other, half_block)
        work = _half_products(halves, want)
        if half_block is not None and (room == _HALF_SUMS or work <= room):
            got, room = interpret(halves, given, np.float32), room - work
        else:
            got = interpret(other, given, np.float32)
        if (wrong := not_finite(other, got)) is not None:
            raise AccuracyError(
                f"{wrong} of a random text are not finite in {called}, and are in float32; compile "
                "in float32, or in another precision"
            )
        pairs = zip(float32.outputs, other.outputs, strict=True)
        for a, b in ((want[x], got[y]) for (_, x), (_, y) in pairs):
            a, b = (array.astype(np.float64).ravel() for array in (a, b))
            norms = np.linalg.norm(a) * np.linalg.norm(b)
            cosines.append(float(a @ b / norms) if norms else float(np.array_equal(a, b)))
            spread = a.std() or np.abs(a).max() or 1.0
            differences.append(float(np.abs(a - b).max() / spread))
    return Agreement(min(1.0, *cosines), max(differences))


def not_finite(graph: Graph, values: Mapping[str, np.ndarray]) -> str | None:
    """What of a graph's values is infinite or no number, in words with its place; None where all
    outputs are numbers, and all that products, and attention that keeps keys, read and give.

    Other values may be infinite: masks are, where softmax makes zeros of them."""
    for n in graph.nodes:
        if not all(_finite(values[name]) for name in n.inputs[: _READ.get(n.op, 0)]):
            keeps = n.op == "causal_attention"
            return f"{n.where}: {'queries, keys or values' if keeps else 'the activations'}"
        if n.op in _PRODUCTS and not _finite(values[n.output]):
            return f"{n.where}: the results"
    wrong = next((name for name, v in graph.outputs if not _finite(values[v])), None)
    return None if wrong is None else f"output '{wrong}': the numbers"


def _finite(array: np.ndarray) -> bool:
    """Whether all are numbers; rows of levels are looked at before they are rounded."""
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def _with_half_sums(graph: Graph, block: int | None) -> Graph:
    """The graph for the interpreter, whose products of halves are added up in blocks."""
    if block is None:
        return graph
    return graph.replace(nodes=tuple(
        replace(n, attributes=tuple(sorted({**dict(n.attributes), "half_block": block}.items())))
        if _of_halves(graph, n) else n
        for n in graph.nodes
    ))  # fmt: skip


def _of_halves(graph: Graph, n: Node) -> bool:
    return n.op == "linear" and graph.types[n.inputs[0]].dtype == F16


def _half_products(graph: Graph, values: Mapping[str, np.ndarray]) -> int:
    """Multiplications of halves, by the sizes of a text's values in float32."""
    return sum(
        values[n.output].size * graph.constants[n.inputs[1]].shape[1]
        for n in graph.nodes if _of_halves(graph, n)
    )  # fmt: skip


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
    the root of the mean square, in standard deviations of the output; infinite where numbers are
    not finite."""
    wanted = [_first(float32, given) for given in texts]
    with np.errstate(all="ignore"):
        spread = sum(float(np.var(a)) or float(np.mean(a**2)) for a in wanted) or 1.0
    for other in others:
        pairs = zip(wanted, texts, strict=True)
        with np.errstate(all="ignore"):
            square = sum(float(np.mean((a - _first(other, given)) ** 2)) for a, given in pairs)
            moved = float(np.sqrt(square / spread))
        yield moved if np.isfinite(moved) else np.inf


def _first(graph: Graph, given: Sequence[np.ndarray]) -> np.ndarray:
    output: np.ndarray = interpret(graph, given, np.float32)[graph.outputs[0][1]]
    return output.astype(np.float64)
