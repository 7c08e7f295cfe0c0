"""The C of attention in whole numbers of 16 bits (fuse/whole_attention.py), with words to fill in.

It differs from that in float32 (attention_templates.py) in what is multiplied: queries are rounded
for each tile, keys and values for each head, and the shares of softmax as they are computed.
"""

from __future__ import annotations

from canao.emit.writer import fill
from canao.isa.table import Isa

# Buffers of whole numbers.
NUMBERS = ("qw", "pw", "kt", "vp")

STORE = """\
/* VF numbers as whole ones of 16 bits. */
CANAO_INLINE void i16_store(int16_t *p, vf v) { ${store} }

/* A row of n numbers `step` apart as whole numbers up to `levels`, zeros up to `width`, a multiple
   of VF: what they are multiples of. `all` has room for width floats. */
CANAO_INLINE float i16_row(int64_t n, const float *x, int64_t step, int64_t width, float levels,
                           float *restrict all, int16_t *restrict out)
{
    for (int64_t j = 0; j < width; j++)
        all[j] = j < n ? x[j * step] : 0.0f;
    vf most = vf_set1(0.0f);
    for (int64_t j = 0; j < width; j += VF)
        most = vf_max(most, vf_abs(vf_load(all + j)));
    const float top = vf_top(most), inverse = top > 0.0f ? levels / top : 0.0f;
    for (int64_t j = 0; j < width; j += VF)
        i16_store(out + j, vf_mul(vf_load(all + j), vf_set1(inverse)));
    return top / levels;
}
"""

TILE = """\
/* m queries of one head against the keys they see, ${tile} at a time with a running maximum and
   sum: qw, kt, pw and vp are whole numbers, which queries, keys and values are qs, ks, vs times. */
CANAO_INLINE void ${name}_tile(
    const int m, int64_t s, ${more}const int16_t *qw, const float *qs, const int16_t *kt,
    const float *ks, const int16_t *vp, const float *vs, float *restrict p, int16_t *restrict pw,
    float *restrict mix, float *restrict o)
{
${bounds}
    const int64_t room = (keys + 1) / 2 * 2;
    vf total[$MR];
    float top[$MR];
    UNROLL for (int i = 0; i < m; i++)
        top[i] = -INF_F;
    for (int64_t key = first; key < end; key += ${tile}) {
        const int64_t count = min64(end - key, ${tile});
        vf high[$MR], low[$MR], sum[$MR], shrink[$MR];
        UNROLL for (int i = 0; i < m; i++) {
            high[i] = vf_set1(top[i]);
            sum[i] = vf_set1(0.0f);
        }
        for (int64_t j = 0; j < count; j += $NR) {
            ${vc} acc[$MR][$NV];
            UNROLL for (int i = 0; i < m; i++)
                UNROLL for (int v = 0; v < $NV; v++)
                    acc[i][v] = ${zero};
            panel_fma_i16_${shape}(m, ${deep}, qw, ${deep}, kt + (key + j) * ${deep}, 0, 0, 0, acc);
            UNROLL for (int i = 0; i < m; i++)
                UNROLL for (int v = 0; v < $NV; v++) {
                    const vf unit = vf_mul(vf_set1(qs[i]), vf_load(ks + key + j + v * VF));
                    const vf x = vf_mul(to_float_i16(acc[i][v]), unit);
${scored}
                }
        }
${high}        UNROLL for (int i = 0; i < m; i++) {
            float peak = vf_top(high[i]);
${floor}            shrink[i] = vf_exp2(vf_set1((top[i] - peak) * LOG2_E));
            low[i] = vf_set1(-peak * LOG2_E);
            top[i] = peak;
        }
        /* The largest share of a row is 1 or less. */
        for (int64_t j = 0; j < count; j += VF)
            UNROLL for (int i = 0; i < m; i++) {
                const int64_t rest = count - j;
                const vf x = vf_load(p + i * ${tile} + j);
                const vf all = vf_exp2(vf_fma(x, vf_set1(LOG2_E), low[i]));
                const vf y = rest >= VF ? all : vf_keep(all, rest, 0.0f);
                i16_store(pw + i * ${tile} + j, vf_mul(y, vf_set1(${levels}.0f)));
                sum[i] = vf_add(sum[i], y);
            }
        const int64_t pairs = (count + 1) / 2 * 2;
        if (VF == 1 && pairs > count)
            UNROLL for (int i = 0; i < m; i++)
                pw[i * ${tile} + count] = 0;
        UNROLL for (int i = 0; i < m; i++)
            total[i] = key > first ? vf_fma(total[i], shrink[i], sum[i]) : sum[i];
        const int last = key + ${tile} >= end;
        UNROLL for (int i = 0; i < m; i++)
            low[i] = vf_set1(last ? 1.0f / vf_sum(total[i]) : 1.0f);
        for (int64_t j = 0; j < ${wide}; j += $NR) {
            ${vc} acc[$MR][$NV];
            UNROLL for (int i = 0; i < m; i++)
                UNROLL for (int v = 0; v < $NV; v++)
                    acc[i][v] = ${zero};
            panel_fma_i16_${shape}(m, pairs, pw, ${tile}, vp + j * room + key * $NR, 0, 0, 0, acc);
            UNROLL for (int i = 0; i < m; i++)
                UNROLL for (int v = 0; v < $NV; v++) {
                    const int64_t col = j + v * VF;
                    vf x = vf_mul(to_float_i16(acc[i][v]), vf_load(vs + col));
                    if (key > first)
                        x = vf_fma(vf_load(mix + i * ${wide} + col), shrink[i], x);
                    x = vf_mul(x, low[i]);
                    if (last)
                        vf_store_upto(o + i * ${o_row} + col, x, ${dv} - col);
                    else
                        vf_store(mix + i * ${wide} + col, x);
                }
        }
    }
}

"""

