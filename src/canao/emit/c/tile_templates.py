"""Functions that register tiles are made of, with words to fill in: $MR x $NR tiles of $NV vectors,
whose `shape` is in their names."""

from __future__ import annotations

from canao.emit.arguments import row_type
from canao.emit.c.block_templates import blocks_loop
from canao.emit.writer import fill
from canao.graph.dtypes import BF16
from canao.isa.table import SIZES, Isa
from canao.lower.cpu.quantized import CACHE_LINE
from canao.lower.cpu.tiles import PACKED_ROWS, rounded

TILE = """\
/* acc[m][$NR] += a[m][k] b[k][$NR]: a by rows lda apart, b a packed panel of ${weights}, $KR of the
   depth in a step. Where `ahead`, what lies at `next` is fetched meanwhile, `step` bytes for every
   element of the depth. */
CANAO_INLINE void ${fma}_${weights}_${shape}(
    const int m, int64_t k, const $A *a, int64_t lda, const $W *b, const int ahead,
    const char *next, int64_t step, $VB acc[$MR][$NB])
{
    for (int64_t p = 0; p < k; p += $KR, b += $NR * $KR) {
        if (ahead)
            UNROLL for (int v = 0; v < $LINES; v++)
                __builtin_prefetch(next + p * step + v * 64);
        $VW w[$NB];
        UNROLL for (int v = 0; v < $NB; v++)
            w[v] = load_w_${weights}(b + v * $WIDTH * $KR);
        UNROLL for (int i = 0; i < m; i++) {
            const $VA x = spread_${weights}(a + i * lda + p);
            UNROLL for (int v = 0; v < $NB; v++)
                acc[i][v] = product_${weights}(x, w[v], acc[i][v]);
        }
    }
}
"""
# What a row has for several steps in one vector, by whose lanes weights are multiplied.
LANES = """\
/* The same, $DEEP of the depth at once, and what is left over by steps. */
CANAO_INLINE void ${fma}_${weights}_${shape}(
    const int m, int64_t k, const $A *a, int64_t lda, const $W *b, const int ahead,
    const char *next, int64_t step, $VB acc[$MR][$NB])
{
    int64_t p = 0;
    for (; p + $DEEP <= k; p += $DEEP) {
        if (ahead)
            UNROLL for (int v = 0; v < $LINES; v++)
                __builtin_prefetch(next + p * step + v * 64);
        $VA x[$MR];
        UNROLL for (int i = 0; i < m; i++)
            x[i] = load_a_${weights}(a + i * lda + p);
        UNROLL for (int lane = 0; lane < $STEPS; lane++, b += $NR * $KR) {
            $VW w[$NB];
            UNROLL for (int v = 0; v < $NB; v++)
                w[v] = load_w_${weights}(b + v * $WIDTH * $KR);
            UNROLL for (int i = 0; i < m; i++)
                UNROLL for (int v = 0; v < $NB; v++)
                    acc[i][v] = by_lane_${weights}(x[i], w[v], acc[i][v], lane);
        }
    }
    panel_rest_${weights}_${shape}(m, k - p, a + p, lda, b, 0, next, step, acc);
}
"""
# What is added up in few bits for a short block of the depth.
BLOCKED = """\
/* The same, where $BLOCK of the depth are added up as $VB, and these sums to acc. The compiler is
   told that acc changes in memory, so that in the inner loop no register holds part of it. */
CANAO_INLINE void panel_fma_${weights}_${shape}(
    const int m, int64_t k, const $A *a, int64_t lda, const $W *b, const int ahead,
    const char *next, int64_t step, $VC acc[$MR][$NV])
{
    for (int64_t p = 0; p < k; p += $BLOCK) {
        __asm__("" : "+m"(*($VC(*)[$MR][$NV])acc));
        $VB sums[$MR][$NB];
        UNROLL for (int i = 0; i < m; i++)
            UNROLL for (int v = 0; v < $NB; v++)
                sums[i][v] = ${block_zero};
        panel_block_${weights}_${shape}(m, min64($BLOCK, k - p), a + p, lda, b + p * $NR, ahead,
                                        next + p * step, step, sums);
        UNROLL for (int i = 0; i < m; i++)
            UNROLL for (int v = 0; v < $NV; v++)
                acc[i][v] = vf_add(acc[i][v], part_${weights}(sums[i][v / $WIDE], v % $WIDE));
    }
}
"""
# What the inner loop is made of, from an instruction set's table.
TILE_OPERATIONS = """\
CANAO_INLINE $VW load_w_${weights}(const $W *p) { ${load_w} }
CANAO_INLINE $VA spread_${weights}(const $A *p) { ${spread} }
CANAO_INLINE $VB product_${weights}($VA a, $VW w, $VB c) { ${product} }
"""
LANE_OPERATIONS = """\
CANAO_INLINE $VA load_a_${weights}(const $A *p) { ${load_a} }
CANAO_INLINE $VB by_lane_${weights}($VA a, $VW w, $VB c, const int lane) { ${by_lane} }
"""
BLOCK_OPERATIONS = """\
CANAO_INLINE vf part_${weights}($VB c, const int i) { ${part} }
"""
# Where sums are no floats.
CONVERSIONS = """\
CANAO_INLINE vf to_float_${weights}($VC c) { ${to_float} }
CANAO_INLINE vf to_bits_${weights}($VC c) { ${to_bits} }
CANAO_INLINE $VC of_bits_${weights}(vf c) { ${of_bits} }
"""
START = """\
CANAO_INLINE $VC start_${weights}(int32_t n) { ${start} }
"""
# Of instructions that multiply two rows by half as many columns.
PAIR_OPERATIONS = """\
CANAO_INLINE $VW load_w_${weights}(const $W *p) { ${load_w} }
CANAO_INLINE $VA spread_${weights}(const $A *p, const $A *q) { ${spread} }
CANAO_INLINE $VA load_a_${weights}(const $A *p) { ${load_a} }
CANAO_INLINE $VA first_${weights}($VA a, $VA b) { ${first} }
CANAO_INLINE $VA second_${weights}($VA a, $VA b) { ${second} }
CANAO_INLINE $VC product_${weights}($VA a, $VW w, $VC c) { ${product} }
CANAO_INLINE $VC low_${weights}($VC a, $VC b) { ${low} }
CANAO_INLINE $VC high_${weights}($VC a, $VC b) { ${high} }

/* Two rows' sums of VF columns as instructions have them: both rows' first columns in a, the others
   in b. The same again gives the rows back. */
CANAO_INLINE void pair_${weights}($VC *a, $VC *b)
{
    const $VC low = low_${weights}(*a, *b), high = high_${weights}(*a, *b);
    *a = low;
    *b = high;
}
"""
PAIRS = """\
/* acc[m][$NR] += a[m][k] b[k][$NR], where acc is by pairs of rows: a by rows lda apart, b a packed
   panel of ${weights}, $KR of the depth in a step; two rows at a time, the last one with itself if
   it is alone. */
CANAO_INLINE void steps_${weights}_${shape}(
    const int m, int64_t k, const $A *a, int64_t lda, const $W *b, $VC acc[$ROWS][$NV])
{
    for (int64_t p = 0; p < k; p += $KR, b += $NR * $KR)
        UNROLL for (int v = 0; v < $NV; v++) {
            const $VW w0 = load_w_${weights}(b + v * VF * $KR);
            const $VW w1 = load_w_${weights}(b + v * VF * $KR + VF / 2 * $KR);
            UNROLL for (int i = 0; i < m; i += 2) {
                const $A *const row = a + i * lda + p;
                const $VA x = spread_${weights}(row, i + 1 < m ? row + lda : row);
                acc[i][v] = product_${weights}(x, w0, acc[i][v]);
                acc[i + 1][v] = product_${weights}(x, w1, acc[i + 1][v]);
            }
        }
}
/* The same of rows as such, $DEEP of the depth at once, and what is left over by steps. Where
   `ahead`, what lies at `next` is fetched meanwhile, `step` bytes for every element of the
   depth. */
CANAO_INLINE void panel_fma_${weights}_${shape}(
    const int m, int64_t k, const $A *a, int64_t lda, const $W *b, const int ahead,
    const char *next, int64_t step, $VC acc[$ROWS][$NV])
{
    UNROLL for (int i = 0; i < m; i += 2)
        UNROLL for (int v = 0; v < $NV; v++) {
            if (i + 1 == m)
                acc[i + 1][v] = ${zero};
            pair_${weights}(&acc[i][v], &acc[i + 1][v]);
        }
    int64_t p = 0;
    for (; p + $DEEP <= k; p += $DEEP) {
        if (ahead)
            UNROLL for (int v = 0; v < $LINES; v++)
                __builtin_prefetch(next + p * step + v * 64);
        $VA x[$ROWS];
        UNROLL for (int i = 0; i < m; i += 2) {
            const $A *const row = a + i * lda + p;
            const $VA y = load_a_${weights}(row);
            const $VA z = load_a_${weights}(i + 1 < m ? row + lda : row);
            x[i] = first_${weights}(y, z);
            x[i + 1] = second_${weights}(y, z);
        }
        UNROLL for (int t = 0; t < $STEPS; t++, b += $NR * $KR)
            UNROLL for (int v = 0; v < $NV; v++) {
                const $VW w0 = load_w_${weights}(b + v * VF * $KR);
                const $VW w1 = load_w_${weights}(b + v * VF * $KR + VF / 2 * $KR);
                UNROLL for (int i = 0; i < m; i += 2) {
                    acc[i][v] = product_${weights}(x[i + t], w0, acc[i][v]);
                    acc[i + 1][v] = product_${weights}(x[i + t], w1, acc[i + 1][v]);
                }
            }
    }
    steps_${weights}_${shape}(m, k - p, a + p, lda, b, acc);
    UNROLL for (int i = 0; i < m; i += 2)
        UNROLL for (int v = 0; v < $NV; v++)
            pair_${weights}(&acc[i][v], &acc[i + 1][v]);
}
"""
BLOCKS = """\
/* First of the rows of part i, where `rows` are shared out evenly: no block or tile is a sliver. */
CANAO_INLINE int64_t part(int64_t rows, int64_t parts, int64_t i) { return rows * i / parts; }
"""

