"""C sources -> shared library or executable, cached by content.

The default toolchain is clang as shipped in the PyPI package ziglang, which builds for this
machine and cross-compiles; a system gcc or clang can be named instead. For Android it is ziglang
too (android.py), or the clang of the NDK that the environment names.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from canao import android
from canao.artifact.temporary import WorkingDirectory
from canao.cache.entries import BUILDS, ENTRY_FORMAT, add, builds, find
from canao.cache.locks import TOOLCHAIN_LOCK, locked
from canao.cache.place import cache_directory, own_directory
from canao.cache.prune import TOOLCHAIN as ZIG
from canao.cache.prune import prune
from canao.defaults import TOOLCHAIN
from canao.emit.c.cpu_levels import cpu_levels, program_name
from canao.emit.c.unit import Source
from canao.errors import ToolchainError
from canao.isa.registry import ISAS
from canao.target import OPENCL, Target

if TYPE_CHECKING:
    from importlib.abc import Traversable

_FLAGS = ("-std=c11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wextra")
# Pages may have 16 KB, as on new phones. All that is called is found when a file is loaded, and
# what the loader wrote for that is closed to writing, up to the end of a page. Android before API
# 23 looks names up in the older of two tables of hashes.
_ELF = ("-Wl,-z,max-page-size=16384", "-Wl,-z,common-page-size=16384", "-Wl,-z,now",
        "-Wl,-z,relro", "-Wl,-z,noexecstack", "-Wl,--build-id=sha1",
        "-Wl,--hash-style=both")  # fmt: skip
_SHARED = ("-shared", "-fPIC", "-fvisibility=hidden", "-pthread", *_ELF)
_PROGRAM = ("-pthread", "-ldl")
# Of the runtime: what all libraries have, and what runs their kernels. OpenCL is looked for when a
# model is opened.
_RUNTIME = ("canao_runtime.h", "canao_engine.h", "model.c", "self_check.c")
_CPU_ENGINE = ("cpu_engine.c", "thread_pool.c", "cpu.c")
_OPENCL_ENGINE = ("canao_launch.h", "opencl_api.h", "opencl_host.h", "opencl_device.c",
                  "opencl_program.c", "opencl_probe.c", "opencl_engine.c")  # fmt: skip
_OPENCL_LINKED = ("-ldl",)
# What debuggers read would be nine tenths of a library; it has it if -g is among the flags.
_DEBUG, _NO_DEBUG = "-g", ("-g0", "-s")
# Android's programs lie anywhere in memory, and name what loads them.
_ANDROID = ("-pie", f"-Wl,--dynamic-linker={android.LOADER}", *_ELF, *_NO_DEBUG)
# What is said to the compiler where it links, and not where it makes one object of many.
_LINKING = ("-shared", "-static", "-pie", "-s")
_TIMEOUT_S = 600
# Packages that decide what the code of a kernel is, and which plan it is compared with.
_KERNEL_CODE = ("isa", "graph", "fuse", "schedule", "lower", "emit", "runtime")
_SOURCES = (".py", ".c", ".h", ".json")
# What compilers other than zig call the least processor; some take a better one by themselves.
_LEAST = {"x86_64": "x86-64", "aarch64": "armv8-a"}
_ZIG, _NDK = "zig", "ndk"


@dataclass(frozen=True, slots=True)
class Toolchain:
    """A compiler driver: how it is called, and a stamp of its version for the cache key."""

    name: str
    command: tuple[str, ...]
    version: str

    def machine_flags(self, target: Target) -> tuple[str, ...]:
        """What says which machine code is for."""
        if self.name == _ZIG:
            own = android.zig_flags(target) if target.android else ("-target", target.triple)
            return (*own, *((f"-mcpu={target.cpu}",) if target.cpu else ()))
        own = android.ndk_flags(target) if self.name == _NDK else ()
        march = f"-march={ISAS[target.isa].gcc_march or _LEAST[target.arch]}".split()
        tuned = (f"-mtune={target.processor.clang}",) if target.processor else ()
        return (*own, *march, *tuned)

    def links(self, target: Target) -> bool:
        """Whether the driver links files of a target, and not the linker by itself."""
        return not (target.android and self.name == _ZIG)

    def linker(self, flags: Sequence[str]) -> tuple[str, ...]:
        """The command that links where the driver does not, told what `flags` tell a driver."""
        own = [flag for flag in flags if flag in _LINKING]
        words = [word for flag in flags if flag.startswith("-Wl,") for word in flag.split(",")[1:]]
        return (*self.command[:-1], "ld.lld", *own, *words)


def links_only(flag: str) -> bool:
    """Whether a flag is for linking, and not for making one object of many."""
    return flag in _LINKING or flag.startswith("-Wl,")


@dataclass(frozen=True, slots=True)
class Unit:
    """A C file, the target that it is compiled for, and flags of its own."""

    text: str
    target: Target
    flags: tuple[str, ...] = ()


@cache
def get_toolchain(name: str = TOOLCHAIN) -> Toolchain:
    """The toolchain called `name`: 'zig', or a compiler on the PATH such as 'gcc' or 'clang-19'."""
    if name == _ZIG:
        return _asked(name, (sys.executable, "-m", "ziglang", "cc"), "run: pip install ziglang")
    found = shutil.which(name)
    if found is None:
        raise ToolchainError(f"compiler '{name}' is not on the PATH; install it or use 'zig'")
    return _asked(name, (found,), "name another compiler")


def toolchain_for(target: Target, toolchain: Toolchain | None = None) -> Toolchain:
    """What builds for a target: `toolchain`, by default zig; for Android in its place the NDK's
    clang, where the environment names one. ToolchainError for one that cannot build for Android."""
    toolchain = toolchain or get_toolchain()
    if not target.android or toolchain.name == _NDK:
        return toolchain
    if toolchain.name != _ZIG:
        raise ToolchainError(
            f"compiler '{toolchain.name}' builds nothing for {target.name}; use 'zig', or name an "
            f"NDK in {android.NDK_HOME}"
        )
    home = os.environ.get(android.NDK_HOME)
    return _ndk(android.ndk_clang(home)) if home else toolchain


@cache
def _ndk(clang: str) -> Toolchain:
    return _asked(_NDK, (clang,), f"repair the NDK, or unset {android.NDK_HOME}")


def _asked(name: str, command: tuple[str, ...], remedy: str) -> Toolchain:
    """A compiler that has told its version; ToolchainError if it does not."""
    try:
        shown = subprocess.run(
            [*command, "--version"], capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ToolchainError(f"compiler '{name}' does not run ({error}); {remedy}") from None
    return Toolchain(name, command, shown.stdout.strip())


@cache
def code_stamp(toolchain: Toolchain) -> str:
    """A hash of the code that generates kernels, of the compiler and of its flags. Measurements of
    kernels hold for one stamp only: a change of any of these may change how long a kernel takes."""
    h = hashlib.sha256()
    for part in (toolchain.name, toolchain.version, *_FLAGS, *_SHARED):
        h.update(part.encode() + b"\0")
    for name, source in kernel_code():
        h.update(f"{name}\0".encode() + source + b"\0")
    return h.hexdigest()[:16]


def kernel_code() -> Iterator[tuple[str, bytes]]:
    """The source files that decide the code of a kernel: path in the package, and content."""
    for folder in sorted(resources.files("canao").iterdir(), key=lambda f: f.name):
        if folder.name in _KERNEL_CODE and folder.is_dir():
            yield from _sources(folder, folder.name)


def _sources(folder: Traversable, path: str) -> Iterator[tuple[str, bytes]]:
    for entry in sorted(folder.iterdir(), key=lambda f: f.name):
        place = f"{path}/{entry.name}"
        if entry.is_dir():
            yield from _sources(entry, place)
        elif entry.name.endswith(_SOURCES):
            yield place, entry.read_bytes()


def runtime_files(*names: str) -> dict[str, str]:
    """Sources of the runtime, by file name."""
    folder = resources.files("canao.runtime")
    return {name: folder.joinpath(name).read_text(encoding="utf-8") for name in names}


def library_files(sources: Sequence[Source]) -> dict[str, Unit]:
    """The C files of a library with the kernels of `sources`, one for each of its instruction sets,
    the widest last. All files but the kernels' are for the least processor: what is in them runs
    before it is known which kernels this processor can run."""
    first = sources[0]
    if first.backend == OPENCL:
        files = {**runtime_files(*_RUNTIME, *_OPENCL_ENGINE), f"program_{OPENCL}.c": first.code}
        kernels = {}
    else:
        levels = cpu_levels([s.target for s in sources])
        files = {**runtime_files(*_RUNTIME, *_CPU_ENGINE), "cpu_levels.c": levels}
        kernels = {
            f"program_{s.target.isa}.c": Unit(
                s.code, s.target, (f"-Dcanao_program={program_name(s.target)}",)
            )
            for s in sources
        }
    files["canao_model.h"] = first.header
    return {name: Unit(text, first.target.least) for name, text in files.items()} | kernels


def build_library(
    sources: Sequence[Source], toolchain: Toolchain | None = None, extra: Sequence[str] = ()
) -> Path:
    """A shared library of what was emitted for each of its instruction sets, the widest last, with
    the runtime; the cached path. It holds what debuggers read if -g is among the flags."""
    least = sources[0].target.least
    debug = () if _DEBUG in extra else _NO_DEBUG
    linked = _OPENCL_LINKED if sources[0].backend == OPENCL else ()
    flags = (*_SHARED, f"-Wl,-soname,{least.library}", *debug, *linked, *extra)
    return _build(library_files(sources), least.library, least, toolchain, flags)


def build_program(
    sources: Mapping[str, str | Unit], target: Target, toolchain: Toolchain | None = None,
    extra: Sequence[str] = (),
) -> Path:  # fmt: skip
    """An executable of `sources`, of which plain texts are for `target`; the cached path."""
    toolchain = toolchain_for(target, toolchain)
    if not toolchain.links(target):
        sources = {**sources, **runtime_files(android.START)}
    units = {n: s if isinstance(s, Unit) else Unit(s, target) for n, s in sources.items()}
    flags = (*_PROGRAM, *(_ANDROID if target.android else ()), *extra)
    return _build(units, "program", target, toolchain, flags)


def _stub(library: str, target: Target, toolchain: Toolchain) -> str:
    """A library of Android's as far as linking with it goes; its cached path."""
    units = {"stub.c": Unit(android.stub(library), target)}
    flags = ("-shared", f"-Wl,-soname,{library}", *_NO_DEBUG)
    return str(_build(units, library, target, toolchain, flags, libraries=()))


