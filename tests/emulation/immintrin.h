/* AVX-512, VNNI, BF16 and AMX for processors that have AVX2 only: the intrinsics that CANAO's instruction
   sets use, written lane by lane after Intel's Intrinsics Guide. Put the folder first among the
   include directories; what code is made for it tells nothing of speed. */
#pragma once
#include_next <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define EMULATED static __attribute__((noinline, unused)) /* for short builds */
#define LANES(n) for (int i = 0; i < (n); i++)
union emu512 { __m512 f; __m512i n; float f32[16]; int32_t i32[16]; int16_t i16[32]; int8_t i8[64];
               uint8_t u8[64]; uint16_t u16[32]; };
union emu256 { __m256i n; int32_t i32[8]; int16_t i16[16]; int8_t i8[32]; uint8_t u8[32];
               uint16_t u16[16]; };
union emu128 { __m128i n; int8_t i8[16]; };

#define OF_TWO(name, expression) \
    EMULATED __m512 emu_##name(__m512 x, __m512 y) \
    { \
        union emu512 r = {.f = x}, s = {.f = y}; \
        LANES(16) { const float a = r.f32[i], b = s.f32[i]; (void)b; r.f32[i] = (expression); } \
        return r.f; \
    }
OF_TWO(add, a + b)
OF_TWO(sub, a - b)
OF_TWO(mul, a * b)
OF_TWO(div, a / b)
OF_TWO(max, a > b ? a : b)
OF_TWO(min, a < b ? a : b)
OF_TWO(sqrt, sqrtf(a))
OF_TWO(abs, fabsf(a))
OF_TWO(round, nearbyintf(a))
OF_TWO(scalef, ldexpf(a, (int)floorf(b)))

