"""Plan: how one region runs, as a value. Each kind of kernel of each backend has a plan type of its
own (lower/), a frozen dataclass whose fields are whole numbers; what is true of all is here.

m n k      problem            mr nr      register tile (nr in elements)
kc         depth of a pass    mc         rows that stay in cache
keys       keys in one tile of attention
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, fields
from typing import Any, ClassVar, Protocol


class Plan(Protocol):
    """`kind` names the type in the tuning database."""

    kind: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def name(self) -> str:
        """The plan in a kernel's name, '' where no name needs it."""
        ...


def axes(plan: Plan) -> dict[str, int]:
    """The fields of a plan, by name."""
    return asdict(plan)


def plan_text(plan: Plan) -> str:
    """A plan as one line that `parse_plan` reads back: its kind, then field=value for each."""
    return " ".join([plan.kind, *(f"{name}={value}" for name, value in axes(plan).items())])


def parse_plan(text: str, types: Sequence[type[Plan]]) -> Plan | None:
    """Read what `plan_text` wrote, as a plan of one of `types`; None if it is none of these."""
    kind, *words = text.split(" ")
    found = next((t for t in types if t.kind == kind), None)
    pairs = [w.partition("=") for w in words]
    if found is None or [p[0] for p in pairs] != [f.name for f in fields(found)]:
        return None
    if not all(value.isascii() and value.isdigit() and len(value) < 10 for _, _, value in pairs):
        return None
    return found(*(int(value) for _, _, value in pairs))


def order(plan: Plan) -> tuple[object, ...]:
    """A sort key for plans."""
    return (plan.kind, *astuple(plan))


def distance(a: Plan, b: Plan) -> float:
    """How far apart two plans of a region are: the sum over all axes of |log2(a / b)|."""
    pairs = zip(astuple(a), astuple(b), strict=True)
    return sum(abs(math.log2(x / y)) for x, y in pairs if x and y)


def neighbours(plan: Plan, plans: Sequence[Plan]) -> Iterator[Plan]:
    """Those of `plans` that are one step from `plan` along one axis. Axes before that axis keep
    their values; axes after it keep theirs where that is legal, or take the nearest."""
    for axis in axes(plan):
        here = getattr(plan, axis)
        values = sorted({getattr(p, axis) for p in plans})
        for value in (*[v for v in values if v < here][-1:], *[v for v in values if v > here][:1]):
            there = [p for p in plans if getattr(p, axis) == value]
            yield min(there, key=lambda p: (distance(p, plan), order(p)))
        plans = [p for p in plans if getattr(p, axis) == here]
