"""Precisions: products of float32 by constants become products of narrower numbers.

int8: activations are quantised as they come, a scale for each token; weights once, a scale for each
output channel; both are symmetric, from -127 to 127, and sums are exact in int32. Nothing is
calibrated. int8-7bit: activations go from -63 to 63, so that pairs of products fit 16 bits, as
processors without dot products of bytes add them up. int8-weights: activations stay in float32.
bf16, fp16: activations and weights are rounded to these, and added up in float32 (short blocks in
fp16 where the instruction set does).

What is around the products stays in float32: bias, norms, softmax, residuals. So do products that
cost little and decide much: of few rows, whatever the length, as a pooler's and a classifier's of
one token, and heads: small ones that the model gives out.

Embeddings that are looked up lie in the type of the weights, those of int8 with a scale for each
row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from canao.defaults import PRECISION
from canao.errors import InputError, NotFiniteError
from canao.graph.dtypes import BF16, F16, F32, I8, NARROW, Q7, Q8, QUANTIZED, DType
from canao.graph.ir import Graph, Node, Poly, node
from canao.graph.meanings import narrowed
from canao.graph.ops import OPS
from canao.graph.verify import retype


@dataclass(frozen=True, slots=True)
class Precision:
    """What products are made of: the type of the rows that are multiplied, and of the weights."""

    name: str
    rows: DType
    weights: DType

    @property
    def whole(self) -> bool:
        """Whether whole numbers are multiplied."""
        return self.rows in QUANTIZED


FLOAT32, BFLOAT16, INT8, SEVEN_BITS = PRECISION, "bf16", "int8", "int8-7bit"
WEIGHTS = "int8-weights"
_TABLE: Mapping[str, Precision] = {
    p.name: p
    for p in (
        Precision(PRECISION, F32, F32),
        Precision(BFLOAT16, BF16, BF16),
        Precision("fp16", F16, F16),
        Precision(INT8, Q8, I8),
        Precision(SEVEN_BITS, Q7, I8),
        Precision(WEIGHTS, F32, I8),
    )
}
ALL_ALIKE: Mapping[str, str] = MappingProxyType({})  # no product in another precision than the rest
BACK = (FLOAT32, BFLOAT16)  # what products go back to where a precision loses too much
AUTO = "auto"  # not one of them: the fastest of several (accuracy/fastest.py)
PRECISIONS = tuple(_TABLE)
_LARGE = 1 << 16  # elements of a table that is worth it
# Products whose sums int32 holds, whatever the numbers, and what they start with where 128 is added
# to weights.
_DEEPEST = (2**31 - 1) // (128 * I8.levels)
_VOCABULARY = 4096  # columns from which on what a model gives out is no small head


def precision_of(name: str) -> Precision:
    """The precision of a name; InputError if there is none."""
    check_precision(name)
    return _TABLE[name]


def rounds_rows(name: str) -> bool:
    """Whether products in a precision multiply rows in it, and not float32."""
    return precision_of(name).rows in NARROW


def quantizable(graph: Graph) -> tuple[Node, ...]:
    """What of a float32 graph other precisions are for, in its order: products, and look-ups in
    large tables."""
    given_out, tables = _given_out(graph), _tables(graph)
    return tuple(
        n for n in graph.nodes
        if (n.op == "gather" and n.inputs[0] in tables)
        or (n.op == "linear" and _worthwhile(graph, n)
            and (n.output not in given_out or len(graph.constants[n.inputs[1]]) >= _VOCABULARY))
    )  # fmt: skip


def of_parts(graph: Graph) -> dict[str, str]:
    """The precision of those nodes of a float32 graph for which its model names one itself
    (`Graph.parts`), by their results. InputError for a name that is none."""
    for path, precision in graph.parts:
        if precision not in PRECISIONS:
            raise InputError(
                f"the model asks for precision '{precision}' in {path}, which is not one of "
                f"{', '.join(PRECISIONS)}; correct its config.json"
            )
    found: dict[str, str] = {}
    for path, precision in graph.parts:
        own = [n.output for n in quantizable(graph) if n.where.startswith(f"{path}.")]
        if not own:
            raise InputError(
                f"the model asks for precision '{precision}' in {path}, where no product is known "
                "to be; leave it out of its config.json"
            )
        found |= dict.fromkeys(own, precision)
    return found


def with_one(graph: Graph, name: str, precision: str = INT8) -> Graph:
    """The graph with one of its nodes in a precision, and nothing else."""
    return _Rewriting(graph).of({name: _TABLE[precision]})


def in_precision(graph: Graph, precision: str, kept: Mapping[str, str] = ALL_ALIKE) -> Graph:
    """A float32 graph in a precision, but for what `quantizable` leaves out, and for those nodes
    whose results are named by `kept`: these are in the precision that it has for them.

    NotFiniteError if a product or table that is to be rounded has constants that are no numbers."""
    check_precision(precision)
    wanted = {n.output: kept.get(n.output, precision) for n in quantizable(graph)}
    chosen = {name: precision_of(own) for name, own in wanted.items()}
    return _Rewriting(graph).of({n: own for n, own in chosen.items() if own.name != FLOAT32})


def check_precision(name: str) -> None:
    """InputError if there is no such precision."""
    if name not in PRECISIONS:
        raise InputError(f"precision '{name}' is not one of {', '.join(PRECISIONS)}")


class _Rewriting:
    """A graph's nodes in a precision."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.constants, self.nodes = dict(graph.constants), list[Node]()
        self.rows = set[str]()  # values as products read them

    def of(self, chosen: Mapping[str, Precision]) -> Graph:
        if not chosen:
            return self.graph
        for n in self.graph.nodes:
            if n.output not in chosen:
                self.nodes.append(n)
            elif n.op == "gather":
                self._look_up(n, chosen[n.output])
            else:
                self._multiply(n, chosen[n.output])
        return retype(
            self.graph.replace(nodes=tuple(self.nodes), constants=self.constants)
        )

    def _look_up(self, n: Node, precision: Precision) -> None:
        table, ids = n.inputs
        self._require_finite(n, (table,))
        weights, scales = self._weights(table, precision.weights)
        if not scales:
            self._add("gather", (weights, ids), n)
            return
        column = f"{scales}.column"
        self.constants.setdefault(column, self.constants[scales][:, None])
        self._add("quantized_gather", (weights, column, ids), n)

    def _multiply(self, n: Node, precision: Precision) -> None:
        x, weight, *bias = n.inputs
        self._require_finite(n, (weight, *bias))
        weights, scales = self._weights(weight, precision.weights)
        rows = self._rows(x, n, precision.rows)
        if not scales:
            self._add("linear", (rows, weights, *bias), n)
            return
        self._add("quantized_linear", (rows, weights, scales, *bias), n)

    def _require_finite(self, n: Node, names: Sequence[str]) -> None:
        """NotFiniteError if weights, a bias or a table are not numbers, which no whole numbers
        stand for. Other constants may be infinite, as masks are."""
        for name in names:
            wrong = int((~np.isfinite(self.graph.constants[name])).sum())
            if wrong:
                what = "table" if n.op == "gather" else "product"
                raise NotFiniteError(
                    f"{n.where}: the {what} has constants that are infinite or no numbers ({wrong} "
                    f"of {self.graph.constants[name].size} in {name}), which no precision can "
                    "round; correct the weights, or take a checkpoint from before training went "
                    "wrong"
                )

    def _add(self, op: str, inputs: tuple[str, ...], n: Node) -> None:
        self.nodes.append(node(op, inputs, n.output, where=n.where))

    def _rows(self, x: str, n: Node, dtype: DType) -> str:
        """A value as a product reads it."""
        if dtype not in NARROW:
            return x
        name = f"{x}.{dtype}"
        if name not in self.rows:
            self.rows.add(name)
            self.nodes.append(
                node("quantize", (x,), name, where=n.where) if dtype == Q8
                else node("quantize" if dtype in QUANTIZED else "narrow", (x,), name,
                          where=n.where, dtype=dtype)
            )  # fmt: skip
        return name

    def _weights(self, name: str, dtype: DType) -> tuple[str, str]:
        """Weights in a type, and their scales, if that has any."""
        made, scales = f"{name}.{dtype}", f"{name}.scales" if dtype == I8 else ""
        if made not in self.constants:
            array = self.graph.constants[name]
            if scales:
                self.constants[made], self.constants[scales] = channels(array)
            else:
                self.constants[made] = narrowed(array, dtype)
        return made, scales


