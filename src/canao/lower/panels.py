"""Tables that are a packed GEMM's weights as well, and are stored once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from canao.fuse.forms.form import TABLES, PackedGemm
from canao.fuse.forms.rows import Rows
from canao.fuse.group import Program
from canao.graph.dtypes import F32, I8
from canao.schedule.operands import Operand, Packed
from canao.schedule.plan import Plan


def shared_panels(
    program: Program, plans: Sequence[Plan], weights: Callable[[PackedGemm, Any], Operand]
) -> dict[str, Operand]:
    """Tables that are a GEMM's weights as well, as embeddings tied to a language head are, as that
    reads them: `weights` of a form by its plan. They are stored once, and look-ups read them from
    the panels.

    Not those that are read in another way too, which need the table row by row.
    """
    panels: dict[str, Operand] = {}
    plain: set[str] = set()
    for region, plan in zip(program.regions, plans, strict=True):
        form, weight = region.form, ""
        if isinstance(form, PackedGemm):
            weight = form.weight
            panels.setdefault(weight, weights(form, plan))
        for n in region.nodes:
            looked_up = n.op in TABLES and isinstance(form, Rows)
            plain.update(n.inputs[1:] if looked_up else (i for i in n.inputs if i != weight))
    return {name: operand for name, operand in panels.items()
            if name not in plain and _one_by_one(operand)}  # fmt: skip


def _one_by_one(operand: Operand) -> bool:
    """Whether look-ups can read a table from panels: elements as they are, one after another."""
    storage = operand.storage
    plain = isinstance(storage, Packed) and storage.kr == 1 and not storage.offset
    return plain and operand.dtype in (F32, I8)
