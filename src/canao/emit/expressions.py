"""Sizes as C."""

from __future__ import annotations

from canao.graph.ir import Dim, Poly
from canao.schedule.schedule import Buffer


def expression(d: Dim) -> str:
    """A dimension as C; `s` is the token count."""
    return f"({d})" if isinstance(d, Poly) else str(d)


def buffer_size(buffer: Buffer) -> str:
    """The elements of a buffer as C."""
    if isinstance(buffer.count, int) and isinstance(buffer.times, int):
        return str(buffer.elements(1))
    count, multiple = expression(buffer.count), buffer.multiple
    if multiple > 1:
        count = f"({count} + {multiple - 1}) / {multiple} * {multiple}"
    return count if buffer.times == 1 else f"{count} * {expression(buffer.times)}"
