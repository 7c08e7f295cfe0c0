"""C for rows of Q8, which lie as lower/cpu/quantized.py says."""

from __future__ import annotations

from canao.emit.writer import fill
from canao.graph.dtypes import I8
from canao.isa.table import Isa

ROWS = """\
/* Levels of a quantised row in memory, from -127 to 127. */
typedef $ELEMENT q8;

CANAO_INLINE void q8_store(q8 *p, vf v) { ${store} }
CANAO_INLINE void q8_store_n(q8 *p, vf v, int64_t n)
{
    q8 whole[VF];
    q8_store(whole, v);
    for (int64_t i = 0; i < n; i++)
        p[i] = whole[i];
}

/* What a row is multiplied by, and what its levels are multiples of, by its largest magnitude. */
CANAO_INLINE float q8_inverse(float top) { return top > 0.0f ? 127.0f / top : 0.0f; }

/* Zeros after the levels of a row, and its scale. */
CANAO_INLINE void q8_end(q8 *row, int64_t width, int64_t scale, float top)
{
    const float unit = top / 127.0f;
    for (int64_t i = width; i < scale; i++)
        row[i] = 0;
    __builtin_memcpy(row + scale, &unit, sizeof unit);
${start}}
CANAO_INLINE float q8_scale(const q8 *row, int64_t scale)
{
    float unit;
    __builtin_memcpy(&unit, row + scale, sizeof unit);
    return unit;
}
"""
START = """\
    int32_t sum = 0;
    for (int64_t i = 0; i < width; i++)
        sum += row[i];
    sum *= -$OFFSET;
    __builtin_memcpy(row + scale + sizeof unit / sizeof *row, &sum, sizeof sum);
"""
STARTED = """\
/* What a product of a row starts with: its levels times what is added to all weights, less that. */
CANAO_INLINE int32_t q8_start(const q8 *row, int64_t start)
{
    int32_t sum;
    __builtin_memcpy(&sum, row + start, sizeof sum);
    return sum;
}
"""

LOADS = """\
/* VF weights of int8 as floats, and the first n of them. */
CANAO_INLINE vf load_i8(const int8_t *p) { ${load_i8} }
CANAO_INLINE vf load_i8_n(const int8_t *p, int64_t n)
{
    int8_t whole[VF] = {0};
    for (int64_t i = 0; i < n; i++)
        whole[i] = p[i];
    return load_i8(whole);
}
"""


def int8_tables(isa: Isa) -> str:
    """Functions that read rows of tables of int8."""
    return fill(LOADS, load_i8=isa.levels.load_i8)


def quantized_rows(isa: Isa) -> str:
    """The type of a level, and functions that write and read rows of them."""
    levels, offset = isa.levels, isa.tiles[I8.name].offset
    start = fill(START, OFFSET=offset) if offset else ""
    text = ROWS + (STARTED if offset else "")
    return fill(text, ELEMENT=levels.element, store=levels.store, start=start)
