"""What the engine for OpenCL does when a driver fails, by one that fails when it is told to: which
device is taken, an error for each call that goes wrong, and nothing left behind."""

from __future__ import annotations

import ctypes
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from canao.build import build_program, get_toolchain, library_files
from canao.emit.opencl.probe import Probes
from tests.compiler.test_programs import RACES, SANITIZERS, gcc
from tests.runtime.conftest import Load
from tests.runtime.fake import ACCELERATOR, CPU, GPU, RUNTIME, Fake
from tests.runtime.tiny import DEVICE, Failure, Opened, Tiny

pytestmark = pytest.mark.as_shipped

LOST, NEVER = -5, 1  # states of events: of a device that is lost, of a kernel that runs


HARNESS = Path(__file__).with_name("opencl_harness.c")


def test_the_first_gpu_is_taken(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.devices((CPU, "slow", 1), (GPU, 'a "fast"\\\n\xff one', 1), (GPU, "another", 0))
    fake.work()
    told = json.loads(fake.library.canao_opencl_devices())
    assert [d["type"] for d in told] == ["cpu", "gpu", "gpu"]
    assert told[1]["name"] == 'a "fast"\\??? one' and told[1]["fp16"] is True
    assert (told[1]["memory"], told[1]["max_alloc"], told[1]["work_group"]) == (2**30, 2**28, 256)
    fake.driver.fake_failure(b"clCreateContext", 0, -6)
    with pytest.raises(Failure, match=r'^11: a "fast".* cannot be opened: out of host memory'):
        fake.open()
    monkeypatch.setenv("CANAO_OPENCL_DEVICE", "2")
    with pytest.raises(Failure, match=r"^11: another is not available now; .* in "
                                      r"CANAO_OPENCL_DEVICE: 0 slow \(cpu\), 1 "):  # fmt: skip
        fake.open()
    assert fake.live == 0


def test_an_accelerator_is_taken_and_a_cpu_is_not(fake: Fake) -> None:
    with pytest.raises(Failure, match=r"^11: OpenCL is here, but no device for it; install"):
        fake.open()
    fake.devices((CPU, "slow", 1))
    said = r"is a GPU; CANAO_OPENCL_DEVICE names one of these by its number: 0 slow \(cpu\)$"
    with pytest.raises(Failure, match=rf"^11: no OpenCL device here {said}"):
        fake.open()
    fake.devices((ACCELERATOR, "fast", 1))
    fake.work()


def functions() -> list[str]:
    """All that the runtime calls, by its table."""
    table = (RUNTIME / "opencl_device.c").read_text(encoding="utf-8")
    found = re.findall(r'\{"(cl\w+)", offsetof', table)
    assert len(found) == 30
    return found


# An answer that is missing is read as none, and so is a failure to give something back.
FORGIVEN = re.compile("clGet(Platform|Device|Program|Kernel)|clRelease|clEnqueueUnmap|"
                      "clCreateProgramWithBinary|clBuildProgram")  # fmt: skip


@pytest.mark.parametrize("function", functions())
def test_each_call_that_fails_is_an_error_and_leaves_nothing(
    function: str, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.devices((GPU, "fast", 1))
    fake.work()  # and the program is kept
    if function == "clCreateProgramWithSource":
        monkeypatch.setenv("CANAO_OPENCL_CACHE", "")
    failed, come = 0, 1
    for call in range(200):
        fake.driver.fake_failure(function.encode(), call, -36)
        status = fake.status()
        come = fake.driver.fake_failed()
        if not come:
            break
        assert status == DEVICE or (status == 0 and FORGIVEN.match(function)), call
        failed += status == DEVICE
        assert fake.live == 0, call
    assert not come and status == 0 and (failed or FORGIVEN.match(function))


def test_a_compiler_that_refuses(fake: Fake, environment: Path) -> None:
    fake.devices((GPU, "fast", 1))
    fake.driver.fake_failure(b"clBuildProgram", 0, -11)
    with pytest.raises(Failure, match=r"^11: the compiler of fast \(driver 7\) refuses kernel "
                                      r"twice: ptxas ERROR: 'twice' has too much "
                                      r"\(OpenCL error -11\); update the driver$"):  # fmt: skip
        fake.open()
    assert not environment.exists() and fake.live == 0


def test_a_kept_program_that_is_refused_is_built(
    fake: Fake, fresh: Load, environment: Path
) -> None:
    fake.devices((GPU, "fast", 1))
    fake.library = fresh(ALONE)
    fake.work()
    (kept,) = environment.iterdir()
    before = kept.stat().st_ino
    fake.driver.fake_failure(b"clBuildProgram", 0, -11)
    fake.work()
    assert fake.driver.fake_failed() and kept.stat().st_ino != before and fake.live == 0


ALONE = Tiny(probes=Probes(()))  # no program but its own
QUICKER = ALONE.but(quicker=(("cl_khr_absent", "-DABSENT"), ("cl_khr_x", "-DNEW"), ("", "-DOLD")))


@pytest.mark.parametrize(("refused", "taken"), [(0, "-DNEW"), (1, "-DOLD"), (2, QUICKER.options)])
def test_options_that_a_compiler_refuses_are_passed_over(
    refused: int, taken: str, fake: Fake, fresh: Load, environment: Path
) -> None:
    """Those for an extension that the device has not are not tried; what was built is kept."""
    fake.devices((GPU, "fast", 1))
    fake.driver.fake_options.restype = ctypes.c_char_p
    fake.driver.fake_failures(b"clBuildProgram", refused, -11)
    for _ in range(2):
        fake.library = fresh(QUICKER)
        fake.work()
        assert fake.driver.fake_options().decode() == taken and fake.live == 0
        (kept,) = environment.iterdir()
        assert kept.stat().st_size > 0
        fake.driver.fake_failures(b"clCreateProgramWithSource", 99, -11)


def test_options_that_are_all_refused(fake: Fake, fresh: Load, environment: Path) -> None:
    fake.devices((GPU, "fast", 1))
    fake.driver.fake_failures(b"clBuildProgram", 3, -11)
    fake.library = fresh(QUICKER)
    with pytest.raises(Failure, match=r"^11: the compiler of fast \(driver 7\) refuses kernel "):
        fake.open()
    assert not environment.exists() and fake.live == 0


CALLS: dict[str, Callable[[Opened], object]] = {
    "run": lambda m: m.run([1, 2]), "batch": lambda m: m.batch([[1], [2], [3]]),
    "profile": lambda m: m.profile([1]), "extend": lambda m: m.extend([1], 0),
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("ran", (False, True))
def test_a_device_that_is_lost(call: str, ran: bool, fake: Fake) -> None:
    fake.devices((GPU, "fast", 1))
    model = fake.open()
    if ran:
        model.run([1])
    fake.driver.fake_events(LOST)
    for again in (CALLS[call], *CALLS.values()):
        with pytest.raises(Failure, match=r"^11: fast failed in a run: out of resources, or the "
                                          r"device is lost .*; the model is lost"):  # fmt: skip
            again(model)
        fake.driver.fake_events(0)
    model.close()
    assert fake.live == 0
    fake.work()


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("ran", (False, True))
def test_a_device_that_hangs(
    call: str, ran: bool, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what it still has, nothing is given back; the next model is none the worse."""
    monkeypatch.setenv("CANAO_OPENCL_TIMEOUT_S", "1")
    fake.devices((GPU, "fast", 1))
    model = fake.open()
    if ran:
        model.run([1] * 64)
    fake.driver.fake_events(NEVER)
    with pytest.raises(Failure, match=r"^11: fast does not end .* within 1 s; the model is lost"):
        CALLS[call](model)
    fake.driver.fake_events(0)
    held = fake.live
    with pytest.raises(Failure, match=r"does not end .* within 1 s"):
        model.run([1])
    model.close()
    assert fake.live == held > 0
    fake.work()
    assert fake.live == held


def test_a_device_that_hangs_when_it_is_opened(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANAO_OPENCL_TIMEOUT_S", "1")
    fake.devices((GPU, "fast", 1))
    fake.driver.fake_events(NEVER)
    with pytest.raises(Failure, match="fast does not end what it was given within 1 s"):
        fake.open()


def test_what_is_wrong_is_told_the_thread_that_asked(fake: Fake) -> None:
    import threading

    fake.devices((GPU, "fast", 1))
    fake.driver.fake_failure(b"clCreateBuffer", 0, -4)
    with pytest.raises(Failure, match="fast has no room for the weights, 32 bytes: out of memory"):
        fake.open()
    told: list[bytes] = []
    other = threading.Thread(target=lambda: told.append(fake.library.canao_message(DEVICE)))
    other.start()
    other.join()
    assert told == [b"the OpenCL device cannot run the model"]
    assert b"no room for the weights" in fake.library.canao_message(DEVICE)


def test_groups_that_are_too_long_in_one_dimension(fake: Fake, fresh: Load, weights: Path) -> None:
    fake.devices((GPU, "fast", 1))
    for local, said in ((129, "kernel twice has 129 work-items in a row, and fast takes at most "
                              "128; compile"), (300, "groups of 300 work-items, and fast runs at "
                              "most 256 of it; compile")):  # fmt: skip
        with pytest.raises(Failure, match=said):
            Opened(fresh(Tiny(local=local)), weights)
    assert fake.live == 0


@pytest.mark.parametrize("flags", (SANITIZERS, RACES), ids=("memory", "races"))
@pytest.mark.parametrize("state", ("0", "-5", "wrong", "apart"))
def test_threads_of_an_application_under_sanitizers(
    state: str, flags: tuple[str, ...], built: Path, weights: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Each opens models of its own at once with the others, and a kept program is read and written
    by all; nothing leaks, on a device that is lost neither."""
    source = Tiny().source()
    units = {"main.c": HARNESS.read_text(encoding="utf-8"), **library_files([source])}
    program = build_program(units, source.target.least, get_toolchain(gcc()), flags)
    copy = tmp_path / "libfake.so"
    shutil.copyfile(built, copy)
    monkeypatch.setenv("CANAO_OPENCL_LIBRARY", str(copy))
    done = subprocess.run([program, weights, copy, state], capture_output=True, text=True,
                          timeout=300)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