EMULATED __m512 emu_set1(float x)
{
    union emu512 r;
    LANES(16) r.f32[i] = x;
    return r.f;
}
EMULATED __m512i emu_set1_epi32(int32_t x)
{
    union emu512 r;
    LANES(16) r.i32[i] = x;
    return r.n;
}
EMULATED __m512 emu_fmadd(__m512 a, __m512 b, __m512 c)
{
    union emu512 x = {.f = a}, y = {.f = b}, z = {.f = c};
    LANES(16) z.f32[i] = fmaf(x.f32[i], y.f32[i], z.f32[i]);
    return z.f;
}
EMULATED __m512 emu_maskz_loadu(__mmask16 k, const void *p)
{
    union emu512 r;
    LANES(16) r.f32[i] = k >> i & 1 ? ((const float *)p)[i] : 0.0f;
    return r.f;
}
EMULATED void emu_mask_storeu(void *p, __mmask16 k, __m512 v)
{
    union emu512 r = {.f = v};
    LANES(16) if (k >> i & 1) ((float *)p)[i] = r.f32[i];
}
EMULATED __m512 emu_loadu(const void *p)
{
    union emu512 r;
    memcpy(&r, p, 64);
    return r.f;
}
EMULATED void emu_storeu(void *p, __m512 v) { memcpy(p, &v, 64); }
EMULATED __m512i emu_loadu_si512(const void *p)
{
    union emu512 r;
    memcpy(&r, p, 64);
    return r.n;
}
EMULATED __m512 emu_mask_blend(__mmask16 k, __m512 a, __m512 b)
{
    union emu512 x = {.f = a}, y = {.f = b};
    LANES(16) x.f32[i] = k >> i & 1 ? y.f32[i] : x.f32[i];
    return x.f;
}
EMULATED __mmask16 emu_greater(__m512 a, __m512 b)
{
    union emu512 x = {.f = a}, y = {.f = b};
    unsigned k = 0;
    LANES(16) k |= (unsigned)(x.f32[i] > y.f32[i]) << i;
    return (__mmask16)k;
}
EMULATED float emu_reduce_add(__m512 a)
{
    union emu512 x = {.f = a};
    for (int half = 8; half; half /= 2)
        LANES(half) x.f32[i] += x.f32[i + half];
    return x.f32[0];
}
EMULATED float emu_reduce_max(__m512 a)
{
    union emu512 x = {.f = a};
    LANES(16) x.f32[0] = x.f32[i] > x.f32[0] ? x.f32[i] : x.f32[0];
    return x.f32[0];
}
EMULATED __m512i emu_cvtps_epi32(__m512 a)
{
    union emu512 x = {.f = a};
    LANES(16) x.i32[i] = fabsf(x.f32[i]) < 2147483648.0f ? (int32_t)nearbyintf(x.f32[i])
                                                        : INT32_MIN;
    return x.n;
}
EMULATED __m512 emu_cvtepi32_ps(__m512i a)
{
    union emu512 x = {.n = a};
    LANES(16) x.f32[i] = (float)x.i32[i];
    return x.f;
}
EMULATED __m256i emu_cvtepi32_epi16(__m512i a)
{
    union emu512 x = {.n = a};
    union emu256 r;
    LANES(16) r.i16[i] = (int16_t)x.i32[i];
    return r.n;
}
EMULATED __m128i emu_cvtsepi32_epi8(__m512i a)
{
    union emu512 x = {.n = a};
    union emu128 r;
    LANES(16) r.i8[i] = (int8_t)(x.i32[i] > 127 ? 127 : x.i32[i] < -128 ? -128 : x.i32[i]);
    return r.n;
}
EMULATED __m512i emu_cvtepi8_epi32(__m128i a)
{
    union emu128 x = {.n = a};
    union emu512 r;
    LANES(16) r.i32[i] = x.i8[i];
    return r.n;
}
EMULATED __m512i emu_cvtepi8_epi16(__m256i a)
{
    union emu256 x = {.n = a};
    union emu512 r;
    LANES(32) r.i16[i] = x.i8[i];
    return r.n;
}
EMULATED __m512i emu_add_epi32(__m512i a, __m512i b)
{
    union emu512 x = {.n = a}, y = {.n = b};
    LANES(16) x.i32[i] = (int32_t)((uint32_t)x.i32[i] + (uint32_t)y.i32[i]);
    return x.n;
}
EMULATED __m512i emu_madd_epi16(__m512i a, __m512i b)
{
    union emu512 x = {.n = a}, y = {.n = b}, r;
    LANES(16) r.i32[i] = x.i16[2 * i] * y.i16[2 * i] + x.i16[2 * i + 1] * y.i16[2 * i + 1];
    return r.n;
}
/* Unsigned bytes of a by signed bytes of b, in fours, without saturation. */
EMULATED __m512i emu_dpbusd(__m512i c, __m512i a, __m512i b)
{
    union emu512 x = {.n = a}, y = {.n = b}, r = {.n = c};
    LANES(64) r.i32[i / 4] = (int32_t)((uint32_t)r.i32[i / 4] + (uint32_t)(x.u8[i] * y.i8[i]));
    return r.n;
}
EMULATED __m256i emu_dpbusd_256(__m256i c, __m256i a, __m256i b)
{
    union emu256 x = {.n = a}, y = {.n = b}, r = {.n = c};
    LANES(32) r.i32[i / 4] = (int32_t)((uint32_t)r.i32[i / 4] + (uint32_t)(x.u8[i] * y.i8[i]));
    return r.n;
}
/* Rounded half to even; what is not a number stays one, and numbers below the normal ones are 0. */
EMULATED uint16_t emu_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if (x != x)
        return (uint16_t)(bits >> 16 | 64);
    if ((bits & 0x7f800000) == 0)
        return (uint16_t)(bits >> 16 & 0x8000);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
