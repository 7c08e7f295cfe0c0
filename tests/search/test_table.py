from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from canao.device.base import MeasureConfig
from canao.device.null import NullDevice
from canao.errors import DeviceError, InputError
from canao.machine import Machine
from canao.model.arch import Arch, Block
from canao.search.candidates.trial import MEASURED_OVER, TRAINED, Trial
from canao.search.latency.kernels import Kernels, survey
from canao.search.latency.table import (
    LatencyTable,
    dominated,
    lower_bound_factor,
    prediction_errors,
    table_key,
)
from canao.target import get_target
from tests.search.landscape import FormulaKernels, kernel_times, kernels_by_formula

ARCH = Arch.uniform(4, 256, 8, 512)


def opened(path: Path, key: str = "here", kernels: Kernels = kernels_by_formula) -> LatencyTable:
    return LatencyTable(path, key, kernels)


def recorded(path: Path) -> LatencyTable:
    table = opened(path)
    table.record(ARCH, kernel_times(ARCH))
    assert table.predict(ARCH) == pytest.approx(sum(ms for _, ms in kernel_times(ARCH)))
    return table


def like(layers: int, ffn: int = 512) -> Arch:
    return Arch.uniform(layers, 256, 8, ffn)


def mixed(*halves: tuple[int, int]) -> Arch:
    return Arch(256, 32, tuple(Block(heads, ffn) for heads, ffn in halves))


def test_one_library_predicts_all_sequences_of_its_blocks(tmp_path: Path) -> None:
    path, seen = tmp_path / "latency.json", list[Arch]()

    class Seen(FormulaKernels):
        def __call__(self, arch: Arch) -> list[tuple[str, int]]:
            seen.append(arch)
            return super().__call__(arch)

    table, measured = opened(path, kernels=Seen()), mixed((8, 512), (3, 64), (0, 128))
    assert table.predict(measured) is None  # its kernels are known, and have no times
    table.record(measured, kernel_times(measured))
    others = [like(n) for n in (1, 2, 3, 12)]
    others += [mixed((3, 512), (8, 64)), mixed((8, 0), (0, 512), (0, 64), (3, 128), (8, 512))]
    for arch in others:
        assert arch in table
        expected = sum(ms for _, ms in kernel_times(arch))
        assert table.predict(arch) == table.recalled(arch) == pytest.approx(expected)
    assert len(seen) == 1, "a model was imported for what was known"
    # What is not known of a half is asked once, and kept.
    assert table.recalled(like(2, 640)) is None and table.predict(like(2, 640)) is None
    again = opened(path, kernels=Seen())
    assert again.predict(like(5, 640)) is None and len(seen) == 2
    assert again.predict(like(3)) == table.predict(like(3))


def test_a_library_that_runs_other_kernels_than_thought(tmp_path: Path) -> None:
    """What the library runs counts, for this architecture alone."""
    table = recorded(tmp_path / "latency.json")
    odd = like(2)
    table.record(odd, [*kernel_times(odd), ("another", 1.0)])
    assert table.predict(odd) == pytest.approx(1 + sum(ms for _, ms in kernel_times(odd)))
    assert table.predict(like(3)) == pytest.approx(sum(ms for _, ms in kernel_times(like(3))))


def test_a_survey_times_every_block_of_a_width(tmp_path: Path) -> None:
    table = opened(tmp_path / "latency.json")
    heads, ffn = range(1, 9), range(64, 513, 64)
    for one in survey(ARCH, heads, tuple(ffn)[:5], 3):
        assert one.layers <= 3
        table.predict(one)
        table.record(one, kernel_times(one))
    rng = np.random.default_rng(0)
    for _ in range(20):
        blocks = [(int(rng.choice([0, *heads])), int(rng.choice(tuple(ffn)[:5]))) for _ in range(4)]
        arch = mixed(*blocks)
        assert table.recalled(arch) == pytest.approx(sum(ms for _, ms in kernel_times(arch)))


def test_unknown_shape_has_no_prediction(tmp_path: Path) -> None:
    table = recorded(tmp_path / "latency.json")
    other = like(4, 640)
    assert other not in table
    assert table.predict(other) is None


