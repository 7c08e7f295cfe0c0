"""The generated C under sanitizers, other compilers, other instruction sets."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from canao.build import build_program, get_toolchain
from canao.isa.registry import ISAS
from canao.target import Target, get_target
from tests.compiler import programs
from tests.compiler.models import classifier, encoder, mobile, reference
from tests.conftest import LENGTHS
from tests.oracle import assert_close

HOST = get_target()
# -O0: gcc takes half a minute over what it checks in the unrolled tiles at -O1, and minutes at -O3.
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g1", "-O0")
RACES = ("-fsanitize=thread", "-g1", "-O0")
ARM = Target("aarch64-musl", "neon", "aarch64-linux-musl", "cortex_a76")
X86 = get_target("x86_64-linux")
EVERY_TARGET = [X86.with_isa(isa) for isa in ("scalar", "avx2", "avx512")] + [
    get_target("aarch64-linux"), get_target("aarch64-linux").with_isa("scalar"),
]  # fmt: skip


def gcc() -> str:
    found = shutil.which("gcc")
    if found is None:
        pytest.skip("gcc, whose sanitizers this test uses, is not installed")
    return "gcc"


def expect(model, command: list[str], threads: int, lengths, sentences) -> None:
    config = model.config
    texts = [sentences(n, config.vocab_size, config.type_vocab_size) for n in lengths]
    got = programs.run([*command, str(threads)], texts)
    for text, flat in zip(texts, got, strict=True):
        want = np.concatenate([v.ravel() for v in reference(model, *text)])
        assert_close(flat, want, f"length {len(text[0])}")


@pytest.mark.parametrize("fusion", (True, False), ids=("fused", "unfused"))
@pytest.mark.parametrize("isa", sorted({"scalar", HOST.isa, "avx2"} & set(ISAS)))
def test_under_address_and_undefined_sanitizers(
    isa: str, fusion: bool, tmp_path: Path, sentences
) -> None:
    if HOST.isa not in ("avx2", "avx512") and isa == "avx2":
        pytest.skip("this machine has no AVX2")
    target = HOST.with_isa(isa)
    toolchain = get_toolchain(gcc())
    # Of the first with the register tiles that users get, which gcc takes long to compile.
    for model, rows in ((classifier("odd", layers=1), 99), (encoder("prime", layers=1), 3),
                        (mobile("odd", layers=1), 3)):  # fmt: skip
        program = programs.staged(model, target, fusion).program
        schedule = programs.few_rows(program, target, rows)
        command = programs.build_schedule(schedule, target, tmp_path, toolchain, SANITIZERS)
        for threads in (1, 2):
            expect(model, command, threads, (*LENGTHS, 512), sentences)


def test_under_thread_sanitizer(tmp_path: Path, sentences) -> None:
    """Barriers and memory reuse: a missing barrier is a data race here."""
    cases = [(classifier("small", layers=2), True), (classifier("small", layers=2), False),
             (mobile("standard", layers=2), True)]  # fmt: skip
    for model, fusion in cases:
        stages = programs.staged(model, HOST, fusion)
        command = programs.build(stages, HOST, tmp_path, get_toolchain(gcc()), RACES)
        expect(model, command, 3, (1, 17, 64, 127), sentences)


@pytest.mark.cross
@pytest.mark.parametrize("fusion", (True, False), ids=("fused", "unfused"))
def test_neon_under_qemu(fusion: bool, qemu: str, tmp_path: Path, sentences) -> None:
    cases = ((classifier("odd", layers=1), ()), (encoder("prime"), ()),
             (classifier("deep_product", layers=1), ("-O3",) if fusion else ()))  # fmt: skip
    for model, flags in cases:
        stages = programs.staged(model, ARM, fusion)
        command = [qemu, *programs.build(stages, ARM, tmp_path, None, ("-static", *flags))]
        for threads in (1, 2):
            expect(model, command, threads, LENGTHS, sentences)


@pytest.mark.parametrize("target", EVERY_TARGET, ids=lambda t: f"{t.name}-{t.isa}")
def test_no_warnings_for_any_target(target: Target) -> None:
    """Every ISA compiles with the cross toolchain, clean under -Wall -Wextra -Werror; with what
    the optimiser has to say of the kernels that users get."""
    for fusion, flags in ((True, ("-Werror", "-O3")), (False, ("-Werror",))):
        stages = programs.staged(classifier("odd", layers=1), target, fusion)
        build_program(programs.sources(stages.source), target.least, None, flags)


def test_no_warnings_from_gcc() -> None:
    for isa in ("scalar", "avx2", "avx512") if HOST.triple.startswith("x86_64") else ("neon",):
        target = HOST.with_isa(isa)
        stages = programs.staged(classifier("odd", layers=1), target, True)
        build_program(
            programs.sources(stages.source), target.least, get_toolchain(gcc()), ("-Werror", "-O1")
        )


@pytest.mark.parametrize("fusion", (True, False))
def test_bad_calls_return_codes(fusion: bool, tmp_path: Path) -> None:
    """Ids, lengths and files that are wrong give a status, under sanitizers, never a crash."""
    stages = programs.staged(classifier("small"), HOST, fusion)
    toolchain = get_toolchain(gcc())
    command = programs.build(stages, HOST, tmp_path, toolchain, SANITIZERS)
    text = "2 99 1 0 0\n2 -1 1 0 0\n2 1 1 0 2\n0\n513 " + " ".join(["0"] * 1026) + "\n1 5 0\n"
    done = subprocess.run([*command, "1"], input=text, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["3", "3", "3", "2", "2", "0"]

    weights = Path(command[1])
    whole = weights.read_bytes()
    changed = (whole[:-4], b"x" + whole[1:], whole[:8] + b"y" + whole[9:], b"")
    for damaged in changed:
        weights.write_bytes(damaged)
        done = subprocess.run([*command, "1"], input="", capture_output=True, text=True)
        assert done.returncode == 15, done.stderr
    weights.unlink()
    assert subprocess.run([*command, "1"], input="", capture_output=True).returncode == 14
    weights.write_bytes(whole)
    for threads in ("0", "-1", "1000"):
        assert subprocess.run([*command, threads], input="", capture_output=True).returncode == 11


def test_library_needs_libc_only(tmp_path: Path) -> None:
    from canao.compiler.pipeline import compile_model

    artifact = compile_model(classifier("small"), tmp_path / "out")
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("readelf is not installed")
    text = subprocess.run([readelf, "-d", str(artifact.library)], capture_output=True, text=True)
    needed = [
        line.split("[")[1].rstrip("]") for line in text.stdout.splitlines() if "NEEDED" in line
    ]
    parts_of_libc = {
        "libc.so.6",
        "libpthread.so.0",
        "ld-linux-x86-64.so.2",
        "ld-linux-aarch64.so.1",
    }
    assert "libc.so.6" in needed and set(needed) <= parts_of_libc, needed
