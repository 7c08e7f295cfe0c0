"""Rules that find an operator in its parts, as other tools write it out.

ONNX before opset 17 has no layer norm, and before opset 20 no gelu; models that are not built of
PyTorch's modules have neither. One node for them is what fusion and the kernels know.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from canao.fuse.rewrite import Change, View
from canao.fuse.rules.fold_weights import by_columns
from canao.fuse.rules.positions import positional
from canao.graph.dtypes import F32
from canao.graph.ir import Node, node

# Constants in files are float32, and some are written with seven digits.
_CLOSE = 1e-5


def _is(value: float | None, wanted: float) -> bool:
    return value is not None and math.isclose(value, wanted, rel_tol=_CLOSE)


def _factors(view: View, name: str) -> tuple[float, list[str]]:
    """A product as a number and the values it multiplies, products in it taken apart."""
    c = view.scalar(name)
    if c is not None:
        return c, []
    n = view.made_by(name, "mul", "div")
    if n is None:
        return 1.0, [name]
    if n.op == "div":
        c = view.scalar(n.inputs[1])
        if not c:
            return 1.0, [name]
        number, rest = _operand(view, n, n.inputs[0])
        return number / c, rest
    (a, left), (b, right) = (_operand(view, n, i) for i in n.inputs)
    return a * b, sorted(left + right)


def _operand(view: View, n: Node, name: str) -> tuple[float, list[str]]:
    """The factors of an operand of n; a product that others read as well is one."""
    apart = view.array(name) is not None or view.only_used_by(name, n)
    return _factors(view, name) if apart else (1.0, [name])


def _plus(view: View, name: str, number: float) -> str | None:
    """x where `name` is x + number."""
    n = view.made_by(name, "add")
    for x, c in (n.inputs, n.inputs[::-1]) if n else ():
        if _is(view.scalar(c), number):
            return x
    return None


def _split(values: list[str]) -> Iterator[tuple[str, str]]:
    if len(values) == 2:
        yield values[0], values[1]
        yield values[1], values[0]


def _one_for(view: View, n: Node, op: str, x: str) -> Change | None:
    if view.shape(x) != view.shape(n.output):
        return None
    made = node(op, (x,), view.fresh("v"), where=n.where)
    return Change({n.output: made.output}, (made,))


def find_gelu(view: View, n: Node) -> Change | None:
    """x * 0.5 * (1 + erf(x / sqrt 2)), x * 0.5 * (1 + tanh(...))  ->  gelu(x), gelu_tanh(x)"""
    if n.op not in ("mul", "div"):
        return None
    number, values = _factors(view, n.output)
    if not _is(number, 0.5):
        return None
    for x, total in _split(values):
        inner = _plus(view, total, 1.0)
        curve = view.made_by(inner, "erf", "tanh") if inner else None
        if curve is None:
            continue
        if curve.op == "erf" and _is_scaled(view, curve.inputs[0], x, math.sqrt(0.5)):
            return _one_for(view, n, "gelu", x)
        if curve.op == "tanh" and _is_cubic(view, curve.inputs[0], x):
            return _one_for(view, n, "gelu_tanh", x)
    return None


def _is_scaled(view: View, name: str, x: str, number: float) -> bool:
    found, values = _factors(view, name)
    return _is(found, number) and values == [x]


def _is_cubic(view: View, name: str, x: str) -> bool:
    """Whether `name` is sqrt(2 / pi) * (x + 0.044715 x^3), or x taken out of the brackets."""
    number, values = _factors(view, name)
    if not _is(number, math.sqrt(2 / math.pi)):
        return False
    if len(values) == 1:
        total = view.made_by(values[0], "add")
        return total is not None and any(
            a == x and _is_power(view, b, x, 3) for a, b in (total.inputs, total.inputs[::-1])
        )
    for a, total_name in _split(values):
        square = _plus(view, total_name, 1.0)
        if a == x and square is not None and _is_power(view, square, x, 2):
            return True
    return False


def _is_power(view: View, name: str, x: str, power: int) -> bool:
    number, values = _factors(view, name)
    if _is(number, 0.044715) and values == [x] * power:
        return True
    # x^2 may be a value of its own, which others read too.
    return _is(number, 0.044715) and sum(_power(view, v, x) for v in values) == power


def _power(view: View, name: str, x: str) -> float:
    n = view.made_by(name, "mul")
    if name == x or n is None:
        return 1 if name == x else math.nan
    return sum(_power(view, i, x) for i in n.inputs)


def find_silu(view: View, n: Node) -> Change | None:
    """x * sigmoid(x)  ->  silu(x)"""
    for x, curve in _split(list(n.inputs)) if n.op == "mul" else ():
        made = view.made_by(curve, "sigmoid")
        if made is not None and made.inputs[0] == x and view.only_used_by(curve, n):
            return _one_for(view, n, "silu", x)
    return None


def find_select(view: View, n: Node) -> Change | None:
    """where(x > y, a, b)  ->  select(x - y, a, b); so with x < y, x >= y and x <= y"""
    compare = view.made_by(n.inputs[0], "gt", "lt", "ge", "le") if n.op == "where" else None
    if compare is None or positional(view, compare.output):
        return None
    if any(view.types[i].dtype != F32 for i in (*compare.inputs, *n.inputs[1:])):
        return None
    (x, y), (a, b) = compare.inputs, n.inputs[1:]
    if compare.op in ("lt", "ge"):
        x, y = y, x
    if compare.op in ("ge", "le"):
        a, b = b, a
    apart = node("sub", (x, y), view.fresh("v"), where=compare.where)
    made = node("select", (apart.output, a, b), view.fresh("v"), where=n.where)
    return Change({n.output: made.output}, (apart, made))


def find_norm(view: View, n: Node) -> Change | None:
    """(x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps)  ->  layer_norm(x)"""
    for centred, root in _quotient(view, n):
        inside = view.made_by(root, "sqrt")
        total = view.made_by(inside.inputs[0], "add") if inside else None
        for variance, e in (total.inputs, total.inputs[::-1]) if total else ():
            eps, mean = view.scalar(e), view.made_by(variance, "reduce_mean")
            square = view.made_by(mean.inputs[0], "mul") if mean else None
            if eps is None or square is None or square.inputs[0] != square.inputs[1]:
                continue
            x = _centred(view, centred)
            if x is not None and x == _centred(view, square.inputs[0]):
                return _norm(view, n, x, eps)
    return None


def _quotient(view: View, n: Node) -> Iterator[tuple[str, str]]:
    """(a, b) where n is a / b."""
    if n.op == "div":
        yield n.inputs[0], n.inputs[1]
    for a, inverse in (n.inputs, n.inputs[::-1]) if n.op == "mul" else ():
        made = view.made_by(inverse, "reciprocal")
        if made is not None:
            yield a, made.inputs[0]


def _centred(view: View, name: str) -> str | None:
    """x where `name` is x - mean(x)."""
    n = view.made_by(name, "sub")
    mean = view.made_by(n.inputs[1], "reduce_mean") if n else None
    return n.inputs[0] if n and mean and mean.inputs[0] == n.inputs[0] else None


def _norm(view: View, n: Node, x: str, eps: float) -> Change | None:
    width = view.shape(x)[-1]
    if view.shape(x) != view.shape(n.output) or not isinstance(width, int):
        return None
    gamma, beta = view.fresh("gamma"), view.fresh("beta")
    made = node("layer_norm", (x, gamma, beta), view.fresh("v"), where=n.where, eps=eps)
    constants = {gamma: np.ones(width, np.float32), beta: np.zeros(width, np.float32)}
    return Change({n.output: made.output}, (made,), constants)


def columns_into_norm(view: View, n: Node) -> Change | None:
    """layer_norm(x, g, b) * c, layer_norm(x, g, b) + c  ->  layer_norm(x, g', b')"""
    for name, _, c in by_columns(view, n):
        norm = view.made_by(name, "layer_norm")
        if norm is None or not view.only_used_by(name, n):
            continue
        arrays = [view.constants[i] for i in norm.inputs[1:] if i in view.constants]
        if len(arrays) != 2 or any(a.shape != c.shape for a in arrays):
            continue
        g, b = (a.astype(np.float64) for a in arrays)
        g, b = (g * c, b * c) if n.op == "mul" else (g, b + c)
        names = (view.fresh("gamma"), view.fresh("beta"))
        made = Node("layer_norm", (norm.inputs[0], *names), view.fresh("v"), norm.attributes,
                    norm.where)  # fmt: skip
        constants = {k: a.astype(np.float32) for k, a in zip(names, (g, b), strict=True)}
        return Change({n.output: made.output}, (made,), constants)
    return None


def divide_by_constant(view: View, n: Node) -> Change | None:
    """x / c  ->  x * (1 / c)"""
    c = view.scalar(n.inputs[1]) if n.op == "div" else None
    if not c or view.array(n.inputs[0]) is not None:
        return None
    name = view.fresh("inverse")
    made = node("mul", (n.inputs[0], name), view.fresh("v"), where=n.where)
    inverse = np.full(view.constants[n.inputs[1]].shape, 1 / c, np.float32)
    if not np.isfinite(inverse).all():
        return None
    return Change({n.output: made.output}, (made,), {name: inverse})


def scale_past_matmul(view: View, n: Node) -> Change | None:
    """(a * c) b, a (b * c)  ->  (a b) * c"""
    if n.op != "matmul":
        return None
    for side, name in enumerate(n.inputs):
        scaled = view.made_by(name, "mul")
        # Keys may be scaled for several products: each then has its own factor, of its scores.
        if scaled is None or not (side == 1 or view.only_used_by(name, n)):
            continue
        for x, c in (scaled.inputs, scaled.inputs[::-1]):
            if view.scalar(c) is None or view.shape(x) != view.shape(name):
                continue
            operands = (x, n.inputs[1]) if side == 0 else (n.inputs[0], x)
            product = node("matmul", operands, view.fresh("v"), where=n.where)
            outer = node("mul", (product.output, c), view.fresh("v"), where=n.where)
            return Change({n.output: outer.output}, (product, outer))
    return None
