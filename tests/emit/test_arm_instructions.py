"""Instructions on ARM are counted to the digit, and held against the better peer's."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import arm_instructions as module  # noqa: E402
from arm_instructions import CPU, Study, counted  # noqa: E402

from canao.build import build_program  # noqa: E402
from canao.device.transports.qemu import library_root, version  # noqa: E402
from canao.errors import DeviceError  # noqa: E402
from canao.precision.quantize import FLOAT32, INT8  # noqa: E402
from canao.target import get_target  # noqa: E402

# Two instructions a turn, as many turns as the first argument says.
LOOP = """
#include <stdlib.h>

int main(int argc, char **argv)
{
    long turns = argc > 1 ? atol(argv[1]) : 0;
    if (turns == 0)
        return 7;
    __asm__ volatile("1: subs %0, %0, #1\\n b.ne 1b" : "+r"(turns) : : "cc");
    return 0;
}
"""


@pytest.fixture
def study(tmp_path: Path) -> Study:
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("qemu-user is not installed")
    if int(re.search(r"version (\d+)", version())[1]) >= 9:  # type: ignore[index]
        pytest.skip("plugins of this qemu have another interface")
    try:
        library_root()
    except DeviceError as error:
        pytest.skip(str(error))
    return Study(None, tmp_path, FLOAT32, None)  # type: ignore[arg-type]


@pytest.mark.cross
def test_a_loop_is_counted_to_the_digit(study: Study) -> None:
    program = str(build_program({"loop.c": LOOP}, get_target("aarch64-linux", CPU)))
    some, more = (counted(study, [program, str(n)], library_root()) for n in (1001, 1003001))
    # Of 7 digits instead of 4, atol reads three more.
    assert 0 <= more - some - 2 * 1_002_000 < 60
    with pytest.raises(DeviceError, match="ended with 7"):
        counted(study, [program], library_root())
    with pytest.raises(DeviceError, match="3 inferences take no more instructions than one"):
        module.inference(study, lambda _: [program, "5"], library_root())


def record(engine: str, length: int, instructions: int) -> dict:
    return {"engine": engine, "length": length, "instructions": instructions,
            "precision": FLOAT32}  # fmt: skip


def test_the_aim_is_held_against_the_better_peer() -> None:
    records = [record("canao", 8, 90_000_000), record("litert", 8, 100_000_000),
               record("ort", 8, 120_000_000), record("canao", 32, 95_000_000),
               record("litert", 32, 120_000_000), record("ort", 32, 100_000_000),
               record("canao", 128, 1)]  # fmt: skip
    rows = [line.split(" | ") for line in module._table(records, FLOAT32).splitlines()]
    assert rows[0][1:] == ["8 tokens", "32 tokens", "128 tokens |"]
    assert rows[-1][1:] == ["0.90, reached", "**0.95, missed**", "- |"]
    assert module._table(records, INT8) == "No records yet.\n"
