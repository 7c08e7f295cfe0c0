"""Choosing plans by what was measured: the tuned plan of each region, or its default.

All plans of a library share what `shared` names, so that is chosen first, for the program as a
whole: the group of plans whose regions take the least time together.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple

from canao.fuse.form import Attention, Product
from canao.fuse.group import Program, Region
from canao.graph.ir import Graph, Poly
from canao.schedule.database import Database, Measured, region_text
from canao.schedule.plan import Plan, default_plan, space
from canao.target import Target

# A plan, or a group, replaces the default only if it takes at most this part of its time.
WORTHWHILE = 0.99

Group = tuple[int, ...]
_AXES = ("nr", "kc", "mc", "keys")


def shared(plan: Plan) -> Group:
    """What all plans of one library have in common."""
    return plan.mr, plan.nr


def tunable(graph: Graph, region: Region) -> bool:
    """Whether plans of the region differ in more than what the library shares, and its operands
    can be made up: activations whose size is fixed or a multiple of the tokens."""
    inside = {n.output for n in region.nodes}
    outside = {i for n in region.nodes for i in n.inputs} - inside - set(graph.constants)
    return isinstance(region.form, (Product, Attention)) and all(
        graph.types[name].dtype == "f32" and row_width(graph, name) for name in outside
    )


def row_width(graph: Graph, name: str) -> int:
    """Numbers in an activation for each token, or in all where that is fixed; 0 for others."""
    size = graph.types[name].elements
    coefficients = size.coefficients if isinstance(size, Poly) else (0, size)
    return coefficients[1] if len(coefficients) == 2 and coefficients[0] == 0 else 0


def legal_plans(region: Region, target: Target, group: Group) -> tuple[Plan, ...]:
    """Every legal plan of a group: those of the space, and the default."""
    plans = dict.fromkeys([default_plan(region, target), *space(region, target)])
    return tuple(p for p in plans if shared(p) == group)


def groups(region: Region, target: Target) -> tuple[Group, ...]:
    """The groups that hold a plan of the region, the default's first."""
    plans = [default_plan(region, target), *space(region, target)]
    return tuple(dict.fromkeys(shared(p) for p in plans))


def counterpart(region: Region, target: Target, group: Group) -> Plan | None:
    """The plan of a group that is nearest to the default one; None if the group has none."""
    default = default_plan(region, target)
    plans = legal_plans(region, target, group)
    return min(plans, key=lambda p: (distance(p, default), astuple(p)), default=None)


def distance(a: Plan, b: Plan) -> float:
    """How far two plans of a region are apart: octaves, summed over the axes."""
    pairs = [(getattr(a, axis), getattr(b, axis)) for axis in _AXES]
    return sum(abs(math.log2(x / y)) for x, y in pairs if x and y)


def neighbours(plan: Plan, plans: Sequence[Plan]) -> Iterator[Plan]:
    """Of `plans`, those one step from `plan` along one axis, the others as near as is legal."""
    for axis in _AXES:
        here = getattr(plan, axis)
        values = sorted({getattr(p, axis) for p in plans})
        lower = [v for v in values if v < here][-1:]
        higher = [v for v in values if v > here][:1]
        for value in (*lower, *higher):
            there = [p for p in plans if getattr(p, axis) == value]
            yield min(there, key=lambda p: (distance(p, plan), astuple(p)))


def tuned_plans(program: Program, target: Target, database: Database) -> tuple[Plan, ...]:
    """The plan of each region, in their order: by measurement where there are any."""
    graph = program.graph
    defaults = [default_plan(r, target) for r in program.regions]
    regions = {region_text(graph, r): r for r in program.regions if tunable(graph, r)}
    known = _latest(database.read_all(list(regions)))
    if not any(known.values()):
        return tuple(defaults)
    texts = [region_text(graph, r) for r in program.regions]
    calls = Counter(texts)
    base = {text: rows[0].base_ms for text, rows in known.items() if rows}
    own = shared(defaults[0])
    best, least = dict[str, Plan](), math.inf
    for group in _groups(own, known):
        chosen = {
            text: _fastest(region, target, group, known[text], group == own)
            for text, region in regions.items()
        }
        if any(row is None for row in chosen.values()):
            continue
        total = sum(row.ratio * base.get(text, 0.0) * calls[text]
                    for text, row in chosen.items() if row is not None)  # fmt: skip
        if group != own:
            total /= WORTHWHILE
        if total < least:
            best = {text: row.plan for text, row in chosen.items() if row is not None}
            least = total
    group = shared(next(iter(best.values())))
    plans = [best.get(text) or counterpart(region, target, group)
             for text, region in zip(texts, program.regions, strict=True)]  # fmt: skip
    whole = tuple(p for p in plans if p is not None)
    return whole if len(whole) == len(plans) else tuple(defaults)


def _latest(rows: Mapping[str, Sequence[Measured]]) -> dict[str, list[Measured]]:
    """Confirmed rows under the length and threads that were measured last."""
    final = [m for several in rows.values() for m in several if m.final]
    if not final:
        return {text: [] for text in rows}
    last = max(final, key=lambda m: (m.at, m.length, m.threads))
    conditions = (last.length, last.threads)
    return {
        text: [m for m in several if m.final and (m.length, m.threads) == conditions]
        for text, several in rows.items()
    }


def _groups(own: Group, known: Mapping[str, Sequence[Measured]]) -> list[Group]:
    """The default plans' group, then the others that were measured."""
    found = {shared(m.plan) for several in known.values() for m in several}
    return [own, *sorted(found - {own})]


def _fastest(
    region: Region, target: Target, group: Group, rows: Sequence[Measured], own: bool
) -> Measured | None:
    """The fastest legal plan of a group; in the default's own group the default, as ratio 1,
    unless another is worth it. None if nothing is known."""
    legal = set(legal_plans(region, target, group))
    there = [m for m in rows if m.plan in legal and m.ms is not None]
    best = min(there, key=lambda m: (m.ratio, astuple(m.plan)), default=None)
    if own and (best is None or best.ratio > WORTHWHILE):
        return Measured(default_plan(region, target), 1, 1, 1.0, 1.0)
    return best
