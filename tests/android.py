"""Android without a phone: its programs run on an emulated processor with musl in bionic's place.

musl's loader takes the names libc.so and libdl.so for itself. What bionic has and musl has not
comes from a library that is loaded before all others. So this shows that what is built can be
loaded and runs, and not that the names and types are bionic's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from canao import android, build
from canao.artifact.temporary import WorkingDirectory
from canao.cache.place import cache_directory

# How bionic's programs begin: with the stack as the kernel leaves it.
SHIM = """
typedef int start(int, char **, char **);
int __libc_start_main(start *, int, char **, void (*)(void), void (*)(void), void (*)(void));
void __libc_init(long *stack, void (*on_exit)(void), start *main, void *const *lists)
{
    __libc_start_main(main, (int)*stack, (char **)(stack + 1), 0, 0, 0);
}
"""
PACKAGE = "musl"
SECONDS = 300


def sysroot() -> Path:
    """A folder with the loader of 64-bit ARM where Android has it, made once and kept beside the
    build cache. Skips where Debian's package of musl cannot be had."""
    place = cache_directory().with_name("canao-tests") / "android-arm64"
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        with WorkingDirectory("sysroot", place.parent) as work:
            _unpack(_downloaded(work), work)
            made = work / "made"
            loader = made / android.LOADER.removeprefix("/")
            loader.parent.mkdir(parents=True)
            shutil.copyfile(next(work.glob("lib/*/libc.so")), loader)
            loader.chmod(0o755)
            os.replace(made, place)
    return place


def _downloaded(work: Path) -> Path:
    """The package, by apt with lists of its own: the system's settings stay as they are."""
    apt = shutil.which("apt-get")
    if apt is None or shutil.which("dpkg-deb") is None:
        pytest.skip("no apt, which has the package of musl for 64-bit ARM")
    for folder in ("lists/partial", "cache/archives/partial"):
        (work / folder).mkdir(parents=True)
    settings = {"APT::Architecture": "arm64", "APT::Architectures": "arm64",
                "Dir::State::lists": work / "lists", "Dir::State::status": "/dev/null",
                "Dir::Cache": work / "cache", "APT::Sandbox::User": ""}  # fmt: skip
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    for command in (["update"], ["download", PACKAGE]):
        subprocess.run([apt, "-qq", *options, *command], cwd=work, capture_output=True,
                       timeout=SECONDS, check=False)  # fmt: skip
    found = list(work.glob(f"{PACKAGE}_*.deb"))
    if not found:
        pytest.skip("apt finds no package of musl for 64-bit ARM here")
    return found[0]


def _unpack(package: Path, folder: Path) -> None:
    subprocess.run(["dpkg-deb", "-x", package, folder], check=True, capture_output=True)


def shim(folder: Path) -> Path:
    """The library that adds to musl what bionic has."""
    zig = build.get_toolchain().command
    (folder / "shim.c").write_text(SHIM, encoding="utf-8")
    build._call(folder, [*zig, "-target", "aarch64-linux-musl", "-O2", "-g0", "-fPIC",
                         "-c", "shim.c", "-o", "shim.o"])  # fmt: skip
    build._call(folder, [*zig[:-1], "ld.lld", "-shared", "shim.o", "-o", "libshim.so"])
    return folder / "libshim.so"


def emulated(qemu: str, root: Path, preloaded: Path, cpu: str, command: Sequence[str | Path],
             ) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """A program of Android's, run on an emulated processor."""
    given = [qemu, "-L", root, "-cpu", cpu, "-E", f"LD_PRELOAD={preloaded}", *command]
    return subprocess.run(given, capture_output=True, text=True, timeout=SECONDS, check=False)
