"""The tables of speed.md, from the records of speed.py."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from marks import footnotes, marked
from pages import Record, by_machine, fill, table, threads_of
from peers.catalog import CANAO
from peers.ratios import fastest, is_own, mean_ms, median_ms, ratio

PAGE = Path(__file__).resolve().parent / "speed.md"
_LEAST_SHARE = 0.005  # kernels that take less of the time are summed up in one line

Rating = Callable[[Mapping[str, Any]], float]


def share_of_peak(record: Record, ms: float) -> float:
    """FLOP/s over the peak that was measured in the same run."""
    return record["flops"] / (ms / 1e3) / statistics.median(record["peak_flops"])


def latency(records: Sequence[Record]) -> str:
    """For every model and thread count: engines down, lengths across."""
    parts = []
    for model, threads in dict.fromkeys((r["model"], r["threads"]) for r in records):
        cases = sorted((r for r in records if (r["model"], r["threads"]) == (model, threads)),
                       key=lambda r: r["length"])  # fmt: skip
        parts.append(f"**{model}, {threads_of(cases[0])}**: milliseconds (share of FMA peak)\n")
        parts.append(_latency_table(cases))
    return "\n".join(parts)


def _latency_table(cases: Sequence[Record]) -> str:
    lengths = [marked(str(case["length"]), case) for case in cases]
    rows = [["engine", *lengths], ["---", *["--:"] * len(cases)]]
    labels = dict.fromkeys(chain(*((*c["engines"], *c["unavailable"]) for c in cases)))
    for label in sorted(labels, key=lambda name: not is_own(name)):
        rows.append([label, *(_latency_cell(case, label) for case in cases)])
    rows.append(["CANAO against the fastest peer", *map(_lead, cases)])
    return table(rows) + footnotes(cases)


def _latency_cell(case: Record, label: str) -> str:
    engine = case["engines"].get(label)
    if engine is None:
        return "not run" if label not in case["unavailable"] else "-"
    ms = median_ms(engine)
    cell = f"{ms:.3g} ({share_of_peak(case, ms):.0%})"
    cell = f"**{cell}**" if label in (fastest(case, True), fastest(case, False)) else cell
    return cell if engine["right"] else f"{cell} wrong"


def _lead(case: Record) -> str:
    own, peer = fastest(case, True), fastest(case, False)
    if own is None or peer is None:
        return ""
    return f"{ratio(case, peer, own):.2f}x {peer}"


def families(records: Sequence[Record]) -> str:
    """Small models of the families: milliseconds, and how many times faster CANAO is."""
    cases: dict[tuple[int, int], list[Record]] = {}
    for r in records:
        cases.setdefault((r["threads"], r["length"]), []).append(r)
    return "\n".join(
        f"**{threads_of(of[0])}, {length} tokens**: milliseconds\n\n{_families_table(of)}"
        for (_, length), of in cases.items()
    )


def _families_table(records: Sequence[Record]) -> str:
    labels = list(dict.fromkeys(chain(*(r["engines"] for r in records))))
    rows = [["model", "parameters", *labels, "CANAO is faster by", "largest difference"],
            ["---", *["--:"] * (len(labels) + 3)]]  # fmt: skip
    for r in records:
        cells = []
        for label in labels:
            engine = r["engines"].get(label)
            cell = f"{median_ms(engine):.3g}" if engine else "-"
            cells.append(cell if not engine or engine["right"] else f"{cell} wrong")
        own = r["engines"].get(CANAO)
        rows.append([marked(r["model"], r), f"{r['parameters'] / 1e6:.3g} M", *cells, _lead(r),
                     f"{own['difference']:.1e}" if own else "-"])  # fmt: skip
    return table(rows) + footnotes(records)


def texts(records: Sequence[Record]) -> str:
    """MRPC one by one: milliseconds a text, and how many times faster CANAO is."""
    return "\n".join(_text_table(r, "ms a text", mean_ms) for r in records)


def streams(records: Sequence[Record]) -> str:
    """MRPC as a stream: texts a second, and how many times more CANAO takes."""
    parts = []
    for record in records:
        rate = 1e3 * len(record["options"]["lengths"])
        parts.append(_text_table(record, "texts a second", lambda e, n=rate: n / mean_ms(e)))
    return "\n".join(parts)


def _text_table(record: Record, unit: str, value: Rating) -> str:
    own, options = fastest(record, True), record["options"]
    lengths = options["lengths"]
    title = marked(f"**{record['model']}, {threads_of(record)}**", record)
    head = (f"{title}: {len(lengths)} texts of "
            f"{min(lengths)} to {max(lengths)} tokens, mean {statistics.fmean(lengths):.1f}\n")
    rows = [["engine", "texts", unit, "CANAO is faster by"], ["---", "---", "--:", "--:"]]
    for label, engine in sorted(record["engines"].items(), key=lambda item: mean_ms(item[1])):
        padded = options["padded"].get(label)
        gain = ""
        if own is not None and not is_own(label):
            gain = f"{ratio(record, label, own):.2f}x"
        rows.append([label, f"padded to {padded}" if padded else "true length",
                     f"{value(engine):.4g}" + ("" if engine["right"] else " wrong"), gain])
    return f"{head}\n{table(rows)}{footnotes((record,))}"


def rooflines(records: Sequence[Record]) -> str:
    """CANAO's kernels by their share of the time, each against the peak of its type of products,
    which is named where it is not float32."""
    parts = []
    for record in records:
        title = f"**{record['model']} at {record['length']}, {threads_of(record)}**"
        parts.append(f"{marked(title, record)}\n")
        parts.append(_roofline_table(record) + footnotes((record,)))
    return "\n".join(parts)


def _roofline_table(record: Record) -> str:
    rates = {None: record["peak_flops"], **record.get("peaks", {})}
    peaks = {product: statistics.median(of) for product, of in rates.items()}
    bandwidth = statistics.median(record["bandwidth"])
    peak = "of FMA peak" if len(peaks) == 1 else "of its peak"
    rows = [["kernel", "calls", "ms", "share", "GFLOP/s", peak, "GB/s", "of bandwidth"],
            ["---", *["--:"] * 7]]  # fmt: skip
    total = sum(k["ms"] for k in record["kernels"].values())
    small: list[Mapping[str, Any]] = []
    for name, k in sorted(record["kernels"].items(), key=lambda item: -item[1]["ms"]):
        if k["ms"] < _LEAST_SHARE * total:
            small.append(k)
        else:
            kind = f" {k['product']}" if "product" in k else ""
            rows.append([f"`{name}`{kind}", *_kernel_cells((k,), total, peaks, bandwidth)])
    if small:
        rows.append([f"{len(small)} others", *_kernel_cells(small, total, peaks, bandwidth)])
    return table(rows)


def _kernel_cells(
    several: Sequence[Mapping[str, Any]], total: float, peaks: Mapping[str | None, float],
    bandwidth: float,
) -> list[str]:  # fmt: skip
    """Of several kernels together. `peaks` are by what products are of, None of float32."""
    calls, ms, flops, size = (sum(k[x] for k in several) for x in ("calls", "ms", "flops", "bytes"))
    seconds = max(ms, 1e-6) / 1e3
    at_peak = sum(k["flops"] / peaks[k.get("product")] for k in several)
    return [f"{calls:.0f}", f"{ms:.3f}", f"{ms / total:.1%}", f"{flops / seconds / 1e9:.1f}",
            f"{at_peak / seconds:.0%}", f"{size / seconds / 1e9:.1f}",
            f"{size / seconds / bandwidth:.0%}"]  # fmt: skip


def conditions(records: Sequence[Record]) -> str:
    """The machine's rates while the latencies were taken, the difference to PyTorch, versions."""
    rows = [["threads", "FMA peak, GFLOP/s", "reading, GB/s", "preemptions a second",
             "load average before"], ["--:"] * 5]  # fmt: skip
    for threads in sorted({r["threads"] for r in records}):
        of = [r for r in records if r["threads"] == threads]
        rates = [_spread([x / 1e9 for r in of for x in r[k]]) for k in ("peak_flops", "bandwidth")]
        loads = [r["environment"]["load_average"] for r in of]
        rows.append([str(threads), *rates, f"{_preemptions(of):.2g}", _spread(loads)])
    versions = {k: v for r in records for k, v in r.get("versions", {}).items()}
    named = ", ".join(f"{name} {number}" for name, number in sorted(versions.items()))
    return f"{table(rows)}\nVersions: {named}.\n\n{_agreement(records)}"


