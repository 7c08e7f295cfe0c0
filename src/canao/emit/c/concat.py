"""C for concatenations: every row of the output, piece by piece."""

from __future__ import annotations

from canao.emit.arguments import IDS, Arguments
from canao.emit.c.kernel import KernelText, mark_unused, signature
from canao.emit.expressions import expression
from canao.emit.writer import Writer
from canao.fuse.forms.concat import Concat, Piece
from canao.graph.ir import Dim, Graph, dim_mul
from canao.isa.table import Isa
from canao.schedule.schedule import Step


def concat_text(graph: Graph, step: Step, isa: Isa) -> KernelText:
    """Rows piece by piece."""
    form = step.region.form
    assert isinstance(form, Concat)
    arguments, body = Arguments(step.reads), Writer()
    body.depth = 1
    mark_unused(body, "s", "scratch")
    with body.block("for (int64_t r = begin; r < end; r++)"):
        body.line(f"float *const o = out + r * {form.width};")
        _indices(body, form)
        for piece in form.pieces:
            _piece(body, form, piece, arguments)
    w = Writer()
    w.line(f"/* rows of {form.width} from {len(form.pieces)} pieces */")
    w.line(signature(step.name, arguments))
    w.line("{")
    w.raw(body.text())
    w.line("}")
    return KernelText(w.text())


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


def _piece(w: Writer, form: Concat, piece: Piece, arguments: Arguments) -> None:
    terms = [expression(piece.source.offset)] if piece.source.offset != 0 else []
    terms += [f"i{axis}{_scaled(' * ', step)}" for axis, step in _axes(form, piece)]
    place = " + ".join(terms) or "0"
    step: Dim = 1
    if piece.table:
        index = f"{arguments.of(piece.source.base, IDS)}[{place}]"
        start = f"{arguments.of(piece.table)} + (int64_t){index} * {piece.width}"
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
        w.line(f"const float *const p = {start};")
        w.line(f"for (int64_t j = 0; j < {piece.width}; j++)")
        w.line(f"    o[{column}] = p[{element}];")
