"""ARM vectors of 4 floats."""

from __future__ import annotations

from dataclasses import replace

from canao.isa.table import FLOAT_TILE, Isa, Lanes, TileOps, float_tiles, int8_tiles

LOADS = {
    "i8": "int32_t four; __builtin_memcpy(&four, p, 4); const int16x8_t x = "
          "vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four))); "
          "return vcvtq_f32_s32(vmovl_s16(vget_low_s16(x)));",
    "bf16": "return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));",
    "f16": "return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));",
}
STORES = {
    "bf16": "const uint32x4_t x = vreinterpretq_u32_f32(v), odd = vandq_u32(vshrq_n_u32(x, 16), "
            "vdupq_n_u32(1)); const uint32x4_t up = vaddq_u32(x, vaddq_u32(odd, "
            "vdupq_n_u32(0x7fff))); vst1q_f32(p, vreinterpretq_f32_u32(vandq_u32(up, "
            "vdupq_n_u32(0xffff0000))));",
    "f16": "const vf x = vmaxq_f32(vdupq_n_f32(-65504.0f), vminq_f32(vdupq_n_f32(65504.0f), v)); "
           "vst1q_f32(p, vcvt_f32_f16(vcvt_f16_f32(x)));",
}
BYTES = ("const int16x4_t x = vqmovn_s32(vcvtnq_s32_f32(v)); const uint32_t bytes = "
         "vget_lane_u32(vreinterpret_u32_s8(vqmovn_s16(vcombine_s16(x, x))), 0); "
         "__builtin_memcpy(p, &bytes, 4);")  # fmt: skip
# With a load for each broadcast, cores that begin three instructions in a cycle could not begin two
# multiply-adds in each (benchmarks/arm_loops.md).
LANES = Lanes(steps=4, load="return vld1q_f32(p);", product="return vfmaq_n_f32(c, w, a[lane]);")
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
    loads=LOADS, emulated=frozenset({"bf16"}),
    keeps={
        "f16": "const vf x = vmaxq_f32(vdupq_n_f32(-65504.0f), vminq_f32(vdupq_n_f32(65504.0f), "
               "v)); vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(x)));",
        "i8": BYTES,
    },
    tiles=float_tiles(LOADS, STORES, replace(FLOAT_TILE, lanes=LANES, shape=(7, 3))) | int8_tiles(
        # A product is 128 * 128 at most, which 16 bits hold; pairs are added in 32.
        TileOps(
            store=BYTES, rows=12,
            weights="int8_t", activations="int8_t", kr=2, vw="int8x8_t", va="int8x8_t",
            vc="int32x4_t",
            load_w="return vld1_s8(p);",
            spread="int16_t pair; __builtin_memcpy(&pair, p, 2); "
                   "return vreinterpret_s8_s16(vdup_n_s16(pair));",
            product="return vpadalq_s16(c, vmull_s8(a, w));",
            zero="vdupq_n_s32(0)", to_float="return vcvtq_f32_s32(c);",
            to_bits="return vreinterpretq_f32_s32(c);", of_bits="return vreinterpretq_s32_f32(c);",
        ),
    ),
)  # fmt: skip
