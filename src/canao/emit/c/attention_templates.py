"""The C of attention, with words to fill in."""

BOUNDS = "    const int64_t keys = ${keys}, first = ${first}, end = ${end};"
BEFORE = """\
    (void)s;
    const int64_t first = 0, end = row + m;"""
# What is done with the scores x of one vector; `left` of its lanes are keys that count.
STORED = "                    vf_store(p + i * ${tile} + j + v * VF, x);"
LARGEST = """\

                    const int64_t left = count - j - v * VF;
                    high[i] = vf_max(high[i], left >= VF ? x : vf_keep(x, left, -INF_F));"""
MASKED = """\
                    const int64_t left = row + i + 1 - key - j - v * VF;
                    const vf seen = left >= VF ? x : vf_keep(x, left, -INF_F);
                    vf_store(p + i * ${tile} + j + v * VF, seen);
                    high[i] = vf_max(high[i], seen);"""
WITH_BIASES = """\
        for (int i = 0; i < m; i++) {
${window}            for (int64_t j = 0; j < count; j += VF) {
                const int64_t c = key + j, left = count - j;
                vf x = vf_load(p + i * ${tile} + j);
                (void)c;
${biases}                vf_store(p + i * ${tile} + j, x);
                high[i] = vf_max(high[i], left >= VF ? x : vf_keep(x, left, -INF_F));
            }
        }
"""
OUTSIDE = """\
            for (int64_t c = key; c < min64(key + count, row + i - ${before}); c++)
                p[i * ${tile} + c - key] = -INF_F;
            for (int64_t c = max64(key, row + i + ${after} + 1); c < key + count; c++)
                p[i * ${tile} + c - key] = -INF_F;
"""
# A query may see none of these keys: its maximum must stay a number.
FLOOR = "            peak = peak > -1e30f ? peak : -1e30f;\n"

