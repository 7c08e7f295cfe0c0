"""What copies and scans read, and what their text depends on, on every backend."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from canao.fuse.forms.concat import Concat
from canao.fuse.forms.scan import Scan
from canao.graph.dtypes import I32
from canao.graph.ir import Graph
from canao.lower.lowering import canonical
from canao.lower.naming import plain
from canao.schedule.operands import Operand


def concat_reads(form: Concat) -> tuple[Operand, ...]:
    """Pointers, piece by piece."""
    reads: list[Operand] = []
    for piece in form.pieces:
        base = piece.source.base
        reads += [Operand(base, dtype=I32), Operand(piece.table)] if piece.table else [
            Operand(base)
        ]
    return tuple(dict.fromkeys(reads))


def concat_facts(graph: Graph, form: Concat) -> Hashable:
    return canonical(form, graph)


def scan_name(form: Scan) -> str:
    """The beginning of a kernel's name."""
    return f"scan_{plain(form.length)}" + "".join(
        f"_{n.op}" for n in form.body if n.op != "reshape"
    )


def scan_reads(form: Scan) -> tuple[Operand, ...]:
    """Pointers to whole numbers, in the order of their first use."""
    inside = {n.output for n in form.body}
    read = dict.fromkeys(
        name for n in form.body for name in n.inputs
        if name not in inside and not isinstance(form.operands[name], int)
    )  # fmt: skip
    return tuple(Operand(name, dtype=I32) for name in read)


def scan_facts(graph: Graph, form: Scan) -> Hashable:
    body = [(n.op, n.inputs, n.output, n.attributes) for n in form.body]
    numbers = [form.operands.get(name) for n in form.body for name in n.inputs
               if isinstance(form.operands.get(name), int)]  # fmt: skip
    return (form.length, _body(graph, body), tuple(numbers))


def _body(graph: Graph, body: Sequence[tuple[object, ...]]) -> Hashable:
    names: dict[str, int] = {}
    return tuple(
        (op, canonical([inputs, output], graph, names), repr(attributes))
        for op, inputs, output, attributes in body
    )