EMULATED float emu_of_bf16(uint16_t x)
{
    const uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
EMULATED __m256i emu_cvtneps_pbh(__m512 a)
{
    union emu512 x = {.f = a};
    union emu256 r;
    LANES(16) r.u16[i] = emu_bf16(x.f32[i]);
    return r.n;
}
/* The odd products first, then the even ones. */
EMULATED __m512 emu_dpbf16(__m512 c, __m512i a, __m512i b)
{
    union emu512 x = {.n = a}, y = {.n = b}, r = {.f = c};
    LANES(16) r.f32[i] += emu_of_bf16(x.u16[2 * i + 1]) * emu_of_bf16(y.u16[2 * i + 1]);
    LANES(16) r.f32[i] += emu_of_bf16(x.u16[2 * i]) * emu_of_bf16(y.u16[2 * i]);
    return r.f;
}
EMULATED __m512 emu_cvtph_ps(__m256i a)
{
    return __builtin_shufflevector(_mm256_cvtph_ps(_mm256_castsi256_si128(a)),
                                   _mm256_cvtph_ps(_mm256_extracti128_si256(a, 1)), 0, 1, 2, 3, 4,
                                   5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}
EMULATED __m512i emu_cvtepu16_epi32(__m256i a)
{
    union emu256 x = {.n = a};
    union emu512 r;
    LANES(16) r.i32[i] = x.u16[i];
    return r.n;
}
EMULATED __m512i emu_slli_epi32(__m512i a, int count)
{
    union emu512 x = {.n = a};
    LANES(16) x.i32[i] = (int32_t)((uint32_t)x.i32[i] << count);
    return x.n;
}

EMULATED __m512i emu_srli_epi32(__m512i a, int count)
{
    union emu512 x = {.n = a};
    LANES(16) x.i32[i] = (int32_t)((uint32_t)x.i32[i] >> count);
    return x.n;
}
EMULATED __m512i emu_and(__m512i a, __m512i b)
{
    union emu512 x = {.n = a}, y = {.n = b};
    LANES(16) x.i32[i] &= y.i32[i];
    return x.n;
}
EMULATED __m512i emu_or(__m512i a, __m512i b)
{
    union emu512 x = {.n = a}, y = {.n = b};
    LANES(16) x.i32[i] |= y.i32[i];
    return x.n;
}
EMULATED void emu_storeu_si512(void *p, __m512i v) { memcpy(p, &v, 64); }
EMULATED __m256i emu_cvtps_ph(__m512 a)
{
    const __m256 low = __builtin_shufflevector(a, a, 0, 1, 2, 3, 4, 5, 6, 7);
    const __m256 high = __builtin_shufflevector(a, a, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm256_set_m128i(_mm256_cvtps_ph(high, 0), _mm256_cvtps_ph(low, 0));
}

/* AMX: eight blocks of up to 16 rows of up to 64 bytes; outside a block's shape all is 0. */
static _Thread_local struct {
    uint16_t bytes[8];
    uint8_t rows[8], set, block[8][16][64];
} emu_amx;
EMULATED void emu_check(int right)
{
    if (!right)
        __builtin_trap(); /* as the processor does */
}
EMULATED void emu_tile_loadconfig(const void *p)
{
    const uint8_t *const shapes = p;
    memset(&emu_amx, 0, sizeof emu_amx);
    emu_check(shapes[0] == 1);
    memcpy(emu_amx.bytes, shapes + 16, sizeof emu_amx.bytes);
    memcpy(emu_amx.rows, shapes + 48, sizeof emu_amx.rows);
    for (int i = 0; i < 8; i++)
        emu_check(emu_amx.rows[i] <= 16 && emu_amx.bytes[i] <= 64);
    emu_amx.set = 1;
}
EMULATED void emu_tile_release(void) { emu_amx.set = 0; }
EMULATED void emu_tile_loadd(int to, const void *p, int64_t stride)
{
    emu_check(emu_amx.set && emu_amx.rows[to] && emu_amx.bytes[to]);
    memset(emu_amx.block[to], 0, sizeof emu_amx.block[to]);
    for (int i = 0; i < emu_amx.rows[to]; i++)
        memcpy(emu_amx.block[to][i], (const char *)p + i * stride, emu_amx.bytes[to]);
}
EMULATED void emu_tile_zero(int to)
{
    emu_check(emu_amx.set && emu_amx.rows[to] && emu_amx.bytes[to]);
    memset(emu_amx.block[to], 0, sizeof emu_amx.block[to]);
}
EMULATED void emu_tile_stored(int from, void *p, int64_t stride)
{
    emu_check(emu_amx.set && emu_amx.rows[from] && emu_amx.bytes[from]);
    for (int i = 0; i < emu_amx.rows[from]; i++)
        memcpy((char *)p + i * stride, emu_amx.block[from][i], emu_amx.bytes[from]);
}
EMULATED void emu_tile_fits(int c, int a, int b)
{
    emu_check(emu_amx.set && emu_amx.rows[a] == emu_amx.rows[c] &&
              emu_amx.bytes[b] == emu_amx.bytes[c] && emu_amx.bytes[a] == 4 * emu_amx.rows[b]);
}
/* Signed bytes of a by those of b, in fours. */
EMULATED void emu_tile_dpbssd(int c, int a, int b)
{
    emu_tile_fits(c, a, b);
    for (int m = 0; m < emu_amx.rows[c]; m++)
        for (int n = 0; n < emu_amx.bytes[c] / 4; n++) {
            uint32_t sum;
            memcpy(&sum, emu_amx.block[c][m] + 4 * n, 4);
            for (int k = 0; k < emu_amx.bytes[a]; k++)
                sum += (uint32_t)((int8_t)emu_amx.block[a][m][k] *
                                  (int8_t)emu_amx.block[b][k / 4][4 * n + k % 4]);
            memcpy(emu_amx.block[c][m] + 4 * n, &sum, 4);
        }
}
/* Even products and odd ones are added up apart. */
EMULATED void emu_tile_dpbf16ps(int c, int a, int b)
{
    emu_tile_fits(c, a, b);
    for (int m = 0; m < emu_amx.rows[c]; m++)
        for (int n = 0; n < emu_amx.bytes[c] / 4; n++) {
            float sums[2] = {0.0f, 0.0f}, sum;
            for (int k = 0; k < emu_amx.bytes[a] / 2; k++) {
                uint16_t x, y;
                memcpy(&x, emu_amx.block[a][m] + 2 * k, 2);
                memcpy(&y, emu_amx.block[b][k / 2] + 4 * n + 2 * (k % 2), 2);
                sums[k % 2] += emu_of_bf16(x) * emu_of_bf16(y);
            }
            memcpy(&sum, emu_amx.block[c][m] + 4 * n, 4);
            sum += sums[0] + sums[1];
            memcpy(emu_amx.block[c][m] + 4 * n, &sum, 4);
        }
}
#undef _tile_loadconfig
#define _tile_loadconfig emu_tile_loadconfig
#undef _tile_release
#define _tile_release emu_tile_release
#undef _tile_loadd
#define _tile_loadd emu_tile_loadd
#undef _tile_zero
#define _tile_zero emu_tile_zero
#undef _tile_stored
#define _tile_stored emu_tile_stored
#undef _tile_dpbssd
#define _tile_dpbssd emu_tile_dpbssd
#undef _tile_dpbf16ps
#define _tile_dpbf16ps emu_tile_dpbf16ps

#define _mm512_loadu_ps emu_loadu
#undef _mm512_srli_epi32
#define _mm512_srli_epi32 emu_srli_epi32
#define _mm512_and_si512 emu_and
#define _mm512_or_si512 emu_or
#define _mm512_storeu_si512 emu_storeu_si512
#undef _mm512_cvtps_ph
#define _mm512_cvtps_ph(a, how) emu_cvtps_ph(a)
#define _mm512_cvtneps_pbh(a) emu_cvtneps_pbh(a)
#define _mm512_dpbf16_ps(c, a, b) emu_dpbf16(c, (__m512i)(a), (__m512i)(b))
#define _mm512_storeu_ps emu_storeu
#define _mm512_maskz_loadu_ps emu_maskz_loadu
#define _mm512_mask_storeu_ps emu_mask_storeu
#define _mm512_set1_ps emu_set1
#define _mm512_setzero_ps() emu_set1(0.0f)
#define _mm512_add_ps emu_add
#define _mm512_sub_ps emu_sub
#define _mm512_mul_ps emu_mul
#define _mm512_div_ps emu_div
#define _mm512_max_ps emu_max
#define _mm512_min_ps emu_min
#define _mm512_fmadd_ps emu_fmadd
#define _mm512_sqrt_ps(a) emu_sqrt(a, a)
#define _mm512_abs_ps(a) emu_abs(a, a)
#undef _mm512_roundscale_ps
#define _mm512_roundscale_ps(a, how) emu_round(a, a)
#define _mm512_scalef_ps emu_scalef
#define _mm512_mask_blend_ps emu_mask_blend
#undef _mm512_cmp_ps_mask
#define _mm512_cmp_ps_mask(a, b, how) emu_greater(a, b)
#define _mm512_reduce_add_ps emu_reduce_add
#define _mm512_reduce_max_ps emu_reduce_max
#define _mm512_cvtps_epi32 emu_cvtps_epi32
#define _mm512_cvtepi32_ps emu_cvtepi32_ps
#define _mm512_cvtepi32_epi16 emu_cvtepi32_epi16
#define _mm512_cvtsepi32_epi8 emu_cvtsepi32_epi8
#define _mm512_cvtepi8_epi32 emu_cvtepi8_epi32
#define _mm512_cvtepi8_epi16 emu_cvtepi8_epi16
#define _mm512_cvtepu16_epi32 emu_cvtepu16_epi32
#undef _mm512_slli_epi32
#define _mm512_slli_epi32 emu_slli_epi32
#define _mm512_set1_epi32 emu_set1_epi32
#define _mm512_setzero_si512() emu_set1_epi32(0)
#define _mm512_add_epi32 emu_add_epi32
#define _mm512_madd_epi16 emu_madd_epi16
#define _mm512_loadu_si512 emu_loadu_si512
#define _mm512_castsi512_ps(a) ((__m512)(a))
#define _mm512_castps_si512(a) ((__m512i)(a))
#define _mm512_dpbusd_epi32 emu_dpbusd
#define _mm256_dpbusd_avx_epi32 emu_dpbusd_256
#undef _mm512_cvtph_ps
#define _mm512_cvtph_ps emu_cvtph_ps
