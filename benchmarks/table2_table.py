"""The tables of table2.md, from the records of table2.py."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

from marks import footnotes, marked
from pages import Record, by_machine, fill, table, threads_of
from peers.ratios import by_round

PAGE = Path(__file__).resolve().parent / "table2.md"
ENGINES = {"litert": "LiteRT", "canao-unfused": "CANAO, unfused", "canao": "CANAO, fused"}
TFLITE, UNFUSED, FUSED = ENGINES
LARGE = "bert-base"  # the model that smaller ones are compared with

# arXiv 2009.06823, Table 2, CPU of a Galaxy S20 at 8 threads: FLOPs in billions; milliseconds of
# TFLite and of its framework without and with layer fusion.
PAPER: Mapping[str, tuple[float, Mapping[str, float]]] = {
    "distilbert": (10.9, {TFLITE: 188, UNFUSED: 157, FUSED: 105}),
    "bert-base": (21.8, {TFLITE: 352, UNFUSED: 276, FUSED: 196}),
    "deep-narrow": (4.6, {TFLITE: 98, UNFUSED: 89, FUSED: 49}),
}
# The same of its GPU, an Adreno 650: without and with layer fusion.
PAPER_GPU = {"distilbert": (237, 86), "bert-base": (412, 147), "deep-narrow": (152, 45)}
# DNNFusion (arXiv 2108.13342), Table 5: compute-intensive layers, all layers, layers after fusion;
# megabytes of intermediate results before and after.
DNNFUSION = {
    "distilbert": (55, 457, 109, 540, 197),
    "bert-base": (109, 976, 216, 915, 196),
    "mobilebert": (434, 2387, 510, 744, 255),
}


def cases_of(record: Record) -> dict[str, Record]:
    """What is known of each model, in the order in which they were asked for."""
    return {name: record["cases"][name] for name in record["model"].split(",")}


def ratios(record: Record, slow: tuple[str, str], fast: tuple[str, str]) -> list[float] | None:
    """In each round, how many times faster one (model, engine) is than another, by medians.

    None where one of them did not run or was wrong.
    """
    labels = ["/".join(slow), "/".join(fast)]
    held = [record["engines"].get(label) for label in labels]
    if not all(engine and engine["right"] for engine in held):
        return None
    return by_round(record, *labels)


def latency(records: Sequence[Record]) -> str:
    """Milliseconds and FLOPs beside the paper's."""
    parts = []
    for r in records:
        rows = [["model", "GFLOP", *(f"{name}, ms" for name in ENGINES.values()),
                 "paper: GFLOP", "TFLite", "unfused", "fused"], ["---", *["--:"] * 8]]  # fmt: skip
        for model, case in cases_of(r).items():
            cells = [_latency_cell(r, model, engine) for engine in ENGINES]
            rows.append([model, f"{case['flops'] / 1e9:.1f}", *cells, *_paper_cells(model)])
        parts.append(_titled(r, "medians over all samples", rows))
    return "\n".join(parts)


def _latency_cell(record: Record, model: str, engine: str) -> str:
    held = record["engines"].get(f"{model}/{engine}")
    if held is None:
        return "-"
    ms = statistics.median(chain(*held["samples_us"])) / 1e3
    return f"{ms:.1f}" + ("" if held["right"] else " wrong")


def _paper_cells(model: str) -> list[str]:
    if model not in PAPER:
        return ["-"] * 4
    flops, ms = PAPER[model]
    return [f"{flops}", *(f"{ms[engine]:g}" for engine in ENGINES)]


def compilers(records: Sequence[Record]) -> str:
    """The same model, another engine."""
    pairs = ((TFLITE, UNFUSED), (UNFUSED, FUSED), (TFLITE, FUSED))
    names = ["LiteRT -> unfused", "unfused -> fused", "LiteRT -> fused"]
    parts = []
    for r in records:
        rows = [["model", *names, *(f"paper: {n.replace('LiteRT', 'TFLite')}" for n in names)],
                ["---", *["--:"] * 6]]  # fmt: skip
        for model in cases_of(r):
            ours = [_cell(ratios(r, (model, a), (model, b))) for a, b in pairs]
            paper = [_paper_ratio((model, a), (model, b)) for a, b in pairs]
            rows.append([model, *ours, *paper])
        parts.append(_titled(r, "the same model, another engine", rows))
    return "\n".join(parts)


