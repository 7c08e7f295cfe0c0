"""avx2 with sums of four products of bytes in one instruction."""

from __future__ import annotations

from dataclasses import replace

from canao.isa import avx2
from canao.isa.table import int8_tiles

ISA = replace(
    avx2.ISA,
    name="avxvnni", extends="avx2", gains=frozenset({"i8", "q7_i8"}),
    features=(*avx2.ISA.features, "avx_vnni"),
    cpu="x86_64_v3+avxvnni", gcc_march="x86-64-v3 -mavxvnni",
    # vpdpbusd takes unsigned bytes by signed ones, and adds up in 32 bits.
    tiles=dict(avx2.ISA.tiles) | int8_tiles(
        replace(avx2.FOURS, product="return _mm256_dpbusd_avx_epi32(c, w, a);")
    ),
)  # fmt: skip
