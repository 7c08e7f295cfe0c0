"""What benchmarks refuse to record, and how tables mark what was recorded before they did."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import arm_loops  # noqa: E402
import attention  # noqa: E402
import generation  # noqa: E402
import generation_table  # noqa: E402
import int8_table  # noqa: E402
import seven_bits  # noqa: E402
import speed  # noqa: E402
import speed_table  # noqa: E402
import table2_table  # noqa: E402
from marks import BAD, UNKNOWN, footnotes, marked  # noqa: E402
from pages import by_machine  # noqa: E402
from peers import results as results_module  # noqa: E402
from peers.catalog import (  # noqa: E402
    ALL,
    ENGINES,
    LEAST_COSINE,
    NO_BF16,
    NO_CXX,
    OWN_LABELS,
    Contestant,
    entrants,
    isa_label,
    isa_of_machine,
)
from peers.interleave import distances  # noqa: E402
from peers.quality import faults, unrecorded  # noqa: E402
from peers.quiet import LIMIT, Clock, Watch, others  # noqa: E402
from peers.ratios import interval, is_own  # noqa: E402
from peers.records import Records  # noqa: E402
from peers.results import Results, file_of  # noqa: E402
from peers.source import Source  # noqa: E402
from peers.store import Store  # noqa: E402
from speed_options import parse  # noqa: E402

from canao.device.bench import local_device  # noqa: E402
from canao.errors import DeviceError, InputError  # noqa: E402
from canao.machine import local_machine  # noqa: E402
from canao.target import get_target  # noqa: E402

COMMITTED = Source("c0ffee", ())
QUIET = {"before": 0.0, "during": 0.01, "after": 0.0, "limit": LIMIT}
IDENTITY = {"kind": "latency", "model": "m", "length": 8, "threads": 1, "cpu": "x", "isa": "avx2"}
CORES = sorted(os.sched_getaffinity(0))


def row(**changes: Any) -> dict[str, Any]:
    """A clean row."""
    engine = {"difference": 1e-6, "right": True, "preempted": 0, "samples_us": [[1000], [1000]]}
    return {
        **IDENTITY, "engines": {"canao": engine, "ort": engine}, "unavailable": {},
        "flops": 1e6, "parameters": 1000, "sensitivity": 1.0,
        "peak_flops": [1e9], "bandwidth": [1e9], "versions": {}, "options": {"rounds": 2},
        "environment": {"load_average": 9.0, "cores": 2}, "busy_others": QUIET,
        "source": {"commit": "c0ffee", "changed": []},
    } | changes  # fmt: skip


def without(record: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in names}


def spin(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


@pytest.fixture
def stranger() -> Iterator[int]:
    """A process of which this one is no descendant: to it, all work here is others'."""
    process = subprocess.Popen(["sleep", "60"])
    yield process.pid
    process.kill()
    process.wait()


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Results:
    """Results of a committed source, as if the machine were quiet."""
    monkeypatch.setattr(Source, "read", staticmethod(lambda: COMMITTED))
    monkeypatch.setattr(results_module, "Watch", lambda: FakeWatch(QUIET))
    return Results.start(Records(tmp_path / "rows.jsonl"))


class FakeWatch:
    def __init__(self, shares: dict[str, float]) -> None:
        self.before, self.shares = shares["before"], shares

    def close(self) -> dict[str, float]:
        return self.shares


def test_work_of_others_is_noticed_and_own_is_not(stranger: int) -> None:
    """The same work of this process, as it looks from the inside and from the outside. What really
    runs beside the tests is in both, so that their difference is this work alone."""
    begin = [Clock.read(CORES, root) for root in (os.getpid(), stranger)]
    spin(0.4)
    child = subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < .4: 0"])
    assert child.returncode == 0
    end = [Clock.read(CORES, root) for root in (os.getpid(), stranger)]
    inside, outside = (
        (e.busy - b.busy) - (e.own - b.own) for b, e in zip(begin, end, strict=True)
    )
    assert outside - inside == pytest.approx(0.8, abs=0.25)
    own = end[0].own - begin[0].own
    assert own == pytest.approx(0.8, abs=0.25) and end[1].own - begin[1].own < 0.05


