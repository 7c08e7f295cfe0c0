"""Pages of results: tables in markdown, put between a page's markers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from canao.artifact.files import write_whole
from canao.errors import InputError

Record = Mapping[str, Any]


def table(rows: Iterable[Sequence[str]]) -> str:
    """A table; the second row holds the alignments."""
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def threads_of(record: Record) -> str:
    return "1 thread" if record["threads"] == 1 else f"{record['threads']} threads"


def by_machine(
    records: Sequence[Record], kind: str, build: Callable[[Sequence[Record]], str]
) -> str:
    """What `build` makes of the records of a kind, for every machine that there are some of."""
    parts = []
    for cpu, isa in dict.fromkeys((r["cpu"], r["isa"]) for r in records):
        of = [r for r in records if (r["kind"], r["cpu"], r["isa"]) == (kind, cpu, isa)]
        if of:
            parts.append(f"{cpu}, {isa}\n\n{build(of)}")
    return "\n".join(parts) or "No records yet.\n"


def fill(path: Path, sections: Mapping[str, str]) -> None:
    """Put each section between the page's markers of its name; InputError if they are missing."""
    page = path.read_text(encoding="utf-8")
    for name, text in sections.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, found, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise InputError(f"{path.name}: lacks the lines '{begin}' and '{end}'; put them back")
        page = f"{before}{begin}\n{text}{end}{after}"
    write_whole(path, page)
