"""avx2 with sums of four products of bytes in one instruction."""

from __future__ import annotations

from dataclasses import replace

from canao.isa import avx2

ISA = replace(
    avx2.ISA,
    name="avxvnni", extends="avx2", gains=frozenset({"i8"}),
    features=(*avx2.ISA.features, "avx_vnni"),
    cpu="x86_64_v3+avxvnni", gcc_march="x86-64-v3 -mavxvnni",
    # vpdpbusd takes unsigned bytes by signed ones. Its unsigned ones are the weights, + 128.
    tiles={
        **avx2.ISA.tiles,
        "i8": replace(
            avx2.ISA.tiles["i8"],
            store="const __m256i x = _mm256_cvtps_epi32(v); const __m128i half = _mm_packs_epi32("
                  "_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1)); "
                  "_mm_storel_epi64((__m128i *)p, _mm_packs_epi16(half, half));",
            activations="int8_t", kr=4, offset=128,
            load_w="return _mm256_loadu_si256((const __m256i *)p);",
            spread="int32_t four; __builtin_memcpy(&four, p, 4); return _mm256_set1_epi32(four);",
            product="return _mm256_dpbusd_avx_epi32(c, w, a);",
            start="return _mm256_set1_epi32(n);",
        ),
    },
)  # fmt: skip
