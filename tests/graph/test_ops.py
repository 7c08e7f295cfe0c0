"""Every row of the op table is whole: a shape rule that its meaning agrees with, and its code."""

from __future__ import annotations

import re

import numpy as np
import pytest

from canao.emit.vecmath import STEPS, functions, helpers
from canao.graph.dtypes import BF16, BOOL, F16, F32, I8, I32, Q7, Q8, QUANTIZED, DType
from canao.graph.ir import TOKENS, Shape, Type, dim, shape_at
from canao.graph.meanings import narrowed, quantize
from canao.graph.ops import MANY_TO_MANY, OPS, PLAIN, POINTWISE, VIEWS
from canao.graph.shapes import ShapeError
from canao.isa.table import OPERATIONS

S = TOKENS
LONGEST = 9  # of the sequences below


def f32(*shape: object) -> Type:
    return Type(F32, tuple(shape))  # type: ignore[arg-type]


def i32(*shape: object) -> Type:
    return Type(I32, tuple(shape))  # type: ignore[arg-type]


def truth(*shape: object) -> Type:
    return Type(BOOL, tuple(shape))  # type: ignore[arg-type]


UNARY = ("neg", "abs", "exp", "log", "sqrt", "reciprocal", "cos", "sin", "tanh", "erf", "sigmoid",
         "relu", "gelu", "gelu_tanh", "silu", "softplus", "sign", "ceil", "floor",
         "round")  # fmt: skip
