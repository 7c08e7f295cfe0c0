"""avx512vnni with sums of two products of bf16 in one instruction."""

from __future__ import annotations

from dataclasses import replace

from canao.isa import avx512vnni

BASE = avx512vnni.ISA
ISA = replace(
    BASE,
    name="avx512bf16", extends="avx512vnni", gains=frozenset({"bf16"}), emulated=frozenset(),
    features=(*BASE.features, "avx512_bf16"),
    cpu=f"{BASE.cpu}+avx512bf16", gcc_march=f"{BASE.gcc_march} -mavx512bf16",
    tiles={
        **BASE.tiles,
        "bf16": replace(
            BASE.tiles["bf16"],
            activations="uint16_t", kr=2, vw="__m512i", va="__m512i",
            store="_mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh(v));",
            load_w="return _mm512_loadu_si512(p);",
            spread="int32_t two; __builtin_memcpy(&two, p, 4); return _mm512_set1_epi32(two);",
            product="return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)w);",
        ),
    },
)  # fmt: skip
