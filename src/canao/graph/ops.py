"""The op table: one row per op, read by verifier, interpreter, cost estimate, fusion and emitters.

Shape rules are in shapes.py, NumPy meanings in meanings.py. Mapping types are those of DNNFusion
(PLDI 2021, Table 2): how elements of an activation relate to elements of the result. Weights and
scalars don't count, so that broadcasting them doesn't make an op One-to-Many.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import erf

from canao.graph import meanings, shapes
from canao.graph.dtypes import BOOL, DType
from canao.graph.ir import Type, dim_at, dim_mul, product
from canao.graph.meanings import Array, Meaning, elementwise

ONE_TO_ONE = "one-to-one"
ONE_TO_MANY = "one-to-many"
MANY_TO_MANY = "many-to-many"
REORGANIZE = "reorganize"
SHUFFLE = "shuffle"

# A view is PLAIN if each of its indices runs forwards along one dimension of its operand or along
# none; SKEWED if it runs backwards (flip), or if two run along the same one (diagonals).
PLAIN, SKEWED = "plain", "skewed"

# (types of the operands, type of the result, token count) -> floating-point operations
Cost = Callable[[Sequence[Type], Type, int], int]


def _per_element(count: int) -> Cost:
    return lambda _, out, s: count * dim_at(out.elements, s)


def _per_operand_element(types: Sequence[Type], _: Type, s: int) -> int:
    return dim_at(types[0].elements, s)


def _matmul_cost(types: Sequence[Type], out: Type, s: int) -> int:
    return 2 * dim_at(dim_mul(out.elements, types[0].shape[-1]), s)


def _distance_cost(types: Sequence[Type], out: Type, s: int) -> int:
    columns = dim_at(out.shape[-1], s)
    return _matmul_cost(types, out, s) // columns * min(columns, 2 * s - 1)


def _causal_cost(types: Sequence[Type], out: Type, s: int) -> int:
    """Of q k^T and of weights times values, over the keys that each query sees."""
    elements = dim_at(types[1].elements, s) + dim_at(out.elements, s)
    return elements * (s + 1)


_FREE = _per_element(0)


@dataclass(frozen=True, slots=True)
class Op:
    """One row.

    arity      the numbers of operands that it takes
    pointwise  an element of the result is computed from one element of each operand
    view       PLAIN or SKEWED where nothing is computed and elements only change their places
    vector     C that computes it on float vectors, by functions vf_* of isa/ and emit/vecmath.py;
               {0} is the first operand. '' if no kernel computes it in vectors
    whole      C that computes it on whole numbers and truth values; '' if no kernel does
    result     element type of the result of a pointwise op; None: that of its last operand
    """

    name: str
    arity: tuple[int, ...]
    shape: shapes.ShapeRule
    meaning: Meaning
    mapping: str
    flops: Cost = _FREE
    pointwise: bool = False
    view: str = ""
    vector: str = ""
    whole: str = ""
    result: DType | None = None


def _pointwise(
    name: str, arity: int, meaning: Callable[..., Array], flops: int = 1, vector: str = "",
    whole: str = "", result: DType | None = None,
) -> Op:  # fmt: skip
    return Op(
        name, (arity,), shapes.broadcasting(result), elementwise(meaning), ONE_TO_ONE,
        _per_element(flops), pointwise=True, vector=vector, whole=whole, result=result,
    )  # fmt: skip


def _unary(name: str, meaning: Callable[[Array], Array], **columns: Any) -> Op:
    return _pointwise(name, 1, meaning, **columns)


def _binary(name: str, meaning: Callable[[Array, Array], Array], **columns: Any) -> Op:
    return _pointwise(name, 2, meaning, **columns)


def _choice(name: str, meaning: Callable[[Array, Array, Array], Array], **columns: Any) -> Op:
    return _pointwise(name, 3, meaning, **columns)


def _view(
    name: str, shape: shapes.ShapeRule, meaning: Meaning, mapping: str, view: str = PLAIN
) -> Op:
    return Op(name, (1,), shape, meaning, mapping, view=view)


_ROWS = (
    # Pointwise, of one operand.
    _unary("neg", np.negative, vector="vf_sub(vf_set1(0.0f), {0})", whole="-{0}"),
    _unary("abs", np.abs, vector="vf_abs({0})"),
    _unary("exp", np.exp, flops=8, vector="vf_exp({0})"),
    _unary("log", np.log, flops=40, vector="vf_log({0})"),
    _unary("sqrt", np.sqrt, vector="vf_sqrt({0})"),
    _unary("reciprocal", np.reciprocal, vector="vf_div(vf_set1(1.0f), {0})"),
    _unary("cos", np.cos, flops=10),
    _unary("sin", np.sin, flops=10),
    _unary("tanh", np.tanh, flops=10, vector="vf_tanh({0})"),
    _unary("erf", erf, flops=12, vector="vf_erf({0})"),
    _unary("sigmoid", meanings.sigmoid, flops=10, vector="vf_sigmoid({0})"),
    _unary("relu", meanings.relu, vector="vf_max({0}, vf_set1(0.0f))"),
    _unary("gelu", meanings.gelu, flops=14, vector="vf_gelu({0})"),
    _unary("gelu_tanh", meanings.gelu_tanh, flops=16, vector="vf_gelu_tanh({0})"),
    _unary("silu", meanings.silu, flops=11, vector="vf_mul({0}, vf_sigmoid({0}))"),
    _unary("softplus", meanings.softplus, flops=14, vector="vf_softplus({0})"),
    _unary("sign", np.sign),
    _unary("ceil", np.ceil),
    _unary("floor", np.floor),
    # Beyond 2^22 the vector operation may be off; from 2^23 on all floats are whole.
    _unary("round", np.rint, flops=3,
           vector="vf_select(vf_sub(vf_set1(4194304.0f), vf_abs({0})), vf_round({0}), {0})"),
    _unary("logical_not", np.logical_not, whole="!{0}", result=BOOL),
    Op("cast", (1,), shapes.cast, meanings.cast, ONE_TO_ONE, pointwise=True, whole="{0}"),
    # Pointwise, of several operands.
    _binary("add", np.add, vector="vf_add({0}, {1})", whole="{0} + {1}"),
    _binary("sub", np.subtract, vector="vf_sub({0}, {1})", whole="{0} - {1}"),
    _binary("mul", np.multiply, vector="vf_mul({0}, {1})", whole="{0} * {1}"),
    _binary("div", np.divide, vector="vf_div({0}, {1})"),
    _binary("maximum", np.maximum, vector="vf_max({0}, {1})", whole="({0} > {1} ? {0} : {1})"),
    _binary("minimum", np.minimum, vector="vf_min({0}, {1})", whole="({0} < {1} ? {0} : {1})"),
    _binary("eq", np.equal, whole="{0} == {1}", result=BOOL),
    _binary("ne", np.not_equal, whole="{0} != {1}", result=BOOL),
    _binary("ge", np.greater_equal, whole="{0} >= {1}", result=BOOL),
    _binary("gt", np.greater, whole="{0} > {1}", result=BOOL),
    _binary("le", np.less_equal, whole="{0} <= {1}", result=BOOL),
    _binary("lt", np.less, whole="{0} < {1}", result=BOOL),
    _binary("logical_and", np.logical_and, whole="{0} && {1}", result=BOOL),
    _binary("logical_or", np.logical_or, whole="{0} || {1}", result=BOOL),
    _choice("where", np.where),
    _choice("select", meanings.select, vector="vf_select({0}, {1}, {2})"),
    _pointwise("levels", 5, meanings.levels, flops=6, vector=(
        "vf_add(vf_round(vf_min(vf_max(vf_div({0}, {1}), vf_sub({3}, {2})), vf_sub({4}, {2}))), "
        "{2})")),
    # Matrix multiplication.
    Op("linear", (2, 3), shapes.linear, meanings.linear, MANY_TO_MANY, _matmul_cost),
    Op("quantized_linear", (3, 4), shapes.quantized_linear, meanings.quantized_linear, MANY_TO_MANY,
       _matmul_cost),
    Op("matmul", (2,), shapes.matmul, meanings.matmul, MANY_TO_MANY, _matmul_cost),
    Op("distance_matmul", (3,), shapes.distance_matmul, meanings.distance_matmul, MANY_TO_MANY,
       _distance_cost),
    Op("causal_attention", (3,), shapes.causal_attention, meanings.causal_attention, MANY_TO_MANY,
       _causal_cost),
    # Over the last dimension.
    Op("softmax", (1,), shapes.same, meanings.softmax, MANY_TO_MANY, _per_element(12)),
    Op("layer_norm", (3,), shapes.same, meanings.layer_norm, MANY_TO_MANY, _per_element(8)),
    Op("reduce_sum", (1,), shapes.reduction, meanings.reduce_sum, MANY_TO_MANY,
       _per_operand_element),
    Op("reduce_mean", (1,), shapes.reduction, meanings.reduce_mean, MANY_TO_MANY,
       _per_operand_element),
    Op("reduce_max", (1,), shapes.reduction, meanings.reduce_max, MANY_TO_MANY,
       _per_operand_element),
    Op("narrow", (1,), shapes.narrow, meanings.narrow, ONE_TO_ONE, _per_element(1)),
    Op("quantize", (1,), shapes.quantize, meanings.quantize, MANY_TO_MANY, _per_element(4)),
    Op("rows_of_levels", (1,), shapes.rows_of_levels, meanings.rows_of_levels, MANY_TO_MANY),
    Op("cumsum", (1,), shapes.same, meanings.cumsum, MANY_TO_MANY, _per_element(1)),
    # Elements found by number, made or joined.
    Op("gather", (2,), shapes.gather, meanings.gather, ONE_TO_MANY),
    Op("quantized_gather", (3,), shapes.quantized_gather, meanings.quantized_gather, ONE_TO_MANY,
       _per_element(1)),
    Op("take_along_axis", (2,), shapes.take_along_axis, meanings.take_along_axis, SHUFFLE),
    Op("arange", (0,), shapes.arange, meanings.arange, ONE_TO_ONE),
    Op("concat", tuple(range(1, 65)), shapes.concat, meanings.concat, ONE_TO_ONE),
    # Views.
    _view("reshape", shapes.reshape, meanings.reshape, REORGANIZE),
    _view("transpose", shapes.transpose, meanings.transpose, SHUFFLE),
    _view("slice", shapes.slice_of, meanings.slice_of, ONE_TO_ONE),
    _view("expand", shapes.expand, meanings.expand, ONE_TO_MANY),
    _view("flip", shapes.same, meanings.flip, SHUFFLE, SKEWED),
    _view("diagonals", shapes.diagonals, meanings.diagonals, ONE_TO_MANY, SKEWED),
)  # fmt: skip

OPS: Mapping[str, Op] = {row.name: row for row in _ROWS}
# Views that rewriting moves other ops past.
VIEWS = tuple(name for name, row in OPS.items() if row.view == PLAIN)
# Ops that row kernels compute in vectors.
POINTWISE = tuple(name for name, row in OPS.items() if row.vector)


def mapping_type(op: str, inputs: Sequence[Type], weights: Sequence[bool], output: Type) -> str:
    """DNNFusion's mapping type of one node. A pointwise op is One-to-Many where it broadcasts an
    activation; weights and scalars that broadcast don't count."""
    row = OPS[op]
    if row.mapping == ONE_TO_MANY and all(weights):
        return ONE_TO_ONE
    if row.pointwise:
        for t, weight in zip(inputs, weights, strict=True):
            if not weight and t.elements not in (1, product(output.shape)):
                return ONE_TO_MANY
    return row.mapping
