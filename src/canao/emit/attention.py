"""C for attention by tiles.

Causal attention is two kernels: one that puts new keys and values into the cache, and one that
reads them there.
"""

from __future__ import annotations

from canao.emit.isa import Isa
from canao.emit.kernel import Kernel, declared, plain, signature
from canao.emit.matmul import batch_of
from canao.emit.rowcode import C_TYPES, Parameters, expression
from canao.emit.writer import number
from canao.fuse.forms.attention import Attention
from canao.graph.ir import product
from canao.schedule.kv_cache import Cache
from canao.schedule.plan import Plan


def attention_kernel(form: Attention, plan: Plan, isa: Isa, cache: Cache | None = None) -> Kernel:
    """Attention over the keys of the text, or causal over those of `cache` as well."""
    parameters, e = Parameters(), expression
    for operand in (form.q, form.k, form.v):
        parameters.of(operand.base)
    batch, m = e(product(form.q.shape[:-2])), e(form.q.shape[-2])
    terms, starts = _terms(form, parameters), _starts(form, parameters)
    template = _TILE + (_CAUSAL if cache else _WHOLE)
    text = template.format(
        signature=signature(parameters), parameters=declared(parameters.list),
        unused=" ".join(f"(void){p.name};" for p in parameters.list),
        cases=_cases(form, plan, starts, cache), more=_more(form, starts),
        starts="".join(f"        const {c} *const {x} = {place};\n" for x, c, place in starts),
        **_sizes(form, plan, cache), **_strides(form, parameters), **_reach(form, plan, terms),
    )  # fmt: skip
    kind = "causal" if cache else "attention"
    name = f"{kind}_{plain(product(form.q.shape[:-2]))}x{form.q.shape[-1]}_{isa.name}_{plan.name}"
    rows = "(s - first)" if cache else m
    units = f"{batch} * (({rows} + MR - 1) / MR)"
    needs = frozenset({"tile", "pack", *(_needs(form))})
    return Kernel(name, text, tuple(parameters.list), units, needs, batch if cache else "")


def _cases(
    form: Attention, plan: Plan, starts: list[tuple[str, str, str]], cache: Cache | None
) -> str:
    """A call for each number of queries in a tile."""
    own = "past + row, " if cache else "row, " if form.band else ""
    operands = "".join(f"{name}, " for name, _, _ in starts) + own
    return "\n".join(
        f"            case {rows}: NAME_tile({rows}, s, {operands}from, kt, vp, p, o); break;"
        for rows in range(1, plan.mr + 1)
    )


