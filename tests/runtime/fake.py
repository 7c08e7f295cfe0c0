"""The driver that is not there (fake_opencl.c), and a library that uses it."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import canao
from canao.build import get_toolchain
from canao.emit.opencl.probe import Words
from canao.target import get_target
from tests.runtime.tiny import PROBES, Failure, Opened

RUNTIME = Path(canao.__file__).parent / "runtime"
CPU, GPU, ACCELERATOR = 2, 4, 8


def build_driver(made: Path) -> Path:
    toolchain, source = get_toolchain(), Path(__file__).with_name("fake_opencl.c")
    subprocess.run([*toolchain.command, *toolchain.machine_flags(get_target().least), "-shared",
                    "-fPIC", "-O1", "-I", RUNTIME, source, "-o", made], check=True)  # fmt: skip
    return made


class Fake:
    """The driver, and a library that uses it."""

    def __init__(self, driver: ctypes.CDLL, library: ctypes.CDLL, weights: Path) -> None:
        self.driver, self.library, self.weights = driver, library, weights
        self.words = PROBES.right
        self.answer(self.words)

    def devices(self, *devices: tuple[int, str, int]) -> None:
        for kind, name, available in devices:
            self.driver.fake_device(ctypes.c_uint64(kind), name.encode(), available)

    def answer(self, words: Words) -> None:
        """What the probes write from now on."""
        self.words, at = words, 0
        for probe in PROBES.kernels:
            part = self.words[at : at + len(probe.right)]
            self.driver.fake_answer(probe.name.encode(), part.ctypes.data_as(ctypes.c_void_p),
                                    ctypes.c_size_t(part.nbytes))  # fmt: skip
            at += len(probe.right)

    def open(self) -> Opened:
        return Opened(self.library, self.weights)

    def work(self) -> None:
        """Some of everything; the model is closed whatever happens."""
        model = self.open()
        try:
            model.run([1, 2, 3])
            model.batch([[1], [1, 2], [3] * 20])
            assert list(model.profile([1, 2])[1]) == [7 + 42] * 3
            model.extend([4], 1)
        finally:
            model.close()

    def status(self) -> int:
        """What `work` ends with."""
        try:
            self.work()
        except Failure as failure:
            return failure.status
        return 0

    @property
    def live(self) -> int:
        return self.driver.fake_live()
