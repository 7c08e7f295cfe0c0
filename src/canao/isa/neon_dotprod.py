"""neon of ARMv8.2: sums of four products of bytes in one instruction, and half precision."""

from __future__ import annotations

from dataclasses import replace

from canao.isa import neon
from canao.isa.table import Block, Lanes, int8_tiles

HALVES = "return vreinterpretq_f16_u16(vld1q_u16(p));"
ISA = replace(
    neon.ISA,
    name="neon_dotprod", extends="neon", gains=frozenset({"i8", "q7_i8", "f16"}),
    features=("asimdrdm", "asimddp", "fphp", "asimdhp"),
    cpu="generic+v8_2a+dotprod+fullfp16", gcc_march="armv8.2-a+dotprod+fp16",
    tiles={
        **neon.ISA.tiles,
        **int8_tiles(replace(
            neon.ISA.tiles["i8"],
            kr=4, vw="int8x16_t", va="int8x16_t",
            load_w="return vld1q_s8(p);",
            spread="int32_t four; __builtin_memcpy(&four, p, 4); "
                   "return vreinterpretq_s8_s32(vdupq_n_s32(four));",
            product="return vdotq_s32(c, w, a);",
            shape=(7, 3),
            lanes=Lanes(
                steps=4, load="return vld1q_s8(p);",
                product="return vdotq_s32(c, w, vreinterpretq_s8_s32(vdupq_n_s32("
                        "vreinterpretq_s32_s8(a)[lane])));",
            ),
        )),
        # With blocks of 64, outputs are half as far off as in bf16 (docs/precision.md). With 128,
        # products would take 6 % less time by llvm-mca, and be off by 1.4 times as much.
        "f16": replace(
            neon.ISA.tiles["f16"],
            activations="uint16_t", vw="float16x8_t", va="float16x8_t",
            # Lanes of halves are those of half of the registers.
            shape=(7, 3), rows=8,
            store=neon.ISA.keeps["f16"],
            load_w=HALVES,
            spread="return vreinterpretq_f16_u16(vdupq_n_u16(*p));",
            product="return vfmaq_f16(c, a, w);",
            lanes=Lanes(steps=8, load=HALVES, product="return vfmaq_n_f16(c, w, a[lane]);"),
            block=Block(
                depth=64, vb="float16x8_t", wide=2, zero="vdupq_n_f16(0)",
                part="return i ? vcvt_high_f32_f16(c) : vcvt_f32_f16(vget_low_f16(c));",
            ),
        ),
    },
)  # fmt: skip