def _sizes(form: Attention, plan: Plan, cache: Cache | None) -> dict[str, object]:
    """Dimensions, and where keys and values lie in the cache."""
    e, dv = expression, int(form.v.shape[-1])  # type: ignore[arg-type]
    wide = -(-dv // plan.nr) * plan.nr
    scaled = "acc[i][v]"
    if form.scale != 1.0:
        scaled = f"vf_mul({scaled}, vf_set1({number(form.scale)}))"
    return {
        "batch": product(form.q.shape[:-2]), "m": e(form.q.shape[-2]), "d": form.q.shape[-1],
        "keys": e(form.k.shape[-1]), "dv": dv, "wide": wide, "tile": plan.keys,
        "scale": number(form.scale), "scaled": scaled,
        "room": cache.value_head // wide if cache else "keys",
        "key_head": cache.key_head if cache else 0,
        "value_head": cache.value_head if cache else 0,
        "values": cache.values if cache else 0,
    }  # fmt: skip


def _strides(form: Attention, parameters: Parameters) -> dict[str, str]:
    """For each operand its pointer, offset, and steps to the next head, row and column."""
    e, out = expression, {}
    for x, access, row, column in (("q", form.q, "row", ""), ("k", form.k, "d", "key"),
                                   ("v", form.v, "key", "d")):  # fmt: skip
        out[x] = parameters.of(access.base)
        out[f"{x}0"] = e(access.offset)
        out[f"{x}_head"] = e(batch_of(access.shape, access.strides)[1])
        out[f"{x}_{row}"] = e(access.strides[-2])
        if column:
            out[f"{x}_{column}"] = e(access.strides[-1])
    out["o_head"] = e(batch_of(form.q.shape, form.store)[1])
    out["o_row"] = e(form.store[-2])
    return out


def _reach(form: Attention, plan: Plan, terms: str) -> dict[str, str]:
    """The parts of a tile that say which keys it visits, and what of their scores counts."""
    if form.cached:
        return {"bounds": _BEFORE, "scored": _MASKED.format(tile=plan.keys), "high": "",
                "floor": ""}  # fmt: skip
    first, end = "0", "keys"
    if form.band is not None:
        first = f"max64(0, row - {form.band[0]}) / NR * NR"
        end = f"min64(keys, row + m + {form.band[1]})"
    later = bool(terms or form.band)
    return {
        "bounds": _BOUNDS.format(keys=expression(form.k.shape[-1]), first=first, end=end),
        "scored": _STORED.format(tile=plan.keys) + ("" if later else _LARGEST),
        "high": _WITH_TERMS.format(tile=plan.keys, terms=terms, band=_band(form, plan))
        if later
        else "",
        "floor": "" if form.band is None else _FLOOR,
    }


def _starts(form: Attention, parameters: Parameters) -> list[tuple[str, str, str]]:
    """(name, type, place): where each operand of a term begins for a head and its first query."""
    out = []
    for i, term in enumerate(form.terms):
        for access, prefix, kind in ((term.read, "bias", "float"), (term.places, "at", "ids")):
            if access is not None:
                place = (
                    f"{parameters.of(access.base, kind)} + {expression(access.offset)} "
                    f"+ h * {expression(batch_of(access.shape, access.strides)[1])} "
                    f"+ row * {expression(access.strides[-2])}"
                )
                out.append((f"{prefix}{i}", C_TYPES[kind], place))
    return out


def _more(form: Attention, starts: list[tuple[str, str, str]]) -> str:
    """The parameters of a tile that these terms and this band add."""
    more = "".join(f"const {c} *{name}, " for name, c, _ in starts)
    return more + ("int64_t row, " if form.band else "")


def _terms(form: Attention, parameters: Parameters) -> str:
    """C that adds to x, the scores of query i and keys from c on, `left` of them."""
    lines = []
    for i, term in enumerate(form.terms):
        row, column = (expression(x) for x in term.read.strides[-2:])
        start = f"bias{i} + i * {row} + c * {column}"
        if term.places is not None:
            of_row, apart = (expression(x) for x in term.places.strides[-2:])
            value = (
                f"vf_pick({start}, {column}, {expression(term.step)}, "
                f"at{i} + i * {of_row} + c * {apart}, {apart}, left)"
            )
        elif term.read.strides[-1] == 1:
            value = f"vf_load_upto({start}, left)"
        else:
            value = f"vf_gather({start}, {column}, left)"
        lines.append(f"                x = vf_add(x, {value});\n")
    return "".join(lines)


def _needs(form: Attention) -> set[str]:
    needs = {"pick" for t in form.terms if t.places is not None}
    strided = any(t.places is None and t.read.strides[-1] != 1 for t in form.terms)
    return needs | ({"strided"} if strided else set())


def _band(form: Attention, plan: Plan) -> str:
    """C that takes out what query i does not see, of scores that have been stored."""
    if form.band is None:
        return ""
    before, after = form.band
    return _OUTSIDE.format(tile=plan.keys, before=before, after=after)


_BOUNDS = "    const int64_t keys = {keys}, first = {first}, end = {end};"
_BEFORE = """\
    (void)s;
    const int64_t first = 0, end = row + m;"""
# What is done with the scores x of one vector; `left` of its lanes are keys that count.
_STORED = "                    vf_store(p + i * {tile} + j + v * VF, x);"
_LARGEST = """\

                    const int64_t left = count - j - v * VF;
                    high[i] = vf_max(high[i], left >= VF ? x : vf_keep(x, left, -INF_F));"""
_MASKED = """\
                    const int64_t left = row + i + 1 - key - j - v * VF;
                    const vf seen = left >= VF ? x : vf_keep(x, left, -INF_F);
                    vf_store(p + i * {tile} + j + v * VF, seen);
                    high[i] = vf_max(high[i], seen);"""
_WITH_TERMS = """\
        for (int i = 0; i < m; i++) {{
{band}            for (int64_t j = 0; j < count; j += VF) {{
                const int64_t c = key + j, left = count - j;
                vf x = vf_load(p + i * {tile} + j);
                (void)c;
{terms}                vf_store(p + i * {tile} + j, x);
                high[i] = vf_max(high[i], left >= VF ? x : vf_keep(x, left, -INF_F));
            }}
        }}
"""
_OUTSIDE = """\
            for (int64_t c = key; c < min64(key + count, row + i - {before}); c++)
                p[i * {tile} + c - key] = -INF_F;
            for (int64_t c = max64(key, row + i + {after} + 1); c < key + count; c++)
                p[i * {tile} + c - key] = -INF_F;
"""
# A query may see none of these keys: its maximum must stay a number.
_FLOOR = "            peak = peak > -1e30f ? peak : -1e30f;\n"

_TILE = """\
/* m queries of one head against the keys they see, {tile} at a time with a running maximum and sum:
   no more scores than that exist at any time. `p` holds them, and after them the mix of values. */
CANAO_INLINE void NAME_tile(const int m, int64_t s, {more}const float *q, const float *kt,
                            const float *vp, float *restrict p, float *restrict o)
{{
{bounds}
    float *const mix = p + MR * {tile};
    vf total[MR];
    float top[MR];
    UNROLL for (int i = 0; i < m; i++)
        top[i] = -INF_F;
    for (int64_t key = first; key < end; key += {tile}) {{
        const int64_t count = min64(end - key, {tile}), rest = count % VF, whole = count - rest;
        vf high[MR], low[MR], sum[MR], shrink[MR];
        UNROLL for (int i = 0; i < m; i++) {{
            high[i] = vf_set1(top[i]);
            sum[i] = vf_set1(0.0f);
        }}
        for (int64_t j = 0; j < count; j += NR) {{
            vf acc[MR][NV];
            UNROLL for (int i = 0; i < m; i++)
                UNROLL for (int v = 0; v < NV; v++)
                    acc[i][v] = vf_set1(0.0f);
            panel_fma(m, {d}, q, {q_row}, kt + (key + j) * {d}, 0, 0, 0, acc);
            UNROLL for (int i = 0; i < m; i++)
                UNROLL for (int v = 0; v < NV; v++) {{
                    const vf x = {scaled};
{scored}
                }}
        }}
{high}        /* exp(x - top) as 2^(x log2 e - top log2 e) */
        UNROLL for (int i = 0; i < m; i++) {{
            float peak = vf_top(high[i]);
{floor}            shrink[i] = vf_exp2(vf_set1((top[i] - peak) * LOG2_E));
            low[i] = vf_set1(-peak * LOG2_E);
            top[i] = peak;
        }}
        for (int64_t j = 0; j < whole; j += VF)
            UNROLL for (int i = 0; i < m; i++) {{
                const vf x = vf_load(p + i * {tile} + j);
                const vf y = vf_exp2(vf_fma(x, vf_set1(LOG2_E), low[i]));
                vf_store(p + i * {tile} + j, y);
                sum[i] = vf_add(sum[i], y);
            }}
        if (rest)
            UNROLL for (int i = 0; i < m; i++) {{
                const vf x = vf_load(p + i * {tile} + whole);
                const vf y = vf_exp2(vf_fma(x, vf_set1(LOG2_E), low[i]));
                vf_store(p + i * {tile} + whole, y);
                sum[i] = vf_add(sum[i], vf_keep(y, rest, 0.0f));
            }}
        UNROLL for (int i = 0; i < m; i++)
            total[i] = key > first ? vf_fma(total[i], shrink[i], sum[i]) : sum[i];
        const int last = key + {tile} >= end;
        UNROLL for (int i = 0; i < m; i++)
            low[i] = vf_set1(last ? 1.0f / vf_sum(total[i]) : 1.0f);
        for (int64_t j = 0; j < {wide}; j += NR) {{
            vf acc[MR][NV];
            UNROLL for (int i = 0; i < m; i++)
                UNROLL for (int v = 0; v < NV; v++)
                    acc[i][v] = key > first
                                    ? vf_mul(vf_load(mix + i * {wide} + j + v * VF), shrink[i])
                                    : vf_set1(0.0f);
            panel_fma(m, count, p, {tile}, vp + j * {room} + key * NR, 0, 0, 0, acc);
            UNROLL for (int i = 0; i < m; i++)
                UNROLL for (int v = 0; v < NV; v++) {{
                    const vf x = vf_mul(acc[i][v], low[i]);
                    const int64_t col = j + v * VF;
                    if (last)
                        vf_store_upto(o + i * {o_row} + col, x, {dv} - col);
                    else
                        vf_store(mix + i * {wide} + col, x);
                }}
        }}
    }}
}}

"""

_WHOLE = """\
/* {batch} heads of softmax(q k^T * {scale}) v */
{signature}
{{
    const int64_t m = {m}, keys = {keys}, tiles = (m + MR - 1) / MR;
    float *const p = scratch, *const kt = p + MR * ({tile} + {wide});
    float *const vp = kt + (keys + NR - 1) / NR * NR * {d};
    int64_t ready = -1;
    for (int64_t t = begin; t < end; t++) {{
        const int64_t h = t / tiles, row = part(m, tiles, t % tiles);
        if (h != ready) {{
            for (int64_t j = 0; j < keys; j += NR)
                pack_panel({d}, keys, {k} + {k0} + h * {k_head}, {k_d}, {k_key}, j, kt + j * {d});
            for (int64_t j = 0; j < {dv}; j += NR)
                pack_panel(keys, {dv}, {v} + {v0} + h * {v_head}, {v_key}, {v_d}, j, vp + j * keys);
            ready = h;
        }}
        const float *const from = {q} + {q0} + h * {q_head} + row * {q_row};
        float *const o = out + h * {o_head} + row * {o_row};
{starts}        switch (part(m, tiles, t % tiles + 1) - row) {{
{cases}
        }}
    }}
}}
"""

_CAUSAL = """\
/* Keys and values of the new tokens join those of the text. A panel of keys that was begun before
   is filled up first. */
static void NAME_append(int64_t s, int64_t past, {parameters}float *restrict cache,
                        int64_t begin, int64_t end)
{{
    {unused}
    for (int64_t h = begin; h < end; h++) {{
        const float *const k = {k} + {k0} + h * {k_head}, *const v = {v} + {v0} + h * {v_head};
        float *const kt = cache + h * {key_head}, *const vp = cache + {values} + h * {value_head};
        int64_t i = 0;
        for (; i < s && (past + i) % NR; i++)
            for (int64_t p = 0; p < {d}; p++)
                kt[(past + i) / NR * NR * {d} + p * NR + (past + i) % NR] =
                    k[i * {k_key} + p * {k_d}];
        for (; i < s; i += NR)
            pack_panel({d}, s, k, {k_d}, {k_key}, i, kt + (past + i) * {d});
        for (int64_t j = 0; j < {dv}; j += NR)
            pack_panel(s, {dv}, v, {v_key}, {v_d}, j, vp + j * {room} + past * NR);
    }}
}}

/* {batch} heads of softmax(q k^T * {scale}) v, each query from `first` on with its own key and all
   before it: a tile ends at the key of its last query. */
static void NAME(int64_t s, int64_t past, int64_t first, {parameters}const float *restrict cache,
                 float *restrict out, float *restrict scratch, int64_t begin, int64_t end)
{{
    {unused}
    const int64_t m = s - first, tiles = (m + MR - 1) / MR;
    float *const p = scratch;
    for (int64_t t = begin; t < end; t++) {{
        const int64_t h = t / tiles, row = first + part(m, tiles, t % tiles);
        const int64_t rows = first + part(m, tiles, t % tiles + 1) - row;
        const float *const kt = cache + h * {key_head};
        const float *const vp = cache + {values} + h * {value_head};
        const float *const from = {q} + {q0} + h * {q_head} + row * {q_row};
        float *const o = out + h * {o_head} + row * {o_row};
        switch (rows) {{
{cases}
        }}
    }}
}}
"""
