"""One table of vector operations per ISA, the same names everywhere; scalar is one of them.

A row is the C body of a static inline function over `vf`, VF floats. Kernels use only these
names, so that adding an ISA is adding a table here and its registers in schedule/plan.py.

    load_n, store_n   the first n lanes, 0 <= n < VF; other lanes read as 0, are not written
    keep              lanes from n on become `fill`
    select            a where x > 0, else b
    ldexp             a * 2^n for whole n in [-126, 127]
"""

from __future__ import annotations

from dataclasses import dataclass

# name -> (result, parameters): the interface that each ISA fills in.
OPERATIONS = {
    "load": ("vf", "const float *p"),
    "load_n": ("vf", "const float *p, int64_t n"),
    "store": ("void", "float *p, vf v"),
    "store_n": ("void", "float *p, vf v, int64_t n"),
    "set1": ("vf", "float x"),
    "add": ("vf", "vf a, vf b"),
    "sub": ("vf", "vf a, vf b"),
    "mul": ("vf", "vf a, vf b"),
    "div": ("vf", "vf a, vf b"),
    "max": ("vf", "vf a, vf b"),
    "min": ("vf", "vf a, vf b"),
    "fma": ("vf", "vf a, vf b, vf c"),
    "sqrt": ("vf", "vf a"),
    "abs": ("vf", "vf a"),
    "round": ("vf", "vf a"),
    "ldexp": ("vf", "vf a, vf n"),
    "keep": ("vf", "vf v, int64_t n, float fill"),
    "select": ("vf", "vf x, vf a, vf b"),
    "sum": ("float", "vf v"),
    "top": ("float", "vf v"),
}


@dataclass(frozen=True, slots=True)
class Isa:
    """`prologue` holds includes and helpers; `gcc_march` is for compilers other than ziglang's."""

    name: str
    vector: str
    width: int
    prologue: tuple[str, ...]
    bodies: dict[str, str]
    gcc_march: str = ""


_SCALAR = Isa(
    "scalar", "float", 1, (),
    {
        "load": "return *p;",
        "load_n": "return n > 0 ? *p : 0.0f;",
        "store": "*p = v;",
        "store_n": "if (n > 0) *p = v;",
        "set1": "return x;",
        "add": "return a + b;", "sub": "return a - b;",
        "mul": "return a * b;", "div": "return a / b;",
        "max": "return a > b ? a : b;", "min": "return a < b ? a : b;",
        "fma": "return a * b + c;",
        "sqrt": "return __builtin_sqrtf(a);",
        "abs": "return __builtin_fabsf(a);",
        # Adding and taking away 1.5 * 2^23 rounds to the nearest whole number below 2^22.
        "round": "const float big = 12582912.0f; return (a + big) - big;",
        "ldexp": "union { uint32_t u; float f; } power = {(uint32_t)((int32_t)n + 127) << 23}; "
                 "return a * power.f;",
        "keep": "return n > 0 ? v : fill;",
        "select": "return x > 0.0f ? a : b;",
        "sum": "return v;", "top": "return v;",
    },
)  # fmt: skip

_AVX2 = Isa(
    "avx2", "__m256", 8,
    (
        "#include <immintrin.h>",
        "static const int32_t lanes[16] = {-1, -1, -1, -1, -1, -1, -1, -1};",
        "CANAO_INLINE __m256i first_lanes(int64_t n)",
        "{",
        "    const int64_t count = n < 0 ? 0 : n > 8 ? 8 : n;",
        "    return _mm256_loadu_si256((const __m256i *)(lanes + 8 - count));",
        "}",
    ),
    {
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
    "x86-64-v3",
)  # fmt: skip

_AVX512 = Isa(
    "avx512", "__m512", 16,
    (
        "#include <immintrin.h>",
        "CANAO_INLINE __mmask16 first_lanes(int64_t n)",
        "{ return (__mmask16)(n <= 0 ? 0u : n >= 16 ? 0xffffu : (1u << n) - 1u); }",
    ),
    {
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
    "x86-64-v4",
)  # fmt: skip

_NEON = Isa(
    "neon", "float32x4_t", 4,
    ("#include <arm_neon.h>",),
    {
        "load": "return vld1q_f32(p);",
        "load_n": "float t[4] = {0}; for (int64_t i = 0; i < n; i++) t[i] = p[i]; "
                  "return vld1q_f32(t);",
        "store": "vst1q_f32(p, v);",
        "store_n": "float t[4]; vst1q_f32(t, v); for (int64_t i = 0; i < n; i++) p[i] = t[i];",
        "set1": "return vdupq_n_f32(x);",
        "add": "return vaddq_f32(a, b);", "sub": "return vsubq_f32(a, b);",
        "mul": "return vmulq_f32(a, b);", "div": "return vdivq_f32(a, b);",
        "max": "return vmaxq_f32(a, b);", "min": "return vminq_f32(a, b);",
        "fma": "return vfmaq_f32(c, a, b);",
        "sqrt": "return vsqrtq_f32(a);",
        "abs": "return vabsq_f32(a);",
        "round": "return vrndnq_f32(a);",
        "ldexp": "return vmulq_f32(a, vreinterpretq_f32_s32(vshlq_n_s32("
                 "vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23)));",
        "keep": "float t[4]; vst1q_f32(t, v); for (int64_t i = n < 0 ? 0 : n; i < 4; i++) "
                "t[i] = fill; return vld1q_f32(t);",
        "select": "return vbslq_f32(vcgtq_f32(x, vdupq_n_f32(0.0f)), a, b);",
        "sum": "return vaddvq_f32(v);",
        "top": "return vmaxvq_f32(v);",
    },
    "armv8-a",
)  # fmt: skip

ISAS = {isa.name: isa for isa in (_SCALAR, _AVX2, _AVX512, _NEON)}


def prelude(isa: Isa) -> str:
    """The vector type and its operations as C."""
    lines = [*isa.prologue, f"typedef {isa.vector} vf;", f"enum {{ VF = {isa.width} }};", ""]
    for name, (result, parameters) in OPERATIONS.items():
        body = isa.bodies[name]
        lines.append(f"CANAO_INLINE {result} vf_{name}({parameters}) {{ {body} }}")
    return "\n".join([*lines, ""])
