"""Kinds of input as C, headers, manifests and the runtime tell them."""

from __future__ import annotations

from canao.emit.expressions import expression
from canao.graph.ir import Ids, Input, Positions, Tensor


def runtime_kind(slot: Input) -> str:
    """What an input holds, as canao_runtime.h calls it."""
    match slot.kind:
        case Ids():
            return "CANAO_IDS"
        case Tensor():
            return "CANAO_FLOATS"
    raise AssertionError(f"{slot.name}: no input of the library")


def id_limit(slot: Input) -> int:
    """Legal ids are below it; 0 where all are, or where an input holds none."""
    return slot.kind.limit or 0 if isinstance(slot.kind, Ids) else 0


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
