"""Rules that find an operator in its parts, as other tools write it out.

ONNX before opset 17 has no layer norm, and before opset 20 no gelu; models that are not built of
PyTorch's modules have neither. One node for them is what fusion and the kernels know.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from canao.fuse.rewrite import Change, GraphView
from canao.fuse.rules.fold_weights import by_columns
from canao.fuse.rules.positions import positional
from canao.graph.dtypes import F32
from canao.graph.ir import Node, node

# Constants in files are float32, and some are written with seven digits.
_CLOSE = 1e-5
# Values that a chain of multiplications is followed to.
_MOST_FACTORS = 32


def _is(value: float | None, wanted: float) -> bool:
    return value is not None and math.isclose(value, wanted, rel_tol=_CLOSE)


def _factors(g: GraphView, name: str) -> tuple[float, list[str]]:
    """A chain of multiplications as its constant factor and the other values multiplied; NaN and
    none where it is longer than any that is looked for.

    A value that other nodes read too is not taken apart, but for `name` itself.
    """
    number, values = 1.0, list[str]()
    waiting: list[tuple[str, Node | None]] = [(name, None)]
    for _ in range(_MOST_FACTORS):
        if not waiting:
            return number, sorted(values)
        name, user = waiting.pop()
        c, n = g.scalar(name), g.made_by(name, "mul", "div")
        divisor = g.scalar(n.inputs[1]) if n is not None and n.op == "div" else None
        if c is not None:
            number *= c
        elif n is None or (user is not None and not g.only_used_by(name, user)):
            values.append(name)
        elif divisor:
            number /= divisor
            waiting.append((n.inputs[0], n))
        elif n.op == "mul":
            waiting += [(i, n) for i in reversed(n.inputs)]
        else:
            values.append(name)
    return math.nan, []


def _plus(g: GraphView, name: str, number: float) -> str | None:
    """x where `name` is x + number."""
    n = g.made_by(name, "add")
    for x, c in (n.inputs, n.inputs[::-1]) if n else ():
        if _is(g.scalar(c), number):
            return x
    return None


def _split(values: list[str]) -> Iterator[tuple[str, str]]:
    if len(values) == 2:
        yield values[0], values[1]
        yield values[1], values[0]


def _one_for(g: GraphView, n: Node, op: str, x: str) -> Change | None:
    if g.shape(x) != g.shape(n.output):
        return None
    made = node(op, (x,), g.fresh("v"), where=n.where)
    return Change({n.output: made.output}, (made,))


def find_gelu(g: GraphView, n: Node) -> Change | None:
    """x * 0.5 * (1 + erf(x / sqrt 2)), x * 0.5 * (1 + tanh(...))  ->  gelu(x), gelu_tanh(x)"""
    if n.op not in ("mul", "div"):
        return None
    number, values = _factors(g, n.output)
    if not _is(number, 0.5):
        return None
    for x, total in _split(values):
        inner = _plus(g, total, 1.0)
        curve = g.made_by(inner, "erf", "tanh") if inner else None
        if curve is None:
            continue
        if curve.op == "erf" and _is_scaled(g, curve.inputs[0], x, math.sqrt(0.5)):
            return _one_for(g, n, "gelu", x)
        if curve.op == "tanh" and _is_cubic(g, curve.inputs[0], x):
            return _one_for(g, n, "gelu_tanh", x)
    return None


def _is_scaled(g: GraphView, name: str, x: str, number: float) -> bool:
    found, values = _factors(g, name)
    return _is(found, number) and values == [x]


def _is_cubic(g: GraphView, name: str, x: str) -> bool:
    """Whether `name` is sqrt(2 / pi) * (x + 0.044715 x^3), or x taken out of the brackets."""
    number, values = _factors(g, name)
    if not _is(number, math.sqrt(2 / math.pi)):
        return False
    if len(values) == 1:
        total = g.made_by(values[0], "add")
        return total is not None and any(
            a == x and _is_power(g, b, x, 3) for a, b in (total.inputs, total.inputs[::-1])
        )
    for a, total_name in _split(values):
        square = _plus(g, total_name, 1.0)
        if a == x and square is not None and _is_power(g, square, x, 2):
            return True
    return False


def _is_power(g: GraphView, name: str, x: str, power: int) -> bool:
    number, values = _factors(g, name)
    if _is(number, 0.044715) and values == [x] * power:
        return True
    # x^2 may be a value of its own, which others read too.
    return _is(number, 0.044715) and sum(_power(g, v, x) for v in values) == power


def _power(g: GraphView, name: str, x: str) -> float:
    """Which power of x a chain of multiplications is; NaN where it is none, or a high one."""
    power, waiting = 0, [name]
    for _ in range(_MOST_FACTORS):
        if not waiting:
            return power
        name = waiting.pop()
        n = g.made_by(name, "mul")
        if name == x:
            power += 1
        elif n is not None:
            waiting += n.inputs
        else:
            return math.nan
    return math.nan


def find_silu(g: GraphView, n: Node) -> Change | None:
    """x * sigmoid(x)  ->  silu(x)"""
    for x, curve in _split(list(n.inputs)) if n.op == "mul" else ():
        made = g.made_by(curve, "sigmoid")
        if made is not None and made.inputs[0] == x and g.only_used_by(curve, n):
            return _one_for(g, n, "silu", x)
    return None


def find_select(g: GraphView, n: Node) -> Change | None:
    """where(x > y, a, b)  ->  select(x - y, a, b); so with x < y, x >= y and x <= y"""
    compare = g.made_by(n.inputs[0], "gt", "lt", "ge", "le") if n.op == "where" else None
    if compare is None or positional(g, compare.output):
        return None
    if any(g.types[i].dtype != F32 for i in (*compare.inputs, *n.inputs[1:])):
        return None
    (x, y), (a, b) = compare.inputs, n.inputs[1:]
    if compare.op in ("lt", "ge"):
        x, y = y, x
    if compare.op in ("ge", "le"):
        a, b = b, a
    apart = node("sub", (x, y), g.fresh("v"), where=compare.where)
    made = node("select", (apart.output, a, b), g.fresh("v"), where=n.where)
    return Change({n.output: made.output}, (apart, made))


def find_norm(g: GraphView, n: Node) -> Change | None:
    """(x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps)  ->  layer_norm(x)"""
    for centred, root in _quotient(g, n):
        inside = g.made_by(root, "sqrt")
        total = g.made_by(inside.inputs[0], "add") if inside else None
        for variance, e in (total.inputs, total.inputs[::-1]) if total else ():
            eps, mean = g.scalar(e), g.made_by(variance, "reduce_mean")
            square = g.made_by(mean.inputs[0], "mul") if mean else None
            if eps is None or square is None or square.inputs[0] != square.inputs[1]:
                continue
            x = _centred(g, centred)
            if x is not None and x == _centred(g, square.inputs[0]):
                return _norm(g, n, x, eps)
    return None


def _quotient(g: GraphView, n: Node) -> Iterator[tuple[str, str]]:
    """(a, b) where n is a / b."""
    if n.op == "div":
        yield n.inputs[0], n.inputs[1]
    for a, inverse in (n.inputs, n.inputs[::-1]) if n.op == "mul" else ():
        made = g.made_by(inverse, "reciprocal")
        if made is not None:
            yield a, made.inputs[0]


def _centred(g: GraphView, name: str) -> str | None:
    """x where `name` is x - mean(x)."""
    n = g.made_by(name, "sub")
    mean = g.made_by(n.inputs[1], "reduce_mean") if n else None
    return n.inputs[0] if n and mean and mean.inputs[0] == n.inputs[0] else None


def _norm(g: GraphView, n: Node, x: str, eps: float) -> Change | None:
    width = g.shape(x)[-1]
    if g.shape(x) != g.shape(n.output) or not isinstance(width, int):
        return None
    gamma, beta = g.fresh("gamma"), g.fresh("beta")
    made = node("layer_norm", (x, gamma, beta), g.fresh("v"), where=n.where, eps=eps)
    constants = {gamma: np.ones(width, np.float32), beta: np.zeros(width, np.float32)}
    return Change({n.output: made.output}, (made,), constants)


def columns_into_norm(g: GraphView, n: Node) -> Change | None:
    """layer_norm(x, g, b) * c, layer_norm(x, g, b) + c  ->  layer_norm(x, g', b')"""
    for name, _, c in by_columns(g, n):
        norm = g.made_by(name, "layer_norm")
        if norm is None or not g.only_used_by(name, n):
            continue
        arrays = [g.constants[i] for i in norm.inputs[1:] if i in g.constants]
        if len(arrays) != 2 or any(a.shape != c.shape for a in arrays):
            continue
        gamma, beta = (a.astype(np.float64) for a in arrays)
        gamma, beta = (gamma * c, beta * c) if n.op == "mul" else (gamma, beta + c)
        names = (g.fresh("gamma"), g.fresh("beta"))
        made = Node("layer_norm", (norm.inputs[0], *names), g.fresh("v"), norm.attributes,
                    norm.where)  # fmt: skip
        constants = {k: a.astype(np.float32) for k, a in zip(names, (gamma, beta), strict=True)}
        return Change({n.output: made.output}, (made,), constants)
    return None


def divide_by_constant(g: GraphView, n: Node) -> Change | None:
    """x / c  ->  x * (1 / c)"""
    c = g.scalar(n.inputs[1]) if n.op == "div" else None
    if not c or g.array(n.inputs[0]) is not None:
        return None
    name = g.fresh("inverse")
    made = node("mul", (n.inputs[0], name), g.fresh("v"), where=n.where)
    inverse = np.full(g.constants[n.inputs[1]].shape, 1 / c, np.float32)
    if not np.isfinite(inverse).all():
        return None
    return Change({n.output: made.output}, (made,), {name: inverse})


def scale_past_matmul(g: GraphView, n: Node) -> Change | None:
    """(a * c) b, a (b * c)  ->  (a b) * c"""
    if n.op != "matmul":
        return None
    for side, name in enumerate(n.inputs):
        scaled = g.made_by(name, "mul")
        # Several matmuls may read the scaled keys: each then scales its own scores.
        if scaled is None or not (side == 1 or g.only_used_by(name, n)):
            continue
        for x, c in (scaled.inputs, scaled.inputs[::-1]):
            if g.scalar(c) is None or g.shape(x) != g.shape(name):
                continue
            operands = (x, n.inputs[1]) if side == 0 else (n.inputs[0], x)
            plain = node("matmul", operands, g.fresh("v"), where=n.where)
            outer = node("mul", (plain.output, c), g.fresh("v"), where=n.where)
            return Change({n.output: outer.output}, (plain, outer))
    return None
