"""Targets whose instructions this processor may not have, run lane by lane on AVX2: the C is the
target's, and tests/emulation/immintrin.h says what each of its intrinsics computes."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from canao.isa.registry import ISAS
from canao.target import Target, get_target

EMULATION = (f"-I{Path(__file__).parents[1] / 'emulation'}", "-Wno-psabi", "-lm")


class Emulated(Target):
    """A target that asks the processor for what the emulation needs, and not for its own."""

    __slots__ = ()

    @property
    def features(self) -> tuple[str, ...]:
        return get_target().with_isa("avx2").features


def emulated(isa: str) -> Target:
    """This machine with an instruction set of x86, compiled for AVX2 with EMULATION."""
    host = get_target().with_isa(isa)
    values = {f.name: getattr(host, f.name) for f in fields(host)}
    return Emulated(**values | {"cpu": ISAS["avx2"].cpu})
