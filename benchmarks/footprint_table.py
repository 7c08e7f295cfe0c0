"""The tables of footprint.md, from the records of footprint.py."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from marks import footnotes, marked
from pages import Record, by_machine, fill, table

PAGE = Path(__file__).resolve().parent / "footprint.md"
# What is asked of BERT-base: milliseconds, times the median, bytes over the weights, seconds.
MOST_LOAD_MS, MOST_FIRST, MOST_OVER_BYTES, MOST_COMPILE_S = 30, 1.5, 40e6, 10


def footprint(records: Sequence[Record]) -> str:
    """One table a model: figure, spread over the processes, target."""
    parts = []
    for r in records:
        weights, load = r["weights_bytes"] / 1e6, r["environment"]["load_average"]
        title = marked(f"**{r['model']}**", r)
        head = f"{title}: weights of {weights:.0f} MB; load average before: {load}"
        parts.append(f"{head}\n\n{_table(r)}{footnotes((r,))}")
    return "\n".join(parts)


def _table(r: Record) -> str:
    imported, checked, opened, hashed = zip(*r["load_s"], strict=True)
    loaded = [1e3 * (a + b) for a, b in zip(checked, opened, strict=True)]
    rows = [["", "median", "least", "most", "target"], ["---", *["--:"] * 4]]
    rows += [
        _row("`canao.load`, ms", loaded, MOST_LOAD_MS),
        _row("of it: checking the files, ms", [1e3 * x for x in checked]),
        _row("reading all weights for their digest (`verify=True`), ms", [1e3 * x for x in hashed]),
        _row("`import canao` and NumPy, ms", [1e3 * x for x in imported]),
        _row("`dlopen` and `canao_open` in C, ms",
             [run["open_ms"] for runs in r["runs"].values() for run in runs], MOST_LOAD_MS),
    ]  # fmt: skip
    for length, runs in sorted(r["runs"].items(), key=lambda item: int(item[0])):
        first = [run["first_ms"] / run["steady_ms"] for run in runs]
        over = [(run["peak_bytes"] - r["weights_bytes"]) / 1e6 for run in runs]
        steady = statistics.median(run["steady_ms"] for run in runs)
        rows += [
            _row(f"first inference over a later one ({steady:.3g} ms), {length} tokens", first,
                 MOST_FIRST),
            _row(f"peak memory over the weights, {length} tokens, MB", over, MOST_OVER_BYTES / 1e6),
        ]  # fmt: skip
    exported, rest = zip(*r["compile_s"], strict=True)
    rows += [_row("compiling, without `torch.export`, s", rest, MOST_COMPILE_S),
             _row("`torch.export`, s", exported)]  # fmt: skip
    return table(rows)


def _row(name: str, figures: Sequence[float], most: float | None = None) -> list[str]:
    middle = statistics.median(figures)
    cells = [f"{x:.3g}" for x in (middle, min(figures), max(figures))]
    if most is None:
        return [name, *cells, ""]
    return [name, *cells, f"{most:g}: {'met' if middle <= most else 'missed'}"]


def write_page(records: Sequence[Record], page: Path | None = None) -> None:
    """Put the tables of all records between the page's markers."""
    fill(page or PAGE, {"footprint": by_machine(records, "footprint", footprint)})