TILE = """\
/* m queries of one head against the keys they see, ${tile} at a time with a running maximum and
   sum: no more scores than that exist at any time. `p` holds them, `mix` the mix of values. */
CANAO_INLINE void ${name}_tile(const int m, int64_t s, ${more}const float *q, const ${kept} *kt,
                            const ${kept} *vp, float *restrict p, float *restrict mix,
                            ${narrow}float *restrict o)
{
${bounds}
${round_queries}    vf total[$MR];
    float top[$MR];
    ${each} (int i = 0; i < m; i++)
        top[i] = -INF_F;
    for (int64_t key = first; key < end; key += ${tile}) {
        const int64_t count = min64(end - key, ${tile}), rest = count % VF, whole = count - rest;
        vf high[$MR], low[$MR], sum[$MR], shrink[$MR];
        ${each} (int i = 0; i < m; i++) {
            high[i] = vf_set1(top[i]);
            sum[i] = vf_set1(0.0f);
        }
        for (int64_t j = 0; j < count; j += $NR) {
            vf acc[$MR][$NV];
${zeros}            ${fma}(m, ${d}, ${query}, kt + (key + j) * ${deep}, 0, 0, 0, acc${fresh});
            ${each} (int i = 0; i < m; i++)
                UNROLL for (int v = 0; v < $NV; v++) {
                    const vf x = ${scaled};
${scored}
                }
        }
${high}        /* exp(x - top) as 2^(x log2 e - top log2 e) */
        ${each} (int i = 0; i < m; i++) {
            float peak = vf_top(high[i]);
${floor}            shrink[i] = vf_exp2(vf_set1((top[i] - peak) * LOG2_E));
            low[i] = vf_set1(-peak * LOG2_E);
            top[i] = peak;
        }
        for (int64_t j = 0; j < whole; j += VF)
            ${each} (int i = 0; i < m; i++) {
                const vf x = vf_load(p + i * ${tile} + j);
                const vf y = vf_exp2(vf_fma(x, vf_set1(LOG2_E), low[i]));
                ${keep_whole};
                sum[i] = vf_add(sum[i], y);
            }
        if (rest)
            ${each} (int i = 0; i < m; i++) {
                const vf x = vf_load(p + i * ${tile} + whole);
                const vf y = vf_exp2(vf_fma(x, vf_set1(LOG2_E), low[i]));
                ${keep_rest};
                sum[i] = vf_add(sum[i], vf_keep(y, rest, 0.0f));
            }
        ${each} (int i = 0; i < m; i++)
            total[i] = key > first ? vf_fma(total[i], shrink[i], sum[i]) : sum[i];
        const int last = key + ${tile} >= end;
        ${each} (int i = 0; i < m; i++)
            low[i] = vf_set1(last ? 1.0f / vf_sum(total[i]) : 1.0f);
        for (int64_t j = 0; j < ${wide}; j += $NR) {
            vf acc[$MR][$NV];
${mix_so_far}            ${fma}(m, count, ${part}, ${tile}, vp + j * ${room} + key * $NR, 0, 0, 0,
                                   acc${later});
            ${each} (int i = 0; i < m; i++)
                UNROLL for (int v = 0; v < $NV; v++) {
                    const vf x = vf_mul(acc[i][v], low[i]);
                    const int64_t col = j + v * VF;
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
/* ${batch} heads of softmax(q k^T * ${scale}) v */
${signature}
{
    const int64_t m = ${m}, keys = ${keys}, tiles = (m + $MR - 1) / $MR;
${buffers}
${shapes}    int64_t ready = -1;
    for (int64_t t = begin; t < end; t++) {
        const int64_t h = t / tiles, row = part(m, tiles, t % tiles);
        if (h != ready) {
            for (int64_t j = 0; j < keys; j += $NR)
                ${pack}_${shape}(${d}, keys, ${k} + ${k0} + h * ${k_head}, ${k_d}, ${k_key}, j,
                                    kt + j * ${deep});
            for (int64_t j = 0; j < ${dv}; j += $NR)
                ${pack}_${shape}(keys, ${dv}, ${v} + ${v0} + h * ${v_head}, ${v_key}, ${v_d}, j,
                                    vp + j * ${room});
            ready = h;
        }
        const float *const from = ${q} + ${q0} + h * ${q_head} + row * ${q_row};
        float *const o = out + h * ${o_head} + row * ${o_row};
${starts}${run}    }
${done}}
"""
# What sums start with. Blocks that start with zeros do not read them.
ZEROS = """\
            UNROLL for (int i = 0; i < m; i++)
                UNROLL for (int v = 0; v < $NV; v++)
                    acc[i][v] = vf_set1(0.0f);
"""
MIX = """\
            UNROLL for (int i = 0; i < m; i++)
                UNROLL for (int v = 0; v < $NV; v++)
                    acc[i][v] = key > first
                                    ? vf_mul(vf_load(mix + i * ${wide} + j + v * VF), shrink[i])
                                    : vf_set1(0.0f);
"""
MIX_OF_BLOCKS = """\
            for (int i = 0; i < m && key > first; i++)
                UNROLL for (int v = 0; v < $NV; v++)
                    acc[i][v] = vf_mul(vf_load(mix + i * ${wide} + j + v * VF), shrink[i]);
"""
# Of bf16: queries of a tile, rounded, and zeros up to a whole vector.
ROUND_QUERIES = """\
    for (int i = 0; i < m; i++)
        for (int64_t j = 0; j < ${d}; j += VF)
            ${kept}_store(qn + i * ${deep} + j, vf_load_upto(q + i * ${q_row} + j, ${d} - j));
"""
# One call for each number of rows, which is then known to the compiler.
SWITCH = """\
        switch (${rows_of_tile}) {
${cases}
        }
"""

APPEND = """\
/* Keys and values of the new tokens join those of the sequence. A panel of keys that was begun
   before is filled up first. */
static void ${name}_append(int64_t s, int64_t past, ${parameters}float *restrict cache,
                        int64_t begin, int64_t end)
{
    ${unused}
    for (int64_t h = begin; h < end; h++) {
        const float *const k = ${k} + ${k0} + h * ${k_head};
        const float *const v = ${v} + ${v0} + h * ${v_head};
        float *const kt = cache + h * ${key_head};
        float *const vp = cache + ${values} + h * ${value_head};
        int64_t i = 0;
        for (; i < s && (past + i) % $NR; i++)
            for (int64_t p = 0; p < ${d}; p++)
                kt[(past + i) / $NR * $NR * ${d} + p * $NR + (past + i) % $NR] =
                    k[i * ${k_key} + p * ${k_d}];
        for (; i < s; i += $NR)
            pack_panel_${shape}(${d}, s, k, ${k_d}, ${k_key}, i, kt + (past + i) * ${d});
        for (int64_t j = 0; j < ${dv}; j += $NR)
            pack_panel_${shape}(s, ${dv}, v, ${v_key}, ${v_d}, j, vp + j * ${room} + past * $NR);
    }
}

"""

