"""Kinds of input as C, headers, manifests and the runtime tell them: numbers only here."""

from __future__ import annotations

from canao.emit.expressions import expression
from canao.graph.ir import Ids, Input, Positions, Tensor


def runtime_limit(slot: Input) -> int:
    """What an input holds, as the runtime and manifests say it: `limit` in canao_runtime.h."""
    match slot.kind:
        case Ids(limit):
            return limit or 0
        case Tensor():
            return -1  # CANAO_FLOATS
    raise AssertionError(f"{slot.name}: no input of the library")


def source(slot: Input, index: int) -> str:
    """C for where an input's elements are."""
    match slot.kind:
        case Ids():
            return f"c->inputs[{index}]"
        case Tensor():
            return f"(const {slot.type.dtype.c} *)c->inputs[{index}]"
        case Positions():
            return "c->positions"


def described(slot: Input) -> str:
    """What a caller gives for an input."""
    match slot.kind:
        case Ids(None):
            return "ids"
        case Ids(limit):
            return f"ids below {limit}"
    return f"{slot.type.dtype.c} [{', '.join(expression(d) for d in slot.type.shape)}]"
