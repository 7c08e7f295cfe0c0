"""A compiled library in this process: loading it, and arrays as its functions take them."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from canao.artifact.directory import Artifact
from canao.errors import DeviceError
from canao.target import Target

_ISA_ORDER = ("scalar", "avx2", "avx512")


def require_runnable(artifact: Artifact, host: Target) -> None:
    """DeviceError unless this machine can run the artifact's library."""
    built = artifact.manifest["target"]
    machine = host.triple.partition("-")[0]
    same = str(built.get("triple", "")).startswith(machine)
    isa = built.get("isa")
    wide = isa in _ISA_ORDER and host.isa in _ISA_ORDER
    if same and wide:
        same = _ISA_ORDER.index(isa) <= _ISA_ORDER.index(host.isa)
    if not same:
        raise DeviceError(
            f"{artifact.path}: built for {built.get('name')} ({isa}), this machine is {machine} "
            f"({host.isa}); compile with --target host"
        )


def load_library(path: Path) -> ctypes.CDLL:
    """The library at `path` as it is now; DeviceError if it cannot be loaded."""
    try:
        # The loader takes a path that it has seen for the library it loaded from there, though
        # the model may have been compiled anew since. A link of its own makes it look.
        with tempfile.TemporaryDirectory(prefix="canao-") as folder:
            link = Path(folder) / path.name
            link.symlink_to(path.resolve())
            library = ctypes.CDLL(str(link))
        library.canao_message.restype = ctypes.c_char_p
        library.canao_output_size.restype = ctypes.c_int64
        library.canao_close.argtypes = [ctypes.c_void_p]
        library.canao_close.restype = None
    except (OSError, AttributeError) as error:
        raise DeviceError(f"{path}: cannot be loaded ({error}); compile the model again") from None
    return library


class Table:
    """Arrays of texts as C takes them, `T *const *const *`: the address of each text's row of
    addresses. `rows` are all of one length; they and the table must outlive the call."""

    def __init__(self, rows: Sequence[Sequence[np.ndarray]]) -> None:
        self._cells = np.array([[a.ctypes.data for a in row] for row in rows], np.uintp)
        starts = np.arange(len(rows), dtype=np.uintp) * np.uintp(self._cells.strides[0])
        self._rows = starts + np.uintp(self._cells.ctypes.data)

    @property
    def address(self) -> ctypes.c_void_p:
        """Where the table begins."""
        return address_of(self._rows)


def addresses(arrays: Sequence[np.ndarray]) -> Any:
    """Addresses of one text's arrays, as C takes them."""
    return (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))


def address_of(array: np.ndarray) -> ctypes.c_void_p:
    """Where an array's elements begin; it must outlive the call."""
    return ctypes.c_void_p(array.ctypes.data)