# Tiles of float32 are packed as above, then kept; a key alone is spread over its panel.
APPEND_NARROW = """\
/* Keys and values of the new tokens join those of the sequence, as ${type}. A panel of keys that
   was begun before is filled up first. */
static void ${name}_append(int64_t s, int64_t past, ${parameters}${kept} *restrict cache,
                        int64_t begin, int64_t end)
{
    ${unused}
    float block[${block} * $NR];
    for (int64_t h = begin; h < end; h++) {
        const float *const k = ${k} + ${k0} + h * ${k_head};
        const float *const v = ${v} + ${v0} + h * ${v_head};
        ${kept} *const kt = cache + h * ${key_head};
        ${kept} *const vp = cache + ${values} + h * ${value_head};
${scales}        int64_t i = 0;
        for (; i < s && (past + i) % $NR; i++) {
            const float *const row = k + i * ${k_key};
            ${kept} *const to = kt + (past + i) / $NR * $NR * ${d} + (past + i) % $NR;
${one_key}            for (int64_t p = 0; p < ${d}; p += VF) {
                ${kept} whole[VF];
                const vf x = row_piece(row + p * ${k_d}, ${k_d}, ${d} - p);
                keep_${type}(whole, ${of_key});
                for (int64_t n = 0; n < min64(VF, ${d} - p); n++)
                    to[(p + n) * $NR] = whole[n];
            }
        }
        for (; i < s; i += $NR) {
${keys_by}            for (int64_t p = 0; p < ${d}; p += ${block}) {
                const int64_t deep = min64(${d} - p, ${block});
                pack_panel_${shape}(deep, s, k + p * ${k_d}, ${k_d}, ${k_key}, i, block);
                for (int64_t n = 0; n < deep; n++)
                    for (int64_t j = 0; j < $NR; j += VF) {
                        const vf x = vf_load(block + n * $NR + j);
                        keep_${type}(kt + (past + i) * ${d} + (p + n) * $NR + j, ${of_keys});
                    }
            }
        }
        for (i = 0; i < s; i += ${block}) {
            const int64_t deep = min64(s - i, ${block});
            const float *const rows = v + i * ${v_key};
${tokens_by}            for (int64_t j = 0; j < ${dv}; j += $NR) {
                pack_panel_${shape}(deep, ${dv}, rows, ${v_key}, ${v_d}, j, block);
                for (int64_t n = 0; n < deep; n++)
                    for (int64_t c = 0; c < $NR; c += VF) {
                        const vf x = vf_load(block + n * $NR + c);
                        keep_${type}(vp + j * ${room} + (past + i + n) * $NR + c, ${of_value});
                    }
            }
        }
    }
}

"""
# Of int8: where scales lie, and what keys and values are multiplied by before they are rounded.
SCALES = """\
        float *const ks = (float *)(void *)((char *)cache + ${key_scales}) + h * ${scale_head};
        float *const vs = (float *)(void *)((char *)cache + ${value_scales}) + h * ${scale_head};
"""
ONE_KEY = """\
            const vf by = vf_set1(level_scale(row, ${k_d}, ${d}, ks + past + i));
"""
KEYS = """\
            float by[$NR] = {0};
            for (int64_t j = 0; j < min64($NR, s - i); j++)
                by[j] = level_scale(k + (i + j) * ${k_key}, ${k_d}, ${d}, ks + past + i + j);
"""
TOKENS = """\
            float by[${block}];
            for (int64_t n = 0; n < deep; n++)
                by[n] = level_scale(rows + n * ${v_key}, ${v_d}, ${dv}, vs + past + i + n);
"""

CAUSAL = """\
/* ${batch} heads of softmax(q k^T * ${scale}) v, each query from `first` on with its own key and
   all before it: a tile ends at the key of its last query. */
static void ${name}(
    int64_t s, int64_t past, int64_t first, ${parameters}const ${kept} *restrict cache,
    float *restrict out, float *restrict scratch, int64_t begin, int64_t end)
{
    ${unused}
    const int64_t m = s - first, tiles = (m + $MR - 1) / $MR;
${buffers}
    for (int64_t t = begin; t < end; t++) {
        const int64_t h = t / tiles, row = first + part(m, tiles, t % tiles);
        const int64_t rows = first + part(m, tiles, t % tiles + 1) - row;
        const ${kept} *const kt = cache + h * ${key_head};
        const ${kept} *const vp = cache + ${values} + h * ${value_head};
        const float *const from = ${q} + ${q0} + h * ${q_head} + row * ${q_row};
        float *const o = out + h * ${o_head} + row * ${o_row};
${starts}${run}    }
}
"""
