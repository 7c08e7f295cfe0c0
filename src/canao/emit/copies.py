"""What all languages share of kernels that copy rows, and of those that scan whole numbers."""

from __future__ import annotations

from dataclasses import dataclass

from canao.emit.arguments import IDS, Arguments
from canao.emit.expressions import expression
from canao.emit.writer import Writer
from canao.fuse.forms.concat import Concat, Piece
from canao.fuse.forms.scan import Scan
from canao.graph.dtypes import BOOL
from canao.graph.ir import Dim, dim_mul
from canao.graph.ops import OPS


def concat_row(w: Writer, form: Concat, arguments: Arguments, start: str, step: str) -> None:
    """All pieces of row r, into `o`: the columns from `start` on, each followed by `step` more."""
    _indices(w, form, arguments)
    for piece in form.pieces:
        _piece(w, form, piece, arguments, start, step)


def _axes(form: Concat, piece: Piece) -> list[tuple[int, Dim]]:
    """The leading dimensions that the piece's place in its source depends on, with strides."""
    strides = piece.source.strides if piece.table else piece.source.strides[:-1]
    return [(axis, step) for axis, step in enumerate(strides)
            if step != 0 and form.lead[axis] != 1]  # fmt: skip


def _indices(w: Writer, form: Concat, arguments: Arguments) -> None:
    """The indices of row r in those leading dimensions that a piece depends on."""
    used = {axis for p in form.pieces for axis, *_ in (*p.bounds, *_axes(form, p))}
    step: Dim = 1
    for axis in reversed(range(len(form.lead))):
        if axis in used:
            size = expression(form.lead[axis])
            whole = f"r{_scaled(' / ', step)} % {size}"
            w.line(f"const {arguments.language.int64} i{axis} = {whole};")
        step = dim_mul(step, form.lead[axis])


def _scaled(operator: str, step: Dim) -> str:
    return "" if step == 1 else f"{operator}{expression(step)}"


def _piece(
    w: Writer, form: Concat, piece: Piece, arguments: Arguments, first: str, next_one: str
) -> None:
    language = arguments.language
    terms = [expression(piece.source.offset)] if piece.source.offset != 0 else []
    terms += [f"i{axis}{_scaled(' * ', step)}" for axis, step in _axes(form, piece)]
    place = " + ".join(terms) or "0"
    step: Dim = 1
    if piece.table:
        index = f"{arguments.of(piece.source.base, IDS)}[{place}]"
        start = f"{arguments.of(piece.table)} + ({language.int64}){index} * {piece.width}"
    else:
        start = f"{arguments.of(piece.source.base)} + {place}"
        step = piece.source.strides[-1]
    inside = [
        f"i{axis} >= {expression(first)} && i{axis} < {expression(end)}"
        for axis, first, end in piece.bounds
    ]
    column = "j" if piece.column == 0 else f"{piece.column} + j"
    element = "0" if step == 0 else f"j{_scaled(' * ', step)}"
    with w.block(f"if ({' && '.join(inside)})" if inside else ""):
        w.line(f"{language.pointer}const float *const p = {start};")
        w.line(f"for ({language.int64} j = {first}; j < {piece.width}; {next_one})")
        w.line(f"    o[{column}] = p[{element}];")


@dataclass(frozen=True, slots=True)
class ScanBody:
    """What a scan does with token t: `text`, which adds to the `sums`, and its `result`."""

    text: str
    sums: tuple[str, ...]
    result: str


def scan_body(form: Scan, arguments: Arguments, depth: int) -> ScanBody:
    """All operations on one token, so many blocks deep."""
    body, sums, kind = Writer(), list[str](), arguments.language.type_of(IDS)
    local: dict[str, str] = {}

    def operand(name: str) -> str:
        if name not in local:
            known = form.operands[name]
            if isinstance(known, int):
                return str(known)
            local[name] = f"{arguments.of(name, IDS)}[t]"
        return local[name]

    body.depth = depth
    for i, n in enumerate(form.body):
        operands = [operand(name) for name in n.inputs]
        if n.op == "cumsum":
            sums.append(f"sum{i}")
            body.line(f"sum{i} += {operands[0]};")
            local[n.output] = f"sum{i}"
        elif n.op == "reshape":
            local[n.output] = operands[0]
        else:
            truth = n.op == "cast" and n.attribute("dtype") == BOOL
            value = f"{operands[0]} != 0" if truth else OPS[n.op].whole.format(*operands)
            body.line(f"const {kind} v{i} = {value};")
            local[n.output] = f"v{i}"
    return ScanBody(body.text(), tuple(sums), local[form.output])