BINARY = ("add", "sub", "mul", "div", "maximum", "minimum")
TESTS = ("eq", "ne", "ge", "gt", "le", "lt")
# op -> operands, attributes and the type of the result, for each way of calling it
CASES: dict[str, list[tuple[tuple[Type, ...], dict, Type]]] = {
    **{op: [((f32(1, S, 4),), {}, f32(1, S, 4))] for op in UNARY},
    **{op: [((f32(2, S, 4), f32(S, 1)), {}, f32(2, S, 4)),
            ((f32(), f32(S)), {}, f32(S))] for op in BINARY},
    **{op: [((i32(1, S), i32()), {}, truth(1, S)),
            ((f32(S, 1), f32(1, S)), {}, truth(S, S))] for op in TESTS},
    "logical_not": [((truth(1, S),), {}, truth(1, S))],
    "logical_and": [((truth(1, S), truth(S, 1)), {}, truth(S, S))],
    "logical_or": [((truth(1, S), truth(S, 1)), {}, truth(S, S))],
    "cast": [((i32(1, S),), {"dtype": F32}, f32(1, S)), ((truth(S),), {"dtype": I32}, i32(S)),
             ((i32(S),), {"dtype": BOOL}, truth(S))],
    "where": [((truth(S, S), f32(2, 1, S), f32()), {}, f32(2, S, S))],
    "select": [((f32(S, 4), f32(S, 4), f32(4)), {}, f32(S, 4))],
    "linear": [((f32(1, S, 3), f32(5, 3)), {}, f32(1, S, 5)),
               ((f32(1, S, 3), f32(5, 3), f32(5)), {}, f32(1, S, 5)),
               ((Type(BF16, (1, S, 3)), Type(BF16, (5, 3)), f32(5)), {}, f32(1, S, 5)),
               ((Type(F16, (1, S, 3)), Type(F16, (5, 3))), {}, f32(1, S, 5))],
    "narrow": [((f32(1, S, 4),), {"dtype": d}, Type(d, (1, S, 4))) for d in (BF16, F16)],
    "levels": [((f32(1, S, 4), f32(), f32(4), f32(), f32()), {}, f32(1, S, 4))],
    "quantize": [((f32(1, S, 4),), {}, Type(Q8, (1, S, 4))),
                 ((f32(1, S, 4),), {"dtype": Q7}, Type(Q7, (1, S, 4)))],
    "rows_of_levels": [((f32(1, S, 4),), {}, Type(Q8, (1, S, 4)))],
    "quantized_linear": [
        ((Type(Q8, (1, S, 3)), Type(I8, (5, 3)), f32(5)), {}, f32(1, S, 5)),
        ((Type(Q8, (1, S, 3)), Type(I8, (5, 3)), f32(5), f32(5)), {}, f32(1, S, 5)),
        ((Type(Q7, (1, S, 3)), Type(I8, (5, 3)), f32(5)), {}, f32(1, S, 5)),
        ((f32(1, S, 3), Type(I8, (5, 3)), f32(5)), {}, f32(1, S, 5)),
    ],
    "quantized_gather": [((Type(I8, (9, 4)), f32(9, 1), i32(1, S)), {}, f32(1, S, 4))],
    "matmul": [((f32(2, S, 3), f32(2, 3, S)), {}, f32(2, S, S)),
               ((f32(1, 2, S, 3), f32(3, 4)), {}, f32(1, 2, S, 4))],
    "distance_matmul": [((f32(2, S, 3), f32(2, 3, 4), i32(2 * LONGEST - 1)), {"longest": LONGEST},
                         f32(2, S, 4))],
    "causal_attention": [((f32(2, S, 3), f32(2, S, 3), f32(2, S, 5)), {"scale": 0.5},
                          f32(2, S, 5))],
    "softmax": [((f32(2, S, S),), {}, f32(2, S, S))],
    "layer_norm": [((f32(1, S, 4), f32(4), f32(4)), {"eps": 1e-5}, f32(1, S, 4))],
    **{op: [((f32(1, S, 4),), {}, f32(1, S, 1)), ((f32(S),), {}, f32(1))]
       for op in ("reduce_sum", "reduce_mean", "reduce_max")},
    "cumsum": [((i32(1, S),), {}, i32(1, S))],
    "gather": [((f32(3, 6), i32(1, S)), {}, f32(1, S, 6))],
    "take_along_axis": [((f32(2, S, 3), i32(1, S, S)), {}, f32(2, S, S))],
    "arange": [((), {"stop": S}, i32(S)), ((), {"stop": 4}, i32(4))],
    "concat": [((f32(1, 2, 3), f32(1, S, 3)), {"axis": 1}, f32(1, dim((2, 1)), 3)),
               ((i32(1, S),), {"axis": 0}, i32(1, S))],
    "reshape": [((f32(1, S, 6),), {"shape": (S, 2, 3)}, f32(S, 2, 3))],
    "transpose": [((f32(1, S, 6),), {"perm": (2, 0, 1)}, f32(6, 1, S))],
    "slice": [((f32(12, 4),), {"axis": 0, "start": 1, "stop": dim((1, 1))}, f32(S, 4))],
    "expand": [((f32(1, S, 1),), {"shape": (2, S, 4)}, f32(2, S, 4))],
    "flip": [((f32(1, S, 6),), {"axis": 1}, f32(1, S, 6))],
    "diagonals": [((f32(2, 2 * LONGEST - 1),), {"longest": LONGEST}, f32(2, S, S))],
}  # fmt: skip
# Operands that don't fit together.
MISFITS: dict[str, tuple[tuple[Type, ...], dict]] = {
    "add": ((f32(1, 3), f32(1, 4)), {}),
    "linear": ((f32(1, S, 3), f32(5, 4)), {}),
    "quantize": ((f32(1, S, 3),), {"dtype": I8}),
    "narrow": ((f32(1, S, 3),), {"dtype": I8}),
    "quantized_linear": ((Type(BF16, (1, S, 3)), Type(I8, (5, 3)), f32(5)), {}),
    "rows_of_levels": ((i32(1, S),), {}),
    "quantized_gather": ((Type(I8, (9, 4)), f32(9), i32(1, S)), {}),
    "matmul": ((f32(S, 3), f32(4, S)), {}),
    "distance_matmul": ((f32(S, 3), f32(3, 4), i32(3)), {"longest": LONGEST}),
    "causal_attention": ((f32(S, 3), f32(S, 4), f32(S, 3)), {"scale": 1.0}),
    "gather": ((f32(3, 6), f32(1, S)), {}),
    "take_along_axis": ((f32(2, 3), i32(3, 1)), {}),
    "concat": ((f32(1, 2), f32(2, 2)), {"axis": 1}),
    "reshape": ((f32(1, S, 6),), {"shape": (S, 5)}),
    "transpose": ((f32(1, S),), {"perm": (0, 0)}),
    "expand": ((f32(1, 3),), {"shape": (1, 4)}),
    "diagonals": ((f32(2, 5),), {"longest": LONGEST}),
}
# What no kernel computes: such ops are folded, become others, or are refused when kernels are made.
WITHOUT_KERNEL = {"cos", "sin", "sign", "ceil", "floor", "where"}


