"""avx512bf16 with products of whole blocks of int8 and bf16: Intel's AMX."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from canao.isa import avx512bf16
from canao.isa.table import Blocks, int8_tiles

BASE = avx512bf16.ISA
# Intel 64 and IA-32 Architectures Software Developer's Manual, vol. 1, chapter 18. A block has up
# to 16 rows of up to 64 bytes.
_SHAPES = """\
/* gcc does not know which memory these instructions read and write. */
#define BLOCKS_IN_MEMORY() __asm__ volatile("" ::: "memory")
/* Blocks of sums and of rows have so many rows, those of weights so many steps of 4 bytes; `shapes`
   is what they have already. */
CANAO_INLINE void block_shapes(int64_t rows, int64_t steps, uint64_t *shapes)
{
    const uint64_t m = (uint64_t)rows, k = (uint64_t)steps;
    BLOCKS_IN_MEMORY();
    if (*shapes == (m << 32 | k))
        return;
    *shapes = m << 32 | k;
    _Alignas(64) const uint64_t all[8] = {
        1, 0, 0x0040004000400040, 0x0040004000400000 | k * 4, 0, 0,
        m * 0x0101010101 | k * 0x0101010000000000, 0,
    };
    __asm__ volatile("" : : "r"(all) : "memory");
    _tile_loadconfig(all);
}
/* What is in blocks is given up, so that the system need not save it. */
CANAO_INLINE void blocks_done(void) { _tile_release(); }
"""
# Linux, Documentation/arch/x86/xstate.rst: ARCH_REQ_XCOMP_PERM of XFEATURE_XTILE_DATA.
_GRANT = "!syscall(SYS_arch_prctl, 0x1023, 18)"
# Two numbers of a column side by side.
_PACK = (
    "const __m512i a = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(rows[0])); "
    "const __m512i b = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(rows[1])); "
    "_mm512_storeu_si512(p, _mm512_or_si512(a, _mm512_slli_epi32(b, 16)));"
)
_TILE: Any = {"shape": (16, 4), "rows": 16}
ISA = replace(
    BASE,
    name="avx512amx", extends="avx512bf16", gains=frozenset({"i8", "q7_i8", "bf16"}),
    features=(*BASE.features, "amx_tile", "amx_int8", "amx_bf16"),
    cpu=f"{BASE.cpu}+amx_tile+amx_int8+amx_bf16",
    gcc_march=f"{BASE.gcc_march} -mamx-tile -mamx-int8 -mamx-bf16",
    helpers=BASE.helpers + _SHAPES,
    tiles={
        **BASE.tiles,
        **int8_tiles(
            replace(
                BASE.tiles["i8"], offset=0, start="", blocks=Blocks(64, "_tile_dpbssd", _GRANT),
                **_TILE,
            )
        ),
        "bf16": replace(
            BASE.tiles["bf16"], blocks=Blocks(32, "_tile_dpbf16ps", _GRANT, pack=_PACK), **_TILE
        ),
    },
)  # fmt: skip
