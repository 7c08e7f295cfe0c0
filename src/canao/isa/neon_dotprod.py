"""neon of ARMv8.2: sums of four products of bytes in one instruction, and half precision."""

from __future__ import annotations

from dataclasses import replace

from canao.isa import neon
from canao.isa.table import int8_tiles

ISA = replace(
    neon.ISA,
    name="neon_dotprod", extends="neon", gains=frozenset({"i8", "q7_i8"}),
    features=("atomics", "asimdrdm", "asimddp", "fphp", "asimdhp"),
    cpu="generic+v8_2a+dotprod+fullfp16", gcc_march="armv8.2-a+dotprod+fp16",
    tiles=dict(neon.ISA.tiles) | int8_tiles(
        replace(
            neon.ISA.tiles["i8"],
            kr=4, vw="int8x16_t", va="int8x16_t",
            load_w="return vld1q_s8(p);",
            spread="int32_t four; __builtin_memcpy(&four, p, 4); "
                   "return vreinterpretq_s8_s32(vdupq_n_s32(four));",
            product="return vdotq_s32(c, w, a);",
        ),
    ),
)  # fmt: skip
