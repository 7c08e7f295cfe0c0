"""The tuning database: what goes in comes out, damage is one clear line, and keys tell regions
apart by what matters to their speed."""

from __future__ import annotations

import math
import sqlite3
import threading
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest
import torch

from canao.compiler.loading import load_model
from canao.compiler.pipeline import compile_graph
from canao.compiler.plans import tuning_database
from canao.errors import InputError
from canao.lower.cpu.backend import CPU
from canao.lower.cpu.packed_gemm import PackedGemmPlan
from canao.lower.scheduling import default_plans
from canao.precision.quantize import PRECISIONS
from canao.schedule.database import VERSION, Database, Measured, region_text
from canao.schedule.plan import Plan, plan_text
from canao.target import get_target
from canao.tuning.tuner import find_subjects
from tests.compiler.models import classifier

pytestmark = pytest.mark.as_shipped

HOST = get_target()
PLANS = CPU.plan_types
PLAN = PackedGemmPlan(8, 32, kc=128, mc=64)
ROW = Measured(PLAN, 128, 1, 2.0, 4.0)


def rows(database: Database, region: str) -> list[tuple[Plan, float | None, bool]]:
    return [(m.plan, m.ms, m.final) for m in database.read(region)]


def texts(model, max_length: int = 32) -> dict[str, int]:
    program = compile_graph(load_model(model, max_length)[1], HOST, planner=default_plans).program
    return {s.text: s.calls for s in find_subjects(program, HOST)}


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "t.sqlite"
    database = Database(path, "here", PLANS)
    assert database.read("a") == () and not path.parent.exists()
    failed = Measured(PackedGemmPlan(8, 32, kc=64, mc=64), 128, 1, None, 4.0)
    database.add({"a": [ROW, failed], "b": [ROW]})
    assert rows(database, "a") == [(failed.plan, None, False), (PLAN, 2.0, False)]
    assert [m.ratio for m in database.read("a")] == [math.inf, 0.5]
    database.add({"a": [Measured(PLAN, 128, 1, 3.0, 4.0, True)]})
    database.add({"a": [Measured(PLAN, 17, 1, 1.0, 4.0)]})
    assert rows(database, "a")[1:] == [(PLAN, 1.0, False), (PLAN, 3.0, True)]
    assert database.read("b")[0].at > 0
    assert Database(path, "another processor", PLANS).read("a") == ()
    database.forget(["a"])
    assert rows(database, "a") == [] and len(rows(database, "b")) == 1


def test_machines_have_rows_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("canao.compiler.plans.cache_directory", lambda: tmp_path)
    here, there = (tuning_database(replace(HOST, machine=m)) for m in (HOST.machine, "another"))
    assert here.path == there.path
    here.add({"a": [ROW]})
    assert there.read("a") == () and rows(tuning_database(HOST), "a")
    monkeypatch.setattr("canao.compiler.plans.code_stamp", lambda toolchain: "newer")
    assert tuning_database(HOST).read("a") == ()


