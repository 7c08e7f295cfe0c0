"""Every instruction set by its name, the narrowest of a machine's first."""

from __future__ import annotations

from collections.abc import Mapping

from canao.isa import (
    avx2,
    avx512,
    avx512amx,
    avx512bf16,
    avx512vnni,
    avxvnni,
    neon,
    neon_dotprod,
    neon_i8mm,
    scalar,
)
from canao.isa.table import Isa

_MODULES = (
    scalar, avx2, avxvnni, avx512, avx512vnni, avx512bf16, avx512amx,
    neon, neon_dotprod, neon_i8mm,
)  # fmt: skip
ISAS: Mapping[str, Isa] = {m.ISA.name: m.ISA for m in _MODULES}


def isas_of(triple: str) -> tuple[Isa, ...]:
    """The instruction sets that processors of a target triple may have."""
    machine = triple.partition("-")[0]
    return tuple(isa for isa in ISAS.values() if machine in isa.triples)
