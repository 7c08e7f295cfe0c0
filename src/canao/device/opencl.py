"""`--device opencl[:N[@DEVICE]]`: a GPU by its OpenCL, of this machine or of another device's.

N is the number that `canao devices` shows; without one, the first GPU is taken. An OpenCL runtime
for CPUs may be named by its number, for tests. Everything but kernels runs on the machine's CPU,
over the same transport.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import msgspec

from canao.artifact.temporary import WorkingDirectory
from canao.build import build_program, library_files, runtime_files
from canao.device.base import MeasureConfig
from canao.device.bench import BenchDevice, local_device
from canao.device.transports.transport import Completed
from canao.emit.c.header import STATUSES
from canao.emit.opencl.peak import peak_program
from canao.errors import DeviceError, InputError
from canao.isa.table import FLOAT
from canao.machine import Machine
from canao.target import GPU_VECTOR, Target, target_of

# Settings that libraries read: which device, and where kernels that were compiled are kept.
NUMBER, KEPT = "CANAO_OPENCL_DEVICE", "CANAO_OPENCL_CACHE"
# Settings of drivers that keep kernels themselves, with which they do not.
_NOTHING_KEPT = ("POCL_KERNEL_CACHE=0", "CUDA_CACHE_DISABLE=1")
_SHORT_S = 60
_FILES = ("opencl_list.c", "opencl_device.c", "opencl_host.h", "opencl_api.h", "canao_launch.h",
          "canao_runtime.h")  # fmt: skip
_PROGRAM = "canao_opencl"


class Gpu(msgspec.Struct, frozen=True):
    """What OpenCL says of a device. Sizes are in bytes; `type` is gpu, cpu, accelerator or other.
    """

    number: int
    name: str
    platform: str
    driver: str
    type: str
    version: str
    fp16: bool
    memory: int
    max_alloc: int
    work_group: int
    compute_units: int
    clock_mhz: int
    integrated: bool

    @property
    def shown(self) -> str:
        """Its name, and what runs it: times belong to both."""
        return f"{self.name}, {self.platform} {self.driver}"


class OpenClDevice(BenchDevice):
    """A device of OpenCL's, of the machine that a transport leads to."""

    def __init__(self, base: BenchDevice, gpu: Gpu) -> None:
        super().__init__(replace(base.machine, gpu=gpu.shown), base.transport)
        self.gpu, self._anew = gpu, False
        self.name = f"opencl:{gpu.number}" + (f"@{base.name}" if base.remote else "")
        target = target_of(base.machine).on_opencl(_vector(gpu, base.machine))
        # What is measured there belongs to the GPU and its driver.
        self.target: Target = replace(target, machine=self.machine.stamp)

    def pinned(self, config: MeasureConfig) -> tuple[int, ...]:
        """No core; InputError if some are asked for, or threads."""
        if config.threads != 1 or config.cores:
            raise InputError(f"--device {self.name}: --threads and --cores are a CPU's; leave them "
                             "out")  # fmt: skip
        return ()

    def environment(self, pinned: Sequence[int] = ()) -> dict[str, Any]:
        told = super().environment(pinned)
        return told | {"isa": self.target.kernels_for, "gpu": self.gpu.shown}

    def peak_flops(self, threads: int = 1, product: str = FLOAT) -> float:
        """Multiply-adds of float32, which products of all types are added up in."""
        if FLOAT not in self._peaks:
            peak = peak_program(self.target)
            program = build_program({**library_files([peak.program]), "main.c": peak.main},
                                    self.target.least)  # fmt: skip
            with WorkingDirectory("canao-peak") as folder:
                (folder / "peak.bin").write_bytes(peak.weights)
                weights = self.pushed(folder / "peak.bin", "peak.bin")
                command = [self.pushed(program, "canao_opencl_peak"), weights]
                done = self.ran(command, "the peak measurement", _SHORT_S)
            if done.code:
                line = (done.stderr.strip().splitlines() or [f"code {done.code}"])[0]
                raise DeviceError(f"{self.name}: the peak measurement failed ({line})")
            self._peaks[FLOAT] = float(done.stdout.split()[0])
        return self._peaks[FLOAT]

    def ran(self, command: Sequence[str], what: str, timeout: float) -> Completed:
        """With the number of the device; what drivers make of kernels is kept with the other files
        there, which go in the end."""
        kept = "" if self._anew else f"{self.transport.folder}/programs"
        settings = [f"{NUMBER}={self.gpu.number}", f"{KEPT}={kept}"]
        if self._anew:
            settings += _NOTHING_KEPT
        return super().ran(["env", *settings, *command], what, timeout)

    @contextmanager
    def compiled_anew(self) -> Iterator[None]:
        """Meanwhile the driver compiles kernels at each load of a library."""
        self._anew = True
        try:
            yield
        finally:
            self._anew = False


def _vector(gpu: Gpu, machine: Machine) -> int:
    """Floats in the vectors of kernels: a CPU's registers hold more than GPUs read at once."""
    if gpu.type != "cpu":
        return GPU_VECTOR
    return 16 if "avx512f" in machine.features else 8 if "avx2" in machine.features else 4


def gpus(device: BenchDevice) -> list[Gpu]:
    """What OpenCL knows on a machine; DeviceError if it has none."""
    files = {**runtime_files(*_FILES), "canao_model.h": STATUSES}
    program = build_program(files, device.target.least)
    done = device.ran([device.pushed(program, _PROGRAM)], "asking OpenCL", _SHORT_S)
    if done.code:
        line = (done.stderr.strip().splitlines() or [f"code {done.code}"])[0]
        raise DeviceError(f"{device.name}: {line}")
    try:
        return msgspec.convert(json.loads(done.stdout), list[Gpu])
    except (ValueError, msgspec.ValidationError) as error:
        raise DeviceError(f"{device.name}: OpenCL tells what is not understood ({error})") from None


@cache
def local_gpus() -> tuple[Gpu, ...]:
    """Those of this machine."""
    return tuple(gpus(local_device()))


def chosen_device() -> OpenClDevice:
    """The device of this machine that libraries choose: the one that the environment names, else
    the first GPU."""
    return opencl_device(os.environ.get(NUMBER, ""), local_device())


def opencl_device(rest: str, base: BenchDevice) -> OpenClDevice:
    """The device of a number, '' for the first GPU; DeviceError if there is none."""
    if rest and not (rest.isascii() and rest.isdigit() and len(rest) < 6):
        raise InputError(f"device 'opencl:{rest:.100}': give a number that `canao devices` shows")
    found = gpus(base)
    if rest:
        chosen = [g for g in found if g.number == int(rest)]
    else:
        chosen = [g for g in found if g.type in ("gpu", "accelerator")]
    if not chosen:
        known = "; ".join(f"opencl:{g.number} is {g.name} ({g.type})" for g in found) or "none"
        wanted = f"no device of the number {rest}" if rest else "no GPU"
        raise DeviceError(f"{base.name}: OpenCL has {wanted}; it has {known}")
    return OpenClDevice(base, chosen[0])