def test_a_watch_tells_of_a_busy_loop(stranger: int) -> None:
    """One core is busy for the whole of the watch, with work that is not the stranger's."""
    program = [sys.executable, "-c", "while True: pass"]
    busy = subprocess.Popen(program)
    try:
        watch = Watch(stranger, look_s=0.3, stretch_s=0.2, looks=2)
        time.sleep(0.5)
        shares = watch.close()
    finally:
        busy.kill()
        busy.wait()
    least = 0.5 / len(CORES)  # half of a core, in case that others take their part of it
    assert all(shares[when] > least for when in ("before", "during", "after"))
    assert faults(row(busy_others=shares))


def test_a_short_burst_is_not_averaged_away(stranger: int) -> None:
    watch = Watch(stranger, look_s=0.05, stretch_s=0.2, looks=1)
    spin(0.4)
    time.sleep(1.0)
    assert watch.close()["during"] > 0.5 / len(CORES)


def test_a_look_waits_for_a_moment_of_work_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = iter([0.5, 0.5, 0.01, 0.02, 0.5, 0.0])
    monkeypatch.setattr("peers.quiet.others", lambda *_: next(shares))
    watch = Watch(look_s=0.0, looks=5)
    assert watch.before == 0.01
    assert watch.close() == {"before": 0.01, "during": 0.02, "after": 0.0, "limit": LIMIT}


def test_shares() -> None:
    begin, end = Clock(10.0, 5.0, 1.0), Clock(20.0, 18.0, 9.0)
    assert others(begin, end, 2) == pytest.approx(0.25)
    assert others(begin, Clock(20.0, 6.0, 9.0), 2) == 0.0


def test_a_clean_row_is_written(results: Results, capsys: pytest.CaptureFixture[str]) -> None:
    assert results.take("m", lambda: without(row(), "busy_others", "source"))
    results.close()
    assert results.records.read() == [row()]
    assert "m: recorded" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"unavailable": {"canao": "does not compile: SyntaxError"}}, "canao did not run"),
        ({"engines": {"mnn": {"right": False, "difference": 0.5}}}, "mnn differs .* 5.0e-01"),
        ({"why": "does not compile: x"}, "m does not compile"),
        ({"difference": 1e-3, "tolerance": 1e-4}, "differs from the reference by 1.0e-03"),
        ({"difference": float("nan"), "tolerance": 1e-4}, "differs from the reference by nan"),
    ],
)
def test_bad_rows_are_refused_by_name(
    results: Results, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], why: str
) -> None:
    assert not results.take("the row", lambda: without(row(**changes), "busy_others"))
    told = capsys.readouterr().err
    assert "the row: REFUSED" in told and re.search(why, told)
    assert results.records.read() == []
    with pytest.raises(DeviceError, match="1 not recorded: the row"):
        results.close()


