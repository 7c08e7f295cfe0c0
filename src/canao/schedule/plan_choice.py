"""Choosing plans by what was measured: the tuned plan of each region, or its default."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from canao.fuse.group import Program, Region
from canao.graph.dtypes import F32, NARROW
from canao.graph.ir import Graph, Poly
from canao.schedule.database import Database, Measured, region_text
from canao.schedule.plan import Plan, order

# A plan replaces the default only if it takes at most this part of its time.
WORTHWHILE = 0.99


def can_be_timed(graph: Graph, region: Region) -> bool:
    """Whether the operands of a region can be made up, to time it alone: activations whose size is
    fixed or a multiple of the tokens, in float32 or as narrow rows."""
    inside = {n.output for n in region.nodes}
    outside = {i for n in region.nodes for i in n.inputs} - inside - set(graph.constants)
    return all(
        graph.types[name].dtype in (F32, *NARROW) and row_width(graph, name) for name in outside
    )


def row_width(graph: Graph, name: str) -> int:
    """Numbers in an activation for each token, or in all where that is fixed; 0 for others."""
    size = graph.types[name].elements
    coefficients = size.coefficients if isinstance(size, Poly) else (0, size)
    return coefficients[1] if len(coefficients) == 2 and coefficients[0] == 0 else 0


def tuned_plans(
    program: Program, tunable: Callable[[Region], bool], space: Callable[[Region], Sequence[Plan]],
    database: Database,
) -> tuple[Plan | None, ...]:  # fmt: skip
    """For each region, in order, the plan that measurements found faster than the default; None
    where there is none. `tunable` says whether plans of a region are measured, `space` gives those
    that are legal."""
    texts = [region_text(program.graph, r) for r in program.regions]
    regions = {t: r for t, r in zip(texts, program.regions, strict=True)
               if tunable(r)}  # fmt: skip
    known = _latest(database.read_all(list(regions)))
    fastest = {t: _fastest(known[t], space(r)) for t, r in regions.items() if known[t]}
    return tuple(fastest.get(text) for text in texts)


def _latest(rows: Mapping[str, Sequence[Measured]]) -> dict[str, list[Measured]]:
    """The confirmed rows of the most recent measurement's length and number of threads."""
    final = {text: [m for m in several if m.final] for text, several in rows.items()}
    last = max((m for several in final.values() for m in several),
               key=lambda m: (m.at, m.length, m.threads), default=None)  # fmt: skip
    return {text: [m for m in several if last
                   and (m.length, m.threads) == (last.length, last.threads)]
            for text, several in final.items()}  # fmt: skip


def _fastest(rows: Sequence[Measured], legal: Sequence[Plan]) -> Plan | None:
    """The fastest legal plan, if it beats the default by enough."""
    there = [m for m in rows if m.ratio <= WORTHWHILE and m.plan in legal]
    best = min(there, key=lambda m: (m.ratio, order(m.plan)), default=None)
    return best.plan if best else None
