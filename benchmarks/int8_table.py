"""The tables of int8.md, from the records of speed.py in other precisions than float32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from marks import footnotes, marked
from pages import Record, by_machine, fill, table, threads_of
from peers.catalog import ALL, CANAO, LEAST_COSINE, NO_FAULT, OWN_LABELS, own_label
from peers.ratios import fastest, is_own, median_ms, ratio, reduced
from speed_table import rooflines

from canao.precision.quantize import INT8, SEVEN_BITS

PAGE = Path(__file__).resolve().parent / "int8.md"
FAR = "far off"  # what is under the gate: told, never hidden
# Times as fast as its own float32 on one core, by model and tokens: with dot products of bytes, and
# with AVX2, which has none.
AIMS = {
    ("bert-base", 128): (3.5, 1.8), ("distilbert", 128): (3.5, 1.8), ("minilm-l6", 128): (3.1, 1.7),
    ("deep-narrow", 128): (2.6, 1.6), ("mobilebert", 128): (2.2, 1.5),
    ("minilm-l6", 32): (2.6, 1.5), ("minilm-l6", 8): (2.0, 1.5),
}  # fmt: skip
WITHOUT = "avx2"
INT8_LABEL, SEVEN_LABEL = own_label(INT8), own_label(SEVEN_BITS)


def speed(records: Sequence[Record]) -> str:
    """For every model and thread count: engines down, lengths across; then CANAO against peers."""
    parts = []
    for title, cases in _cases(records):
        labels = [marked(f"{case['length']}", case) for case in cases]
        rows = [["milliseconds (times as fast as its own float32)", *labels],
                ["---", *["--:"] * len(cases)]]  # fmt: skip
        rows += [[name, *(_time(case, name) for case in cases)] for name in _labels(cases)]
        leads = [_lead_in_float32(case) for case in cases]
        if any(leads):
            rows.append(["CANAO against the fastest peer, both in float32", *leads])
        parts += [f"{title}\n", table(rows), *_leads(cases, labels), footnotes(cases)]
    return "\n".join(part for part in parts if part)


def _cases(records: Sequence[Record]) -> Iterator[tuple[str, list[Record]]]:
    """A title and the records of each model and thread count, by length."""
    for model, threads in dict.fromkeys((r["model"], r["threads"]) for r in records):
        of = [r for r in records if (r["model"], r["threads"]) == (model, threads)]
        yield f"**{model}, {threads_of(of[0])}**", sorted(of, key=lambda r: r["length"])


def _labels(cases: Sequence[Record]) -> list[str]:
    """All engines of the cases, CANAO first, each before itself in fewer bits."""
    found = dict.fromkeys(chain(*((*c["engines"], *c["unavailable"]) for c in cases)))
    return sorted(found, key=lambda name: (not is_own(name), _plain(name), name))


def _plain(name: str) -> str:
    return ALL[name].plain or name if name in ALL else name


def _time(case: Record, name: str) -> str:
    engine = case["engines"].get(name)
    if engine is None:
        return "not run" if name not in case["unavailable"] else "-"
    cell = f"{median_ms(engine):.3g}"
    plain = _plain(name)
    if plain != name and plain in case["engines"]:
        cell = f"{cell} ({ratio(case, plain, name):.2f}x)"
    if name == fastest(case, is_own(name)):
        cell = f"**{cell}**"
    return cell if engine["right"] else f"{cell} {FAR if reduced(engine) else 'wrong'}"


def _lead_in_float32(case: Record) -> str:
    """How many times as fast CANAO is as the fastest right peer; '' where none took part."""
    engines = case["engines"]
    right = {k: median_ms(v) for k, v in engines.items() if v["right"] and not reduced(v)}
    peers = [name for name in right if not is_own(name)]
    if CANAO not in right or not peers:
        return ""
    peer = min(peers, key=lambda name: right[name])
    return f"{ratio(case, peer, CANAO):.2f}x {peer}"


def _leads(cases: Sequence[Record], labels: Sequence[str]) -> Iterator[str]:
    """How many times faster CANAO's libraries in fewer bits are than peers in fewer bits."""
    engines: Mapping[str, Any] = {k: v for case in cases for k, v in case["engines"].items()}
    low = [name for name in _labels(cases) if name in engines and reduced(engines[name])]
    for own in (name for name in low if name in OWN_LABELS):
        rows = [[f"{own} is so many times as fast", *labels], ["---", *["--:"] * len(cases)]]
        rows += [[f"as {peer}", *(_lead(case, peer, own) for case in cases)]
                 for peer in low if peer not in OWN_LABELS]  # fmt: skip
        if len(rows) > 2:  # CANAO may be measured alone
            yield table(rows)


