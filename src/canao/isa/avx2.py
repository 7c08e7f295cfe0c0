"""x86 vectors of 8 floats, with fused multiply-adds."""

from __future__ import annotations

from dataclasses import replace

from canao.isa.table import Isa, TileOps, float_tiles

LOADS = {
    "i8": "return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));",
    "bf16": "return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32("
            "_mm_loadu_si128((const __m128i *)p)), 16));",
    "f16": "return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));",
}
STORES = {
    "bf16": "const __m256i x = _mm256_castps_si256(v), odd = _mm256_and_si256("
            "_mm256_srli_epi32(x, 16), _mm256_set1_epi32(1)); const __m256i up = _mm256_add_epi32("
            "x, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))); _mm256_storeu_ps(p, "
            "_mm256_castsi256_ps(_mm256_and_si256(up, _mm256_set1_epi32(-0x10000))));",
    "f16": "const vf x = _mm256_max_ps(_mm256_set1_ps(-65504.0f), _mm256_min_ps("
           "_mm256_set1_ps(65504.0f), v)); _mm256_storeu_ps(p, _mm256_cvtph_ps(_mm256_cvtps_ph("
           "x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)));",
}
BYTES = ("const __m256i x = _mm256_cvtps_epi32(v); const __m128i half = _mm_packs_epi32("
         "_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1)); "
         "_mm_storel_epi64((__m128i *)p, _mm_packs_epi16(half, half));")  # fmt: skip
# Products of 16 bits.
PAIRS = TileOps(
    store="const __m256i x = _mm256_cvtps_epi32(v); _mm_storeu_si128((__m128i *)p, "
          "_mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1)));",
    weights="int8_t", activations="int16_t", kr=2, vw="__m256i", va="__m256i", vc="__m256i",
    load_w="return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)p));",
    spread="int32_t pair; __builtin_memcpy(&pair, p, 4); return _mm256_set1_epi32(pair);",
    product="return _mm256_add_epi32(c, _mm256_madd_epi16(a, w));",
    zero="_mm256_setzero_si256()", to_float="return _mm256_cvtepi32_ps(c);",
    to_bits="return _mm256_castsi256_ps(c);", of_bits="return _mm256_castps_si256(c);",
)  # fmt: skip
# Products of unsigned bytes by signed ones, whose unsigned ones are the weights, + 128. Two are
# added in 16 bits, which hold that of rows of 7 bits only: 2 * 255 * 63 = 32130.
FOURS = replace(
    PAIRS, store=BYTES,
    activations="int8_t", kr=4, offset=128,
    load_w="return _mm256_loadu_si256((const __m256i *)p);",
    spread="int32_t four; __builtin_memcpy(&four, p, 4); return _mm256_set1_epi32(four);",
    product="return _mm256_add_epi32(c, _mm256_madd_epi16(_mm256_maddubs_epi16(w, a), "
            "_mm256_set1_epi16(1)));",
    start="return _mm256_set1_epi32(n);",
)  # fmt: skip
ISA = Isa(
    name="avx2", vector="__m256", width=8,
    # 6x2 accumulators, 2 of weights and 1 broadcast fill 15 of 16 registers.
    registers=16, mr=6, vectors=2,
    triples=("x86_64",), cpu="x86_64_v3", features=("avx2", "fma", "f16c"), gcc_march="x86-64-v3",
    prologue=(
        "#include <immintrin.h>",
        "static const int32_t lanes[16] = {-1, -1, -1, -1, -1, -1, -1, -1};",
        "CANAO_INLINE __m256i first_lanes(int64_t n)",
        "{",
        "    const int64_t count = n < 0 ? 0 : n > 8 ? 8 : n;",
        "    return _mm256_loadu_si256((const __m256i *)(lanes + 8 - count));",
        "}",
    ),
    bodies={
        "load": "return _mm256_loadu_ps(p);",
        "load_n": "return _mm256_maskload_ps(p, first_lanes(n));",
        "store": "_mm256_storeu_ps(p, v);",
        "store_n": "_mm256_maskstore_ps(p, first_lanes(n), v);",
        "set1": "return _mm256_set1_ps(x);",
        "add": "return _mm256_add_ps(a, b);", "sub": "return _mm256_sub_ps(a, b);",
        "mul": "return _mm256_mul_ps(a, b);", "div": "return _mm256_div_ps(a, b);",
        "max": "return _mm256_max_ps(a, b);", "min": "return _mm256_min_ps(a, b);",
        "fma": "return _mm256_fmadd_ps(a, b, c);",
        "sqrt": "return _mm256_sqrt_ps(a);",
        "abs": "return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);",
        "round": "return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);",
        "ldexp": "return _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32("
                 "_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23)));",
        "keep": "return _mm256_blendv_ps(_mm256_set1_ps(fill), v, "
                "_mm256_castsi256_ps(first_lanes(n)));",
        "select": "return _mm256_blendv_ps(b, a, "
                  "_mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_GT_OQ));",
        "sum": "__m128 h = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1)); "
               "h = _mm_add_ps(h, _mm_movehl_ps(h, h)); "
               "return _mm_cvtss_f32(_mm_add_ss(h, _mm_shuffle_ps(h, h, 1)));",
        "top": "__m128 h = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1)); "
               "h = _mm_max_ps(h, _mm_movehl_ps(h, h)); "
               "return _mm_cvtss_f32(_mm_max_ss(h, _mm_shuffle_ps(h, h, 1)));",
    },
    loads=LOADS, emulated=frozenset({"bf16"}),
    keeps={
        "f16": "const vf x = _mm256_max_ps(_mm256_set1_ps(-65504.0f), _mm256_min_ps("
               "_mm256_set1_ps(65504.0f), v)); _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph("
               "x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));",
        "i8": "const __m256i x = _mm256_cvtps_epi32(v); const __m128i y = _mm_packs_epi32("
              "_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1)); "
              "_mm_storel_epi64((__m128i *)p, _mm_packs_epi16(y, y));",
    },
    tiles=float_tiles(LOADS, STORES) | {"i8": PAIRS, "q7_i8": FOURS},
)  # fmt: skip
