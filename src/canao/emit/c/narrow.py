"""C for narrow rows, which lie as lower/cpu/quantized.py says, and for tables of narrow types."""

from __future__ import annotations

from collections.abc import Sequence

from canao.emit.arguments import row_type
from canao.emit.writer import fill
from canao.graph.dtypes import I8, QUANTIZED, DType
from canao.isa.table import Isa
from canao.lower.cpu.quantized import tile_of

ROWS = """\
/* Elements of a row of $TYPE in memory. */
typedef $ELEMENT $KIND;

CANAO_INLINE void ${KIND}_store($KIND *p, vf v) { ${store} }
CANAO_INLINE void ${KIND}_store_n($KIND *p, vf v, int64_t n)
{
    $KIND whole[VF];
    ${KIND}_store(whole, v);
    for (int64_t i = 0; i < n; i++)
        p[i] = whole[i];
}
"""
ENDS = """\

/* Zeros after the elements of a row. */
CANAO_INLINE void ${KIND}_end($KIND *row, int64_t width, int64_t pitch)
{
    for (int64_t i = width; i < pitch; i++)
        row[i] = 0;
}
"""
LEVELS = """\

/* What a row is multiplied by, and what its levels are multiples of, by its largest magnitude. */
CANAO_INLINE float ${KIND}_inverse(float top) { return top > 0.0f ? $LEVELS.0f / top : 0.0f; }

/* Zeros after the levels of a row, and its scale. */
CANAO_INLINE void ${KIND}_end($KIND *row, int64_t width, int64_t scale, float top)
{
    const float unit = top / $LEVELS.0f;
    for (int64_t i = width; i < scale; i++)
        row[i] = 0;
    __builtin_memcpy(row + scale, &unit, sizeof unit);
${start}}
CANAO_INLINE float ${KIND}_scale(const $KIND *row, int64_t scale)
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
/* What the sums of a product with this row start with. Weights are stored with an offset added;
 * minus the offset times the sum of the row's levels takes it out again. */
CANAO_INLINE int32_t ${KIND}_start(const $KIND *row, int64_t start)
{
    int32_t sum;
    __builtin_memcpy(&sum, row + start, sizeof sum);
    return sum;
}
"""

LOADS = """\
/* VF elements of $TYPE as floats; the first n of them; those `step` apart. */
CANAO_INLINE vf load_${TYPE}(const $C *p) { ${load} }
CANAO_INLINE vf load_${TYPE}_by(const $C *p, int64_t step, int64_t n)
{
    $C whole[VF] = {0};
    for (int64_t i = 0; i < n; i++)
        whole[i] = p[i * step];
    return load_${TYPE}(whole);
}
CANAO_INLINE vf load_${TYPE}_n(const $C *p, int64_t n) { return load_${TYPE}_by(p, 1, n); }
"""

# Rows that join a cache of keys and values.
PIECE = """\
/* The first n of VF elements, `step` apart. */
CANAO_INLINE vf row_piece(const float *p, int64_t step, int64_t n)
{
    return step == 1 ? vf_load_upto(p, n) : vf_gather(p, step, n);
}
"""
KEEP = """\
/* VF floats as $TYPE. */
CANAO_INLINE void keep_${TYPE}($C *p, vf v) { ${keep} }
"""
SCALED = """\
/* Writes what the levels of a row of n elements are multiples of; what it is multiplied by. */
CANAO_INLINE float level_scale(const float *row, int64_t step, int64_t n, float *scale)
{
    vf most = vf_set1(0.0f);
    for (int64_t i = 0; i < n; i += VF)
        most = vf_max(most, vf_abs(row_piece(row + i * step, step, n - i)));
    const float top = vf_top(most);
    *scale = top / $LEVELS.0f;
    return top > 0.0f ? $LEVELS.0f / top : 0.0f;
}
"""


def caches(dtypes: Sequence[DType], isa: Isa) -> str:
    """Functions that put rows into caches of these narrow types."""
    text = "".join(fill(KEEP, TYPE=d.name, C=d.c, keep=isa.keeps[d.name]) for d in dtypes)
    return text + PIECE + (fill(SCALED, LEVELS=I8.levels) if I8 in dtypes else "")


def tables(dtype: DType, isa: Isa) -> str:
    """Functions that read rows of tables of a type."""
    return fill(LOADS, TYPE=dtype.name, C=dtype.c, load=isa.loads[dtype.name])


def narrow_rows(dtype: DType, isa: Isa) -> str:
    """The type of an element of narrow rows, and functions that write and read rows of them."""
    tile = tile_of(dtype, isa.name)
    text, start = ROWS, ""
    if dtype in QUANTIZED:
        text += LEVELS + (STARTED if tile.offset else "")
        start = fill(START, OFFSET=tile.offset) if tile.offset else ""
    else:
        text += ENDS
    return fill(text, TYPE=dtype.name, KIND=row_type(dtype), ELEMENT=tile.activations,
                LEVELS=dtype.levels, store=tile.store, start=start)  # fmt: skip
