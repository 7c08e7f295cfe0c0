"""Records of measurements: one a line, read and written whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from canao.artifact.files import write_whole
from canao.errors import InputError

Record = dict[str, Any]
IDENTITY = ("kind", "model", "length", "threads", "cpu", "isa")


@dataclass(frozen=True)
class Records:
    """The file that holds them, one for each measurement that `identity` tells apart."""

    path: Path
    identity: tuple[str, ...] = IDENTITY

    def read(self) -> list[Record]:
        """All records, in the order in which they were first made."""
        if not self.path.is_file():
            return []
        try:
            return [json.loads(line) for line in self.path.read_text("utf-8").splitlines()]
        except ValueError as error:
            raise InputError(f"{self.path.name}: a line is not JSON ({error})") from None

    def holds(self, identity: Mapping[str, Any]) -> bool:
        return any(self._same(identity, record) for record in self.read())

    def put(self, record: Record) -> None:
        """Add the record, or put it in place of the one of the same identity."""
        rows = [record if self._same(record, row) else row for row in self.read()]
        if record not in rows:
            rows.append(record)
        lines = [json.dumps(row, sort_keys=True, separators=(",", ":")) for row in rows]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, "\n".join(lines) + "\n")

    def _same(self, a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
        return all(a[name] == b[name] for name in self.identity)
