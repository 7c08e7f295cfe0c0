"""C for concatenations: every row of the output, piece by piece."""

from __future__ import annotations

from canao.emit.isa import Isa
from canao.emit.kernel import Kernel, mark_unused, plain, signature
from canao.emit.rowcode import Parameters, expression
from canao.emit.writer import Writer
from canao.fuse.forms.concat import Concat, Piece
from canao.graph.ir import Dim, dim_mul


def concat_kernel(form: Concat, isa: Isa) -> Kernel:
    parameters, body = Parameters(), Writer()
    body.depth = 1
    mark_unused(body, "s", "scratch")
    with body.block("for (int64_t r = begin; r < end; r++)"):
        body.line(f"float *const o = out + r * {form.width};")
        _indices(body, form)
        for piece in form.pieces:
            _piece(body, form, piece, parameters)
    w = Writer()
    w.line(f"/* rows of {form.width} from {len(form.pieces)} pieces */")
    w.line(signature(parameters))
    w.line("{")
    w.raw(body.text())
    w.line("}")
    name = f"concat_{plain(form.width)}_{len(form.pieces)}_{isa.name}"
    rows = expression(form.rows)
    return Kernel(name, w.text(), tuple(parameters.list), rows, frozenset())


def _axes(form: Concat, piece: Piece) -> list[tuple[int, Dim]]:
    """The leading dimensions that the piece's place in its source depends on, with strides."""
    strides = piece.source.strides if piece.table else piece.source.strides[:-1]
    return [(axis, step) for axis, step in enumerate(strides)
            if step != 0 and form.lead[axis] != 1]  # fmt: skip


def _indices(w: Writer, form: Concat) -> None:
    """The indices of row r in those leading dimensions that a piece depends on."""
    used = {axis for p in form.pieces for axis, *_ in (*p.bounds, *_axes(form, p))}
    step: Dim = 1
    for axis in reversed(range(len(form.lead))):
        if axis in used:
            size = expression(form.lead[axis])
            w.line(f"const int64_t i{axis} = r{_scaled(' / ', step)} % {size};")
        step = dim_mul(step, form.lead[axis])


def _scaled(operator: str, step: Dim) -> str:
    return "" if step == 1 else f"{operator}{expression(step)}"


def _piece(w: Writer, form: Concat, piece: Piece, parameters: Parameters) -> None:
    terms = [expression(piece.source.offset)] if piece.source.offset != 0 else []
    terms += [f"i{axis}{_scaled(' * ', step)}" for axis, step in _axes(form, piece)]
    place, step = " + ".join(terms) or "0", 1
    if piece.table:
        index = f"{parameters.of(piece.source.base, 'ids')}[{place}]"
        start = f"{parameters.of(piece.table)} + (int64_t){index} * {piece.width}"
    else:
        start = f"{parameters.of(piece.source.base)} + {place}"
        step = piece.source.strides[-1]
    inside = [
        f"i{axis} >= {expression(first)} && i{axis} < {expression(end)}"
        for axis, first, end in piece.bounds
    ]
    column = "j" if piece.column == 0 else f"{piece.column} + j"
    element = "0" if step == 0 else f"j{_scaled(' * ', step)}"
    with w.block(f"if ({' && '.join(inside)})" if inside else ""):
        w.line(f"const float *const p = {start};")
        w.line(f"for (int64_t j = 0; j < {piece.width}; j++)")
        w.line(f"    o[{column}] = p[{element}];")
