"""neon of ARMv8.6: products of matrices of 2 x 8 bytes, and bf16."""

from __future__ import annotations

from dataclasses import replace

from canao.isa import neon_dotprod

BASE = neon_dotprod.ISA
ISA = replace(
    BASE,
    name="neon_i8mm", extends="neon_dotprod", gains=frozenset({"i8"}),
    features=(*BASE.features, "i8mm", "bf16"),
    cpu="generic+v8_2a+dotprod+fullfp16+i8mm+bf16", gcc_march="armv8.2-a+dotprod+fp16+i8mm+bf16",
    # 8 rows and 8 columns are 4 pairs by 4 halves of vectors.
    tiles=BASE.tiles | {
        "i8": replace(
            BASE.tiles["i8"],
            kr=8, pairs=True,
            spread="return vcombine_s8(vld1_s8(p), vld1_s8(q));",
            product="return vmmlaq_s32(c, a, w);",
            low="return vreinterpretq_s32_s64(vzip1q_s64(vreinterpretq_s64_s32(a), "
                "vreinterpretq_s64_s32(b)));",
            high="return vreinterpretq_s32_s64(vzip2q_s64(vreinterpretq_s64_s32(a), "
                 "vreinterpretq_s64_s32(b)));",
        ),
    },
)  # fmt: skip
