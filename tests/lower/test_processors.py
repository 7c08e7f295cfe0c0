"""Processors by name: what code for them may use, and that clang is told no more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from canao.errors import InputError
from canao.isa.features import FEATURES
from canao.isa.processors import GENERIC, PROCESSORS, processor_names
from canao.isa.registry import ISAS, isas_of
from canao.lower.scheduling import target_in
from canao.target import Target, get_target
from tests.lower.test_features import CALLED, told_to_clang

ARM, X86 = get_target("aarch64-linux"), get_target("x86_64-linux")
NAMED = tuple(PROCESSORS["aarch64"])
ARM_TARGETS = ("aarch64-linux", "aarch64-android")
# What orders instructions, on some of these processors, and is none.
ORDER = ("fusion", "pattern", "latency", "suppress", "aggressive", "interleave", "zc", "avoid")


def levels(target: Target) -> list[Target]:
    """The target with each instruction set that its processor has."""
    assert target.processor
    has = set(target.processor.features)
    return [target.with_isa(i.name) for i in isas_of(target.triple) if has.issuperset(i.features)]


@pytest.mark.parametrize("name", NAMED)
def test_clang_may_use_what_the_instruction_set_has(name: str, tmp_path: Path) -> None:
    """And nothing else that the processor could do: a library asks for no more than it needs."""
    for target in levels(get_target("aarch64-linux", name)):
        more = told_to_clang(target, tmp_path) - told_to_clang(target.least, tmp_path)
        more = {n for n in more if not any(word in n for word in ORDER)}
        found = {CALLED["aarch64"].get(n, n) for n in more}
        assert found <= set(ISAS[target.isa].features) | {"crc32"}
        assert found <= set(target.features)


@pytest.mark.parametrize("name", NAMED)
def test_clang_knows_the_processor(name: str, tmp_path: Path) -> None:
    """Instructions are ordered for it: the name alone is more than the least processor."""
    target = get_target("aarch64-linux", name)
    assert target.processor and target.cpu.startswith(f"{target.processor.zig}-")
    assert told_to_clang(target, tmp_path)


@pytest.mark.parametrize("row", PROCESSORS["aarch64"].values(), ids=lambda p: p.clang)
def test_rows_have_names_that_linux_has(row) -> None:
    assert set(row.features) <= set(FEATURES["aarch64"])
    assert 64 << 10 <= row.l2_bytes <= 4 << 20


def test_what_follows_from_a_processor() -> None:
    """The extensions of its instruction set, which products in other precisions take, and plans."""
    for target in ARM_TARGETS:
        a55, x4, m1 = (get_target(target, n) for n in ("cortex-a55", "cortex-x4", "apple-m1"))
        assert {t.isa for t in (a55, x4, m1)} == {"neon"}
        assert a55.extensions == m1.extensions == ("neon_dotprod",)
        assert x4.extensions == ("neon_dotprod", "neon_i8mm")
        assert a55.l2_bytes < x4.l2_bytes < m1.l2_bytes
    assert target_in(a55, "int8").isa == "neon_dotprod" and target_in(x4, "int8").isa == "neon_i8mm"
    assert target_in(a55, "bf16").isa == "neon" and target_in(x4, "bf16").isa == "neon_i8mm"
    assert target_in(x4, "fp16").isa == "neon_dotprod"
    assert target_in(x4, "int8").processor == x4.processor
    # In float32 a library for the newest runs on the oldest as well.
    assert a55.features == x4.features == () == get_target("aarch64-linux").features
    assert {"asimddp", "i8mm"} <= set(target_in(x4, "int8").features)


def test_a_target_without_a_processor_is_for_all_of_them() -> None:
    for name in ARM_TARGETS:
        assert get_target(name, GENERIC) == get_target(name)
        assert get_target(name, "cortex-x4").with_cpu(GENERIC) == get_target(name)
        assert not get_target(name).extensions and not get_target(name).features
    assert processor_names("x86_64") == () and GENERIC in processor_names("aarch64")
    least = get_target("aarch64-linux", "cortex-x1").least
    assert replace(least, l2_bytes=ARM.l2_bytes) == ARM.least


def test_several_instruction_sets_for_one_processor() -> None:
    target = get_target("aarch64-android", "cortex-x4").with_isa("neon,neon_dotprod,neon_i8mm")
    assert [t.isa for t in target.levels] == ["neon", "neon_dotprod", "neon_i8mm"]
    assert all(t.cpu.startswith("cortex_x4-") for t in target.levels)
    plain = get_target("aarch64-android").with_isa("neon,neon_dotprod,neon_i8mm")
    assert target.with_cpu(GENERIC) == plain and plain.with_cpu("cortex-x4").levels == target.levels
    needs = [set(t.features) for t in target.levels]
    assert needs[0] == set() < needs[1] < needs[2]


def test_what_a_manifest_says() -> None:
    x4 = target_in(get_target("aarch64-android", "cortex-x4"), "int8")
    assert x4.entry["cpu"] == "cortex-x4" and x4.entry["name"] == "aarch64-android"
    assert x4.entry["features"] == list(x4.features)
    assert "cpu" not in ARM.entry and ARM.entry["features"] == []


@pytest.mark.parametrize(("target", "cpu", "said"), [
    ("aarch64-android", "cortex-a77", "'cortex-a77' is not one of generic, .* for aarch64-android"),
    ("x86_64-linux", "cortex-a76", r"'cortex-a76': x86_64-linux has none by name; .*--isa \(scalar,"
                                   r" avx2, .*\), or one of generic, cortex-a55, .* with --target "
                                   r"aarch64-linux or aarch64-android$"),
    ("x86_64-android", GENERIC, r"'generic': x86_64-android has none by name"),
    ("host", "cortex-a76", "'cortex-a76': host has none by name"),
])  # fmt: skip
def test_a_processor_that_is_none_of_the_target(target: str, cpu: str, said: str) -> None:
    with pytest.raises(InputError, match=f"^cpu {said}"):
        get_target(target, cpu)


def test_an_instruction_set_that_the_processor_lacks() -> None:
    said = "^cpu 'cortex-a55' lacks i8mm, bf16, which ISA 'neon_i8mm' needs; name another cpu"
    for isas in ("neon_i8mm", "neon,neon_i8mm"):
        with pytest.raises(InputError, match=said):
            get_target("aarch64-linux", "cortex-a55").with_isa(isas)
