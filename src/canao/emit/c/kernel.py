"""The C of one kernel, and the pieces that all kernels share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from canao.emit.arguments import Arguments, c_type
from canao.emit.expressions import buffer_size
from canao.emit.language import C11, Language
from canao.emit.writer import Writer
from canao.schedule.operands import Operand
from canao.schedule.schedule import Buffer


@dataclass(frozen=True, slots=True)
class KernelText:
    """The functions of a kernel. `needs` names those of the whole file that they call; `tile` is
    the register tile that these are for, `product` the row of the instruction set's tiles."""

    text: str
    needs: frozenset[str] = frozenset()
    tile: tuple[int, int] | None = None
    product: str = "f32"


def signature(
    name: str, arguments: Arguments, more: str = "", out: Operand | None = None
) -> str:
    """The head of a kernel whose result is `out`, or floats."""
    language = arguments.language
    floats, long = f"{language.pointer}float *{language.restrict}", language.int64
    kind = c_type(out, language) if out else "float"
    result = f"{language.pointer}{kind} *{language.restrict}"
    return (
        f"{language.kernel} {name}({long} s, {declared(arguments.declarations())}{result} out, "
        f"{floats} scratch, {long} begin, {long} end{more})"
    )


def buffer_pointers(buffers: Sequence[Buffer], language: Language = C11) -> list[str]:
    """Declarations of pointers to buffers in the scratch memory, by their names."""
    lines, place = [], "scratch"
    for buffer in buffers:
        lines.append(f"{language.pointer}float *const {buffer.name} = {place};")
        place = f"{buffer.name} + {buffer_size(buffer)}"
    return lines


def declared(declarations: Sequence[str]) -> str:
    return "".join(f"{d}, " for d in declarations)


def passed(names: Sequence[str]) -> str:
    return "".join(f"{name}, " for name in names)


def mark_unused(w: Writer, *names: str) -> None:
    for name in names:
        w.line(f"(void){name};")
