"""Work against the peak of its own type, of a library and of each kernel in a profile."""

from __future__ import annotations

from pathlib import Path

import pytest

from canao.artifact.directory import Artifact
from canao.cli.printing import out, print_profile
from canao.device.base import MeasureConfig
from canao.device.null import NullDevice
from canao.device.utilisation import library_peak
from canao.model.arch import Arch
from tests.search.landscape import compile_by_formula

pytestmark = pytest.mark.as_shipped

DEVICE = NullDevice(peak={"f32": 1e9, "i8": 4e9})


def library(folder: Path, precision: str) -> Artifact:
    """Of one layer: four products and three other kernels, of 1000 operations each."""
    (folder / "arch.json").write_text(Arch.uniform(1, 64, 2, 128).to_json())
    return compile_by_formula(folder, folder / precision, precision)


def test_the_peak_of_a_library_is_that_of_its_mix(tmp_path: Path) -> None:
    assert library_peak(library(tmp_path, "float32"), DEVICE, 2) == pytest.approx(2e9)
    # 3 us in float32 and 1 us in int8, for 7000 operations.
    assert library_peak(library(tmp_path, "int8"), DEVICE) == pytest.approx(7000 / 4e-6)


def test_a_profile_names_what_is_not_float32(tmp_path: Path) -> None:
    steps = (("gemm_64x192_bias", 0.001), ("attention_64", 0.001))
    with out.capture() as captured:
        print_profile(library(tmp_path, "int8"), DEVICE, steps, MeasureConfig(128))
    head, gemm, attention = (line.split() for line in captured.get().strip().splitlines())
    assert head == ["kernel", "products", "calls", "ms", "share", "of", "peak"]
    # 1 Gop/s of 4.
    assert gemm == ["gemm_64x192_bias", "i8", "1", "0.001", "50%", "25%"]
    assert attention == ["attention_64", "1", "0.001", "50%", "-"]
    with out.capture() as captured:
        print_profile(library(tmp_path, "float32"), DEVICE, steps[:1], MeasureConfig(128))
    assert [line.split() for line in captured.get().strip().splitlines()] == [
        ["kernel", "calls", "ms", "share", "of", "peak"],
        ["gemm_64x192_bias", "1", "0.001", "100%", "100%"],
    ]
