"""Libraries as loaders see them, for every target; and what is built for Android, run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from canao import android, build
from canao.artifact.directory import Artifact
from canao.build import build_library, build_program, get_toolchain, toolchain_for
from canao.compiler.pipeline import compile_model
from canao.device.bench import bench_program
from canao.errors import ToolchainError
from canao.target import NAMES, Target, get_target
from tests import elf
from tests.android import emulated, shim, sysroot
from tests.compiler import programs
from tests.compiler.models import classifier, reference
from tests.elf import Elf
from tests.oracle import assert_close

pytestmark = pytest.mark.as_shipped

ARM = get_target("aarch64-android")
LEVELS = "neon,neon_dotprod,neon_i8mm"
CROSS = tuple(name for name in NAMES if name != "host")
ANDROID = tuple(name for name in CROSS if name.endswith("-android"))
PAGE = 16384
MACHINES = {"aarch64": elf.AARCH64, "x86_64": elf.X86_64}
TEXTS = [(np.arange(1, n + 1) % 99, np.sort(np.arange(n) % 2)) for n in (1, 5, 17)]


@pytest.fixture(autouse=True)
def no_ndk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(android.NDK_HOME, raising=False)


def library(target: Target) -> Elf:
    """A library of all of a target's instruction sets."""
    sources = [programs.staged(classifier("small"), level, True).source for level in target.levels]
    return Elf.read(build_library(sources))


def assert_loads_well(file: Elf, target: Target) -> None:
    """What holds for libraries and for Android's programs alike."""
    assert (file.kind, file.machine) == (elf.SHARED, MACHINES[target.arch])
    assert not file.of(elf.TLS) and file.entry(elf.TEXTREL) is None
    assert len(file.build_id) >= 8
    (stack,) = file.of(elf.STACK)
    assert not stack.flags & elf.EXECUTE
    loaded = file.of(elf.LOAD)
    assert loaded and all(s.align == PAGE for s in loaded)
    assert all(s.address % PAGE == s.offset % PAGE for s in loaded)
    assert not any(s.flags & elf.WRITE and s.flags & elf.EXECUTE for s in loaded)
    # What the loader wrote is closed to the end of a page.
    (closed,) = file.of(elf.RELRO)
    assert (closed.address + closed.size) % PAGE == 0
    assert (file.entry(elf.FLAGS) or 0) & 8 and (file.entry(elf.FLAGS_1) or 0) & 1  # at once
    assert not {name for name in file.sections if name.startswith((".debug", ".symtab"))}
    assert not file.sections & {".init_array", ".fini_array", ".preinit_array", ".ctors"}


def assert_known_to_android(file: Elf, libraries: tuple[str, ...]) -> None:
    """It needs what all Androids have, and has the table of hashes that the oldest look at."""
    assert file.needed == list(libraries)
    known = {name for needed in libraries for name in android.SYMBOLS[needed]}
    assert {name for name, own in file.symbols.items() if not own} <= known
    assert file.entry(elf.HASH) is not None and file.entry(elf.GNU_HASH) is not None


@pytest.mark.parametrize("name", CROSS)
def test_a_library_as_its_loader_sees_it(name: str) -> None:
    target = get_target(name)
    made = library(target)
    assert_loads_well(made, target)
    assert made.soname == target.library
    own = {name for name, here in made.symbols.items() if here}
    assert {"canao_open", "canao_run", "canao_close"} <= own
    assert all(name.startswith("canao_") for name in own)
    if target.android:
        assert_known_to_android(made, ("libc.so",))


@pytest.mark.parametrize("name", ANDROID)
def test_a_program_as_its_loader_sees_it(name: str) -> None:
    target = get_target(name)
    made = Elf.read(bench_program(target))
    assert_loads_well(made, target)
    assert made.interpreter == android.LOADER and (made.entry(elf.FLAGS_1) or 0) & 0x08000000  # PIE
    assert_known_to_android(made, ("libc.so", "libdl.so"))


def test_the_linker_sees_the_table_and_no_more() -> None:
    """What Android 5 lacks is found when a file is built."""
    for name in android.SYMBOLS:
        stub = Elf.read(Path(build._stub(name, ARM.least, get_toolchain())))
        assert stub.soname == name and set(stub.symbols) == set(android.SYMBOLS[name])
    main = "int getentropy(void *, unsigned long);\nint main(void) { return getentropy(0, 0); }\n"
    with pytest.raises(ToolchainError, match="undefined symbol: getentropy"):
        build_program({"main.c": main}, ARM.least)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Artifact]:
    """Artifacts of one model: for all processors, and with kernels for several."""
    folder = tmp_path_factory.mktemp("android")
    targets = {"all": ARM, "levels": ARM.with_isa(LEVELS),
               "named": get_target("aarch64-android", "cortex-a76")}  # fmt: skip
    return {name: compile_model(classifier("small"), folder / name, target=target)
            for name, target in targets.items()}  # fmt: skip


