"""Tables: what the entries of a settings file do, and which values of them are understood."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

USED, INERT, REFUSED = "used", "no effect", "refused"


@dataclass(frozen=True, slots=True)
class Entry:
    """What one entry of a settings file does.

    status   USED, INERT (any value of it leaves the result as it is) or REFUSED
    does     what it decides; of an INERT entry why it has no effect; of a REFUSED one the remedy
    kind     the type of its value, as msgspec takes it; a value of another type is refused
    only     the values that are understood, if not all of its type are
    remedy   what to do about a value that is not one of `only`
    """

    status: str
    does: str
    kind: Any = Any
    only: tuple[Any, ...] | None = None
    remedy: str = ""


def used(does: str, kind: Any = Any, *, only: Sequence[Any] | None = None,
         remedy: str = "") -> Entry:  # fmt: skip
    """An entry that decides something: `does`."""
    return Entry(USED, does, kind, None if only is None else tuple(only), remedy)


def inert(reason: str, kind: Any = Any, *, only: Sequence[Any] | None = None,
          remedy: str = "") -> Entry:  # fmt: skip
    """An entry without effect on the result, or without effect as long as it is one of `only`."""
    return Entry(INERT, reason, kind, None if only is None else tuple(only), remedy)


def refused(remedy: str) -> Entry:
    """An entry that CANAO knows and does not support."""
    return Entry(REFUSED, remedy)


@dataclass(frozen=True, slots=True)
class Table:
    """The entries of one kind of settings file: by name, and by a pattern that names match."""

    entries: Mapping[str, Entry]
    patterns: Mapping[str, Entry] = field(default_factory=dict)

    def find(self, name: str) -> Entry | None:
        """What is known of the entry called `name`; None if nothing is."""
        found = self.entries.get(name)
        if found is not None:
            return found
        return next((e for p, e in self.patterns.items() if re.fullmatch(p, name)), None)
