"""A compiled library in this process: loading it, and the pointers that its functions take."""

from __future__ import annotations

import ctypes
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from canao.artifact.directory import Artifact
from canao.artifact.manifest import INTERFACE, MANIFEST
from canao.artifact.reading import parse_json, shown
from canao.artifact.temporary import WorkingDirectory
from canao.errors import DeviceError, InputError
from canao.target import Target, system_of

THIS_MACHINE = "this machine"


def require_runnable(artifact: Artifact, target: Target, place: str = THIS_MACHINE) -> None:
    """DeviceError unless `place`, a machine for which `target` is compiled, is of the kind that the
    library was compiled for. Whether its processor has the instructions, the library itself finds
    out when it is opened."""
    built = artifact.manifest["target"]
    if system_of(str(built.get("triple", ""))) != system_of(target.triple):
        remedy = "host" if place == THIS_MACHINE else "-".join(system_of(target.triple))
        raise DeviceError(
            f"{artifact.path}: built for {built.get('name')} ({built.get('isa')}), {place} is "
            f"{' '.join(system_of(target.triple))} ({target.isa}); compile with --target {remedy}"
        )


def load_library(path: Path) -> ctypes.CDLL:
    """The library at `path` as it is now; DeviceError if it cannot be loaded."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError("it is not a regular file")
        # The loader takes a path that it has seen for the library it loaded from there, though
        # the model may have been compiled anew since. A link of its own makes it look.
        with WorkingDirectory("canao-library") as folder:
            link = folder / path.name
            link.symlink_to(path.resolve())
            library = ctypes.CDLL(str(link))
        library.canao_message.restype = ctypes.c_char_p
        library.canao_interface.restype = ctypes.c_char_p
        library.canao_isa.restype = ctypes.c_char_p
        library.canao_output_size.restype = ctypes.c_int64
        library.canao_close.argtypes = [ctypes.c_void_p]
        library.canao_close.restype = None
    except (OSError, AttributeError) as error:
        raise DeviceError(f"{path}: cannot be loaded ({error}); compile the model again") from None
    return library


def require_interface(artifact: Artifact, library: ctypes.CDLL) -> None:
    """InputError unless the library takes and gives what the manifest says: it would write outputs
    that nobody made room for."""
    told = parse_json(library.canao_interface(), str(artifact.library), remedy="compile again")
    for name in INTERFACE:
        said, is_so = artifact.manifest.get(name), told.get(name)
        if said != is_so:
            raise InputError(
                f"{artifact.path}: {MANIFEST} and {artifact.library.name} differ in '{name}' "
                f"({shown(said)} and {shown(is_so)}); compile again"
            )


class PointerTable:
    """The arrays of several sequences as C takes them, `T *const *const *`: one pointer for each
    sequence, to its pointers to arrays. `rows` are all of one length; they and the table must
    outlive the call."""

    def __init__(self, rows: Sequence[Sequence[np.ndarray]]) -> None:
        self._cells = np.array([[a.ctypes.data for a in row] for row in rows], np.uintp)
        starts = np.arange(len(rows), dtype=np.uintp) * np.uintp(self._cells.strides[0])
        self._rows = starts + np.uintp(self._cells.ctypes.data)

    @property
    def address(self) -> ctypes.c_void_p:
        """The address of the table itself."""
        return address_of(self._rows)


def addresses(arrays: Sequence[np.ndarray]) -> Any:
    """The addresses of one sequence's arrays, as C takes them."""
    return (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))


def address_of(array: np.ndarray) -> ctypes.c_void_p:
    """Where an array's elements begin; it must outlive the call."""
    return ctypes.c_void_p(array.ctypes.data)
