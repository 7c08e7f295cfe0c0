"""Libraries for OpenCL, each a fresh copy: what one has loaded or chosen is nothing to the next."""

from __future__ import annotations

import ctypes
import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.runtime.fake import Fake, build_driver
from tests.runtime.tiny import Opened, Tiny, write_weights

Load = Callable[..., ctypes.CDLL]
_numbers = itertools.count()


@pytest.fixture(scope="session", autouse=True)
def pocl_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """PoCL keeps what it compiles, and looks where only once in a process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POCL_CACHE_DIR", str(tmp_path_factory.mktemp("pocl")))
        yield


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The first device, of whatever kind; the folder of kept programs."""
    monkeypatch.setenv("CANAO_OPENCL_DEVICE", "0")
    monkeypatch.setenv("CANAO_OPENCL_CACHE", str(tmp_path / "kept"))
    for name in ("CANAO_OPENCL_LIBRARY", "CANAO_OPENCL_TIMEOUT_S"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "kept"


def load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    for name in ("canao_message", "canao_isa", "canao_opencl_devices", "canao_interface"):
        getattr(library, name).restype = ctypes.c_char_p
    library.canao_output_size.restype = ctypes.c_int64
    library.canao_close.argtypes = [ctypes.c_void_p]
    library.canao_close.restype = None
    return library


@pytest.fixture
def fresh(tmp_path: Path) -> Load:
    """Builds a program and loads a copy of it that nothing else has loaded."""

    def made(tiny: Tiny = Tiny()) -> ctypes.CDLL:  # noqa: B008 - frozen
        copy = tmp_path / f"model{next(_numbers)}.so"
        shutil.copyfile(tiny.build(), copy)
        return load(copy)

    return made


@pytest.fixture
def device(fresh: Load) -> None:
    """Skips a test where OpenCL has no device."""
    devices = fresh().canao_opencl_devices()
    if devices is None or devices == b"[]":
        pytest.skip("no OpenCL device here")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return write_weights(tmp_path / "weights.bin")


@pytest.fixture
def model(device: None, fresh: Load, weights: Path) -> Iterator[Opened]:
    opened = Opened(fresh(), weights)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver that is not there."""
    return build_driver(tmp_path_factory.mktemp("fake") / "libfake.so")


@pytest.fixture
def fake(
    built: Path, fresh: Load, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Fake:
    copy = tmp_path / "libfake.so"
    copy.write_bytes(built.read_bytes())
    monkeypatch.setenv("CANAO_OPENCL_LIBRARY", str(copy))
    monkeypatch.delenv("CANAO_OPENCL_DEVICE")
    return Fake(ctypes.CDLL(str(copy)), fresh(), weights)
