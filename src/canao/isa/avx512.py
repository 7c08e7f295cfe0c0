"""x86 vectors of 16 floats."""

from __future__ import annotations

from canao.isa.table import Isa, TileOps, float_tiles, int8_tiles

LOADS = {
    "i8": "return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));",
    "bf16": "return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32("
            "_mm256_loadu_si256((const __m256i *)p)), 16));",
    "f16": "return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));",
}
STORES = {
    "bf16": "const __m512i x = _mm512_castps_si512(v), odd = _mm512_and_si512("
            "_mm512_srli_epi32(x, 16), _mm512_set1_epi32(1)); const __m512i up = _mm512_add_epi32("
            "x, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))); _mm512_storeu_ps(p, "
            "_mm512_castsi512_ps(_mm512_and_si512(up, _mm512_set1_epi32(-0x10000))));",
    "f16": "const vf x = _mm512_max_ps(_mm512_set1_ps(-65504.0f), _mm512_min_ps("
           "_mm512_set1_ps(65504.0f), v)); _mm512_storeu_ps(p, _mm512_cvtph_ps(_mm512_cvtps_ph("
           "x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)));",
}
ISA = Isa(
    name="avx512", vector="__m512", width=16,
    # 8 rows leave no remainder at 128 tokens on two threads; 16 accumulators cover the FMA latency.
    registers=32, mr=8, vectors=2,
    triples=("x86_64",), cpu="x86_64_v4",
    features=("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"), gcc_march="x86-64-v4",
    prologue=(
        "#include <immintrin.h>",
        "CANAO_INLINE __mmask16 first_lanes(int64_t n)",
        "{ return (__mmask16)(n <= 0 ? 0u : n >= 16 ? 0xffffu : (1u << n) - 1u); }",
    ),
    bodies={
        "load": "return _mm512_loadu_ps(p);",
        "load_n": "return _mm512_maskz_loadu_ps(first_lanes(n), p);",
        "store": "_mm512_storeu_ps(p, v);",
        "store_n": "_mm512_mask_storeu_ps(p, first_lanes(n), v);",
        "set1": "return _mm512_set1_ps(x);",
        "add": "return _mm512_add_ps(a, b);", "sub": "return _mm512_sub_ps(a, b);",
        "mul": "return _mm512_mul_ps(a, b);", "div": "return _mm512_div_ps(a, b);",
        "max": "return _mm512_max_ps(a, b);", "min": "return _mm512_min_ps(a, b);",
        "fma": "return _mm512_fmadd_ps(a, b, c);",
        "sqrt": "return _mm512_sqrt_ps(a);",
        "abs": "return _mm512_abs_ps(a);",
        "round": "return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);",
        "ldexp": "return _mm512_scalef_ps(a, n);",
        "keep": "return _mm512_mask_blend_ps(first_lanes(n), _mm512_set1_ps(fill), v);",
        "select": "return _mm512_mask_blend_ps("
                  "_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GT_OQ), b, a);",
        "sum": "return _mm512_reduce_add_ps(v);",
        "top": "return _mm512_reduce_max_ps(v);",
    },
    loads=LOADS, emulated=frozenset({"bf16"}),
    keeps={
        "f16": "const vf x = _mm512_max_ps(_mm512_set1_ps(-65504.0f), _mm512_min_ps("
               "_mm512_set1_ps(65504.0f), v)); _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph("
               "x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));",
        "i8": "_mm_storeu_si128((__m128i *)p, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(v)));",
    },
    tiles=float_tiles(LOADS, STORES) | int8_tiles(
        TileOps(
            store="_mm256_storeu_si256((__m256i *)p, "
                  "_mm512_cvtepi32_epi16(_mm512_cvtps_epi32(v)));",
            weights="int8_t", activations="int16_t", kr=2, vw="__m512i", va="__m512i", vc="__m512i",
            load_w="return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)p));",
            spread="int32_t pair; __builtin_memcpy(&pair, p, 4); return _mm512_set1_epi32(pair);",
            product="return _mm512_add_epi32(c, _mm512_madd_epi16(a, w));",
            zero="_mm512_setzero_si512()", to_float="return _mm512_cvtepi32_ps(c);",
            to_bits="return _mm512_castsi512_ps(c);", of_bits="return _mm512_castps_si512(c);",
        ),
    ),
)  # fmt: skip