def test_the_artifact_fits_a_package(compiled: Mapping[str, Artifact]) -> None:
    artifact = compiled["all"]
    assert artifact.library.name == "libmodel.so" and "model.so" not in artifact.manifest["files"]
    assert Artifact.load(artifact.path).library == artifact.library
    assert artifact.library.stat().st_size < 200_000
    told = artifact.manifest["target"]
    assert (told["name"], told["features"]) == ("aarch64-android", [])
    levels = [level["features"] for level in compiled["levels"].manifest["narrower"]]
    assert levels[0] == [] and "asimddp" in levels[1]
    assert "i8mm" in compiled["levels"].manifest["target"]["features"]
    assert compiled["named"].manifest["target"]["cpu"] == "cortex-a76"


@pytest.mark.cross
@pytest.mark.parametrize(
    ("name", "cpu", "isa"),
    [
        ("all", "cortex-a53", "neon"), ("all", "cortex-a72", "neon"), ("named", "max", "neon"),
        ("levels", "cortex-a53", "neon"), ("levels", "cortex-a76", "neon_dotprod"),
        ("levels", "max", "neon_i8mm"),
    ],
)  # fmt: skip
def test_an_emulated_phone_computes_the_same(
    name: str, cpu: str, isa: str, compiled: Mapping[str, Artifact], qemu: str, tmp_path: Path
) -> None:
    artifact, program = compiled[name], bench_program(ARM)
    ids, outputs = tmp_path / "ids", tmp_path / "outputs"
    rows = [np.array([len(a), *a, *b], np.int32) for a, b in TEXTS]
    ids.write_bytes(b"".join(row.tobytes() for row in rows))
    command = [program, artifact.library, artifact.weights, "17", "2", "-", "0", "0", "0", "0",
               "run", ids, outputs]  # fmt: skip
    done = emulated(qemu, sysroot(), shim(tmp_path), cpu, command)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"isa {isa}\n" in done.stdout
    want = [v.ravel() for text in TEXTS for v in reference(classifier("small"), *text)]
    assert_close(np.fromfile(outputs, np.float32), np.concatenate(want))


@pytest.mark.cross
def test_an_emulated_phone_measures(
    compiled: Mapping[str, Artifact], qemu: str, tmp_path: Path
) -> None:
    artifact, program, preloaded = compiled["all"], bench_program(ARM), shim(tmp_path)
    command = [program, artifact.library, artifact.weights, "5", "1", "-", "1", "3", "0", "0"]
    done = emulated(qemu, sysroot(), preloaded, "cortex-a53", [*command, "time"])
    assert (done.returncode, done.stderr) == (0, "")
    rows = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert len(rows["samples"].split()) == 3
    assert rows["at"].split()[-1] == "100"  # ticks a second, by the kernel
    done = emulated(qemu, sysroot(), preloaded, "cortex-a53", [program, "nothing"])
    assert done.returncode == 1 and done.stderr.startswith("bench: wrong arguments")


NDK_CLANG = """#!/bin/sh
[ "$1" = --version ] && { echo "Android clang version 18"; exit; }
echo "$@" >> "$(dirname "$0")/calls"
for word; do [ "$before" = -o ] && echo made > "$word"; before=$word; done
exit 0
"""


def test_an_ndk_is_used_where_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(android.NDK_HOME, str(tmp_path))
    monkeypatch.setenv("CANAO_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ToolchainError, match=f"^{android.NDK_HOME}: no toolchains.*{tmp_path};"):
        toolchain_for(ARM)
    clang = tmp_path / "toolchains/llvm/prebuilt/linux-x86_64/bin/clang"
    clang.parent.mkdir(parents=True)
    clang.write_text(NDK_CLANG)
    clang.chmod(0o755)
    toolchain = toolchain_for(ARM)
    assert toolchain.name == "ndk" and toolchain.version == "Android clang version 18"
    assert toolchain_for(get_target("aarch64-linux")).name == "zig"
    source = programs.staged(classifier("small"), ARM, True).source
    assert build_library([source]).read_text() == "made\n"
    *_, linked = clang.with_name("calls").read_text().splitlines()
    for word in ("--target=aarch64-linux-android21", "-shared", "-march=armv8-a", "-soname",
                 "libmodel.so", "max-page-size=16384", "--no-undefined"):  # fmt: skip
        assert word in linked.replace(",", " ").split()


def test_other_compilers_build_nothing_for_android() -> None:
    other = build.Toolchain("gcc", ("gcc",), "13")
    with pytest.raises(ToolchainError, match=r"^compiler 'gcc' builds nothing for aarch64-"):
        toolchain_for(ARM, other)
