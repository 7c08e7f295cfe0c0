"""neon of ARMv8.6: products of matrices of 2 x 8 bytes, and bf16."""

from __future__ import annotations

from dataclasses import replace

from canao.isa import neon_dotprod
from canao.isa.table import Lanes, int8_tiles

BASE = neon_dotprod.ISA


def _halves(number: int, kind: str) -> str:
    """The first or second halves of two vectors, one after the other."""
    first, second = (f"vreinterpretq_s64_{kind}({x})" for x in "ab")
    return f"return vreinterpretq_{kind}_s64(vzip{number}q_s64({first}, {second}));"


def _pairs(kind: str, load: str) -> Lanes:
    return Lanes(steps=2, load=load, first=_halves(1, kind), second=_halves(2, kind))


ISA = replace(
    BASE,
    name="neon_i8mm", extends="neon_dotprod", gains=frozenset({"i8", "q7_i8", "bf16"}),
    emulated=frozenset(),
    features=(*BASE.features, "i8mm", "bf16"),
    cpu="generic+v8_2a+dotprod+fullfp16+i8mm+bf16", gcc_march="armv8.2-a+dotprod+fp16+i8mm+bf16",
    tiles={
        **BASE.tiles,
        **int8_tiles(replace(
            BASE.tiles["i8"],
            kr=8, pairs=True, shape=(4, 6), rows=6, lanes=_pairs("s8", "return vld1q_s8(p);"),
            spread="return vcombine_s8(vld1_s8(p), vld1_s8(q));",
            product="return vmmlaq_s32(c, a, w);",
            low=_halves(1, "s32"), high=_halves(2, "s32"),
        )),
        "bf16": replace(
            BASE.tiles["bf16"],
            activations="uint16_t", kr=4, vw="bfloat16x8_t", va="bfloat16x8_t",
            pairs=True, shape=(4, 6), rows=6,
            lanes=_pairs("bf16", "return vreinterpretq_bf16_u16(vld1q_u16(p));"),
            store="vst1_bf16((bfloat16_t *)p, vcvt_bf16_f32(v));",
            load_w="return vld1q_bf16((const bfloat16_t *)p);",
            spread="return vreinterpretq_bf16_u16(vcombine_u16(vld1_u16(p), vld1_u16(q)));",
            product="return vbfmmlaq_f32(c, a, w);",
            low=_halves(1, "f32"), high=_halves(2, "f32"),
        ),
    },
)  # fmt: skip