def operand(t: Type, s: int) -> np.ndarray:
    """Positive floats, and whole numbers that are indices into every table above."""
    shape, rng = shape_at(t.shape, s), np.random.default_rng(s)
    if t.dtype in QUANTIZED:
        return quantize([rng.uniform(0.5, 2, shape)], {"dtype": t.dtype})
    if t.dtype in (BF16, F16):
        return narrowed(rng.uniform(0.5, 2, shape), t.dtype)
    values = {"float": rng.uniform(0.5, 2, shape), "int": rng.integers(0, 3, shape),
              "bool": rng.random(shape) < 0.5}  # fmt: skip
    return np.asarray(values[t.dtype.kind])


def kind_of(array: np.ndarray) -> str:
    if array.dtype == np.uint16:
        return "float"  # the bits of bf16
    return {"f": "float", "i": "int", "b": "bool", "V": "quantized"}[array.dtype.kind]


def shape_of(array: np.ndarray) -> tuple[int, ...]:
    """The shape that the type has: a row of Q8 is one element here."""
    return np.shape(array["levels"] if array.dtype.kind == "V" else array)


def test_every_op_has_a_case() -> None:
    assert set(CASES) == set(OPS)


@pytest.mark.parametrize("op", OPS)
def test_meaning_agrees_with_the_shape_rule(op: str) -> None:
    row = OPS[op]
    for types, attributes, expected in CASES[op]:
        assert len(types) in row.arity
        result = row.shape(types, attributes)
        assert result == expected
        for s in (1, 2, 5, LONGEST):
            got = row.meaning([operand(t, s) for t in types], attributes | {"s": s})
            assert shape_of(np.asarray(got)) == shape_at(result.shape, s)
            assert kind_of(np.asarray(got)) == result.dtype.kind
            assert row.flops(types, result, s) >= 0


@pytest.mark.parametrize("op", MISFITS)
def test_operands_that_do_not_fit_are_refused(op: str) -> None:
    types, attributes = MISFITS[op]
    with pytest.raises(ShapeError, match=r"\w"):
        OPS[op].shape(types, attributes)


@pytest.mark.parametrize("op", [name for name, row in OPS.items() if row.pointwise])
def test_pointwise_ops_have_code(op: str) -> None:
    row = OPS[op]
    assert bool(row.vector or row.whole) == (op not in WITHOUT_KERNEL)
    slots = [f"{{{i}}}" for i in range(row.arity[0])]
    for text in filter(None, (row.vector, row.whole)):
        assert sorted(set(re.findall(r"\{\d+\}", text))) == slots
    assert set(re.findall(r"vf_(\w+)\(", row.vector)) <= _functions()


def _functions() -> set[str]:
    text = functions() + "".join(helpers().values())
    return {*OPERATIONS, *re.findall(r"^CANAO_INLINE vf vf_(\w+)\(", text, re.M)}


def test_only_pointwise_ops_have_code() -> None:
    assert all(row.pointwise for row in OPS.values() if row.vector or row.whole or row.result)
    assert set(POINTWISE) == {name for name, row in OPS.items() if row.vector}
    assert STEPS.keys().isdisjoint(OPS)
    assert all(set(re.findall(r"vf_(\w+)\(", text)) <= _functions() for text in STEPS.values())


def test_views_compute_nothing() -> None:
    types: list[tuple[DType, Shape]] = [(F32, (1, S, 6))]
    assert {"reshape", "transpose", "slice", "expand"} == set(VIEWS)
    for name, row in OPS.items():
        if row.view:
            assert row.mapping != MANY_TO_MANY and not row.pointwise
            assert row.flops([Type(*types[0])], Type(*types[0]), 5) == 0
            assert (row.view == PLAIN) == (name in VIEWS)
