"""The OpenCL C of one kernel, and the pieces that all kernels share.

A kernel with barriers never returns early, though all items of a group would: PoCL 3.1 then takes
branches that differ between items for ones that do not.
"""

from __future__ import annotations

from collections.abc import Iterator

from canao.emit.arguments import Arguments, c_type
from canao.emit.c.interface import c_string
from canao.emit.c.kernel import RESULTS
from canao.emit.c.unit import table
from canao.emit.language import OPENCL
from canao.emit.writer import Writer
from canao.graph.dtypes import F32
from canao.schedule.operands import Operand
from canao.schedule.schedule import Step
from canao.schedule.work import Grid

BARRIER = OPENCL.barrier
_LITERAL = 4000  # characters that compilers take in a literal


def kernel(
    step: Step, arguments: Arguments, body: Writer, about: str, cached: str = ""
) -> str:
    """A whole kernel with its parameters: for each buffer its beginning and a first byte. `cached`
    is the type of the elements of a cache, which comes after what is read."""
    assert step.grid is not None
    w = Writer()
    buffers = [(name, c_type(operand, OPENCL), "const ") for operand, name in
               arguments.names.items()]  # fmt: skip
    if cached:
        buffers.append(("cache", cached, ""))
    if not step.appends:
        buffers += [(name, kind, "") for name, kind in zip(RESULTS, written(step), strict=False)]
    parameters = ["const int s", "const int past", "const int first"]
    for i, (_, _, constant) in enumerate(buffers):
        parameters += [f"__global {constant}uchar *b{i}", f"const ulong o{i}"]
    w.line(f"/* {about} */")
    w.line(f"__kernel {_group(step.grid)}")
    w.line(f"void {step.name}({', '.join(parameters)})")
    w.line("{")
    w.depth = 1
    for i, (name, kind, constant) in enumerate(buffers):
        pointer = f"__global {constant}{kind} *"
        w.line(f"{pointer}restrict {name} = ({pointer})(b{i} + o{i});")
    w.raw(body.text())
    w.depth = 0
    w.line("}")
    return w.text()


def in_pieces(w: Writer, name: str, source: str) -> int:
    """C of a source as an array of literals, each of whole lines where lines are not longer than
    one can hold; how many there are."""
    pieces, piece = [], ""
    for line in source.splitlines(keepends=True):
        if piece and len(piece) + len(line) > _LITERAL:
            pieces.append(piece)
            piece = ""
        piece += line
    pieces.append(piece)
    with table(w, f"static const char *const {name}[] ="):
        for piece in pieces:
            w.line(f"{c_string(piece)},")
    return len(pieces)


def written(step: Step) -> Iterator[str]:
    """The types of what a kernel writes."""
    return (c_type(x, OPENCL) for x in (step.writes or (Operand("", dtype=F32),)))


def _group(grid: Grid) -> str:
    x, y = grid.local
    return f"__attribute__((reqd_work_group_size({x}, {y}, 1)))"


def unrolled(count: int, *more: int) -> Iterator[tuple[int, ...]]:
    """All places of a tile, row by row."""
    if not more:
        yield from ((i,) for i in range(count))
        return
    for i in range(count):
        yield from ((i, *rest) for rest in unrolled(*more))


def only(name: str, text: str) -> str:
    """A kernel as it stands in a program that a driver may be given whole, or a kernel at a time
    (`canao_gpu` in runtime/canao_launch.h)."""
    return f"#if !defined(CANAO_ONLY) || defined(CANAO_ONLY_{name})\n{text.rstrip()}\n#endif\n"
