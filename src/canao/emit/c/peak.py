"""A C program that measures what one core can do in products of a type, for shares of the peak."""

from __future__ import annotations

from canao.emit.c.prelude import MACROS, vector_operations
from canao.emit.c.tile_templates import tile_operations, type_words
from canao.emit.writer import fill
from canao.isa.registry import ISAS
from canao.isa.table import FLOAT
from canao.target import Target

# Twelve independent chains cover the latency of every core that the ISAs are found on.
_MAIN = """
#include <stdio.h>
#include <time.h>
#include <unistd.h>
#include <sys/syscall.h>

enum { CHAINS = 12, STEPS = 200000, ROUNDS = 25 };

/* The same bits in the same register, of which the compiler is told nothing: it takes no
   instruction, and what is multiplied is neither the same for two chains nor for two steps. */
#define ANY(x) __asm__("" : "+${REGISTER}"(x))

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(void)
{
    double best = 0.0;
    float sum = 0.0f;
$SETUP    for (int round = 0; round < ROUNDS; round++) {
$START        const double begin = seconds();
        for (int step = 0; step < STEPS; step++) {
$STEP        }
        const double rate = 2.0 * STEPS * $PRODUCTS / (seconds() - begin);
        best = rate > best ? rate : best;
$END    }
    printf("%.6e %g\\n", best, (double)sum);
    return 0;
}
"""
# Products of vectors.
_VECTORS = {
    "SETUP": """\
    $VB x[CHAINS];
    $VA a;
    $VW w;
    __builtin_memset(&a, $BYTE, sizeof a);
    __builtin_memset(&w, $BYTE, sizeof w);
""",
    "START": """\
        UNROLL for (int c = 0; c < CHAINS; c++)
            x[c] = $ZERO;
""",
    "STEP": """\
            ANY(w);
            UNROLL for (int c = 0; c < CHAINS; c++) {
                ANY(a);
                x[c] = product_${weights}(a, w, x[c]);
            }
""",
    "END": """\
        for (int c = 0; c < CHAINS; c++)
            sum += vf_sum($SUM);
""",
    "PRODUCTS": "CHAINS * $WIDTH * $KR",
}
# Products of blocks, of which a register tile has four at most.
_BLOCKS = {
    "SETUP": """\
    _Alignas(64) unsigned char rows[1024], zeros[1024] = {0};
    float sums[256];
    __builtin_memset(rows, $BYTE, sizeof rows);
    if (!(${grant}))
        return 1;
    uint64_t shapes = 0;
    block_shapes(16, 16, &shapes);
    _tile_loadd(4, rows, 64);
    _tile_loadd(5, rows, 64);
""",
    "START": "".join(f"        _tile_loadd({v}, zeros, 64);\n" for v in range(4)),
    "STEP": "".join(f"            ${{block_product}}({v}, 4, 5);\n" for v in range(4)),
    "END": "".join(
        f"        _tile_stored({v}, sums, 64);\n        sum += sums[{v}];\n" for v in range(4)
    ),
    "PRODUCTS": "4 * 16 * 16 * $DEEP",
}
# Bytes of the numbers that are multiplied. As floats of any width they are neither so small that
# cores slow down, nor do sums become infinite; plain C sums of whole numbers stay in range.
_FLOATS, _WHOLE = 0x3C, 0x01


def peak_source(target: Target, product: str = FLOAT) -> str:
    """Prints the best of several short rounds, in operations a second, two for a multiply-add, and
    a sum that keeps the work alive. `product` is a name of `Isa.tiles`, whose inner loop it is,
    without what that loads."""
    isa = ISAS[target.isa]
    tile = isa.tiles[product]
    whole = tile.vc != "vf"
    total = f"to_float_{product}(x[c])" if whole else "x[c]"
    words = type_words(product, isa) | {
        "REGISTER": _register(target, tile.va), "BYTE": _WHOLE if whole else _FLOATS,
        "SUM": f"part_{product}(x[c], 0)" if tile.block else total,
        "ZERO": tile.block.zero if tile.block else tile.zero,
    }  # fmt: skip
    parts = _BLOCKS if tile.blocks else _VECTORS
    if tile.blocks:
        words |= {"block_product": tile.blocks.product, "DEEP": tile.blocks.depth}
        words |= {"grant": tile.blocks.grant}
    text = _MAIN
    for part, lines in parts.items():
        text = text.replace(f"${part}", lines)
    head = "#define _GNU_SOURCE\n" + MACROS + vector_operations(isa)
    return "\n".join([head, isa.helpers, tile_operations(product, isa), fill(text, **words)])


def _register(target: Target, kind: str) -> str:
    """The compilers' letter for the registers that hold values of a C type."""
    if kind in ("int32_t", "int64_t"):
        return "r"
    return "w" if target.arch == "aarch64" else "x"