def models(records: Sequence[Record]) -> str:
    """A smaller model than BERT-base, the same engine."""
    parts = []
    for r in records:
        rows = [["BERT-base ->", "fewer FLOPs", *ENGINES.values(), "paper: fewer FLOPs", "TFLite",
                 "unfused", "fused"], ["---", *["--:"] * 8]]  # fmt: skip
        for model, case in cases_of(r).items():
            if model == LARGE or LARGE not in r["cases"]:
                continue
            fewer = r["cases"][LARGE]["flops"] / case["flops"]
            ours = [_cell(ratios(r, (LARGE, e), (model, e))) for e in ENGINES]
            paper = [_paper_ratio((LARGE, e), (model, e)) for e in ENGINES]
            published = f"{PAPER[LARGE][0] / PAPER[model][0]:.2f}x" if model in PAPER else "-"
            rows.append([model, f"{fewer:.2f}x", *ours, published, *paper])
        parts.append(_titled(r, "a smaller model, the same engine", rows))
    return "\n".join(parts)


def both(records: Sequence[Record]) -> str:
    """BERT-base on TFLite against a smaller model with fusion: the product of the two."""
    parts = []
    for r in records:
        rows = [["BERT-base on LiteRT ->", "by the model", "by the compiler", "both",
                 "paper: by the model", "by the compiler", "both"],
                ["---", *["--:"] * 6]]  # fmt: skip
        for model in cases_of(r):
            if model == LARGE or LARGE not in r["cases"]:
                continue
            start, middle, end = (LARGE, TFLITE), (model, TFLITE), (model, FUSED)
            steps = ((start, middle), (middle, end), (start, end))
            rows.append([f"{model}, fused", *(_cell(ratios(r, *s)) for s in steps),
                         *(_paper_ratio(*s) for s in steps)])  # fmt: skip
        parts.append(_titled(r, "both at once, and what each has of it", rows))
    return "\n".join(parts)


def layers(records: Sequence[Record]) -> str:
    """Counts of layers and sizes of their results, DNNFusion's figures below ours.

    They follow from the model alone, so that several machines have the same: a model has one row,
    and another for each machine that counted otherwise.
    """
    rows = [["model", "", "compute-intensive", "layers", "in primitive operators", "after fusion",
             "fewer", "results before, MB", "in primitive operators", "after, MB"],
            ["---", "---", *["--:"] * 8]]  # fmt: skip
    for model in dict.fromkeys(r["model"] for r in records):
        rows += dict.fromkeys(_counts(r) for r in records if r["model"] == model)
        if model in DNNFUSION:
            intensive, before, after, mb, after_mb = DNNFUSION[model]
            rows.append(["", "DNNFusion", str(intensive), "", str(before), str(after),
                         f"{before / after:.1f}x", "", str(mb), str(after_mb)])  # fmt: skip
    return table(rows) + footnotes(records)


def _counts(r: Record) -> tuple[str, ...]:
    """The row of one count."""
    if "why" in r:
        return (marked(r["model"], r), f"CANAO: {r['why']}", *["-"] * 8)
    sizes = (f"{r[name]:.0f}" for name in ("before_mb", "primitive_mb", "after_mb"))
    return (marked(r["model"], r), "CANAO", str(r["intensive"]), str(r["before"]),
            str(r["primitive"]), str(r["after"]), f"{r['before'] / r['after']:.1f}x",
            *sizes)  # fmt: skip


