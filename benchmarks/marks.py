"""Marks of records that are not clean or may not be, and the footnotes that say why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from peers.quality import faults, unrecorded

Record = Mapping[str, Any]
BAD, UNKNOWN = "†", "‡"


def marked(text: str, record: Record) -> str:
    """The text, with a mark if the record is bad, or too old to tell whether it is."""
    mark = BAD if faults(record) else UNKNOWN if unrecorded(record) else ""
    return f"{text} {mark}" if mark else text


def footnotes(records: Iterable[Record]) -> str:
    """What the marks of these records mean, to stand below their table; '' if all are clean."""
    listed = list(records)
    bad = {_name(r): why for r in listed if (why := faults(r))}
    old = dict.fromkeys(w for r in listed if not faults(r) for w in unrecorded(r))
    lines = [f"{BAD} Not a clean result, to be measured again. {name}: {'; '.join(why)}."
             for name, why in bad.items()]  # fmt: skip
    if old:
        lines.append(
            f"{UNKNOWN} An old record, which does not tell {' and '.join(old)}: nobody can say "
            "whether it is clean."
        )
    return "".join(f"\n{line}\n" for line in lines)


def _name(record: Record) -> str:
    """What a reader finds the record by: model or data, length, threads."""
    words = [str(record.get("dataset") or record.get("model") or record.get("name"))]
    words[0] = words[0].replace(",", ", ")
    if "fraction" in record:
        words.append(f"at {record['fraction']:g}")
    if record.get("length"):
        words.append(f"at {record['length']} tokens")
    if record.get("threads"):
        words.append(f"on {record['threads']} thread" + "s" * (record["threads"] > 1))
    return " ".join(words)
