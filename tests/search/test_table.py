from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from canao.device.base import MeasureConfig
from canao.device.null import NullDevice
from canao.errors import DeviceError, InputError
from canao.machine import Machine
from canao.model.arch import Arch
from canao.search.table import LatencyTable, dominated, lower_bound_factor, table_key
from canao.search.trial import MEASURED_OVER, TRAINED, Trial
from canao.target import get_target
from tests.search.landscape import kernel_times

ARCH = Arch.uniform(4, 256, 8, 512)


def recorded(path: Path) -> LatencyTable:
    table = LatencyTable(path, "here")
    table.record(ARCH, kernel_times(replace(ARCH, layers=1)), kernel_times(replace(ARCH, layers=2)))
    return table


def test_one_shape_predicts_every_depth(tmp_path: Path) -> None:
    table = recorded(tmp_path / "latency.json")
    for layers in (1, 2, 3, 12):
        arch = replace(ARCH, layers=layers)
        expected = sum(ms for _, ms in kernel_times(arch))
        assert arch in table
        assert table.predict(arch) == pytest.approx(expected)


def test_unknown_shape_has_no_prediction(tmp_path: Path) -> None:
    table = recorded(tmp_path / "latency.json")
    other = replace(ARCH, ffn=640)
    assert other not in table
    assert table.predict(other) is None


def test_table_is_kept_and_apart_by_key(tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    before = recorded(path).predict(ARCH)
    assert LatencyTable(path, "here").predict(ARCH) == before
    assert ARCH not in LatencyTable(path, "there")


def test_machines_targets_code_and_precisions_have_tables_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here, config = NullDevice(), MeasureConfig()
    there = NullDevice(machine=Machine(cpu="another"))
    arm = NullDevice(target=get_target("aarch64-linux"))
    # With instructions for whole numbers, only int8 is compiled for another instruction set.
    x86 = get_target("x86_64-linux")
    plain, vnni = (NullDevice(target=replace(x86, extensions=e)) for e in ((), ("avxvnni",)))
    assert table_key(plain, config, "float32") == table_key(vnni, config, "float32")
    asked = [
        (plain, config, "int8"), (vnni, config, "int8"),
        (here, config, "float32"), (there, config, "float32"), (arm, config, "float32"),
        (here, MeasureConfig(threads=2), "float32"), (here, config, "int8"),
    ]  # fmt: skip
    keys = {table_key(*one) for one in asked}
    assert table_key(NullDevice(), config, "int8") in keys
    monkeypatch.setattr("canao.search.place.code_stamp", lambda toolchain: "newer")
    assert len(keys | {table_key(*one) for one in asked}) == 2 * len(asked)


def test_a_kernel_shared_by_shapes_has_one_time(tmp_path: Path) -> None:
    """The median of all its measurements, for both shapes."""
    table = LatencyTable(tmp_path / "latency.json", "here")
    small, large = Arch.uniform(1, 64, 2, 64), Arch.uniform(1, 64, 2, 128)
    table.record(small, [("qkv", 1.0), ("f64", 1.0)], [("qkv", 1.0), ("f64", 1.0)] * 2)
    table.record(large, [("qkv", 9.0), ("f128", 2.0)], [("qkv", 1.0), ("f128", 2.0)] * 2)
    assert table.predict(small) == 2.0
    assert table.predict(large) == 3.0


def test_first_layer_may_run_other_kernels(tmp_path: Path) -> None:
    """As where the embedding is fused into the first layer."""
    table = LatencyTable(tmp_path / "latency.json", "here")
    one, two = [("first", 5.0), ("end", 1.0)], [("first", 5.0), ("layer", 2.0), ("end", 1.0)]
    table.record(ARCH, one, two)
    assert table.predict(replace(ARCH, layers=1)) == 6.0
    assert table.predict(replace(ARCH, layers=4)) == 12.0


def test_profile_that_does_not_grow_is_refused(tmp_path: Path) -> None:
    table = LatencyTable(tmp_path / "latency.json", "here")
    with pytest.raises(DeviceError, match="same kernels"):
        table.record(ARCH, [("a", 1.0)], [("a", 1.0)])


@pytest.mark.parametrize("text", ["", "[]", '{"format": 0}', '{"format": 1, "tables": {"x": 1}}'])
def test_damaged_table_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "latency.json"
    path.write_text(text)
    with pytest.raises(InputError, match="delete it to measure again") as raised:
        LatencyTable(path, "here")
    assert "\n" not in str(raised.value)
    assert path.read_text() == text


def test_the_file_is_json_with_named_kernels(tmp_path: Path) -> None:
    recorded(tmp_path / "latency.json")
    held = json.loads((tmp_path / "latency.json").read_text())
    assert held["tables"]["here"]["kernels"]["attention_256"]


def measured(predicted: float, latency: float) -> Trial:
    return Trial(ARCH, TRAINED, -0.1, latency_ms=latency, predicted_ms=predicted)


def test_bound_starts_cautious_and_is_learnt() -> None:
    assert lower_bound_factor([]) == pytest.approx(0.9025)
    assert lower_bound_factor([measured(10, 12)] * 7) == pytest.approx(0.9025)
    assert lower_bound_factor([measured(10, 12)] * 8) == pytest.approx(0.95 * 1.2)
    # A busy moment makes libraries slow; it must not make the bound too high for the fast one.
    trials = [measured(10, 30)] * 7 + [measured(10, 8)]
    assert lower_bound_factor(trials) == pytest.approx(0.95 * 0.8)


def test_a_miss_never_loosens_the_bound() -> None:
    trials = [measured(10, 10 + 0.1 * i) for i in range(8)]
    bounds = [lower_bound_factor(trials, [(10, 13.0)] * count) for count in range(4)]
    assert bounds == sorted(bounds) and bounds[-1] > bounds[0]


def test_what_is_larger_than_a_clear_miss_is_dominated() -> None:
    miss = Trial(ARCH, MEASURED_OVER, 0.3, latency_ms=13.0)
    near = Trial(ARCH, MEASURED_OVER, 0.05, latency_ms=10.5)
    assert dominated(replace(ARCH, ffn=640), [miss], 10.0) is miss
    assert dominated(replace(ARCH, layers=3), [miss], 10.0) is None
    assert dominated(replace(ARCH, layers=3, ffn=4096), [miss], 10.0) is None
    assert dominated(replace(ARCH, ffn=640), [near], 10.0) is None