def _preemptions(records: Sequence[Record]) -> float:
    """Times a second of the samples that an engine's thread lost its core to something else."""
    engines = [engine for record in records for engine in record["engines"].values()]
    seconds = sum(us for engine in engines for us in chain(*engine["samples_us"])) / 1e6
    return sum(engine["preempted"] for engine in engines) / max(seconds, 1e-9)


def _agreement(records: Sequence[Record]) -> str:
    found: dict[str, list[float]] = {}
    reasons: dict[str, None] = {}
    for r in records:
        for label, engine in r["engines"].items():
            found.setdefault(label, []).append(engine["difference"])
        for label, why in r["unavailable"].items():
            reasons[f"* {r['model']}, {label}: {why}"] = None
    rows = [["engine", "largest difference to PyTorch", "cases"], ["---", "--:", "--:"]]
    rows += [[label, f"{max(x):.1e}", str(len(x))] for label, x in sorted(found.items())]
    least = min(r["sensitivity"] for r in records)
    text = f"{table(rows)}\nSmallest sensitivity of a model: {least:.1e}.\n"
    return text + ("\nNot run:\n\n" + "\n".join(reasons) + "\n" if reasons else "")


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


SECTIONS = {
    "latency": latency, "family": families, "mrpc": texts, "stream": streams, "roofline": rooflines,
}  # fmt: skip


def write_page(records: Sequence[Record]) -> None:
    """Put the tables of all records between the markers of speed.md."""
    sections = {kind: by_machine(records, kind, build) for kind, build in SECTIONS.items()}
    fill(PAGE, sections | {"conditions": by_machine(records, "latency", conditions)})