WHOLE = """\
/* Keys and values of a head as whole numbers: a scale for each key, and one for each channel of the
   values, over what a share is a multiple of. */
static void ${name}_head(
    int64_t s, ${parameters}int64_t h, float *restrict row, int16_t *restrict kt,
    float *restrict ks, int16_t *restrict vp, float *restrict vs)
{
    ${unused}
    const int64_t keys = ${keys}, room = (keys + 1) / 2 * 2;
    float *const inverse = row + ${width};
    int16_t *const whole = (int16_t *)(inverse + ${width});
    for (int64_t c = 0; c < (keys + $NR - 1) / $NR * $NR; c++) {
        int16_t *const to = kt + c / $NR * $NR * ${deep} + c % $NR * $KR;
        const int64_t at = c < keys ? c : 0;
        ks[c] = i16_row(c < keys ? ${d} : 0, ${k} + ${k0} + h * ${k_head} + at * ${k_key}, ${k_d},
                        ${deep}, ${levels}.0f, row, whole);
        for (int64_t p = 0; p < ${deep}; p += $KR)
            __builtin_memcpy(to + p * $NR, whole + p, $KR * sizeof *to);
    }
    const float *const v = ${v} + ${v0} + h * ${v_head};
    for (int64_t j = 0; j < ${wide}; j++)
        vs[j] = 0.0f;
    for (int64_t c = 0; c < keys; c++)
        for (int64_t j = 0; j < ${dv}; j++) {
            const float x = __builtin_fabsf(v[c * ${v_key} + j * ${v_d}]);
            vs[j] = x > vs[j] ? x : vs[j];
        }
    for (int64_t j = 0; j < ${wide}; j++) {
        inverse[j] = vs[j] > 0.0f ? ${levels}.0f / vs[j] : 0.0f;
        vs[j] = vs[j] / ${levels}.0f * (1.0f / ${levels}.0f);
        row[j] = 0.0f;
    }
    for (int64_t c = 0; c < room; c += $KR) {
        for (int64_t u = 0; u < $KR; u++) {
            for (int64_t j = 0; j < ${dv}; j++)
                row[j] = c + u < keys ? v[(c + u) * ${v_key} + j * ${v_d}] * inverse[j] : 0.0f;
            for (int64_t j = 0; j < ${wide}; j += VF)
                i16_store(whole + u * ${wide} + j, vf_load(row + j));
        }
        for (int64_t j = 0; j < ${wide}; j += $NR)
            for (int64_t i = 0; i < $NR; i++)
                for (int64_t u = 0; u < $KR; u++)
                    vp[j * room + c * $NR + i * $KR + u] = whole[u * ${wide} + j + i];
    }
}

/* ${batch} heads of softmax(q k^T * ${scale}) v */
${signature}
{
    const int64_t m = ${m}, keys = ${keys}, tiles = (m + $MR - 1) / $MR;
    (void)keys;
${buffers}
    int64_t ready = -1;
    for (int64_t t = begin; t < end; t++) {
        const int64_t h = t / tiles, row = part(m, tiles, t % tiles);
        const int64_t rows = part(m, tiles, t % tiles + 1) - row;
        if (h != ready) {
            ${name}_head(s, ${names}h, spare, kt, ks, vp, vs);
            ready = h;
        }
        for (int64_t i = 0; i < rows; i++)
            qs[i] = ${scale} * i16_row(
                ${d}, ${q} + ${q0} + h * ${q_head} + (row + i) * ${q_row}, 1, ${deep},
                ${levels}.0f, spare, qw + i * ${deep});
        float *const o = out + h * ${o_head} + row * ${o_row};
${starts}        switch (rows) {
${cases}
        }
    }
}
"""


def whole_numbers(isa: Isa) -> str:
    """Functions that make whole numbers of 16 bits."""
    return fill(STORE, store=isa.tiles["i16"].store)
