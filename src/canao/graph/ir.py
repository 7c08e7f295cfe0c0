"""Immutable SSA graph of typed tensors with one symbolic dimension: the number of tokens, s.

    Graph  = inputs, constants, nodes in execution order, outputs
    Node   = op(inputs) -> one output, attributes as sorted pairs
    Type   = dtype and shape; a dimension is an int or a Poly in s

Values are named by strings; a name is defined once. Edits go through `Graph.replace`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from canao.errors import UnsupportedError
from canao.graph.dtypes import COMPUTED, DType, by_numpy


@dataclass(frozen=True, slots=True)
class Poly:
    """A polynomial in the token count s with whole coefficients, lowest power first.

    Sizes and strides of activations are such polynomials: [heads, s, s] holds heads*s^2 scores.
    """

    coefficients: tuple[int, ...]

    def at(self, s: int) -> int:
        return sum(c * s**power for power, c in enumerate(self.coefficients))

    def __str__(self) -> str:
        terms = []
        for power, c in enumerate(self.coefficients):
            if c:
                factors = ([str(c)] if c != 1 or power == 0 else []) + ["s"] * power
                terms.append("*".join(factors))
        return " + ".join(reversed(terms))


Dim = int | Poly
Shape = tuple[Dim, ...]
TOKENS: Dim = Poly((0, 1))


def dim(coefficients: Iterable[int]) -> Dim:
    """The dimension with these coefficients; an int where it doesn't depend on s."""
    trimmed = list(coefficients)
    while len(trimmed) > 1 and trimmed[-1] == 0:
        trimmed.pop()
    return Poly(tuple(trimmed)) if len(trimmed) > 1 else (trimmed[0] if trimmed else 0)


def _coefficients(value: Dim) -> tuple[int, ...]:
    return value.coefficients if isinstance(value, Poly) else (value,)


def dim_add(a: Dim, b: Dim) -> Dim:
    x, y = _coefficients(a), _coefficients(b)
    size = max(len(x), len(y))
    x, y = x + (0,) * (size - len(x)), y + (0,) * (size - len(y))
    return dim(p + q for p, q in zip(x, y, strict=True))


def dim_mul(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    x, y = _coefficients(a), _coefficients(b)
    out = [0] * (len(x) + len(y) - 1)
    for i, p in enumerate(x):
        for j, q in enumerate(y):
            out[i + j] += p * q
    return dim(out)


def dim_div(a: Dim, b: Dim) -> Dim | None:
    """a / b where it is exact and b is one term, else None."""
    x, y = _coefficients(a), _coefficients(b)
    power, c = len(y) - 1, y[-1]
    if c == 0 or any(y[:-1]) or any(x[:power]) or any(v % c for v in x):
        return None
    return dim(v // c for v in x[power:]) if x[power:] else 0


def dim_at(value: Dim, s: int) -> int:
    return value.at(s) if isinstance(value, Poly) else value


def product(dims: Iterable[Dim]) -> Dim:
    total: Dim = 1
    for d in dims:
        if d != 1:
            total = d if total == 1 else dim_mul(total, d)
    return total


def fixed(shape: Shape) -> tuple[int, ...] | None:
    """The shape as numbers; None if a dimension depends on s."""
    sizes = tuple(d for d in shape if isinstance(d, int))
    return sizes if len(sizes) == len(shape) else None


def shape_at(shape: Shape, s: int) -> tuple[int, ...]:
    return tuple(dim_at(d, s) for d in shape)


@dataclass(frozen=True, slots=True)
class Type:
    """Element type and shape of a value."""

    dtype: DType
    shape: Shape

    @property
    def elements(self) -> Dim:
        return product(self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(str(d) for d in self.shape)}]"


@dataclass(frozen=True, slots=True)
class Node:
    """One operation. `where` says which place of the source model it came from."""

    op: str
    inputs: tuple[str, ...]
    output: str
    attributes: tuple[tuple[str, Any], ...] = ()
    where: str = ""

    def attribute(self, name: str) -> Any:
        return dict(self.attributes)[name]


def node(
    op: str, inputs: Iterable[str], output: str, *, where: str = "", **attributes: Any
) -> Node:
    """A node whose attributes are given by keyword."""
    return Node(op, tuple(inputs), output, tuple(sorted(attributes.items())), where)


@dataclass(frozen=True, slots=True)
class Ids:
    """Whole numbers, one for each token, from 0 to below `limit` where one is known."""

    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Tensor:
    """Elements of the input's own type and fixed shape, any values."""


@dataclass(frozen=True, slots=True)
class Positions:
    """Where each token is in its sequence, from 0. The library fills them in."""


InputKind = Ids | Tensor | Positions


@dataclass(frozen=True, slots=True)
class Input:
    """A graph input; `kind` says what it holds."""

    name: str
    type: Type
    kind: InputKind = Ids()

    @property
    def given(self) -> bool:
        """Whether the caller gives it."""
        return not isinstance(self.kind, Positions)


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """A whole model. Equality is by content, weights included.

    outputs   (name shown to users, value) pairs
    types     the type of every value: inputs, constants, node outputs
    resumes   whether a sequence can be run piece by piece: see graph/resume.py
    parts     (path of a module, precision) pairs: what the model itself says of products in a
              part of it; where it says nothing, the caller decides
    """

    inputs: tuple[Input, ...]
    constants: Mapping[str, np.ndarray]
    nodes: tuple[Node, ...]
    outputs: tuple[tuple[str, str], ...]
    types: Mapping[str, Type]
    max_length: int
    resumes: bool = False
    parts: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "constants", MappingProxyType(dict(self.constants)))
        object.__setattr__(self, "types", MappingProxyType(dict(self.types)))

    def replace(self, **changes: Any) -> Graph:
        return replace(self, **changes)

    def shape(self, name: str) -> Shape:
        return self.types[name].shape

    def producers(self) -> dict[str, Node]:
        return {n.output: n for n in self.nodes}

    def users(self) -> dict[str, list[Node]]:
        """Nodes that read each value; an input used twice by a node lists it once."""
        out: dict[str, list[Node]] = {name: [] for name in self.types}
        for n in self.nodes:
            for name in dict.fromkeys(n.inputs):
                out[name].append(n)
        return out

    def output_values(self) -> frozenset[str]:
        return frozenset(value for _, value in self.outputs)

    def digest(self) -> str:
        """Hash of the text form and of every weight."""
        h = hashlib.sha256()
        for part in (self.inputs, self.nodes, self.outputs, self.max_length, self.parts):
            h.update(repr(part).encode())
        for name in sorted(self.constants):
            h.update(name.encode() + np.ascontiguousarray(self.constants[name]).tobytes())
        return h.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Graph) and self.digest() == other.digest()

    def __hash__(self) -> int:
        return hash(self.digest())


def constant_type(array: np.ndarray) -> Type:
    """The type of a constant; UnsupportedError where graphs don't compute with its elements."""
    dtype = by_numpy(array.dtype)
    if dtype not in COMPUTED:
        names = ", ".join(str(d) for d in COMPUTED)
        raise UnsupportedError(f"a constant of {dtype} is not supported; use one of {names}")
    return Type(dtype, tuple(array.shape))
