"""avx512 with sums of four products of bytes in one instruction."""

from __future__ import annotations

from dataclasses import replace

from canao.isa import avx512
from canao.isa.table import int8_tiles

ISA = replace(
    avx512.ISA,
    name="avx512vnni", extends="avx512", gains=frozenset({"i8", "q7_i8"}),
    features=(*avx512.ISA.features, "avx512_vnni"),
    cpu="x86_64_v4+avx512vnni", gcc_march="x86-64-v4 -mavx512vnni",
    # vpdpbusd takes unsigned bytes by signed ones. Its unsigned ones are the weights, + 128.
    tiles=dict(avx512.ISA.tiles) | int8_tiles(
        replace(
            avx512.ISA.tiles["i8"],
            store="_mm_storeu_si128((__m128i *)p, _mm512_cvtsepi32_epi8("
                  "_mm512_cvtps_epi32(v)));",
            activations="int8_t", kr=4, offset=128,
            load_w="return _mm512_loadu_si512(p);",
            spread="int32_t four; __builtin_memcpy(&four, p, 4); return _mm512_set1_epi32(four);",
            product="return _mm512_dpbusd_epi32(c, w, a);",
            start="return _mm512_set1_epi32(n);",
        ),
    ),
)  # fmt: skip
