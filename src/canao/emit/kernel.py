"""Kernel: the C of one region, and the pieces that all kernels share."""

from __future__ import annotations

import re
from dataclasses import dataclass

from canao.emit.isa import Isa
from canao.emit.rowcode import Parameter, Parameters
from canao.emit.writer import Writer
from canao.fuse.group import Region
from canao.graph.ir import Dim
from canao.graph.ops import OPS

# Words of the templates that stand for a plan's register tile, and functions that exist for each.
_BY_TILE = re.compile(r"\b(MR|NV|NR|panel_fma|pack_panel|tile_product|small_product)\b")


def sized(text: str, tile: tuple[int, int], isa: Isa) -> str:
    """A template for a register tile of `tile` rows and columns."""
    mr, nr = tile
    numbers = {"MR": str(mr), "NV": str(nr // isa.width), "NR": str(nr)}
    return _BY_TILE.sub(lambda word: numbers.get(word[1], f"{word[1]}_{mr}x{nr}"), text)


@dataclass(frozen=True, slots=True)
class Kernel:
    """C of one region: its text (with NAME for its name), pointers, and unit of work. One with
    `heads` is causal attention: NAME_append, by heads, goes before it. One with `columns` takes a
    range of these as well as one of rows."""

    base_name: str
    text: str
    parameters: tuple[Parameter, ...]
    units: str
    needs: frozenset[str]
    heads: str = ""
    columns: int = 0

    def named(self, name: str) -> str:
        return self.text.replace("NAME", name)


def op_names(region: Region) -> str:
    names = [n.op for n in region.nodes if not OPS[n.op].view and n.op not in ("linear", "matmul")]
    return "".join(f"_{name}" for name in names)


def plain(d: Dim) -> str:
    return str(d).replace(" ", "").replace("+", "p").replace("*", "")


def signature(parameters: Parameters, more: str = "") -> str:
    return (
        f"static void NAME(int64_t s, {declared(parameters.list)}float *restrict out, "
        f"float *restrict scratch, int64_t begin, int64_t end{more})"
    )


def used_in(parameters: Parameters, text: str) -> list[Parameter]:
    return [p for p in parameters.list if re.search(rf"\b{p.name}\b", text)]


def declared(parameters: list[Parameter]) -> str:
    return "".join(f"{p.declaration}, " for p in parameters)


def passed(parameters: list[Parameter]) -> str:
    return "".join(f"{p.name}, " for p in parameters)


def mark_unused(w: Writer, *names: str) -> None:
    for name in names:
        w.line(f"(void){name};")