def beside_gpus(records: Sequence[Record], gpus: Sequence[Record]) -> str:
    """CPU and GPU of a machine side by side, as in the paper's table; its figures below."""
    parts = []
    for gpu in dict.fromkeys(r["gpu"] for r in gpus):
        own = {r["model"]: r for r in gpus if r["gpu"] == gpu}
        cpu = next(iter(own.values()))["cpu"]
        rows = [["model", "CPU, unfused, ms", "CPU, fused, ms", "GPU, unfused, ms",
                 "GPU, fused, ms", "GPU, unfused -> fused"], ["---", *["--:"] * 5]]  # fmt: skip
        for model, r in own.items():
            held = next((c for c in records if (c["kind"], c["cpu"], c["threads"]) == (
                "table2", cpu, 1) and model in cases_of(c)), None)  # fmt: skip
            of_cpu = [_latency_cell(held, model, e) if held else "-" for e in (UNFUSED, FUSED)]
            slow, fast = (r["rounds_ms"][way] for way in ("unfused", "fused"))
            by = [a / b for a, b in zip(slow, fast, strict=True)]
            rows.append([marked(model, r), *of_cpu, f"{statistics.median(slow):.1f}",
                         f"{statistics.median(fast):.1f}", _cell(by)])  # fmt: skip
            if model in PAPER_GPU:
                on_cpu, on_gpu = PAPER[model][1], PAPER_GPU[model]
                rows.append(["paper", f"{on_cpu[UNFUSED]:g}", f"{on_cpu[FUSED]:g}",
                             *(f"{ms}" for ms in on_gpu), f"{on_gpu[0] / on_gpu[1]:.2f}x"])
        parts.append(f"{cpu}, 1 thread, and {gpu}\n\n{table(rows)}{footnotes(list(own.values()))}")
    return "\n".join(parts) or "No records yet.\n"


def conditions(records: Sequence[Record]) -> str:
    """The machine's rates, the load before, how far the rounds differ, and what did not run."""
    rows = [["threads", "FMA peak, GFLOP/s", "reading, GB/s", "load average before", "rounds",
             "largest spread of a ratio over the rounds", "largest difference to PyTorch"],
            ["--:"] * 7]  # fmt: skip
    reasons = []
    for r in records:
        rates = [f"{statistics.median(r[k]) / 1e9:.3g}" for k in ("peak_flops", "bandwidth")]
        load = f"{r['environment']['load_average']:.2f}"
        off = max((held["difference"] for held in r["engines"].values()), default=0.0)
        rows.append([marked(str(r["threads"]), r), *rates, load, str(r["options"]["rounds"]),
                     f"{_largest_spread(r):.0%}", f"{off:.1e}"])  # fmt: skip
        reasons += [f"* {label}, {threads_of(r)}: {why}" for label, why in r["unavailable"].items()]
    versions = {k: v for r in records for k, v in r["versions"].items()}
    named = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    text = f"{table(rows)}\nVersions: {named}.\n"
    return text + ("\nNot run:\n\n" + "\n".join(reasons) + "\n" if reasons else "")


def _largest_spread(record: Record) -> float:
    """Of the engines' ratios in a model: largest less smallest, over the median."""
    found = [0.0]
    for model in record["cases"]:
        for slow in (TFLITE, UNFUSED):
            rounds = ratios(record, (model, slow), (model, FUSED))
            if rounds:
                found.append((max(rounds) - min(rounds)) / statistics.median(rounds))
    return max(found)


def _cell(rounds: Sequence[float] | None) -> str:
    return "-" if rounds is None else f"{statistics.median(rounds):.2f}x"


def _paper_ratio(slow: tuple[str, str], fast: tuple[str, str]) -> str:
    if slow[0] not in PAPER or fast[0] not in PAPER:
        return "-"
    return f"{PAPER[slow[0]][1][slow[1]] / PAPER[fast[0]][1][fast[1]]:.2f}x"


def _titled(record: Record, what: str, rows: Sequence[Sequence[str]]) -> str:
    title = marked(f"**{record['length']} tokens, {threads_of(record)}**", record)
    return f"{title}: {what}\n\n{table(rows)}{footnotes((record,))}"


SECTIONS = {"latency": latency, "compiler": compilers, "model": models, "both": both,
            "conditions": conditions}  # fmt: skip


def write_page(
    records: Sequence[Record], gpus: Sequence[Record] = (), page: Path | None = None
) -> None:
    """Put the tables of all records between the markers of the page; `gpus` are those of gpu.py."""
    sections = {name: by_machine(records, "table2", build) for name, build in SECTIONS.items()}
    counted = [r for r in records if r["kind"] == "layers"]
    sections["gpu"] = beside_gpus(records, gpus)
    fill(page or PAGE, sections | {"layers": layers(counted) if counted else "No records yet.\n"})
