"""How ATen operators of an exported program become nodes of the IR: what their rules are made of.

A rule takes the builder and the operator's arguments (values by name, numbers, dimensions) and
returns the name of the result, or of each result. The modules that hold rules import this one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from canao.errors import UnsupportedError
from canao.graph.dtypes import DType
from canao.graph.ir import Shape, Type


class Builder(Protocol):
    """What the rules need of the importer."""

    def emit(self, op: str, *inputs: str, **attributes: Any) -> str: ...
    def constant(self, array: np.ndarray) -> str: ...
    def value(self, operand: Any) -> str: ...
    def type(self, name: str) -> Type: ...
    def uniform(self, name: str) -> str | None: ...
    def result_shape(self) -> Shape: ...
    def result_dtype(self) -> DType: ...
    def unsupported(self, what: str) -> UnsupportedError: ...


AtenRule = Callable[..., str | list[str]]


def joined(*tables: Mapping[str, AtenRule]) -> dict[str, AtenRule]:
    """The rules of several modules; an operator has one rule."""
    out: dict[str, AtenRule] = {}
    for table in tables:
        twice = sorted(out.keys() & table.keys())
        if twice:
            raise AssertionError(f"two rules for {', '.join(twice)}")
        out.update(table)
    return out


def as_dtype(b: Builder, x: str, dtype: DType) -> str:
    return x if b.type(x).dtype == dtype else b.emit("cast", x, dtype=dtype)


def transpose(b: Builder, x: str, i: int, j: int) -> str:
    perm = list(range(len(b.type(x).shape)))
    perm[i], perm[j] = perm[j], perm[i]
    return b.emit("transpose", x, perm=tuple(perm))


def matrix_transpose(b: Builder, x: str) -> str:
    return transpose(b, x, -1, -2)
