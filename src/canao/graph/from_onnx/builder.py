"""What the rules of ONNX operators work with: values of four kinds, and the graph that grows."""

from __future__ import annotations

from typing import Any

import numpy as np

from canao.defaults import LIMITS, Limits
from canao.errors import Problem, UnsupportedError
from canao.graph.builder import GraphBuilder
from canao.graph.dtypes import BOOL, I32, DType
from canao.graph.from_onnx.values import (
    Known,
    Ramp,
    Value,
    at_lengths,
    computed,
    expanded,
    holds,
    known,
    shifted,
)
from canao.graph.ir import Dim, Poly, Shape
from canao.graph.shapes import ShapeError, broadcast


class Builder(GraphBuilder):
    """The graph so far. `current` is the ONNX node being imported, of operators of `opset`.

    longest   of how many tokens a text may be, by the tables read so far
    """

    def __init__(self, opset: int, max_length: int, limits: Limits = LIMITS) -> None:
        super().__init__(max_length, limits)
        self.opset, self.longest = opset, max_length
        self.current: Any = None
        self._made: dict[tuple[Any, ...], tuple[str, Any]] = {}
        # Of quantized.py and products.py: what was made of what, by the id of the latter.
        self.levels: dict[tuple[Any, ...], tuple[Any, Any]] = {}

    def pointwise(self, op: str, *operands: Value) -> Value:
        """An element-wise operator, computed now where its operands are known."""
        try:
            if all(isinstance(x, Known) for x in operands):
                return computed(op, operands, self.max_length)  # type: ignore[arg-type]
            if len(operands) == 2 and (found := shifted(op, *operands, self.max_length)):
                return found
            shape = broadcast([self.shape(x) for x in operands])
        except ShapeError as error:
            raise self.unsupported(f"operands of these shapes ({error})") from None
        result = self.emit(op, *(self._operand(x) for x in operands))
        return self.spread(result, shape)

    def spread(self, x: Value, shape: Shape) -> Value:
        """x repeated to `shape`."""
        if self.shape(x) == shape:
            return x
        if not isinstance(x, str):
            return expanded(Known(x.array, shape, x.dtype) if isinstance(x, Known) else x, shape)
        return self.emit("expand", x, shape=shape)

    def reshape(self, x: str, shape: Shape) -> str:
        return x if self.types[x].shape == shape else self.emit("reshape", x, shape=shape)

    def name(self, x: Value) -> str:
        """The graph value that holds x."""
        if isinstance(x, str):
            return x
        if isinstance(x, Ramp):
            return self._name_ramp(x)
        held = self._held(x)
        if self.types[held].shape == x.shape:
            return held
        return self.emit("expand", held, shape=x.shape)

    def transposed_weight(self, x: Known) -> str:
        """A constant [k, n] as the weight [n, k] of a linear layer."""
        key = ("transposed", id(x))
        if key not in self._made:
            array = np.ascontiguousarray(self._array(x).T)
            self._made[key] = (self.constant(array), x)
        return self._made[key][0]

    def shape(self, x: Value) -> Shape:
        return self.types[x].shape if isinstance(x, str) else x.shape

    def dtype(self, x: Value) -> DType:
        return self.types[x].dtype if isinstance(x, str) else x.dtype

    def whole(self, x: Value | None, what: str) -> list[Dim]:
        """The elements of a shape, an axis or bounds, which must be known."""
        if not isinstance(x, Known) or x.dtype == BOOL:
            raise self.unsupported(f"{what} that is computed from the text")
        return [v if isinstance(v, Poly) else int(v) for v in x.full().reshape(-1)]

    def numbers(self, x: Value | None, what: str) -> list[int]:
        found = self.whole(x, what)
        if any(isinstance(v, Poly) for v in found):
            raise self.unsupported(f"{what} that depends on the number of tokens")
        return [int(v) for v in found]  # type: ignore[arg-type]

    def holds(self, test: Any, a: Dim, b: Dim) -> bool:
        return holds(test, a, b, self.max_length)

    def fits(self, size: Dim, room: Dim) -> None:
        """Texts must be so short that `size` is at most `room`: the rows of a table."""
        if not isinstance(room, int):
            return
        too_long = np.flatnonzero(at_lengths(size, self.longest) > room)
        if too_long.size and too_long[0] == 0:
            raise self.unsupported(f"reading {size} rows of {room}")
        if too_long.size:
            self.longest = int(too_long[0])

    def inside(self, start: Dim, size: Dim, room: Dim) -> None:
        """A part must lie within what it is part of, at every length."""
        first, count, most = (at_lengths(d, self.longest) for d in (start, size, room))
        if (first < 0).any() or (count < 0).any() or (first + count > most).any():
            raise self.unsupported(f"a part of {size} from {start} on, of {room},")

    def where(self) -> str:
        n = self.current
        return (n.name or (n.output[0] if n.output else "")) if n is not None else ""

    def unsupported(self, what: str) -> UnsupportedError:
        remedy = "remove it from the model, or compile the original model"
        return UnsupportedError.of([self.problem(self.current, remedy, what)])

    def problem(self, n: Any, remedy: str, detail: str = "") -> Problem:
        operator = f"{n.domain}.{n.op_type}" if n.domain not in ("", "ai.onnx") else n.op_type
        name = n.name or (n.output[0] if n.output else "")
        return Problem(operator, f"node '{name}' (opset {self.opset})", remedy, detail)

    def note(self, x: Value | None) -> None:
        """Called with what rules computed at compile time."""

    # Constants.

    def _array(self, x: Known) -> np.ndarray:
        """The elements of x that are held, as a constant of the graph."""
        if x.array.dtype == object:
            raise self.unsupported("a number that depends on the number of tokens, as data,")
        array = x.array
        if x.dtype == I32 and array.size and np.abs(array.astype(np.float64)).max() >= 2**31:
            raise self.unsupported("a whole number beyond 32 bits, as data,")
        return np.ascontiguousarray(array, x.dtype.numpy).reshape(array.shape)

    def _held(self, x: Known) -> str:
        key = ("array", id(x))
        if key not in self._made:
            self._made[key] = (self.constant(self._array(x)), x)
        return self._made[key][0]

    def _operand(self, x: Value) -> str:
        """x for an operator that repeats it: one number where all elements are the same."""
        if isinstance(x, Known):
            if not x.uniform:
                return self._held(x)
            number = self._array(x).reshape(())
            key = ("number", x.dtype, number.tobytes())
            if key not in self._made:
                self._made[key] = (self.constant(number), None)
            return self._made[key][0]
        return self.name(x)

    def _name_ramp(self, x: Ramp) -> str:
        size = x.shape[x.axis]
        name = self.emit("arange", stop=size)
        for op, number, neutral in (("mul", x.step, 1), ("add", x.start, 0)):
            if number != neutral:
                name = self.emit(op, name, self._operand(known(np.array(number))))
        line = tuple(size if i == x.axis else 1 for i in range(len(x.shape)))
        name = self.reshape(name, line)
        return name if line == x.shape else self.emit("expand", name, shape=x.shape)
