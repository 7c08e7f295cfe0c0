"""The tuning database: how long regions took under plans, on the machine that measured them.

One SQLite file, which several processes may read and write. A row holds

    region    what the region computes, as text (`region_text`): no names of values, no weights
    place     target, machine and a stamp of the code: what its time depends on besides the plan
    plan      as text (schedule/plan.py)
    length    tokens when it was measured; threads: of the pool
    ms        of the plan; NULL where the plan failed: it crashed or computed wrong numbers
    base_ms   of the region's default plan, in the same interleaved measurement
    final     1 for a measurement that was repeated to confirm a winner: only these choose plans

What is read is not trusted: rows with values out of range are skipped, and plans that are not in
the legal space are skipped where plans are chosen (schedule/plan_choice.py).
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from canao.errors import InputError
from canao.fuse.forms.form import form_name
from canao.fuse.group import Region
from canao.graph.ir import Graph
from canao.schedule.plan import Plan, order, parse_plan, plan_text

VERSION = 2
_LOCK_S = 30.0  # how long a process waits for another that writes
_MOST_ROWS = 20_000  # read for one region
_COLUMNS = "plan, length, threads, ms, base_ms, final, at"
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS times (
    region TEXT, place TEXT, plan TEXT, length INTEGER, threads INTEGER, ms REAL, base_ms REAL,
    final INTEGER, at REAL,
    PRIMARY KEY (region, place, length, threads, plan)
) WITHOUT ROWID;
PRAGMA user_version = {VERSION};
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """One row: `ms` of a plan against `base_ms` of the default; ms is None for a failed plan.
    `at` is in seconds since 1970."""

    plan: Plan
    length: int
    threads: int
    ms: float | None
    base_ms: float
    final: bool = False
    at: float = 0.0

    @property
    def ratio(self) -> float:
        """Time over that of the default plan; infinite for a plan that failed."""
        return math.inf if self.ms is None else self.ms / self.base_ms


def region_text(graph: Graph, region: Region) -> str:
    """What a region computes, canonically: regions with one text take the same time.

    Values are numbered in the order of their use; of those from outside only the type and
    whether they are constant is told. Strides follow from the views among the nodes.
    """
    names: dict[str, str] = {}
    parts = [form_name(region.form)]
    for n in region.nodes:
        operands = []
        for name in n.inputs:
            if name not in names:
                names[name] = f"v{len(names)}"
                kind = "const " if name in graph.constants else ""
                operands.append(f"{names[name]}: {kind}{graph.types[name]}")
            else:
                operands.append(names[name])
        names[n.output] = f"v{len(names)}"
        shown = " ".join(f"{key}={_plain(value)}" for key, value in n.attributes)
        parts.append(f"{names[n.output]} = {n.op}({', '.join(operands)}) {shown}".rstrip())
    made = ", ".join(f"{names[value]}: {graph.types[value]}" for value in region.outputs)
    return "; ".join([*parts, f"-> {made}"])


def _plain(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return f"[{','.join(_plain(v) for v in value)}]"
    return str(value)


class Database:
    """The rows of one place, whose plans are of some of `types`. A file that is not there is an
    empty database until it is added to."""

    def __init__(self, path: Path, place: str, types: Sequence[type[Plan]]) -> None:
        self.path, self.place, self.types = path, place, tuple(types)

    def read(self, region: str) -> tuple[Measured, ...]:
        """What is known of a region, in the order of the plans."""
        return self.read_all([region])[region]

    def read_all(self, regions: Sequence[str]) -> dict[str, tuple[Measured, ...]]:
        """What is known of several regions."""
        if not self.path.is_file():
            return dict.fromkeys(regions, ())
        query = f"SELECT {_COLUMNS} FROM times WHERE region = ? AND place = ? LIMIT {_MOST_ROWS}"
        found: dict[str, tuple[Measured, ...]] = {}
        with self._opened(write=False) as connection:
            if _version(connection) == 0:  # made, and nothing written yet
                return dict.fromkeys(regions, ())
            for region in regions:
                found_rows = connection.execute(query, (region, self.place))
                rows = [self._checked(row) for row in found_rows]
                whole = [row for row in rows if row is not None]
                found[region] = tuple(sorted(whole, key=_order))
        return found

    def add(self, measured: Mapping[str, Sequence[Measured]]) -> None:
        """Record rows of regions; they replace those of the same plan, length and threads."""
        now = time.time()
        rows = [
            (region, self.place, plan_text(m.plan), m.length, m.threads, m.ms, m.base_ms,
             int(m.final), now)
            for region, several in measured.items() for m in several
        ]  # fmt: skip
        with self._opened(write=True) as connection:
            connection.executemany(
                f"INSERT OR REPLACE INTO times (region, place, {_COLUMNS}) "
                f"VALUES ({', '.join('?' * 9)})",
                rows,
            )

    def forget(self, regions: Sequence[str]) -> None:
        """Delete what is known of regions at this place."""
        if not self.path.is_file():
            return
        with self._opened(write=True) as connection:
            connection.executemany(
                "DELETE FROM times WHERE region = ? AND place = ?",
                [(region, self.place) for region in regions],
            )

    @contextmanager
    def _opened(self, write: bool) -> Iterator[sqlite3.Connection]:
        try:
            if write:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            mode = "rwc" if write else "ro"
            uri = f"{self.path.resolve().as_uri()}?mode={mode}"
            connection = sqlite3.connect(uri, uri=True, timeout=_LOCK_S)
            try:
                self._prepare(connection, write)
                with connection:  # one transaction
                    yield connection
            finally:
                connection.close()
        except (sqlite3.Error, OSError) as error:
            raise self._problem(error) from None

    def _checked(self, row: Sequence[object]) -> Measured | None:
        """A row as a measurement; None where a value is of the wrong type or out of range."""
        text, length, threads, ms, base_ms, final, at = row
        plan = parse_plan(text, self.types) if isinstance(text, str) else None
        if plan is None or not all(_is_whole(x) for x in (length, threads, final)):
            return None
        if not all(x is None or (isinstance(x, float) and 0 < x < 1e9) for x in (ms, base_ms)):
            return None
        if base_ms is None or not isinstance(at, float) or not math.isfinite(at):
            return None
        return Measured(plan, length, threads, ms, base_ms, bool(final), at)  # type: ignore[arg-type]

    def _prepare(self, connection: sqlite3.Connection, write: bool) -> None:
        connection.execute("PRAGMA trusted_schema = OFF")
        version = _version(connection)
        if version not in (0, VERSION):
            raise InputError(
                f"{self.path}: a tuning database of format {version}, this CANAO reads {VERSION}; "
                "delete it and tune again"
            )
        if version == 0 and write:
            connection.executescript(_SCHEMA)

    def _problem(self, error: Exception) -> InputError:
        text = str(error)
        if "locked" in text:
            return InputError(f"{self.path}: another process keeps it locked; try again later")
        if isinstance(error, OSError) or any(w in text for w in ("readonly", "unable to", "full")):
            return InputError(
                f"{self.path}: cannot be written or opened ({text}); "
                "name another directory in CANAO_CACHE"
            )
        return InputError(
            f"{self.path}: not a tuning database or damaged ({text}); delete it and tune again"
        )


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _is_whole(x: object) -> bool:
    return isinstance(x, int) and 0 <= x <= 1 << 20


def _order(m: Measured) -> tuple[object, ...]:
    return (*order(m.plan), m.length, m.threads)