def test_several_writers(tmp_path: Path) -> None:
    def write(first: int) -> None:
        for kc in range(first, first + 10):
            row = Measured(PackedGemmPlan(8, 32, kc, 8), 1, 1, 1.0, 1.0)
            Database(tmp_path / "t", "p", PLANS).add({"a": [row]})

    threads = [threading.Thread(target=write, args=(n,)) for n in (10, 20, 30, 40)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    rows = Database(tmp_path / "t", "p", PLANS).read("a")
    assert [m.plan.kc for m in rows] == list(range(10, 50))


@pytest.mark.parametrize("content", (b"garbage" * 99, b"SQLite format 3\0" + b"\xff" * 4096))
def test_damage_is_one_line_with_its_remedy(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite"
    path.write_bytes(content)
    for use in (lambda d: d.read("a"), lambda d: d.add({"a": [ROW]})):
        with pytest.raises(InputError, match=r"t\.sqlite: .*delete it and tune again") as raised:
            use(Database(path, "here", PLANS))
        assert "\n" not in str(raised.value)


def test_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite"
    Database(path, "here", PLANS).add({f"r{i}": [ROW] for i in range(500)})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="delete it"):
        Database(path, "here", PLANS).read_all([f"r{i}" for i in range(500)])


def test_another_format_and_a_file_without_rows(tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite"
    path.touch()
    assert Database(path, "here", PLANS).read("a") == ()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    with pytest.raises(InputError, match=f"format {VERSION + 1}.*delete it"):
        Database(path, "here", PLANS).read("a")


def test_hostile_rows_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite"
    Database(path, "here", PLANS).add({"a": [ROW]})
    good = plan_text(PLAN)
    bad = [
        ("gemm mr=-8 nr=32 kc=1 mc=8 ahead=0 chains=1", 128, 1, 1.0, 1.0, 1, 0.0),
        ("gemm mr=many nr=32 kc=1 mc=8 ahead=0 chains=1", 128, 1, 1.0, 1.0, 1, 0.0),
        ("gemm mr=8 nr=1099511627776 kc=1 mc=8 ahead=0 chains=1", 128, 1, 1.0, 1.0, 1, 0.0),
        ("gemm nr=8 mr=32 kc=1 mc=8 ahead=0 chains=1", 128, 1, 1.0, 1.0, 1, 0.0),
        ("gemm mr=8", 128, 1, 1.0, 1.0, 1, 0.0),
        ("unheard mr=8", 128, 1, 1.0, 1.0, 1, 0.0),
        (8, 128, 1, 1.0, 1.0, 1, 0.0),
        (good, 2**40, 1, 1.0, 1.0, 1, 0.0),
        (good, 129, 1, float("inf"), 1.0, 1, 0.0),
        (good, 130, 1, -1.0, 1.0, 1, 0.0),
        (good, 131, 1, "fast", 1.0, 1, 0.0),
        (good, 132, 1, 1.0, None, 1, 0.0),
        (good, 133, 1, 1.0, 1.0, 1, b"\0\1"),
    ]
    with sqlite3.connect(path) as connection:
        connection.executemany(
            "INSERT INTO times (region, place, plan, length, threads, ms, base_ms, final, at)"
            " VALUES ('a', 'here', ?, ?, ?, ?, ?, ?, ?)",
            bad,
        )
    connection.close()
    assert rows(Database(path, "here", PLANS), "a") == [(PLAN, 2.0, False)]


def test_layers_share_their_keys() -> None:
    two, five = texts(classifier("small", layers=2)), texts(classifier("small", layers=5, seed=7))
    assert set(two) == set(five), "neither depth, nor weights, nor names are in the keys"
    assert sorted(two.values()) == [1, 1, 2, 2, 2, 2, 2]
    assert sorted(five.values()) == [1, 1, 5, 5, 5, 5, 5]


def test_keys_differ_where_speed_may() -> None:
    small, silu = texts(classifier("small", layers=1)), texts(classifier("silu", layers=1))
    assert not set(small) & set(silu)
    model = classifier("small", layers=1)
    model.bert.encoder.layer[0].intermediate.intermediate_act_fn = torch.nn.ReLU()
    relu = texts(model)
    assert len(set(small) - set(relu)) == 1, "another epilogue, another key"
    heads = classifier("small", layers=1)
    attention = heads.bert.encoder.layer[0].attention.self
    attention.num_attention_heads, attention.attention_head_size = 2, 32
    assert len(set(small) - set(texts(heads))) == 1, "other heads, another key"


def test_keys_differ_by_precision() -> None:
    """Times of products of one type are never taken for those of another."""
    graph = load_model(classifier("small", layers=1), 32)[1]
    texts = {}
    for precision in PRECISIONS:
        program = compile_graph(graph, HOST, precision=precision, allow_emulation=True).program
        texts[precision] = {region_text(program.graph, region) for region in program.regions}
    for one, other in permutations(PRECISIONS, 2):
        # What is left are the pooler, the classifier and attention.
        assert sum("linear" in text for text in texts[one] & texts[other]) == 2
        assert sum("linear" in text for text in texts[one] - texts[other]) == 4


def test_every_region_has_a_text() -> None:
    program = compile_graph(load_model(classifier("odd"), 32)[1], HOST).program
    kinds = [region_text(program.graph, r).partition(";")[0] for r in program.regions]
    layer = ["gemm", "attention", "gemm", "gemm", "gemm"]
    assert kinds == ["rows", *layer, *layer, "gemm", "gemm"]
