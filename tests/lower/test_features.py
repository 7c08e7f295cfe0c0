"""Features of processors: what compilers may use has a row, and the rows are what makers say."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import ziglang

from canao.build import get_toolchain
from canao.errors import InputError
from canao.isa.features import FEATURES, needed
from canao.isa.registry import ISAS, isas_of
from canao.target import Target, get_target

X86, ARM = get_target("x86_64-linux"), get_target("aarch64-linux")
ZIG = Path(ziglang.__file__).parent / "lib"
TARGETS = (*(X86.with_isa(i.name) for i in isas_of(X86.triple)),
           *(ARM.with_isa(i.name) for i in isas_of(ARM.triple)),
           replace(ARM, cpu="cortex_a76"), replace(X86, cpu="x86_64_v2"))  # fmt: skip
# Flags of clang that let it use no instruction: how fast some are, and what systems alone use.
HINTS = re.compile(
    "(allow-light|fast-|slow-|false-deps|prefer-|fuse-|addr-lsl|alu-lsl|use-|enable-|predictable|"
    "disable-|no-|sbb-|tuning).*|macrofusion|idivq-to-divl|vzeroupper|nopl|"
    "ete|trbe|el2vmsa|el3|perfmon|CONTEXTIDREL2|ras|lor|pan|pan-rwv|uaops|vh|ccpp|ssbs"
)
# What clang calls features for which Linux has other names.
CALLED = {
    "x86_64": {"sse3": "pni", "sse4.1": "sse4_1", "sse4.2": "sse4_2", "crc32": "sse4_2",
               "sahf": "lahf_lm", "bmi": "bmi1", "lzcnt": "abm", "avxvnni": "avx_vnni",
               "avx512vnni": "avx512_vnni", "avx512bf16": "avx512_bf16",
               "amx-tile": "amx_tile", "amx-int8": "amx_int8", "amx-bf16": "amx_bf16"},
    "aarch64": {"crc": "crc32", "lse": "atomics", "rdm": "asimdrdm", "rcpc": "lrcpc",
                "dotprod": "asimddp", "fullfp16": "asimdhp", "v8.1a": "atomics",
                "v8.2a": "atomics"},
}  # fmt: skip


def told_to_clang(target: Target, folder: Path) -> set[str]:
    """The features that clang is told to use, by its names."""
    toolchain, file = get_toolchain(), folder / "empty.c"
    file.touch()
    command = [*toolchain.command, *toolchain.machine_flags(target), "-###", "-c", str(file)]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    found = set(re.findall(r'"-target-feature" "\+([^"]+)"', said))
    assert found
    return {name for name in found if not HINTS.fullmatch(name)}


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: f"{t.arch}-{t.isa}-{t.cpu[:12]}")
def test_a_library_asks_for_all_that_the_compiler_may_use(target: Target, tmp_path: Path) -> None:
    more = told_to_clang(target, tmp_path) - told_to_clang(target.least, tmp_path)
    assert {CALLED[target.arch].get(name, name) for name in more} <= set(target.features)
    if target.cpu in ("x86_64_v3", "cortex_a76"):
        assert len(more) >= 8  # clang was asked, and answered


@pytest.mark.parametrize("isa", ISAS.values(), ids=lambda i: i.name)
def test_every_feature_of_an_isa_has_a_row(isa) -> None:
    for arch in isa.triples:
        assert set(isa.features) <= set(FEATURES[arch])
        cpu = isa.cpu if arch == "x86_64" or isa.extends else ""
        assert set(isa.features) <= set(needed(isa, cpu, arch))
        # gcc may use no more than clang.
        assert needed(isa, cpu, arch) == needed(replace(isa, gcc_march=""), cpu, arch)


def test_names_of_compilers() -> None:
    isa = replace(ISAS["scalar"], gcc_march="")
    assert needed(isa, "x86_64", "x86_64") == ()
    assert "avx512_vnni" in needed(isa, "x86_64_v4+avx512vnni", "x86_64")
    assert set(needed(isa, "armv8.2-a+dotprod+i8mm", "aarch64")) == {
        "crc32", "atomics", "asimdrdm", "asimddp", "i8mm"}  # fmt: skip
    less = needed(isa, "cortex_a76-lse+bf16", "aarch64")
    assert "atomics" not in less and {"bf16", "asimdrdm", "asimddp"} <= set(less)
    # Scheduled for one processor, for all of them.
    assert ARM.cpu.startswith("cortex_a76-") and ARM.features == ()


@pytest.mark.parametrize(
    ("cpu", "name"),
    [("x86_64_v3+sgx", "sgx"), ("znver4", "znver4"), ("x86_64_v3+avx10_1", "avx10_1")],
)
def test_what_has_no_row_is_not_compiled(cpu: str, name: str) -> None:
    said = rf"^avx2: '{name}' has no row in canao/isa/features.py.*add the row, or"
    with pytest.raises(InputError, match=said):
        _ = replace(X86, cpu=cpu).features


def test_bits_of_x86_are_those_of_clangs_header() -> None:
    text = (ZIG / "include/cpuid.h").read_text()
    registers = {"eax": 0, "ebx": 1, "ecx": 2, "edx": 3}
    told, place = {}, (0, 0, 0)
    for line in text.splitlines():
        head = re.match(r"/\* Features in %(\w+) for leaf (\w+)(?: sub-leaf (\d))? \*/", line)
        if head:
            place = (int(head[2], 0), int(head[3] or 0), registers[head[1]])
        bit = re.match(r"#define bit_(\w+)\s+(0x[0-9a-f]+)", line)
        if bit:
            told[bit[1].lower().replace("_", "")] = (*place, int(bit[2], 16).bit_length() - 1)
    names = {"pni": "sse3", "bmi1": "bmi", "cx16": "cmpxchg16b", "sse4_1": "sse41",
             "sse4_2": "sse42"}  # fmt: skip
    for name, f in FEATURES["x86_64"].items():
        called = names.get(name, name).replace("_", "")
        assert (f.source, f.part, f.word, f.bit) == told[called], name
        # Registers of 256 bits are XCR0's bits 1 and 2, those of AVX-512 also 5, 6 and 7.
        wide = name.startswith("avx") or name in ("fma", "f16c")
        blocks = name.startswith("amx")  # and their shapes: bits 17 and 18
        assert f.state == (0x60000 if blocks else 0xE6 if "512" in name else 6 if wide else 0), name


def test_bits_of_arm_are_those_of_libcs_header() -> None:
    text = (ZIG / "libc/musl/arch/aarch64/bits/hwcap.h").read_text()
    entries = {"HWCAP": 16, "HWCAP2": 26}
    told = {name.lower(): (entries[word], int(bit))
            for word, name, bit in re.findall(r"#define (HWCAP2?)_(\w+)\s+\(1 << (\d+)\)", text)}
    assert {n: (f.source, f.bit) for n, f in FEATURES["aarch64"].items()} == {
        n: told[n] for n in FEATURES["aarch64"]}  # fmt: skip