@pytest.mark.parametrize("when", ["during", "after"])
def test_rows_of_a_busy_machine_are_refused(
    results: Results, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    monkeypatch.setattr(results_module, "Watch", lambda: FakeWatch(QUIET | {when: 0.06}))
    assert not results.take("m", row)
    assert results.records.read() == [] and results.refused == ["m"]


def test_nothing_is_begun_on_a_busy_machine(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results_module, "Watch", lambda: FakeWatch(QUIET | {"before": 0.5}))
    assert not results.take("m", lambda: pytest.fail("it was measured"))
    with pytest.raises(DeviceError, match="not recorded: m"):
        results.close()


def test_an_engine_that_cannot_run_here_is_no_fault() -> None:
    assert faults(row(unavailable={"torch-compile": NO_CXX, "openvino-bf16": NO_BF16})) == []


def test_who_takes_part_in_a_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    assert entrants("float32") == tuple(ENGINES)
    for precision in ("int8", "bf16"):
        names = entrants(precision)
        low = [name for name in names if ALL[name].precision.startswith(precision)]
        assert names[0] == "canao" and len(low) >= 2
        assert {ALL[name].plain for name in low} | set(low) | {"canao"} == set(names)
        for name in low:
            assert ALL[ALL[name].plain].precision == "float32"
            assert names.index(ALL[name].plain) < names.index(name)
    assert "canao-int8" in entrants("int8") and "canao-int8" in OWN_LABELS
    # In 7 bits only where that is another inner loop.
    for isa, differs in (("avx2", True), ("avx512", False)):
        target = get_target("x86_64-linux").with_isa(isa)
        monkeypatch.setattr("peers.catalog.get_target", lambda target=target: target)
        assert ("canao-int8-7bit" in entrants("int8")) is differs
        assert "canao-int8-7bit" not in entrants("bf16")
    with pytest.raises(SystemExit):
        parse(["--work", "w", "--precision", "int8", "--families"], Path("r.jsonl"))
    plain, low = (parse(["--work", "w", "--precision", p], Path("r.jsonl"))
                  for p in ("float32", "int8"))  # fmt: skip
    assert (plain.threads, low.threads, low.lengths) == ("1,2", "1", "8,32,128")
    assert low.engines == ",".join(entrants("int8"))


def test_a_narrower_instruction_set_is_canaos_own() -> None:
    """Where there is VNNI, what AVX2 does without it: peers take what they find."""
    assert entrants("int8", "avx2") == ("canao", "canao-int8", "canao-int8-7bit")
    assert entrants("float32", "avx2") == ("canao",)
    with pytest.raises(SystemExit):
        parse(["--work", "w", "--isa", "avx2", "--roofline"], Path("r.jsonl"))
    with pytest.raises(InputError, match="'avx9' is not one of"):
        entrants("int8", "avx9")
    assert speed.main(["--work", "w", "--isa", "avx9"]) == 2
    own = local_device().environment()["isa"]
    results = Results(Records(Path("r")), False, Source(None, ()))
    study = speed.Study(Path("w"), results, (), 1, 1, (0,), False)
    for isa, told in (("", own), (own, own), ("scalar", f"scalar on {own}")):
        assert replace(study, isa=isa).identity("int8", "m", 8, 1)["isa"] == told
    store = Store("m", Path("w"), "avx2")
    engine = Contestant("canao-int8", ALL["canao-int8"], 8)
    assert store.model_file(engine) == Path("w/canao-int8-avx2")
    assert Store("m", Path("w")).model_file(engine) == Path("w/canao-int8")


@pytest.mark.parametrize(("more", "named"), [
    ((), ("avx512", "avx512", "avx512")),
    (("avx512vnni",), ("avx512", "avx512vnni", "avx512")),
    (("avx512vnni", "avx512bf16", "avx512amx"), ("avx512", "avx512amx", "avx512amx")),
])  # fmt: skip
def test_two_machines_of_one_name_are_told_apart(
    more: tuple[str, ...], named: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Xeon whose system shows AMX, and one whose system does not."""
    target = replace(get_target("x86_64-linux").with_isa("avx512"), extensions=more)
    monkeypatch.setattr("peers.catalog.get_target", lambda: target)
    assert tuple(map(isa_of_machine, ("float32", "int8", "bf16"))) == named
    assert isa_of_machine("int8", "avx2") == f"avx2 on {named[1]}"
    assert isa_of_machine("int8", named[1]) == named[1]


def test_how_far_outputs_are() -> None:
    want = np.array([1.0, -1.0, 1.0, -1.0], np.float32)
    assert distances(want, want) == (0.0, pytest.approx(1.0))
    assert distances(np.float32([1, -1, 1, 1]), want) == (2.0, pytest.approx(0.5))
    assert distances(np.float32([1, -1, np.nan, 1]), want) == (1e9, 0.0)
    for name, difference, cosine, right in (
        ("canao", 0.9e-4, 1.0, True), ("canao", 1.1e-4, 1.0, False),
        ("canao-int8", 2.0, LEAST_COSINE, True), ("canao-int8", 0.0, LEAST_COSINE - 1e-6, False),
    ):  # fmt: skip
        assert ALL[name].right(difference, cosine) is right


def low(us: int = 500, right: bool = True, spread: int = 0) -> dict[str, Any]:
    """An engine in int8 whose turns alternate by `spread` microseconds."""
    return {"difference": 0.5, "cosine": 0.99 if right else 0.5, "right": right, "preempted": 0,
            "precision": "int8", "samples_us": [[us - spread], [us + spread]] * 5}  # fmt: skip


def int8_row(**engines: dict[str, Any]) -> dict[str, Any]:
    plain = low(1000) | {"precision": "float32", "cosine": 1.0, "difference": 1e-6}
    named = {name.replace("_", "-"): engine for name, engine in engines.items()}
    return row(kind="int8", engines={"canao": plain, "ort": plain, "canao-int8": low()} | named)


def test_a_peer_far_off_in_int8_is_told_and_canao_is_refused() -> None:
    far = int8_row(ort_int8=low(400, right=False))
    assert faults(far) == []
    text = int8_table.speed([far])
    assert "| ort-int8 | 0.4 (2.50x) far off |" in text
    assert "| as ort-int8 | 0.80x |" in text and "| canao-int8 | **0.5 (2.00x)** |" in text
    assert "| ort-int8 | 0.50000, 0.5 far off |" in int8_table.accuracy([far])
    assert "| canao |" not in int8_table.accuracy([far])
    assert "fastest peer, both in float32 | 1.00x ort |" in text
    alone = {k: v for k, v in far["engines"].items() if k != "ort"}
    assert "fastest peer" not in int8_table.speed([far | {"engines": alone}])
    (why,) = faults(int8_row(canao_int8=low(right=False)))
    assert why.startswith("canao-int8 differs from the reference by 5.0e-01, cosine 0.500")


def test_kernels_are_held_against_the_peak_of_their_type() -> None:
    """Of 10 GFLOP in 1 s: all of float32's peak, a quarter of int8's."""
    kernel = {"calls": 1, "flops": 1e10, "bytes": 1e9, "ms": 1e3}
    record = {**row(kind="int8-roofline"), "peak_flops": [1e10], "peaks": {"i8": [4e10]}}
    tiny = kernel | {"flops": 1e7, "ms": 1.0}
    record["kernels"] = {"a": kernel, "b": kernel | {"product": "i8"},
                         "c": tiny, "d": tiny | {"product": "i8"}}  # fmt: skip
    text = int8_table.sections([record])["int8-roofline"]
    assert "| `a` | 1 | 1000.000 | 50.0% | 10.0 | 100% |" in text and "of its peak" in text
    assert "| `b` i8 | 1 | 1000.000 | 50.0% | 10.0 | 25% |" in text
    # Two kernels of a millisecond each that would take 1 and 0.25 ms.
    assert "| 2 others | 2 | 2.000 | 0.1% | 10.0 | 62% |" in text
    plain = {name: value for name, value in record.items() if name != "peaks"}
    plain["kernels"] = {"a": kernel}
    assert "of FMA peak" in speed_table.rooflines([plain])


def test_ratios_in_int8_are_sure_whether_or_not_outputs_are_near() -> None:
    uneven = {"ort_int8": low(450, right=False, spread=100)}
    (why,) = faults(int8_row(**uneven))
    assert "ort-int8 took 0.70 to 1.10 times as long as canao-int8" in why
    unsure = int8_row()
    unsure["engines"]["canao"] = low(1000, spread=200) | {"precision": "float32"}
    (why,) = faults(unsure)
    assert "canao took 1.60 to 2.40 times as long as canao-int8" in why


def test_both_of_canaos_ratios_of_generation_are_sure() -> None:
    """Its table has CANAO in float32 beside peers in float32, and in int8 beside itself."""
    turns = {"token/canao": low(1000, spread=200) | {"precision": "float32"},
             "token/canao-int8-weights": low(400),
             "token/ort": low(1100) | {"precision": "float32"}}  # fmt: skip
    of = row(engines=turns) | {"kind": "generation", "length": 32}
    told = " ".join(faults(of))
    assert "token/ort took" in told and "as long as token/canao, which" in told
    assert "token/canao took" in told and "as long as token/canao-int8-weights, which" in told


def test_who_generates(tmp_path: Path) -> None:
    """Peers only beside what is CANAO's by default; another library beside float32 is a variant."""
    usual = generation.field_of("float32", "float32", "")
    assert usual.kind == "generation" and usual.labels == ["canao", OWN_INT8, "ort", "torch"]
    narrow = generation.field_of("float32", "float32", "avx2")
    assert narrow.kind == "generation" and narrow.labels == ["canao", OWN_INT8]
    for options, kind, label in (
        (("int8", "float32"), "generation-int8", "canao-int8"),
        (("float32", "fp16"), "generation-kv-fp16", "canao,kv-fp16"),
        (("int8", "int8"), "generation-int8-kv-int8", "canao-int8,kv-int8"),
    ):  # fmt: skip
        field = generation.field_of(*options, "")
        assert field.kind == kind and field.labels == ["canao", label]
        assert field.precision(label) == kind.removeprefix("generation-")
        assert field.precision("canao") == "float32" and is_own(label)
    own = get_target().isa
    with pytest.raises(InputError, match="this machine's own"):
        generation.main(["--work", str(tmp_path), "--isa", own])
    assert isa_label("scalar", own) == f"scalar on {own}"


OWN_INT8 = "canao-int8-weights"


def variant(us: int, **changes: Any) -> dict[str, Any]:
    """A row of generation in full int8, of which tokens take `us`."""
    plain = low(1000) | {"precision": "float32", "cosine": 1.0, "difference": 1e-6}
    engines = {f"{part}/{name}": engine for part in ("prompt", "token")
               for name, engine in (("canao", plain), ("canao-int8", low(us)))}  # fmt: skip
    return row(kind="generation-int8", engines=engines, length=32) | changes


def test_tables_of_generation() -> None:
    """A variant stands beside CANAO's float32; where nobody has an engine, it has no column."""
    narrow = variant(400, kind="generation", isa="avx2 on avx512")
    text = generation_table.sections([narrow, variant(250), row(kind="generation-kv-fp16")])
    assert "ort" not in text["generation"] and "x, avx2 on avx512\n" in text["generation"]
    assert "| m | token after 32, 1 thread | 1 | 0.4 | 2.50x |" in text["generation"]
    of = "| m | token after 32, 1 thread | canao-int8 | 0.25 | 1 | 4.00x | 0.99000 |"
    assert of in text["generation-variants"] and of not in text["generation"]


def test_what_makes_canao_slower_is_sure_as_well() -> None:
    """Where it is alone, its float32 may be the fastest: how much that is, the rounds must tell."""
    assert faults(variant(1200)) == []
    unsure = variant(1200)
    unsure["engines"]["token/canao-int8"] = low(1200, spread=200)
    (why,) = faults(unsure)
    assert "token/canao-int8 took 1.00 to 1.40 times as long as token/canao, which" in why


def test_aims_of_int8_are_held_against_what_was_reached() -> None:
    """By the faster of CANAO's libraries, and with AVX2 against aims of its own."""
    of = [int8_row() | {"model": model, "length": 128, "isa": isa}
          for model in ("bert-base", "minilm-l6", "mobilebert") for isa in ("avx512", "avx2 on x")]
    of[0]["engines"]["canao-int8"] = low(200)
    of[3]["engines"]["canao-int8-7bit"] = low(250)
    text = int8_table.aims(of)
    assert "| bert-base, 128 | 3.5x (1.8x) | 5.00x, reached | 2.00x, reached |" in text
    assert "| minilm-l6, 128 | 3.1x (1.7x) | **2.00x, missed** | 4.00x in 7 bits, reached |" in text
    assert "| distilbert, 128 | 3.5x (1.8x) | - | - |" in text
    assert "| mobilebert, 128 | 2.2x (1.5x) | **2.00x, missed** | 2.00x, reached |" in text
    assert int8_table.aims([int8_row() | {"threads": 2}]) == "No records yet.\n"


AVX2 = pytest.mark.skipif("avx2" not in local_machine().features, reason="needs AVX2")


@AVX2
def test_the_loops_of_seven_bits_compute_the_same() -> None:
    """Of the largest levels as well, whose sums fill 16 bits; a wrong loop is told."""
    tile = seven_bits.DEFAULT_TILE
    times = seven_bits.run(get_target(), (tile,), 2, CORES[0])
    assert times.keys() == {(seven_bits.shape(tile), product) for product in seven_bits.LOOPS}
    assert all(len(of) == 2 and min(of) > 0 for of in times.values())


@AVX2
def test_a_loop_that_overflows_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights with 128 added, as those of 8 bits have them, are too large for two steps."""
    tiles = {**seven_bits.ISA.tiles}
    tiles["q7_q7"] = replace(tiles["q7_q7"], offset=128)
    monkeypatch.setattr(seven_bits, "ISA", replace(seven_bits.ISA, tiles=tiles))
    with pytest.raises(DeviceError, match="wrong 6x16 q7_q7"):
        seven_bits.run(get_target(), ((6, 16),), 1, CORES[0])


def test_tables_of_int8_mark_bad_rows() -> None:
    bad = without(int8_row(), "busy_others")
    assert f"| 8 {BAD} |" in int8_table.speed([bad]) and BAD not in int8_table.speed([int8_row()])
    assert "Not a clean result" in int8_table.speed([bad])
    told = int8_table.conditions([int8_row() | {"unavailable": {"openvino-bf16": NO_BF16}}])
    assert f"* openvino-bf16: {NO_BF16}" in told


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    """Of samples of a skewed distribution whose median is known, at every number of rounds."""
    rng = np.random.default_rng(0)
    for rounds in (6, 10, 11, 40):
        draws = rng.exponential(size=(4000, rounds))
        held = [low <= np.log(2) <= high for low, high in map(interval, draws.tolist())]
        assert 0.945 < np.mean(held) < 0.99
    assert interval([3.0]) == (3.0, 3.0) and interval([2.0, 1.0]) == (1.0, 2.0)


@pytest.mark.parametrize("spread", [0.02, 0.2])
def test_a_ratio_that_the_rounds_do_not_tell_is_refused(spread: float) -> None:
    """The peer's turns alternate; of several models in one run, each is looked at."""
    def engine(*us: float) -> dict[str, Any]:
        return {"difference": 0.0, "right": True, "preempted": 0,
                "samples_us": [[round(1e4 * x)] for x in us] * 5}  # fmt: skip

    steady, uneven = engine(1, 1), engine(1 - spread, 1 + spread)
    slow = engine(2 - 4 * spread, 2 + 4 * spread)  # not the fastest: no claim is made of it
    alone = row(engines={"canao": steady, "ort": uneven, "torch": slow})
    several = row(engines={"a/canao": steady, "a/ort": steady, "b/canao": steady, "b/ort": uneven})
    for record, name in ((alone, "ort"), (several, "b/ort")):
        found = faults(record)
        assert len(found) == (spread > 0.05)
        assert all(why.startswith(f"in 10 rounds {name} took 0.80 to 1.20") for why in found)


def test_a_changed_source_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = Source("c0ffee", ("src/canao/build.py",))
    monkeypatch.setattr(Source, "read", staticmethod(lambda: changed))
    with pytest.raises(InputError, match=r"src/canao/build\.py .* commit them, or use --draft"):
        Results.start(Records(Path("nowhere")))


@pytest.mark.parametrize("end", [Source("c0ffee", ("src/a.py",)), Source("decaf", ())])
def test_a_source_that_changes_meanwhile_is_refused(
    results: Results, monkeypatch: pytest.MonkeyPatch, end: Source
) -> None:
    monkeypatch.setattr(Source, "read", staticmethod(lambda: end))
    assert not results.take("m", lambda: without(row(), "source"))


def test_the_source_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes of the source count, whether git knows the file or not; new results do not."""
    def git(*words: str) -> None:
        name = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", "-C", str(tmp_path), *name, *words], check=True)

    monkeypatch.setattr("peers.source.ROOT", tmp_path)
    assert Source.read() == Source(None, ())
    git("init", "-q")
    for name in ("src/a.py", "benchmarks/results/x.jsonl", "tests/t.py", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1\n")
    git("add", "-A")
    git("commit", "-qm", "a")
    before = Source.read()
    assert before.commit and len(before.commit) == 40 and before.changed == ()
    (tmp_path / "benchmarks/results/x.jsonl").write_text("2\n")
    git("commit", "-qam", "b")
    (tmp_path / "benchmarks/page.md").write_text("3\n")
    assert Source.read() == before
    (tmp_path / "src/a.py").write_text("2\n")
    (tmp_path / "src/b.py").write_text("2\n")
    assert Source.read() == Source(before.commit, ("src/a.py", "src/b.py"))
    assert before.until(Source.read())["changed"] == ["src/a.py", "src/b.py"]


def test_drafts_are_kept_apart(
    results: Results, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draft = Results.start(results.records, draft=True)
    monkeypatch.setattr(results_module, "Watch", lambda: FakeWatch(QUIET | {"before": 0.5}))
    assert draft.take("m", row)
    draft.close()
    assert "would be refused: others used 50% of the cores" in capsys.readouterr().err
    (held,) = results.records.read()
    assert "it is a draft" in faults(held)
    assert not draft.holds(IDENTITY)


def test_drafts_are_not_written_to_the_results() -> None:
    parser = results_module.argparse.ArgumentParser()
    published = results_module.PUBLISHED / "speed.jsonl"
    results_module.add_options(parser, published)
    assert file_of(parser.parse_args([]), published) == published
    assert not file_of(parser.parse_args(["--draft"]), published).is_relative_to(
        results_module.PUBLISHED
    )
    for name in ("speed.jsonl", "other.jsonl"):
        given = parser.parse_args(["--draft", "--out", str(results_module.PUBLISHED / name)])
        with pytest.raises(InputError, match="a draft is not written to"):
            file_of(given, published)


def test_marks() -> None:
    old = without(row(), "busy_others", "source")
    calm = old | {"environment": {"load_average": 1.9, "cores": 2}}
    assert marked("x", row()) == "x" and footnotes([row()]) == ""
    assert marked("x", old) == f"x {BAD}" and marked("x", calm) == f"x {UNKNOWN}"
    told = footnotes([row(), old, calm])
    assert f"{BAD} Not a clean result" in told and "load average before was 9 on 2 cores" in told
    assert f"{UNKNOWN} An old record" in told and "whether others used the cores" in told
    assert unrecorded(without(row(kind="layers"), "busy_others")) == []


def test_tables_mark_bad_rows() -> None:
    bad = without(row(), "busy_others")
    assert "| 8 |" in speed_table.latency([row()]) and BAD not in speed_table.latency([row()])
    assert f"| 8 {BAD} |" in speed_table.latency([bad])
    sections = (speed_table.families, speed_table.latency)
    assert all("Not a clean result" in build([bad]) for build in sections)


def test_cpu_and_gpu_side_by_side() -> None:
    """GPUs of another machine than a row of CPUs stand without it."""
    engine = {"difference": 1e-6, "right": True, "preempted": 0, "samples_us": [[2000], [2000]]}
    cpu = row(kind="table2", model="bert-base", threads=1, cases={"bert-base": {"flops": 1e9}},
              engines={f"bert-base/{e}": engine for e in table2_table.ENGINES})  # fmt: skip
    times = {"fused": [2.0, 4.0], "unfused": [6.0, 8.0], "fp16": [1.0, 1.0]}
    gpu = {"kind": "gpu", "cpu": "x", "gpu": "card, driver 1", "model": "bert-base", "length": 128,
           "rounds_ms": times, "launches": {}, "vector": 4, "busy_others": QUIET,
           "source": {"commit": "c0ffee", "changed": []}}  # fmt: skip
    text = table2_table.beside_gpus([cpu], [gpu])
    assert "x, 1 thread, and card, driver 1" in text and "| bert-base | 2.0 | 2.0 | 7.0 | 3.0 | " \
        "2.50x |" in text and "| paper | 276 | 196 | 412 | 147 | 2.80x |" in text
    elsewhere = table2_table.beside_gpus([cpu | {"cpu": "y"}], [gpu])
    assert "| bert-base | - | - | 7.0 | 3.0 |" in elsewhere
    assert table2_table.beside_gpus([cpu], []) == "No records yet.\n"


def test_table2_marks_rows_that_did_not_compile() -> None:
    engine = row()["engines"]["canao"]
    of = {"model": "bert-base", "cases": {"bert-base": {"flops": 1e9}}, "length": 128,
          "engines": {f"bert-base/{e}": engine for e in table2_table.ENGINES}}  # fmt: skip
    clean = row(**of)
    failed = clean | {"unavailable": {"bert-base/canao": "does not compile: SyntaxError"}}
    for build in (table2_table.latency, table2_table.compilers, table2_table.models,
                  table2_table.both):  # fmt: skip
        assert BAD not in build([clean])
        assert f"**128 tokens, 1 thread** {BAD}" in build([failed])
        assert "does not compile: SyntaxError" in build([failed])


def test_published_pages_are_those_of_the_records() -> None:
    """Nobody edits a table by hand, nor forgets to write it after recording."""
    records = Records(results_module.PUBLISHED / "table2.jsonl").read()
    page = (ROOT / "benchmarks" / "table2.md").read_text(encoding="utf-8")
    for build in table2_table.SECTIONS.values():
        assert by_machine(records, "table2", build) in page
    counted = [r for r in records if r["kind"] == "layers"]
    text, models = table2_table.layers(counted), {r["model"] for r in counted}
    assert text in page and text.count("| CANAO |") == len(models) < len(counted)
    records = Records(results_module.PUBLISHED / "speed.jsonl").read()
    page = (ROOT / "benchmarks" / "speed.md").read_text(encoding="utf-8")
    for kind, build in speed_table.SECTIONS.items():
        assert by_machine(records, kind, build) in page
    records = Records(results_module.PUBLISHED / "int8.jsonl").read()
    page = (ROOT / "benchmarks" / "int8.md").read_text(encoding="utf-8")
    assert all(f"begin -->\n{text}" in page for text in int8_table.sections(records).values())
    for script, page in ((generation_table, "docs/generation.md"), (attention, "docs/precision.md"),
                         (seven_bits, "benchmarks/seven_bits.md")):  # fmt: skip
        name = script.__name__.removesuffix("_table")
        records = Records(results_module.PUBLISHED / f"{name}.jsonl").read()
        text = (ROOT / page).read_text(encoding="utf-8")
        for place, part in script.sections(records).items():
            assert f"<!-- {place}: begin -->\n{part}<!-- {place}: end -->" in text
    records = Records(results_module.PUBLISHED / "arm_loops.jsonl").read()
    assert arm_loops.page(records) in (ROOT / "benchmarks" / "arm_loops.md").read_text("utf-8")


def imported(text: str) -> Iterator[tuple[str, str]]:
    """(module, name) of what a script imports from canao, and a program that it holds as text."""
    for n in ast.walk(ast.parse(text)):
        if isinstance(n, ast.ImportFrom) and (n.module or "").split(".")[0] == "canao":
            yield from ((str(n.module), x.name) for x in n.names)
        elif isinstance(n, ast.Constant) and "\nfrom canao" in str(n.value):
            yield from imported(str(n.value))


def test_scripts_import_what_there_is() -> None:
    """They are run seldom, and would tell of a name that was moved only then."""
    scripts = (ROOT / "benchmarks").rglob("*.py")
    found = {pair for path in scripts for pair in imported(path.read_text())}
    assert len(found) > 50
    for module, name in sorted(found):
        there = importlib.import_module(module)
        assert hasattr(there, name) or importlib.util.find_spec(f"{module}.{name}"), (module, name)
