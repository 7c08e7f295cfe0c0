"""The engine for OpenCL on a device: results, wrong calls, and what is wrong with a device or a
program."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from canao.emit.opencl.probe import Probes
from canao.target import get_target
from tests.elf import Elf
from tests.runtime.conftest import Load
from tests.runtime.tiny import (
    ARGUMENT,
    DEVICE,
    FORMAT,
    HANGS,
    KERNELS,
    LENGTH,
    LIMIT,
    MAX_LENGTH,
    TOKEN,
    Failure,
    Opened,
    Tiny,
    expected,
)
from tests.test_android import assert_known_to_android, assert_loads_well
from tests.test_fork import in_child

pytestmark = pytest.mark.as_shipped


def ids_of(length: int) -> list[int]:
    return [(7 * i + length) % LIMIT for i in range(length)]


def assert_right(got: tuple[np.ndarray, ...], ids: list[int]) -> None:
    for found, want in zip(got, expected(ids), strict=True):
        assert np.array_equal(found, want)


def failure(library: ctypes.CDLL, weights: Path) -> Failure:
    """What opening a model fails with; it is no model."""
    with pytest.raises(Failure) as error:
        Opened(library, weights)
    assert "\n" not in error.value.message
    return error.value


@pytest.mark.parametrize("length", (1, 3, 4, 7, 8, 9, MAX_LENGTH - 1, MAX_LENGTH))
def test_results(model: Opened, length: int) -> None:
    assert_right(model.run(ids_of(length)), ids_of(length))


def test_what_is_told_of_a_library(model: Opened) -> None:
    library = model.library
    assert library.canao_isa() == b"opencl" and library.canao_interface() == b"{}"
    assert [library.canao_output_size(0, n) for n in (0, 1, 9, MAX_LENGTH + 1)] == [0, 2, 18, 0]
    assert library.canao_message(10) == b"unknown status"


def test_calls_of_different_lengths_follow_each_other(model: Opened) -> None:
    for length in (9, 2, 64, 1, 64, 9):
        assert_right(model.run(ids_of(length)), ids_of(length))


def test_a_profile_has_the_time_of_each_kernel(model: Opened) -> None:
    for _ in range(2):
        outputs, ns = model.profile(ids_of(17))
        assert_right(outputs, ids_of(17))
        assert all(7 < t < 10**10 for t in ns)  # they are added to what was there
    assert_right(model.run(ids_of(17)), ids_of(17))


@pytest.mark.parametrize("count", (1, 2, 3, 7))
def test_batches(model: Opened, count: int) -> None:
    sequences = [ids_of(1 + 11 * i % MAX_LENGTH) for i in range(count)]
    for got, ids in zip(model.batch(sequences), sequences, strict=True):
        assert_right(got, ids)
    assert_right(model.run(ids_of(5)), ids_of(5))


def test_a_sequence_that_grows(model: Opened) -> None:
    ids = ids_of(20)
    rows, x = expected(ids)
    at = 0
    for length, wanted in ((5, 0), (1, 1), (6, 2), (8, 8)):
        got = model.extend(ids[at : at + length], wanted)
        at += length
        assert np.array_equal(got[0], rows[at - wanted : at])
        assert np.array_equal(got[1], x[at - wanted : at])
    assert model.library.canao_reset(model.handle, 5) == 0
    assert np.array_equal(model.extend(ids[5:], 15)[0], rows[5:])
    with pytest.raises(Failure, match="length"):
        model.extend(ids_of(MAX_LENGTH), 1)
    assert_right(model.run(ids), ids)


@pytest.mark.parametrize(("ids", "status"), [
    ([], LENGTH), ([1] * (MAX_LENGTH + 1), LENGTH), ([1, -1], TOKEN), ([LIMIT], TOKEN),
])  # fmt: skip
def test_wrong_calls(model: Opened, ids: list[int], status: int) -> None:
    for call in (model.run, model.profile, lambda ids: model.batch([[1], ids])):
        with pytest.raises(Failure) as error:
            call(ids)
        assert error.value.status == status
    assert_right(model.run([1, 2]), [1, 2])


def test_wrong_arguments_of_open(device: None, fresh: Load, weights: Path) -> None:
    library, handle = fresh(), ctypes.c_void_p()
    path = str(weights).encode()
    cores = (ctypes.c_int * 1)(0)
    for threads, named in ((0, None), (2, None), (1, cores)):
        assert library.canao_open(path, threads, named, ctypes.byref(handle)) == ARGUMENT
    weights.write_bytes(b"CANAOW03" + weights.read_bytes()[8:])
    assert library.canao_open(path, 1, None, ctypes.byref(handle)) == FORMAT and not handle


def test_models_are_independent_and_closed_once(device: None, fresh: Load, weights: Path) -> None:
    library = fresh()
    models = [Opened(library, weights) for _ in range(3)]
    models[0].extend([1, 2, 3], 0)
    assert_right(models[1].run([9]), [9])
    assert np.array_equal(models[0].extend([4], 1)[0][0], expected([1, 2, 3, 4])[0][3])
    for model in (*models, *models):
        model.close()
    with pytest.raises(Failure, match="closed"):
        models[0].run([1])


def test_the_devices(device: None, fresh: Load) -> None:
    told = fresh().canao_opencl_devices()
    for number, row in enumerate(json.loads(told)):
        assert list(row) == ["number", "name", "platform", "driver", "type", "version", "fp16",
                             "memory", "max_alloc", "work_group", "compute_units", "clock_mhz",
                             "integrated"]  # fmt: skip
        assert row["number"] == number and row["name"] and row["version"].startswith("OpenCL ")
        assert row["type"] in ("gpu", "cpu", "accelerator", "other")
        assert row["memory"] >= row["max_alloc"] > 0 and row["work_group"] > 0


def test_without_a_library(
    fresh: Load, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANAO_OPENCL_LIBRARY", "/nonexistent")
    library = fresh()
    assert library.canao_opencl_devices() is None
    assert "'/nonexistent', which CANAO_OPENCL_LIBRARY names" in library.canao_message(
        DEVICE
    ).decode()
    found = failure(library, weights)
    assert found.status == DEVICE and "'/nonexistent'" in found.message
    monkeypatch.setenv("CANAO_OPENCL_LIBRARY", "libm.so.6")
    assert "lacks clGetPlatformIDs" in failure(library, weights).message


@pytest.mark.parametrize("named", ("99", "abc", "-1", "0x0", "99999999999999999999"))
def test_a_device_that_is_not_there(
    named: str, device: None, fresh: Load, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = fresh()
    monkeypatch.setenv("CANAO_OPENCL_DEVICE", named)
    found = failure(library, weights)
    assert found.status == DEVICE
    assert found.message.startswith(f"CANAO_OPENCL_DEVICE is '{named}', which is no number of")
    assert ": 0 " in found.message  # those that are there
    monkeypatch.setenv("CANAO_OPENCL_DEVICE", "0")
    Opened(library, weights).close()


@pytest.mark.parametrize("named", ("0", "1.5", "-3", "x", "86401"))
def test_a_limit_that_is_none(
    named: str, device: None, fresh: Load, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANAO_OPENCL_TIMEOUT_S", named)
    assert f"CANAO_OPENCL_TIMEOUT_S is '{named}'; give" in failure(fresh(), weights).message


@pytest.mark.parametrize(("wrong", "said"), [
    ({"kernels": KERNELS.replace("const int i", "const int i =", 1)}, "error"),
    ({"kernels": KERNELS.replace("int s", "ulong s", 1)}, "kernel twice does not take the length"),
    ({"first": "nowhere"}, "makes no kernel of nowhere"),
    ({"local": 1 << 20}, "kernel twice has groups of 1048576 work-items, and"),
    ({"arena_bytes": 1 << 50}, "the activations take 1125899906842624 bytes, and"),
])  # fmt: skip
def test_programs_that_the_device_cannot_run(
    wrong: dict[str, object], said: str, device: None, fresh: Load, weights: Path
) -> None:
    library = fresh(Tiny().but(**wrong))
    if "ulong s" in str(wrong):  # it is built, and then gets another type
        with pytest.raises(Failure) as error:
            Opened(library, weights).run([1])
        found = error.value
    else:
        found = failure(library, weights)
    assert found.status == DEVICE and said in found.message
    assert len(found.message) < 1000


HANG = """
import sys
from pathlib import Path
from tests.runtime.conftest import load
from tests.runtime.tiny import Failure, Opened
import os, time
model = Opened(load(Path(sys.argv[1])), Path(sys.argv[2]))
for call in (lambda: model.run([1, 2, 3]), lambda: model.batch([[1], [2]]), lambda: model.run([1]),
             lambda: model.extend([1], 1)):
    start = time.monotonic()
    try:
        call()
        print("it ended")
    except Failure as failure:
        print(failure, time.monotonic() - start, sep="|")