def channels(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[n, k] as int8 of [n, k] and float32 scales [n]: each row over its largest magnitude / 127,
    rounded half to even. A row of zeros has the scale 0."""
    top = np.abs(weight).max(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        levels = np.where(top[:, None] > 0, np.rint(weight / top[:, None] * I8.levels), 0)
    return levels.astype(np.int8), (top / np.float32(I8.levels)).astype(np.float32)


def _tables(graph: Graph) -> frozenset[str]:
    """Tables that rows are looked up in, if they are large; products may read them as well."""
    users = graph.users()
    return frozenset(
        name for name, array in graph.constants.items()
        if array.dtype == np.float32 and array.ndim == 2 and array.size >= _LARGE
        and any(u.op == "gather" for u in users[name])
        and all((u.op == "gather" and name not in u.inputs[1:]) or u.op == "linear"
                for u in users[name])
    )  # fmt: skip


def _worthwhile(graph: Graph, n: Node) -> bool:
    """Whether a product's rows grow with the text, its weights are known, and its sums fit."""
    x, *weights = n.inputs
    shape = graph.shape(x)
    grows = any(isinstance(d, Poly) for d in shape[:-1])
    known = all(name in graph.constants for name in weights)
    depth = shape[-1]
    fits = isinstance(depth, int) and depth <= _DEEPEST
    return grows and known and fits and x not in graph.constants


def _given_out(graph: Graph) -> frozenset[str]:
    """The values that are outputs, or of which outputs are views."""
    made, found = graph.producers(), set[str]()
    waiting = list(graph.output_values())
    while waiting:
        name = waiting.pop()
        found.add(name)
        n = made.get(name)
        if n is not None and OPS[n.op].view:
            waiting.append(n.inputs[0])
    return frozenset(found)
