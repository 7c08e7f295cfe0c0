"""Features of processors: where one says that it has them, and what compilers take for given.

The names are Linux'. A library asks for every feature that its code may use before
any of that code runs; what has no row here it could not ask for, so it is not compiled.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from canao.isa.processors import PROCESSORS, Processor
from canao.isa.table import Isa


@dataclass(frozen=True, slots=True)
class Feature:
    """Where a processor says that it has a feature: bit `bit` of a word.

    source   x86: leaf of cpuid, and `part` its sub-leaf; ARM: entry of the auxiliary vector
    word     x86: register of the answer, 0 for eax to 3 for edx
    state    x86: registers that the system must save for threads, as bits of XCR0; where it does
             not, instructions trap though the processor has them
    """

    source: int
    bit: int
    part: int = 0
    word: int = 0
    state: int = 0


_EAX, _EBX, _ECX, _EDX = 0, 1, 2, 3
_YMM, _ZMM = 0x6, 0xE6  # SSE and AVX registers; masks and the rest of AVX-512's as well
_AMX = 0x60000  # the blocks of AMX, and their shapes


def _x86(leaf: int, part: int, word: int, bits: Mapping[str, int], state: int = 0,
         ) -> dict[str, Feature]:  # fmt: skip
    return {name: Feature(leaf, bit, part, word, state) for name, bit in bits.items()}


def _arm(entry: int, bits: Mapping[str, int]) -> dict[str, Feature]:
    return {name: Feature(entry, bit) for name, bit in bits.items()}


# Intel 64 and IA-32 Architectures Software Developer's Manual, vol. 2A, CPUID; AMD64 Architecture
# Programmer's Manual, vol. 3, appendix E.
_X86 = {
    **_x86(1, 0, _ECX, {"pni": 0, "ssse3": 9, "cx16": 13, "sse4_1": 19, "sse4_2": 20, "movbe": 22,
                        "popcnt": 23, "xsave": 26}),
    **_x86(1, 0, _ECX, {"fma": 12, "avx": 28, "f16c": 29}, _YMM),
    **_x86(0x80000001, 0, _ECX, {"lahf_lm": 0, "abm": 5}),
    **_x86(7, 0, _EBX, {"bmi1": 3, "bmi2": 8}),
    **_x86(7, 0, _EBX, {"avx2": 5}, _YMM),
    **_x86(7, 0, _EBX, {"avx512f": 16, "avx512dq": 17, "avx512ifma": 21, "avx512cd": 28,
                        "avx512bw": 30, "avx512vl": 31}, _ZMM),
    **_x86(7, 0, _ECX, {"avx512vbmi": 1, "avx512_vbmi2": 6, "avx512_vnni": 11,
                        "avx512_bitalg": 12, "avx512_vpopcntdq": 14}, _ZMM),
    **_x86(7, 0, _EDX, {"amx_bf16": 22, "amx_tile": 24, "amx_int8": 25}, _AMX),
    **_x86(7, 1, _EAX, {"avx_vnni": 4}, _YMM),
    **_x86(7, 1, _EAX, {"avx512_bf16": 5}, _ZMM),
}  # fmt: skip
# Linux, arch/arm64/include/uapi/asm/hwcap.h: AT_HWCAP is entry 16, AT_HWCAP2 entry 26.
_ARM = {
    **_arm(16, {"fp": 0, "asimd": 1, "aes": 3, "pmull": 4, "sha1": 5, "sha2": 6, "crc32": 7,
                "atomics": 8, "fphp": 9, "asimdhp": 10, "asimdrdm": 12, "jscvt": 13, "fcma": 14,
                "lrcpc": 15, "asimddp": 20, "sve": 22, "asimdfhm": 23}),
    **_arm(26, {"sve2": 1, "i8mm": 13, "bf16": 14}),
}  # fmt: skip
# First part of a triple -> feature -> where it is told.
FEATURES: Mapping[str, Mapping[str, Feature]] = {"x86_64": _X86, "aarch64": _ARM}

_V2 = ("pni", "ssse3", "cx16", "sse4_1", "sse4_2", "popcnt", "lahf_lm")
_V3 = (*_V2, "movbe", "xsave", "avx", "f16c", "fma", "avx2", "bmi1", "bmi2", "abm")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
_ARM_1 = ("crc32", "atomics", "asimdrdm")
# What the processors have that compilers know by these names, beyond the least of their triple.
_PROCESSORS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "x86_64": {"": (), "x86_64": (), "x86_64_v2": _V2, "x86_64_v3": _V3, "x86_64_v4": _V4},
    "aarch64": {"": (), "generic": (), "armv8_a": (), "armv8_1_a": _ARM_1, "armv8_2_a": _ARM_1,
                **{p.zig: p.features for p in PROCESSORS["aarch64"].values()}},
}  # fmt: skip
# What compilers call a feature, where Linux calls it something else.
_NAMES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "x86_64": {"sse3": ("pni",), "crc32": ("sse4_2",), "sahf": ("lahf_lm",), "bmi": ("bmi1",),
               "lzcnt": ("abm",), "avxvnni": ("avx_vnni",), "avx512vnni": ("avx512_vnni",),
               "avx512bf16": ("avx512_bf16",), "avx512vbmi2": ("avx512_vbmi2",),
               "amx-tile": ("amx_tile",), "amx-int8": ("amx_int8",),
               "amx-bf16": ("amx_bf16",)},
    "aarch64": {"v8_1a": _ARM_1, "v8_2a": _ARM_1, "crc": ("crc32",), "lse": ("atomics",),
                "rdm": ("asimdrdm",), "rcpc": ("lrcpc",), "dotprod": ("asimddp",),
                "fullfp16": ("fphp", "asimdhp"), "fp16": ("fphp", "asimdhp"),
                "fp16fml": ("fphp", "asimdhp", "asimdfhm"), "aes": ("aes", "pmull"),
                "sha2": ("sha1", "sha2"), "jsconv": ("jscvt",), "complxnum": ("fcma",)},
}  # fmt: skip
# What a processor's name means to zig beyond ARMv8.0: versions of the architecture, and what has
# instructions of its own.
_BEYOND = (
    "v8_1a", "v8_2a", "v8_3a", "v8_4a", "v8_5a", "v8_6a", "v8_7a", "v9a", "v9_1a", "v9_2a",
    "lse", "lse2", "rdm", "crc", "rcpc", "rcpc_immo", "dotprod", "fullfp16", "fp16fml", "i8mm",
    "bf16", "sve", "sve2", "sve_bitperm", "aes", "sha2", "sha3", "sm4", "complxnum", "jsconv",
    "fptoint", "flagm", "altnzcv", "pauth", "fpac", "bti", "mte", "dit", "sb", "ccdp", "ccidx",
    "predres", "specrestrict", "rand", "am", "amvs", "ecv", "fgt", "hcx", "mec", "mpam", "nv",
    "rme", "sel2", "spe", "spe_eef", "tlb_rmi", "tracev8_4", "wfxt", "xs",
)  # fmt: skip


def scheduled(processor: Processor, isa: Isa) -> str:
    """What zig calls a processor whose code runs wherever an ARM instruction set does: instructions
    are ordered for it, and it has no others than these."""
    names = _NAMES["aarch64"]
    more = [n for n in _BEYOND if not set(names.get(n, (n,))).issubset(isa.features)]
    return "-".join((processor.zig, *more))


def needed(isa: Isa, cpu: str, arch: str) -> tuple[str, ...]:
    """The features that code for an instruction set may use, when it is compiled for the processor
    that ziglang's clang calls `cpu` or for the instruction set's own `gcc_march`, of the triples
    that begin with `arch`.

    KeyError, whose argument is the name, for a processor or a feature that has no row here.
    """
    found = {*isa.features, *_implied(cpu, arch), *_implied(isa.gcc_march, arch)}
    rows = FEATURES[arch]
    for name in sorted(found):
        rows[name]  # noqa: B018 - KeyError if it is missing
    return tuple(name for name in rows if name in found)


def _implied(cpu: str, arch: str) -> Iterator[str]:
    """Features of `cpu`, such as x86_64_v4+avx512vnni, x86-64-v4 -mavx512vnni, armv8.2-a+dotprod or
    cortex_a76-lse."""
    cpu = cpu.replace(" -m", "+")
    # In gcc's names dashes belong to the name; in zig's, which has underscores there, a dash takes
    # a feature away.
    gcc = cpu.startswith(("x86-64", "armv"))
    base, *rest = re.split(r"(?=\+)" if gcc else r"(?=[+-])", cpu)
    found = set(_PROCESSORS[arch][base.replace("-", "_").replace(".", "_")])
    for part in rest:
        names = _NAMES[arch].get(part[1:], (part[1:],))
        found = found - set(names) if part[0] == "-" else found | set(names)
    yield from found
