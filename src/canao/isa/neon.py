"""ARM vectors of 4 floats."""

from __future__ import annotations

from canao.isa.table import Isa

ISA = Isa(
    name="neon", vector="float32x4_t", width=4,
    registers=32, mr=6, vectors=4,
    triples=("aarch64",), gcc_march="armv8-a",
    prologue=("#include <arm_neon.h>",),
    bodies={
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
)  # fmt: skip