def test_table_is_kept_and_apart_by_key(tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    before = recorded(path).predict(ARCH)
    assert opened(path).predict(ARCH) == before
    assert ARCH not in opened(path, "there")


@pytest.mark.parametrize("times", [None, []])
def test_a_kernel_that_lost_its_times_is_measured_again(
    tmp_path: Path, times: list[float] | None
) -> None:
    path = tmp_path / "latency.json"
    before = recorded(path).predict(ARCH)
    held = json.loads(path.read_text())
    held["tables"]["here"]["kernels"]["embedding"] = times
    if times is None:
        del held["tables"]["here"]["kernels"]["embedding"]
    path.write_text(json.dumps(held))
    table = opened(path)
    assert table.predict(ARCH) is None and ARCH not in table
    table.record(ARCH, kernel_times(ARCH))
    assert table.predict(ARCH) == pytest.approx(before)


def test_times_of_earlier_versions_are_kept(tmp_path: Path) -> None:
    """They had layers of one shape in a table; kernels have the same names."""
    path = tmp_path / "latency.json"
    shape = {"first": ["embedding", "layer"], "layer": ["layer"]}
    kernels = {name: [ms] for name, ms in kernel_times(ARCH)}
    held = {"format": 1, "tables": {"here": {"kernels": kernels, "shapes": {"H256": shape}}}}
    path.write_text(json.dumps(held))
    expected = sum(ms for _, ms in kernel_times(like(7)))
    assert opened(path).predict(like(7)) == pytest.approx(expected)


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
    monkeypatch.setattr("canao.search.latency.place.code_stamp", lambda toolchain: "newer")
    assert len(keys | {table_key(*one) for one in asked}) == 2 * len(asked)


def test_a_kernel_shared_by_shapes_has_one_time(tmp_path: Path) -> None:
    """The median of all its measurements, for both shapes."""
    class Shared(FormulaKernels):
        def __call__(self, arch: Arch) -> list[tuple[str, int]]:
            return [("qkv", 0), (f"f{arch.ffn}", 1)]

    table = opened(tmp_path / "latency.json", kernels=Shared())
    small, large = Arch.uniform(1, 64, 2, 64), Arch.uniform(1, 64, 2, 128)
    table.record(small, [("qkv", 1.0), ("f64", 1.0)])
    table.record(small, [("qkv", 1.0), ("f64", 1.0)])
    table.record(large, [("qkv", 9.0), ("f128", 2.0)])
    assert table.predict(small) == 2.0
    assert table.predict(large) == 3.0


def test_an_empty_profile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"profile of L4 .* is empty"):
        opened(tmp_path / "latency.json").record(ARCH, [])


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"format": 0}', '{"format": 1, "tables": {"x": 1}}', '{"format": 1, "tables": 3}',
     '{"format": 2, "tables": {"x": {"kernels": {"a": [-1]}}}}',
     '{"format": 2, "tables": {"x": {"known": {"halves": {"a": 1}}}}}'],
)  # fmt: skip
def test_damaged_table_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "latency.json"
    path.write_text(text)
    with pytest.raises(InputError, match="delete it to measure again") as raised:
        opened(path)
    assert "\n" not in str(raised.value)
    assert path.read_text() == text


def test_the_file_is_json_with_named_kernels(tmp_path: Path) -> None:
    recorded(tmp_path / "latency.json")
    held = json.loads((tmp_path / "latency.json").read_text())
    assert held["tables"]["here"]["kernels"]["attention_256_8"]


def measured(predicted: float, latency: float) -> Trial:
    return Trial(ARCH, TRAINED, -0.1, latency_ms=latency, predicted_ms=predicted)


def test_bound_starts_cautious_and_is_learnt() -> None:
    assert lower_bound_factor([]) == pytest.approx(0.9025)
    assert lower_bound_factor([measured(10, 12)] * 7) == pytest.approx(0.9025)
    assert lower_bound_factor([measured(10, 12)] * 8) == pytest.approx(0.95 * 1.2)
    # A busy moment makes libraries slow; it must not make the bound too high for the fast one.
    trials = [measured(10, 30)] * 7 + [measured(10, 8)]
    assert lower_bound_factor(trials) == pytest.approx(0.95 * 0.8)


def test_errors_are_those_left_after_what_was_learnt() -> None:
    assert prediction_errors([]) == prediction_errors([Trial(ARCH, TRAINED, -0.1)]) == ()
    trials = [replace(measured(10, 11), median_ms=ms) for ms in (11.0, 11.0, 22.0, 11.0)]
    found = prediction_errors(trials)
    assert found == pytest.approx((1 / 11, 0.0, 0.5, 0.0))


def test_a_miss_never_loosens_the_bound() -> None:
    trials = [measured(10, 10 + 0.1 * i) for i in range(8)]
    bounds = [lower_bound_factor(trials, [(10, 13.0)] * count) for count in range(4)]
    assert bounds == sorted(bounds) and bounds[-1] > bounds[0]


def test_what_is_larger_than_a_clear_miss_is_dominated() -> None:
    miss = Trial(ARCH, MEASURED_OVER, 0.3, latency_ms=13.0)
    near = Trial(ARCH, MEASURED_OVER, 0.05, latency_ms=10.5)
    assert dominated(like(4, 640), [miss]) is miss
    assert dominated(like(3), [miss]) is None
    assert dominated(like(3, 4096), [miss]) is None
    assert dominated(like(4, 640), [near]) is None
    # Blocks are compared one by one: a wider one makes up for none that is narrower.
    part = Trial(mixed((8, 512), (3, 0)), MEASURED_OVER, 0.3, latency_ms=13.0)
    assert dominated(mixed((8, 512), (0, 64), (3, 64)), [part]) is part
    assert dominated(mixed((8, 512), (2, 512), (2, 512)), [part]) is None
