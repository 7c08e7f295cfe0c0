"""What builds of the tests share: objects of the runtime, which is the same C in each library, and
headers as the compiler has read them."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from canao import build

# Beside the kernels, what a library or a program of the tests is made of.
SHARED = ("thread_pool.c", "cpu.c", "cpu_levels.c", "cpu_engine.c", "opencl_device.c",
          "opencl_program.c", "opencl_probe.c", "opencl_engine.c", "model.c", "self_check.c",
          "main.c")  # fmt: skip
HEADER = '#include "canao_'  # of the runtime, or of the model
_lock = threading.Lock()
Compile = Callable[
    [Path, str, Mapping[str, str], Mapping[str, Sequence[str]], Sequence[str]], None
]


def reusing(compile_: Compile, folder: Path) -> Compile:
    """`build._compile`, which has each of SHARED compiled once for each command and all that it
    includes, and links the object, which is kept in `folder`. zig links code that is not optimised
    as it links what is: it would make its own libraries, and those of C, once for each."""

    def compiled(
        work: Path, product: str, sources: Mapping[str, str],
        apart: Mapping[str, Sequence[str]], command: Sequence[str],
    ) -> None:  # fmt: skip
        objects = {}
        for name in SHARED:
            if name in sources and name not in apart and HEADER in sources[name]:
                with _lock:
                    made = _object(folder, name, sources, command)
                if made.is_file():
                    objects[name] = made
        rest = {name: text for name, text in sources.items() if name not in objects}
        linked = [*command, *map(str, objects.values())]
        if "ziglang" in command and not any(c.startswith("-fsanitize") for c in command):
            alone = [name for name in rest if name.endswith(".c") and name not in apart]
            every = {**apart, **dict.fromkeys(alone, _compiling(command))}
            apart = {name: [*how, *_intrinsics(folder, sources[name], how)]
                     for name, how in every.items()}  # fmt: skip
            if "cc" in command:
                linked.append("-O3")
        compile_(work, product, rest, apart, linked)

    return compiled


def _compiling(command: Sequence[str]) -> list[str]:
    """A command that compiles and links, but for what it says of linking."""
    return [c for c in command if c not in build._LINKING and not c.startswith(("-l", "-Wl,"))]


def _intrinsics(folder: Path, text: str, command: Sequence[str]) -> list[str]:
    """What makes clang read the header of intrinsics, if a text includes one, as it left it when it
    was read before: reading it anew takes longer than a small kernel. Made for a second use."""
    included = re.search(r"^#include <(immintrin|arm_neon)\.h>$", text, re.MULTILINE)
    if included is None or "_GNU_SOURCE" in text:  # which has to come before all headers
        return []
    chosen = _compiling(command)
    h = hashlib.sha256("\0".join([included[0], *chosen]).encode())
    place = folder / h.hexdigest()[:32]
    made = place / "header.pch"
    with _lock:
        if not place.is_dir():
            place.mkdir()
            return []
        if not made.is_file():
            (place / "header.h").write_text(f"{included[0]}\n", encoding="utf-8")
            build._call(place, [*chosen, "-x", "c-header", "header.h", "-o", made.name])
    return ["-include-pch", str(made)]


def _object(folder: Path, name: str, sources: Mapping[str, str], command: Sequence[str]) -> Path:
    """The object of a file, compiled if it is not there yet."""
    chosen = _compiling(command)
    files = {name: sources[name]} | _included(sources[name], sources)
    h = hashlib.sha256()
    for part in (*chosen, *(part for file in files.items() for part in file)):
        h.update(part.encode() + b"\0")
    place = folder / h.hexdigest()[:32]
    made = place / f"{name}.o"
    if not place.is_dir():
        place.mkdir()
        for file, text in files.items():
            (place / file).write_text(text, encoding="utf-8")
        build._call(place, [*chosen, "-c", name, "-o", made.name])
    return made


def _included(text: str, sources: Mapping[str, str]) -> dict[str, str]:
    """The files of `sources` that a text includes, and those that they do."""
    found: dict[str, str] = {}
    for name in re.findall(r'^ *# *include "(.+)"', text, re.MULTILINE):
        if name in sources and name not in found:
            found |= {name: sources[name]} | _included(sources[name], sources)
    return found