TRANSPOSE = """\
#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int32_t quad_index __attribute__((vector_size(16)));
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (quad_index){__VA_ARGS__})
#endif
typedef float quad __attribute__((vector_size(16)));

/* 4 x 4 floats: rows of `from`, `step` apart, become columns of `to`, its rows `pitch` apart. */
CANAO_INLINE void transpose4(const float *from, int64_t step, float *to, int64_t pitch)
{
    quad x[4], y[4];
    UNROLL for (int i = 0; i < 4; i++)
        __builtin_memcpy(x + i, from + i * step, sizeof(quad));
    const quad a = SHUFFLE(x[0], x[1], 0, 4, 1, 5), b = SHUFFLE(x[0], x[1], 2, 6, 3, 7);
    const quad c = SHUFFLE(x[2], x[3], 0, 4, 1, 5), d = SHUFFLE(x[2], x[3], 2, 6, 3, 7);
    y[0] = SHUFFLE(a, c, 0, 1, 4, 5);
    y[1] = SHUFFLE(a, c, 2, 3, 6, 7);
    y[2] = SHUFFLE(b, d, 0, 1, 4, 5);
    y[3] = SHUFFLE(b, d, 2, 3, 6, 7);
    UNROLL for (int i = 0; i < 4; i++)
        __builtin_memcpy(to + i * pitch, y + i, sizeof(quad));
}
"""
PACK = """\
/* Panel of columns j0 .. j0 + $NR of b [k][n], element (p, j) at b[p * bk + j * bn]. */
static void pack_panel_${shape}(
    int64_t k, int64_t n, const float *b, int64_t bk, int64_t bn, int64_t j0, float *panel)
{
    b += j0 * bn;
    n = min64(n - j0, $NR);
    if (bn == 1) {
        for (int64_t p = 0; p < k; p++)
            for (int64_t j = 0; j < $NR; j += VF)
                vf_store(panel + p * $NR + j, vf_load_upto(b + p * bk + j, n - j));
        return;
    }
    const int64_t deep = bk == 1 ? k - k % 4 : 0, wide = n - n % 4;
    for (int64_t p = 0; p < deep; p += 4)
        for (int64_t j = 0; j < wide; j += 4)
            transpose4(b + p + j * bn, bn, panel + p * $NR + j, $NR);
    for (int64_t p = 0; p < k; p++)
        for (int64_t j = p < deep ? wide : 0; j < $NR; j++)
            panel[p * $NR + j] = j < n ? b[p * bk + j * bn] : 0.0f;
}
"""
# Panels of bf16 as their inner loop reads them, by way of some rows of a panel of float32.
PACK_ROUNDED = """\
/* The same panel as bf16, $KR elements of a column side by side, the last filled up with 0. */
static void pack_bf16_${shape}(
    int64_t k, int64_t n, const float *b, int64_t bk, int64_t bn, int64_t j0, $B *panel)
{
    float block[$BLOCK * $NR];
    for (int64_t p = 0; p < k; p += $BLOCK) {
        const int64_t deep = min64(k - p, $BLOCK);
        pack_panel_${shape}(deep, n, b + p * bk, bk, bn, j0, block);
        for (int64_t r = 0; r < deep; r += $KR, panel += $NR * $KR)
            for (int64_t j = 0; j < $NR; j += VF) {
                vf rows[$KR];
                UNROLL for (int i = 0; i < $KR; i++)
                    rows[i] = r + i < deep ? vf_load(block + (r + i) * $NR + j) : vf_set1(0.0f);
                $B *const p = panel + j * $KR;
                ${pack}
            }
    }
}
"""
SMALL_PRODUCT = """\
/* c[m][$NR] = a[m][k] b[k][$NR], c by rows $NR apart. */
CANAO_INLINE void tile_product_${shape}(
    const int m, int64_t k, const float *a, int64_t lda, const float *b, float *c)
{
    vf acc[$MR][$NV];
    UNROLL for (int i = 0; i < m; i++)
        UNROLL for (int v = 0; v < $NV; v++)
            acc[i][v] = vf_set1(0.0f);
    panel_fma_f32_${shape}(m, k, a, lda, b, 0, 0, 0, acc);
    UNROLL for (int i = 0; i < m; i++)
        UNROLL for (int v = 0; v < $NV; v++)
            vf_store(c + i * $NR + v * VF, acc[i][v]);
}

static void small_product_${shape}(
    int64_t m, int64_t k, const float *a, int64_t lda, const float *b, float *c)
{
    switch (m) {
${cases}    }
}
"""


