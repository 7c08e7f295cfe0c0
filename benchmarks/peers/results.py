"""Where the rows of a recording script go: bad measurements are refused by name, none is written.

With --draft anything is written, and goes to a file that no table is made of.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from canao.errors import DeviceError, InputError
from peers.catalog import ROOT
from peers.progress import say
from peers.quality import faults, unrecorded
from peers.quiet import LIMIT, Watch
from peers.records import Record
from peers.source import Source

PUBLISHED = ROOT / "benchmarks" / "results"
DRAFTS = ROOT / "build" / "bench" / "drafts"


def add_options(parser: argparse.ArgumentParser, records: Path) -> None:
    """--out and --draft."""
    parser.add_argument("--out", type=Path, help=f"the file of records; default: {records.name}")
    parser.add_argument("--draft", action="store_true",
                        help="try it out: measure on a busy machine and with a changed source; "
                             "records go to build/bench/drafts, or to --out")  # fmt: skip


def file_of(options: argparse.Namespace, records: Path) -> Path:
    """The file that was asked for; InputError for a draft among the results."""
    path: Path = (options.out or (DRAFTS / records.name if options.draft else records)).resolve()
    if options.draft and (path.is_relative_to(PUBLISHED) or path == records.resolve()):
        raise InputError(f"a draft is not written to {path.name} of the results; leave out --out")
    return path


class Place(Protocol):
    """A file of records: `records.Records`, or one of another form."""

    def holds(self, identity: Mapping[str, Any]) -> bool: ...

    def put(self, record: Record) -> None: ...


@dataclass
class Results:
    """The file of records, and the titles of rows that were refused."""

    records: Place
    draft: bool
    begun: Source
    refused: list[str] = field(default_factory=list)

    @staticmethod
    def start(records: Place, draft: bool = False) -> Results:
        """InputError if the source is not that of a commit, unless it is for a draft."""
        begun = Source.read()
        if begun.commit is None and not draft:
            raise InputError("records name a commit: measure in a git checkout, or use --draft")
        if begun.changed and not draft:
            raise InputError(
                f"{begun.changed[0]} and {len(begun.changed) - 1} more have changes that are in no "
                "commit: commit them, or use --draft"
            )
        return Results(records, draft, begun)

    def holds(self, identity: Mapping[str, Any]) -> bool:
        """Whether the measurement is recorded. Drafts are always made anew."""
        return not self.draft and self.records.holds(identity)

    def take(self, title: str, measure: Callable[[], Record]) -> bool:
        """Measure under watch and put the row; nothing is begun while others use the cores."""
        watch = Watch()
        if watch.before > LIMIT and not self.draft:
            watch.close()
            return self._refuse(title, [_used(watch.before)])
        try:
            row = measure()
        finally:
            shares = watch.close()
        return self.put(title, row | {"busy_others": shares})

    def put(self, title: str, row: Record) -> bool:
        """Write the row with its source, or refuse it; whether it was written."""
        row = row | {"source": self.begun.until(Source.read())}
        against = [*faults(row), *(f"not recorded: {what}" for what in unrecorded(row))]
        if against and not self.draft:
            return self._refuse(title, against)
        self.records.put(row | {"draft": True} if self.draft else row)
        say(f"{title}: {'draft' if self.draft else 'recorded'}"
             + "".join(f"\n  would be refused: {why}" for why in against))  # fmt: skip
        return True

    def close(self) -> None:
        """DeviceError if a row was refused, so that the script's exit code is not 0."""
        if self.refused:
            raise DeviceError(
                f"{len(self.refused)} not recorded: {'; '.join(self.refused)}. What was refused is "
                "told above; run it again when nothing else uses the cores"
            )

    def _refuse(self, title: str, against: list[str]) -> bool:
        self.refused.append(title)
        say(f"{title}: REFUSED, nothing is written")
        for why in against:
            say(f"  {why}")
        return False


def _used(share: float) -> str:
    return f"others use {share:.0%} of the cores (limit {LIMIT:.0%}): wait until they have ended"
