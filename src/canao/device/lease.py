"""Leases: two measurements never share a device, and nothing that CANAO computes disturbs one.

Each machine that devices are of has two locks in the cache, which the system takes away from a
process that ends, however it ends:

    room    held alone while something is measured, and together with others by who compiles or
            trains meanwhile
    gate    held alone by who waits for the room to measure in it; who trains looks at the gate
            between two steps, and leaves the room until the measurement is over

So one worker's measurement stops the others on the same machine for as long as it takes. It does
not where the device is another machine: there who trains goes on. Where the
file system has no locks, or the cache cannot be written, nothing is leased: then what others took
is still measured and told (others.py).
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from canao.artifact.directory import Artifact
from canao.cache.place import own_directory
from canao.defaults import silent
from canao.device.base import Device, MeasureConfig, Measurement, Statistic, require_times
from canao.device.state import State
from canao.errors import DeviceError, ToolchainError
from canao.isa.table import FLOAT

_LOOK_S = 0.02  # between two looks at a lock that another process holds
_TOLD_S = (5.0, 60.0)  # of waiting, after which it is told who holds it: first, and then each time
_MOST_S = 7200.0  # of waiting, after which a holder is taken to hang: a measurement ends before
_LOCKS = Path("/proc/locks")
_OF_FILE = re.compile(r"FLOCK +ADVISORY +\w+ +(\d+) +[0-9a-f]+:[0-9a-f]+:(\d+) ")


class Lease:
    """The two locks of a machine for this process, which must use them from one thread at a time,
    and must have one lease of a machine only: two would wait for each other.

    remote  whether the device is another machine, so that who computes here is not in the way
    say     is called with a line when it waits for another process
    most_s  seconds of waiting after which a DeviceError names the process that does not end
    """

    def __init__(
        self, name: str, say: Callable[[str], None] = silent, *, most_s: float = _MOST_S,
        told_s: tuple[float, float] = _TOLD_S, remote: bool = False,
    ) -> None:  # fmt: skip
        self.name, self._say, self._most_s, self._told_s = name, say, most_s, told_s
        self._remote = remote
        self._room, self._gate = (_opened(f"{name}.{part}") for part in ("room", "gate"))
        self._working = 0

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nothing else of CANAO's computes on the machine inside the block, nor measures there."""
        if self._working:
            _unlock(self._room)
        try:
            self._lock(self._gate, fcntl.LOCK_EX)
            self._lock(self._room, fcntl.LOCK_EX)
            yield
        finally:
            _unlock(self._room)
            _unlock(self._gate)
            if self._working:
                self._enter()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Nothing is measured inside the block, but where it calls `pause`."""
        if self._remote:
            yield
            return
        if not self._working:
            self._enter()
        self._working += 1
        try:
            yield
        finally:
            self._working -= 1
            if not self._working:
                _unlock(self._room)

    def pause(self) -> None:
        """Wait while another process measures, or is about to; at once if none is."""
        if self._working and not _free(self._gate):
            _unlock(self._room)
            self._enter()

    def _enter(self) -> None:
        """Hold the room together with others, after all who wait to measure in it."""
        self._lock(self._gate, fcntl.LOCK_SH)
        self._lock(self._room, fcntl.LOCK_SH)
        _unlock(self._gate)

    def _lock(self, handle: int | None, kind: int) -> None:
        begun, told = time.monotonic(), 0.0
        while not _locked(handle, kind):
            waited, (first, each) = time.monotonic() - begun, self._told_s
            if waited >= self._most_s:
                raise DeviceError(
                    f"device {self.name}: {_holder(handle)} has held it for {waited:.0f} s and "
                    "does not end; end it, then the same command continues where it stopped"
                )
            if waited >= (told + each if told else first):
                told = waited
                self._say(f"device {self.name}: waiting for {_holder(handle)}, {waited:.0f} s")
            time.sleep(_LOOK_S)


class Leased:
    """A device that is leased for each measurement. InputError for one whose times say nothing."""

    def __init__(self, device: Device, lease: Lease) -> None:
        require_times(device)
        self._device, self.lease = device, lease
        self.name, self.place = device.name, device.place
        self.machine, self.target = device.machine, device.target
        self.timer, self.remote, self.emulated = device.timer, device.remote, device.emulated

    def run(self, artifact: Artifact, inputs: Sequence[np.ndarray], threads: int = 1) -> np.ndarray:
        with self.lease.working():
            return self._device.run(artifact, inputs, threads)

    def run_batch(
        self, artifact: Artifact, sequences: Sequence[Sequence[np.ndarray]], threads: int = 1
    ) -> list[list[np.ndarray]]:
        with self.lease.working():
            return self._device.run_batch(artifact, sequences, threads)

    def measure(self, artifact: Artifact, config: MeasureConfig) -> Measurement:
        with self.lease.alone():
            return self._device.measure(artifact, config)

    def measure_next(self, artifact: Artifact, config: MeasureConfig) -> Measurement:
        with self.lease.alone():
            return self._device.measure_next(artifact, config)

    def state(self) -> State:
        return self._device.state()

    def profile(
        self, artifact: Artifact, config: MeasureConfig, statistic: Statistic = median
    ) -> tuple[tuple[str, float], ...]:
        with self.lease.alone():
            return self._device.profile(artifact, config, statistic)

    def peak_flops(self, threads: int = 1, product: str = FLOAT) -> float:
        with self.lease.alone():
            return self._device.peak_flops(threads, product)

    def __getattr__(self, name: str) -> Any:  # what only some devices have
        return getattr(self._device, name)


def leased(device: Device, say: Callable[[str], None] = silent) -> Leased:
    """A device that this process measures on alone."""
    return Leased(device, Lease(device.place, say, remote=device.remote))


def _opened(name: str) -> int | None:
    """A handle of a lock; None where there can be none. Homes may be shared by machines, so the
    name has the machine's."""
    try:
        plain = re.sub(r"[^\w.-]", "_", f"{socket.gethostname()}-{name}", flags=re.ASCII)
        path = own_directory("leases") / plain
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except (OSError, ToolchainError):
        return None


def _locked(handle: int | None, kind: int) -> bool:
    """Whether a lock was had at once; so are those that there cannot be."""
    if handle is None:
        return True
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _unlock(handle: int | None) -> None:
    if handle is not None:
        fcntl.flock(handle, fcntl.LOCK_UN)


def _free(handle: int | None) -> bool:
    free = _locked(handle, fcntl.LOCK_SH)
    if free:
        _unlock(handle)
    return free


def _holder(handle: int | None) -> str:
    """Who holds a lock, in words."""
    try:
        inode = str(os.fstat(-1 if handle is None else handle).st_ino)
        found = _OF_FILE.findall(_LOCKS.read_text(encoding="ascii"))
    except (OSError, ValueError):
        found = []
    pids = sorted({int(pid) for pid, held in found if held == inode and int(pid)} - {os.getpid()})
    if not pids:
        return "another process"
    return f"process{'es' if len(pids) > 1 else ''} {', '.join(map(str, pids))}"