def assembly(text: str, target: Target, toolchain: Toolchain | None = None) -> str:
    """What the compiler makes of a C file that includes nothing but the runtime's header, as the
    kernels of a library are compiled. ToolchainError if it fails."""
    toolchain = toolchain or get_toolchain()
    with WorkingDirectory("canao-assembly") as work:
        for name, content in {"main.c": text, **runtime_files("canao_runtime.h")}.items():
            (work / name).write_text(content, encoding="utf-8")
        _call(work, (*toolchain.command, *toolchain.machine_flags(target), *_FLAGS, "-fPIC",
                     "-S", "main.c", "-o", "main.s"))  # fmt: skip
        return (work / "main.s").read_text(encoding="utf-8")


def _build(
    units: Mapping[str, Unit], product: str, target: Target, toolchain: Toolchain | None,
    flags: Sequence[str], libraries: Sequence[str] | None = None,
) -> Path:  # fmt: skip
    """The product of `units`, linked for `target`, from the cache or built. `libraries` of Android
    are by default those that the flags name."""
    toolchain = toolchain_for(target, toolchain)
    flags = (*flags, *(android.LINKING if target.android else ()))
    machine = {name: (*toolchain.machine_flags(u.target), *u.flags) for name, u in units.items()}
    own = toolchain.machine_flags(target)
    linking = (*own, *_FLAGS, *flags)
    command = (*toolchain.command, *linking)
    if not toolchain.links(target):
        own, named = (), android.linked_with(flags) if libraries is None else libraries
        stubs = [_stub(name, target, toolchain) for name in named]
        command = (*toolchain.linker(flags), *stubs)
        linking = (*linking, *(Path(path).parent.name for path in stubs))
    h = hashlib.sha256()
    for part in (ENTRY_FORMAT, toolchain.name, toolchain.version, product, *linking):
        h.update(part.encode() + b"\0")
    for name in sorted(units):
        h.update("\0".join([name, *machine[name], units[name].text, ""]).encode())
    key = h.hexdigest()[:32]
    compiling = (*_FLAGS, *(f for f in flags if not links_only(f)))
    apart = {name: (*toolchain.command, *chosen, *compiling)
             for name, chosen in machine.items() if name.endswith(".c") and chosen != own}
    try:
        return find(key, product) or _made(
            key, product, {n: u.text for n, u in units.items()}, apart, command
        )
    except OSError as error:
        raise _no_room(error) from None