model.close()
print("closed", flush=True)
os._exit(0)
"""


def test_a_kernel_that_does_not_end(device: None, weights: Path) -> None:
    # The driver takes longer than that for the probes, which it has not compiled before.
    library = Tiny(HANGS, probes=Probes(())).build()
    done = subprocess.run(
        [sys.executable, "-c", HANG, library, weights], capture_output=True, text=True, timeout=60,
        env={**os.environ, "CANAO_OPENCL_TIMEOUT_S": "1"}, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    *calls, last = done.stdout.splitlines()
    assert last == "closed", done.stderr
    assert len(calls) == 4
    for number, line in enumerate(calls):
        message, seconds = line.split("|")
        assert message.startswith(f"{DEVICE}: ") and "kernel sum within 1 s" in message
        assert float(seconds) < (5 if number == 0 else 0.1)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_has_no_model(model: Opened, weights: Path) -> None:
    assert_right(model.run([1, 2]), [1, 2])

    def work() -> None:
        for call in (model.run, lambda ids: model.batch([ids]), lambda ids: model.extend(ids, 1)):
            with pytest.raises(Failure, match="was opened before this process was forked") as error:
                call([1])
            assert error.value.status == DEVICE
        model.close()
        with pytest.raises(Failure, match="closed"):
            model.run([1])
        with pytest.raises(Failure, match="in use before this process was forked"):
            Opened(model.library, weights)
        assert model.library.canao_opencl_devices() is None

    in_child(work)
    assert_right(model.run([1, 2]), [1, 2])
    assert signal.alarm(0) == 0


@pytest.mark.parametrize("target", ("x86_64-linux", "aarch64-linux", "aarch64-android"))
def test_no_library_is_needed_to_build_or_load(target: str) -> None:
    """OpenCL is looked for when a model is opened."""
    made, machine = Elf.read(Tiny(target=target).build("-Werror")), get_target(target)
    assert_loads_well(made, machine)
    assert b"libOpenCL.so.1" in made.data and not any("OpenCL" in name for name in made.needed)
    own = {name for name, here in made.symbols.items() if here}
    assert {"canao_open", "canao_run", "canao_extend", "canao_opencl_devices"} <= own
    assert all(name.startswith("canao_") for name in own)
    if machine.android:
        assert_known_to_android(made, ("libc.so", "libdl.so"))
