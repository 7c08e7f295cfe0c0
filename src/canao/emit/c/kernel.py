"""The C of one kernel, and the pieces that all kernels share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from canao.emit.arguments import Arguments, c_type, row_type
from canao.emit.expressions import buffer_size
from canao.emit.language import C11, Language
from canao.emit.writer import Writer
from canao.graph.dtypes import F32, NARROW
from canao.schedule.operands import Operand
from canao.schedule.schedule import Buffer

# What kernels call the values that they write.
RESULTS = ("out", "beside")


@dataclass(frozen=True, slots=True)
class KernelText:
    """The functions of a kernel. `needs` names those of the whole file that they call; `tile` is
    the register tile that these are for, `product` the row of the instruction set's tiles."""

    text: str
    needs: frozenset[str] = frozenset()
    tile: tuple[int, int] | None = None
    product: str = "f32"


def signature(
    name: str, arguments: Arguments, more: str = "", writes: Sequence[Operand] = ()
) -> str:
    """The head of a kernel whose results are `writes`, or floats."""
    language = arguments.language
    floats, long = f"{language.pointer}float *{language.restrict}", language.int64
    results = declared(declared_results(writes, language)) or f"{floats} out, "
    return (
        f"{language.kernel} {name}({long} s, {declared(arguments.declarations())}{results}"
        f"{floats} scratch, {long} begin, {long} end{more})"
    )


def declared_results(writes: Sequence[Operand], language: Language = C11) -> list[str]:
    """Parameters for what a kernel writes: `out`, and what it may write beside that."""
    kinds = [c_type(x, language) for x in writes]
    return [f"{language.pointer}{kind} *{language.restrict} {name}"
            for kind, name in zip(kinds, RESULTS, strict=False)]  # fmt: skip


def buffer_pointers(buffers: Sequence[Buffer], language: Language = C11) -> list[str]:
    """Declarations of pointers to buffers in the scratch memory, by their names."""
    lines, place, before = [], "scratch", F32
    for buffer in buffers:
        kind = row_type(buffer.dtype) if buffer.dtype in NARROW else buffer.dtype.c
        if buffer.dtype != before:
            place = f"({language.pointer}{kind} *)({language.pointer}void *)({place})"
        lines.append(f"{language.pointer}{kind} *const {buffer.name} = {place};")
        place, before = f"{buffer.name} + {buffer_size(buffer)}", buffer.dtype
    return lines


def declared(declarations: Sequence[str]) -> str:
    return "".join(f"{d}, " for d in declarations)


def passed(names: Sequence[str]) -> str:
    return "".join(f"{name}, " for name in names)


def mark_unused(w: Writer, *names: str) -> None:
    for name in names:
        w.line(f"(void){name};")