def _made(
    key: str, product: str, sources: Mapping[str, str], apart: Mapping[str, Sequence[str]],
    command: Sequence[str],
) -> Path:  # fmt: skip
    """Build a product in a temporary directory, then move it into the cache in one step; and keep
    the cache within its bound."""
    with WorkingDirectory("building", builds()) as work:
        _compile(work, product, sources, apart, command)
        built = work / "entry"
        built.mkdir()
        os.replace(work / product, built / product)
        place = add(key, product, built)
    with contextlib.suppress(OSError):  # the build is done, and the next one tries again
        prune()
    return place


def _compile(
    work: Path, product: str, sources: Mapping[str, str], apart: Mapping[str, Sequence[str]],
    command: Sequence[str],
) -> None:  # fmt: skip
    """Have the compiler make `product` in the directory `work`; the files that `apart` names by a
    command of their own each. ToolchainError if it fails."""
    for name, text in sources.items():
        (work / name).write_text(text, encoding="utf-8")
    units = sorted(f"{n}.o" if n in apart else n for n in sources if n.endswith(".c"))
    linked = [*command, "-o", product, *units]
    with locked(builds(), alone=False, name=TOOLCHAIN_LOCK):
        # The compiler takes a core for each file.
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda n: _call(work, [*apart[n], "-c", n, "-o", f"{n}.o"]), apart))
        _call(work, linked)
    if not (work / product).is_file():
        raise ToolchainError("the C compiler failed: it ended well and left nothing")


