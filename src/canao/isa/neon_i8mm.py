"""neon of ARMv8.6: products of matrices of 2 x 8 bytes, and bf16."""

from __future__ import annotations

from dataclasses import replace

from canao.isa import neon_dotprod

BASE = neon_dotprod.ISA
ISA = replace(
    BASE,
    name="neon_i8mm", extends="neon_dotprod", gains=frozenset({"i8", "bf16"}),
    emulated=frozenset(),
    features=(*BASE.features, "i8mm", "bf16"),
    cpu="generic+v8_2a+dotprod+fullfp16+i8mm+bf16", gcc_march="armv8.2-a+dotprod+fp16+i8mm+bf16",
    tiles={
        **BASE.tiles,
        "i8": replace(
            BASE.tiles["i8"],
            kr=8, pairs=True, lanes=None, shape=None,
            spread="return vcombine_s8(vld1_s8(p), vld1_s8(q));",
            product="return vmmlaq_s32(c, a, w);",
            low="return vreinterpretq_s32_s64(vzip1q_s64(vreinterpretq_s64_s32(a), "
                "vreinterpretq_s64_s32(b)));",
            high="return vreinterpretq_s32_s64(vzip2q_s64(vreinterpretq_s64_s32(a), "
                 "vreinterpretq_s64_s32(b)));",
        ),
        "bf16": replace(
            BASE.tiles["bf16"],
            activations="uint16_t", kr=4, vw="bfloat16x8_t", va="bfloat16x8_t",
            pairs=True, lanes=None, shape=None,
            store="vst1_bf16((bfloat16_t *)p, vcvt_bf16_f32(v));",
            load_w="return vld1q_bf16((const bfloat16_t *)p);",
            spread="return vreinterpretq_bf16_u16(vcombine_u16(vld1_u16(p), vld1_u16(q)));",
            product="return vbfmmlaq_f32(c, a, w);",
            low="return vreinterpretq_f32_f64(vzip1q_f64(vreinterpretq_f64_f32(a), "
                "vreinterpretq_f64_f32(b)));",
            high="return vreinterpretq_f32_f64(vzip2q_f64(vreinterpretq_f64_f32(a), "
                 "vreinterpretq_f64_f32(b)));",
        ),
    },
)  # fmt: skip
