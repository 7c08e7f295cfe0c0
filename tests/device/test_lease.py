"""Leases of a device: two measurements never share it, and a dead holder holds nothing."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from canao.api import _leased, get_device
from canao.device.lease import Lease, Leased, leased
from canao.device.null import NullDevice
from canao.device.opencl import Gpu, OpenClDevice
from canao.errors import DeviceError
from canao.train.engine import threads

FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANAO_CACHE", str(tmp_path / "cache"))


def held(kind: str, ready: Event) -> None:
    """In another process: hold the device for good."""
    lease = Lease("here")
    with lease.alone() if kind == "alone" else lease.working():
        ready.set()
        time.sleep(600)


@pytest.fixture
def holder() -> Iterator[Callable[[str], multiprocessing.Process]]:
    """Starts another process that holds the device, and kills it in the end."""
    found = []

    def start(kind: str) -> multiprocessing.Process:
        ready = FORK.Event()
        found.append(FORK.Process(target=held, args=(kind, ready), daemon=True))
        found[-1].start()
        assert ready.wait(30)
        return found[-1]

    yield start
    for process in found:
        process.kill()
        process.join()


@pytest.mark.parametrize("kind", ["alone", "working"])
def test_a_measurement_waits_until_the_holder_is_gone(
    holder: Callable[[str], multiprocessing.Process], kind: str
) -> None:
    """However it went: it is killed, and the system gives the device free."""
    process, said = holder(kind), []
    lease = Lease("here", said.append, told_s=(0.1, 60.0))
    threading.Timer(0.5, process.kill).start()
    begun = time.monotonic()
    with lease.alone():
        assert time.monotonic() - begun > 0.3
    assert len(said) == 1
    assert said[0].startswith(f"device here: waiting for process {process.pid}, 0 s")


def test_a_holder_that_hangs_is_named(holder: Callable[[str], multiprocessing.Process]) -> None:
    process = holder("alone")
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    lease = Lease("here", most_s=0.3)
    with pytest.raises(DeviceError, match=f"process {process.pid} has held it for .* end it, then"):
        lease.alone().__enter__()
    with pytest.raises(DeviceError, match="does not end"):
        lease.working().__enter__()
    os.kill(process.pid, signal.SIGKILL)
    with lease.alone():
        pass


def test_those_who_train_do_not_wait_for_each_other(
    holder: Callable[[str], multiprocessing.Process]
) -> None:
    holder("working")
    lease = Lease("here", most_s=0.2)
    with lease.working(), lease.working():
        lease.pause()


def trained(steps: int, said: list[str]) -> None:
    """As training does, a step every few milliseconds."""
    with threads.threads(1):
        for _ in range(steps):
            threads.adapt()
            said.append("step")
            time.sleep(0.005)


def measuring(ready: Event, seconds: float) -> None:
    with Lease("here").alone():
        ready.set()
        time.sleep(seconds)


def test_training_pauses_while_another_process_measures() -> None:
    ready, steps = FORK.Event(), list[str]()
    other = FORK.Process(target=measuring, args=(ready, 0.5), daemon=True)
    with threads.making_way(Lease("here")):
        training = threading.Thread(target=trained, args=(400, steps))
        training.start()
        while len(steps) < 10:
            time.sleep(0.01)
        other.start()
        assert ready.wait(30)  # it does not wait for the end of the training
        before = len(steps)
        time.sleep(0.3)
        assert len(steps) <= before + 1 < 400
        other.join()
        training.join()
    assert len(steps) == 400


def test_a_process_measures_within_its_own_work() -> None:
    lease = Lease("here", most_s=0.5)
    with lease.working():
        with lease.alone():
            pass
        lease.pause()
    device = Leased(NullDevice(), lease)
    assert (device.name, device.target) == ("null", NullDevice().target)
    assert device.peak_flops(2) == NullDevice().peak_flops(2)


def test_without_a_cache_nothing_is_leased(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CANAO_CACHE", str(tmp_path / "file"))
    lease = Lease("here")
    with lease.working(), lease.alone():
        lease.pause()


def test_devices_of_a_machine_have_one_lease() -> None:
    """What is measured on its GPU is not measured beside something on its CPU."""
    base = get_device("local")
    gpu = Gpu(0, "card", "platform", "1", "gpu", "OpenCL 3.0", True, 1, 1, 256, 1, 1000, False)
    both = OpenClDevice(base, gpu)
    assert both.name == "opencl:0" and both.place == base.place == Leased(both, Lease("x")).place
    leases: dict[str, Lease] = {}
    pairs = [_leased(device, leases, lambda event: None) for device in (base, both)]
    assert pairs[0][1] is pairs[1][1] and list(leases) == [base.place]
    with (leased(both).lease.alone(), pytest.raises(DeviceError, match="device local: "),
          Lease(base.place, most_s=0.3).alone()):  # fmt: skip
        raise AssertionError("two measurements of one machine")