def _call(work: Path, command: Sequence[str]) -> None:
    """Run the compiler in the directory `work`; ToolchainError if it fails."""
    # What zig makes of these sources is of no use to others; its own libraries are.
    zig = {"ZIG_LOCAL_CACHE_DIR": str(work / ".zig"),
           "ZIG_GLOBAL_CACHE_DIR": str(own_directory(ZIG).absolute())}  # fmt: skip
    # Libraries must follow the sources that need them.
    libraries = [c for c in command if c.startswith("-l")]
    call = [c for c in command if c not in libraries] + ([] if "-c" in command else libraries)
    try:
        done = subprocess.run(
            call, cwd=work, env={**os.environ, **zig}, capture_output=True, text=True,
            timeout=_TIMEOUT_S, umask=0o077,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ToolchainError(f"the C compiler did not end within {_TIMEOUT_S} s") from None
    if done.returncode:
        raise _failed(done.stderr)


def _failed(stderr: str) -> ToolchainError:
    lines = [line for line in stderr.splitlines() if "error" in line.lower()]
    first = (lines or stderr.splitlines() or ["no message"])[0].strip()[:300]
    if "No space left" in stderr or "NoSpaceLeft" in stderr:
        return _no_room(OSError(errno.ENOSPC, "No space left on device"))
    return ToolchainError(f"the C compiler failed: {first}")


def _no_room(error: OSError) -> ToolchainError:
    place = cache_directory() / BUILDS
    if error.errno == errno.ENOSPC:
        return ToolchainError(
            f"no space left for the build in {place}; free some, or name a directory "
            "with room in CANAO_CACHE"
        )
    return ToolchainError(
        f"cannot write the build cache {place} ({error.strerror or error}); "
        "name a writable directory in CANAO_CACHE"
    )
