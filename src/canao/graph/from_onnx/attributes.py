"""Attributes of ONNX operators: each that a node has is used by the rule of its operator, is known
to be without effect, or is refused by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from canao.graph.from_onnx.load import require_onnx
from canao.graph.from_onnx.rules import RULES

if TYPE_CHECKING:
    from canao.graph.from_onnx.builder import Builder

_PRECISION = "everything is computed in float32"
_FLOAT8 = "decides of casts to 8-bit floats, which are refused"
# Attributes that no rule looks at, by operator, and why none has to.
NO_EFFECT: Mapping[str, Mapping[str, str]] = {
    "Attention": {
        "qk_matmul_output_mode": "what the fourth result holds, which is refused where it is read",
        "softmax_precision": _PRECISION,
    },
    "Cast": {"saturate": _FLOAT8, "round_mode": _FLOAT8},
    "CastLike": {"saturate": _FLOAT8, "round_mode": _FLOAT8},
    "Dropout": {"seed": "counts in training only, which is refused"},
    "LayerNormalization": {"stash_type": _PRECISION},
    "RMSNormalization": {"stash_type": _PRECISION},
    "Range": {"stash_type": _PRECISION},
    "QuantizeLinear": {"saturate": _FLOAT8, "precision": _PRECISION},
}


def understood(b: Builder, n: Any) -> list[Any]:
    """The attributes of a node that its rule takes; UnsupportedError names one that none knows."""
    schema, found = _known(b, n), []
    for a in n.attribute:
        if a.name not in schema:
            raise b.unsupported(f"attribute '{a.name}', which ONNX does not give it,")
        if a.name in NO_EFFECT.get(n.op_type, {}):
            continue
        if takes(n.op_type, a.name):
            found.append(a)
        elif not _is_default(a, schema[a.name]):
            raise b.unsupported(f"attribute '{a.name}'")
    return found


def takes(operator: str, attribute: str) -> bool:
    """Whether the rule of an operator has a parameter for an attribute."""
    parameters = _signature(operator).parameters
    return attribute in parameters or any(p.kind == p.VAR_KEYWORD for p in parameters.values())


def _is_default(a: Any, known: Any) -> bool:
    """Whether an attribute says what is so without it."""
    value = require_onnx().helper.get_attribute_value
    default = known.default_value
    return bool(default.type) and a.type == default.type and value(a) == value(default)


def require_arity(
    b: Builder, n: Any, operands: Sequence[Any], attributes: Mapping[str, Any]
) -> None:
    """UnsupportedError unless the rule takes so many operands."""
    try:
        _signature(n.op_type).bind(b, *operands, **attributes)
    except TypeError:
        raise b.unsupported(f"{len(operands)} operands") from None


@cache
def _signature(operator: str) -> inspect.Signature:
    return inspect.signature(RULES[operator])


def _known(b: Builder, n: Any) -> Any:
    onnx = require_onnx()
    try:
        return onnx.defs.get_schema(n.op_type, b.opset, "").attributes
    except onnx.defs.SchemaError:
        raise b.unsupported("this opset") from None
