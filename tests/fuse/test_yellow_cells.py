"""Yellow cells are decided by what the target's machine measured, then by what others did."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from canao.compiler.pipeline import measured_yellow_cells
from canao.errors import InputError
from canao.fuse import yellow_cells
from canao.fuse.yellow_cells import MachineCells, parse, policy
from canao.machine import local_machine
from canao.target import get_target

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from profile_fusion import YellowCells  # noqa: E402

CELL = ("reorganize", "many-to-many")
NAMED = " -> ".join(CELL)
FAST, SLOW, TIE = 0.9, 1.2, 1.01


def machines(**ratios: float) -> tuple[MachineCells, ...]:
    return tuple(MachineCells(name, "avx2", {NAMED: ratio}) for name, ratio in ratios.items())


@pytest.mark.parametrize(
    ("machine", "measured", "fused"),
    [
        ("a", machines(a=FAST, b=SLOW, c=SLOW), True),
        ("a", machines(a=SLOW, b=FAST, c=FAST), False),
        ("a", machines(a=TIE), True),
        ("z", machines(a=FAST, b=SLOW, c=SLOW), False),
        (None, machines(a=FAST, b=FAST, c=SLOW), True),
        ("a", (MachineCells("a", "avx2", {}), *machines(b=FAST)), True),
        ("a", (), False),
    ],
    ids=["own-fast", "own-slow", "tie", "others-slow", "no-machine", "own-lacks-cell", "none"],
)
def test_decision(
    machine: str | None, measured: tuple[MachineCells, ...], fused: bool
) -> None:
    assert policy("cpu", machine, {"cpu": measured})(*CELL) is fused


def test_measurements_are_of_one_backend() -> None:
    measured = {"cpu": machines(a=FAST), "opencl": machines(a=SLOW)}
    assert policy("cpu", "a", measured)(*CELL)
    assert not policy("opencl", "a", measured)(*CELL)
    assert not policy("other", "a", measured)(*CELL)


def test_a_cell_that_was_not_measured_is_not_fused() -> None:
    assert not policy("cpu", "a", {"cpu": machines(a=FAST)})("shuffle", "many-to-many")


def test_the_compiler_asks_for_this_machine_where_it_is_the_target(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured = {"cpu": machines(**{local_machine().stamp: SLOW, "a": FAST, "b": FAST})}
    monkeypatch.setattr(yellow_cells, "shipped", lambda: measured)
    assert not measured_yellow_cells(get_target())(*CELL)
    assert measured_yellow_cells(get_target("aarch64-linux"))(*CELL)


ENTRY = {"machine": "a", "isa": "avx2", "cells": {NAMED: {"fused_over_separate": FAST}}}


def test_a_file_is_read() -> None:
    assert parse(json.dumps({"cpu": [ENTRY]}), "f") == {"cpu": machines(a=FAST)}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ([], r"^f is not an object of backends"),
        ({NAMED: {"fused_over_separate": FAST}}, rf"^f: '{NAMED}' is not a list of machines"),
        ({"cpu": [3]}, r"^f: 'cpu'\[0\] is not an object"),
        ({"cpu": [{"isa": "avx2", "cells": {}}]}, r"^f: 'cpu'\[0\]: 'machine' is missing"),
        ({"cpu": [ENTRY | {"cells": 1}]}, r"^f: 'cpu'\[0\]: 'cells' is missing or of another"),
        ({"cpu": [ENTRY | {"cells": {NAMED: 1.0}}]}, rf"^f: 'cpu'\[0\]: '{NAMED}' has no ratio"),
        ({"cpu": [ENTRY, ENTRY]}, r"^f: 'cpu' has machine 'a' twice"),
    ],
)
def test_a_file_of_another_shape_is_refused_by_name(content: Any, why: str) -> None:
    with pytest.raises(InputError, match=why):
        parse(json.dumps(content), "f")


def test_what_is_not_json_is_refused() -> None:
    with pytest.raises(InputError, match=r"^f is not JSON"):
        parse("{", "f")


def record(machine: str, ratio: float) -> dict[str, Any]:
    return {
        "backend": "cpu", "cells": {NAMED: {"fused_over_separate": ratio}},
        "environment": {"machine": machine, "isa": "avx2"}, "source": "c0ffee", "busy_others": {},
    }  # fmt: skip


def test_recording_replaces_a_machines_entry_and_keeps_the_others(tmp_path: Path) -> None:
    path = tmp_path / "yellow_cells.json"
    path.write_text(json.dumps({"opencl": [ENTRY]}))
    place = YellowCells(path)
    for machine, ratio in (("a", SLOW), ("b", TIE), ("a", FAST)):
        place.put(record(machine, ratio))
    found = parse(path.read_text(), "f")
    assert found == {"opencl": machines(a=FAST), "cpu": machines(b=TIE, a=FAST)}


def test_recording_leaves_a_file_of_another_shape_alone(tmp_path: Path) -> None:
    path = tmp_path / "yellow_cells.json"
    path.write_text("[]")
    with pytest.raises(InputError, match="is not an object of backends"):
        YellowCells(path).put(record("a", FAST))
    assert path.read_text() == "[]"