def _lead(case: Record, peer: str, own: str) -> str:
    both = peer in case["engines"] and own in case["engines"]
    return f"{ratio(case, peer, own):.2f}x" if both else "-"


def accuracy(records: Sequence[Record]) -> str:
    """How far outputs are from those of PyTorch in float32, of engines in fewer bits."""
    parts = []
    for title, cases in _cases(records):
        lengths = (str(case["length"]) for case in cases)
        rows = [["cosine, largest difference in standard deviations", *lengths],
                ["---", *["--:"] * len(cases)]]  # fmt: skip
        for name in _labels(cases):
            of = [case["engines"].get(name) for case in cases]
            if any(engine is not None and reduced(engine) for engine in of):
                rows.append([name, *map(_error, of)])
        parts += [f"{title}\n", table(rows)]
    return "\n".join(parts)


def _error(engine: Mapping[str, Any] | None) -> str:
    if engine is None:
        return "-"
    cell = f"{engine['cosine']:.5f}, {engine['difference']:.2g}"
    return cell if engine["right"] else f"{cell} {FAR}"


def aims(records: Sequence[Record]) -> str:
    """What was aimed at and what was reached: models down, machines and instruction sets across."""
    found = {
        ((r["model"], r["length"]), _place(r)): r for r in records
        if (r["model"], r["length"]) in AIMS and (r["kind"], r["threads"]) == (INT8, 1)
    }  # fmt: skip
    places = list(dict.fromkeys(place for _, place in found))
    rows = [["model, tokens", "aim (with AVX2)", *places], ["---", *["--:"] * (1 + len(places))]]
    rows += [
        [f"{case[0]}, {case[1]}", f"{dots:g}x ({avx2:g}x)",
         *(_reached(found.get((case, place)), dots, avx2) for place in places)]
        for case, (dots, avx2) in AIMS.items()
    ]  # fmt: skip
    return table(rows) + footnotes(found.values()) if found else "No records yet.\n"


def _place(record: Record) -> str:
    return f"{record['cpu']}, {record['isa']}"


def _reached(record: Record | None, dots: float, avx2: float) -> str:
    """How many times as fast the faster of CANAO's libraries in whole numbers is."""
    if record is None:
        return "-"
    low = [name for name in (INT8_LABEL, SEVEN_LABEL) if name in record["engines"]]
    fast, name = max((ratio(record, CANAO, name), name) for name in low)
    cell = f"{fast:.2f}x" + (" in 7 bits" if name == SEVEN_LABEL else "")
    aim = avx2 if record["isa"].partition(" ")[0] == WITHOUT else dots
    return marked(f"{cell}, reached" if fast >= aim else f"**{cell}, missed**", record)


def conditions(records: Sequence[Record]) -> str:
    """Versions, and which engines did not run for a reason that lies in the machine."""
    versions = {k: v for r in records for k, v in r["versions"].items()}
    named = ", ".join(f"{name} {number}" for name, number in sorted(versions.items()))
    without = {f"* {label}: {why}": None for r in records for label, why in r["unavailable"].items()
               if why in NO_FAULT}  # fmt: skip
    told = f"\nNot run on this machine:\n\n{chr(10).join(without)}\n" if without else ""
    return f"Versions: {named}. Cosines under {LEAST_COSINE:g} are marked {FAR}.\n{told}"


BUILDERS = {"speed": speed, "accuracy": accuracy, "conditions": conditions}


def sections(records: Sequence[Record]) -> dict[str, str]:
    """The text between each pair of markers of the page."""
    found = {
        f"{kind}-{name}": by_machine(records, kind, build)
        for kind in ("int8", "bf16")
        for name, build in BUILDERS.items()
    }
    found["int8-aims"] = aims(records)
    for kind in ("int8-roofline", "bf16-roofline"):
        found[kind] = by_machine(records, kind, rooflines)
    return found


def write_page(records: Sequence[Record]) -> None:
    """Put the tables of all records between the markers of int8.md."""
    fill(PAGE, sections(records))
