"""The tables of docs/generation.md, from the records of generation.py."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from marks import footnotes, marked
from pages import Record, by_machine, fill, table, threads_of
from peers.ratios import is_own, median_ms, ratio, reduced

PAGE = Path(__file__).resolve().parents[1] / "docs" / "generation.md"
KIND, VARIANT = "generation", "generation-"  # a variant's kind ends in its name
PARTS = ("prompt", "token")
CANAO = "canao"


def medians(records: Sequence[Record]) -> str:
    """A row for each model, length and part: medians in milliseconds, and how many times as fast
    CANAO is as peers in float32, and with weights in int8 as in float32."""
    engines = _engines(records)
    pairs = [(e, CANAO) for e in engines if not is_own(e)]
    pairs += [(CANAO, e) for e in engines if is_own(e) and e != CANAO]
    rows = [["model", "", *engines, *(f"{fast} against {slow}" for slow, fast in pairs)],
            ["---", "---", *["--:"] * (len(engines) + len(pairs))]]  # fmt: skip
    for r in records:
        rows += [[*_case(r, part), *(_ms(r, part, e) for e in engines),
                  *(_times(r, part, *pair) for pair in pairs)] for part in PARTS]  # fmt: skip
    return table(rows) + footnotes(records)


def variants(records: Sequence[Record]) -> str:
    """A row for each of CANAO's other libraries, length and part, beside its own float32."""
    rows = [["model", "", "library", "ms", "float32, ms", "times as fast", "cosine"],
            ["---", "---", "---", *["--:"] * 4]]  # fmt: skip
    for r in records:
        for other in (e for e in _engines([r]) if e != CANAO):
            rows += [[*_case(r, part), other, _ms(r, part, other), _ms(r, part, CANAO),
                      _times(r, part, CANAO, other), _cosine(r, part, other)]
                     for part in PARTS]  # fmt: skip
    return table(rows) + footnotes(records)


def _engines(records: Sequence[Record]) -> list[str]:
    """All engines, CANAO first, as its float32 is before its other libraries."""
    found = dict.fromkeys(chain(*(r["engines"] for r in records)))
    names = dict.fromkeys(label.partition("/")[2] for label in found)
    return sorted(names, key=lambda name: (not is_own(name), name))


def _case(record: Record, part: str) -> list[str]:
    what = "prompt of" if part == "prompt" else "token after"
    return [marked(record["model"], record), f"{what} {record['length']}, {threads_of(record)}"]


def _ms(record: Record, part: str, engine: str) -> str:
    """Older records have fewer engines."""
    found = record["engines"].get(f"{part}/{engine}")
    return f"{median_ms(found):.3g}" if found else "-"


def _times(record: Record, part: str, slow: str, fast: str) -> str:
    labels = [f"{part}/{e}" for e in (slow, fast)]
    both = record["engines"].keys() >= set(labels)
    return f"{ratio(record, *labels):.2f}x" if both else "-"


def _cosine(record: Record, part: str, engine: str) -> str:
    found = record["engines"].get(f"{part}/{engine}")
    return f"{found['cosine']:.5f}" if found and reduced(found) else "-"


def sections(records: Sequence[Record]) -> dict[str, str]:
    """The text between each pair of markers of the page."""
    other = [{**r, "kind": VARIANT} for r in records if r["kind"].startswith(VARIANT)]
    return {
        "generation": by_machine(records, KIND, medians),
        "generation-variants": by_machine(other, VARIANT, variants),
    }


def write_page(records: Sequence[Record]) -> None:
    """Put the tables of all records between the markers of docs/generation.md."""
    fill(PAGE, sections(records))