def tile_words(tile: tuple[int, int], isa: Isa) -> dict[str, object]:
    """The words of a register tile of so many rows and columns."""
    mr, nr = tile
    return {"MR": mr, "NR": nr, "NV": nr // isa.width, "shape": f"{mr}x{nr}"}


def type_words(name: str, isa: Isa) -> dict[str, object]:
    """The words of the inner loop that is one row of an instruction set's tiles."""
    ops = isa.tiles[name]
    words = {"weights": name, "KR": ops.kr, "W": ops.weights, "A": ops.activations,
             "VW": ops.vw, "VA": ops.va, "VC": ops.vc, "VB": ops.vc, "to_float": ops.to_float,
             "to_bits": ops.to_bits, "of_bits": ops.of_bits, "load_w": ops.load_w,
             "spread": ops.spread, "product": ops.product, "zero": ops.zero,
             "start": ops.start, "low": ops.low, "high": ops.high,
             "WIDTH": "VF" if ops.wide == 1 else f"{ops.wide} * VF"}  # fmt: skip
    if ops.lanes:
        words |= {"STEPS": ops.steps, "load_a": ops.lanes.load, "by_lane": ops.lanes.product,
                  "first": ops.lanes.first, "second": ops.lanes.second}  # fmt: skip
    if ops.block:
        words |= {"VB": ops.block.vb, "WIDE": ops.wide, "BLOCK": ops.block.depth,
                  "block_zero": ops.block.zero, "part": ops.block.part}  # fmt: skip
    return words


def tile_operations(name: str, isa: Isa) -> str:
    """The operations of an inner loop."""
    ops = isa.tiles[name]
    text = PAIR_OPERATIONS if ops.pairs else "" if ops.blocks else TILE_OPERATIONS
    text += LANE_OPERATIONS if ops.lanes and not ops.pairs else ""
    text += BLOCK_OPERATIONS if ops.block else ""
    text += ("" if ops.vc == "vf" else CONVERSIONS) + (START if ops.offset else "")
    return fill(text, **type_words(name, isa))


def tile_loop(tile: tuple[int, int], name: str, isa: Isa) -> str:
    """The inner loop of a register tile, after those that it is made of."""
    ops = isa.tiles[name]
    words = {**tile_words(tile, isa), **type_words(name, isa),
             "ROWS": rounded(tile[0], 2), "NB": tile[1] // (ops.wide * isa.width)}  # fmt: skip
    # What each is called by the one after it.
    blocked = "panel_block" if ops.block else "panel_fma"
    turn = ops.kr * ops.steps
    if ops.blocks:
        return blocks_loop(ops.blocks, words)
    if ops.pairs:
        parts = [(PAIRS, "", turn)]
    elif ops.lanes:
        parts = [(TILE, "panel_rest", ops.kr), (LANES, blocked, turn)]
    else:
        parts = [(TILE, blocked, ops.kr)]
    if ops.block:
        parts.append((BLOCKED, "panel_fma", ops.block.depth))
    size = tile[1] * SIZES[ops.weights]
    return "".join(
        fill(text, **words, fma=called, DEEP=deep, LINES=-(-size * deep // CACHE_LINE))
        for text, called, deep in parts
    )


FUNCTIONS = {"pack": PACK, "pack_bf16": PACK_ROUNDED, "small_product": SMALL_PRODUCT}


def tile_function(need: str, tile: tuple[int, int], isa: Isa) -> str:
    """One of FUNCTIONS for a register tile."""
    mr, nr = tile
    cases = "".join(
        f"    case {m}: tile_product_{mr}x{nr}({m}, k, a, lda, b, c); break;\n"
        for m in range(1, mr + 1)
    )
    narrow = isa.tiles[BF16.name]
    pack = narrow.blocks.pack if narrow.blocks else ""
    return fill(
        FUNCTIONS[need], **tile_words(tile, isa), cases=cases, KR=narrow.kr, BLOCK=PACKED_ROWS,
        B=row_type(BF16), pack=pack,
    )  # fmt: skip
