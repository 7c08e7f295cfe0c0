"""C for attention by tiles.

Causal attention is two kernels: one that puts new keys and values into the cache, and one that
reads them there.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

from canao.emit.arguments import IDS, Arguments, c_type, row_type
from canao.emit.c import attention_templates as templates
from canao.emit.c.kernel import KernelText, buffer_pointers, declared, signature
from canao.emit.c.tile_templates import tile_words
from canao.emit.expressions import expression
from canao.emit.writer import fill, number
from canao.fuse.forms.attention import Attention
from canao.graph.dtypes import BF16, F32
from canao.graph.ir import Graph, product
from canao.isa.table import Isa
from canao.lower.batches import batch_of
from canao.lower.cpu.attention import AttentionPlan, deep_row, depth, multiplied
from canao.lower.cpu.quantized import tile_name
from canao.lower.cpu.tiles import PACKED_ROWS, rounded
from canao.schedule.kv_cache import CacheLayout
from canao.schedule.operands import Operand
from canao.schedule.schedule import Step

# Name, type and start of each operand of an attention bias, and of a head's scales.
Starts = list[tuple[str, str, str]]


def attention_text(graph: Graph, step: Step, isa: Isa) -> KernelText:
    """Attention over the keys of the sequence, or causal over those of the cache as well."""
    form, plan = step.region.form, step.plan
    assert isinstance(form, Attention) and isinstance(plan, AttentionPlan)
    arguments = Arguments(step.reads)
    cache = step.cache.layout if step.cache else None
    starts = [*_starts(form, arguments), *_scales(cache)]
    sizes, strides = _sizes(form, plan, cache), _strides(form, arguments)
    words = {**tile_words(plan.tile, isa), **sizes, **strides}
    words |= _rounded(form, plan, isa, words) if form.rounded != F32 else _kept(cache, words)
    text = fill(
        templates.TILE + _rest(cache), name=step.name, signature=signature(step.name, arguments),
        parameters=declared(arguments.declarations()),
        unused=" ".join(f"(void){name};" for name in arguments.names.values()),
        run=_run(step.name, form, plan, starts, cache), more=_more(form, starts),
        buffers="\n".join(f"    {line}" for line in buffer_pointers(step.scratch)),
        starts="".join(f"        const {c} *const {x} = {place};\n" for x, c, place in starts),
        **words, **_reach(form, plan, isa),
    )  # fmt: skip
    needs = {"tile", "pack", *_needs(form)}
    if form.rounded != F32:
        needs |= {f"pack_{BF16}", row_type(BF16)}
    return KernelText(text, frozenset(needs), plan.tile, multiplied(form))


def _rest(cache: CacheLayout | None) -> str:
    """The kernels beside a tile of queries."""
    if cache is None:
        return templates.WHOLE
    append = templates.APPEND if cache.dtype == F32 else templates.APPEND_NARROW
    return append + templates.CAUSAL


def _scales(cache: CacheLayout | None) -> Starts:
    """Where the scales of a head's keys and values begin."""
    if cache is None or not cache.scales:
        return []
    places = (("ks", cache.key_scales), ("vs", cache.value_scales))
    return [
        (name, "float", f"(const float *)(const void *)((const char *)cache + {place}) "
                        f"+ h * {cache.scales}")
        for name, place in places
    ]  # fmt: skip


def _rounded(
    form: Attention, plan: AttentionPlan, isa: Isa, words: Mapping[str, object]
) -> dict[str, object]:
    """What of a tile and of packing is another where blocks of bf16 are multiplied."""
    kr, deep, kept = isa.tiles[BF16.name].kr, deep_row(form, isa.name), row_type(BF16)
    keys = expression(form.k.shape[-1])
    return {
        "kept": kept, "fma": f"panel_fma_{BF16}_{words['shape']}", "pack": f"pack_{BF16}",
        "deep": deep, "each": "for",
        "narrow": f"{kept} *restrict qn, {kept} *restrict pn, uint64_t *shapes, ",
        "zeros": "", "fresh": ", 1, shapes",
        "mix_so_far": fill(templates.MIX_OF_BLOCKS, **words), "later": ", key == first, shapes",
        "shapes": "    uint64_t shapes = 0;\n", "done": "    blocks_done();\n",
        "round_queries": fill(templates.ROUND_QUERIES, **words, deep=deep, kept=kept),
        "query": f"qn, {deep}", "part": "pn",
        "keep_whole": f"{kept}_store(pn + i * {plan.keys} + j, y)",
        "keep_rest": f"{kept}_store(pn + i * {plan.keys} + whole, vf_keep(y, rest, 0.0f))",
        "room": f"(({keys} + {kr - 1}) / {kr} * {kr})",
    }  # fmt: skip


def _kept(cache: CacheLayout | None, words: Mapping[str, object]) -> dict[str, object]:
    """The type of keys and values in memory, and what of a tile and of appending depends on it."""
    dtype, scaled = cache.dtype if cache else F32, bool(cache and cache.scales)
    out: dict[str, object] = {
        "kept": dtype.c, "type": dtype, "block": PACKED_ROWS,
        "fma": f"panel_fma_{tile_name(F32, dtype)}_{words['shape']}", "pack": "pack_panel",
        "deep": words["d"], "each": "UNROLL for", "narrow": "",
        "zeros": fill(templates.ZEROS, **words), "mix_so_far": fill(templates.MIX, **words),
        "round_queries": "", "query": f"q, {words['q_row']}", "part": "p",
        **dict.fromkeys(("fresh", "later", "shapes", "done"), ""),
    }  # fmt: skip
    for part, column in (("whole", "j"), ("rest", "whole")):
        stored = f"vf_mul(y, vf_load(vs + key + {column}))" if scaled else "y"
        out[f"keep_{part}"] = f"vf_store(p + i * {words['tile']} + {column}, {stored})"
    factors = {"of_key": "by", "of_keys": "vf_load(by + j)", "of_value": "vf_set1(by[n])"}
    for part, factor in factors.items():
        out[part] = f"vf_mul(x, {factor})" if scaled else "x"
    for part, text in (("scales", templates.SCALES), ("one_key", templates.ONE_KEY),
                       ("keys_by", templates.KEYS), ("tokens_by", templates.TOKENS)):  # fmt: skip
        out[part] = ""
        if cache and scaled:
            out[part] = fill(
                text, **words, block=PACKED_ROWS, key_scales=cache.key_scales,
                value_scales=cache.value_scales, scale_head=cache.scales,
            )  # fmt: skip
    return out


def _run(
    name: str, form: Attention, plan: AttentionPlan, starts: Starts, cache: CacheLayout | None
) -> str:
    """The call of a tile; one for each number of queries where compilers are to know it."""
    own = "past + row, " if cache else "row, " if form.window else ""
    operands = "".join(f"{x}, " for x, _, _ in starts) + own
    rows = "rows" if cache else "part(m, tiles, t % tiles + 1) - row"
    buffers = "from, kt, vp, p, mix, "
    if form.rounded != F32:
        buffers = "from, kt, vp, p, mix, qn, pn, &shapes, "
        return f"        {name}_tile((int)({rows}), s, {operands}{buffers}o);\n"
    cases = "\n".join(
        f"            case {m}: {name}_tile({m}, s, {operands}{buffers}o); break;"
        for m in range(1, plan.mr + 1)
    )
    return fill(templates.SWITCH, rows_of_tile=rows, cases=cases)


def _sizes(form: Attention, plan: AttentionPlan, cache: CacheLayout | None) -> dict[str, object]:
    """Dimensions, and where keys and values lie in the cache."""
    e, (d, dv) = expression, depth(form)
    wide = rounded(dv, plan.nr)
    scaled = "acc[i][v]"
    factors = [] if form.scale == 1.0 else [f"vf_set1({number(form.scale)})"]
    if cache and cache.scales:
        factors.append("vf_load(ks + key + j + v * VF)")
    if factors:
        scaled = f"vf_mul({scaled}, {reduce('vf_mul({}, {})'.format, factors)})"
    return {
        "batch": product(form.q.shape[:-2]), "m": e(form.q.shape[-2]), "d": d,
        "keys": e(form.k.shape[-1]), "dv": dv, "wide": wide, "tile": plan.keys,
        "scale": number(form.scale), "scaled": scaled,
        "room": cache.value_head // wide if cache else "keys",
        "key_head": cache.key_head if cache else 0,
        "value_head": cache.value_head if cache else 0,
        "values": cache.values if cache else 0,
    }  # fmt: skip


def _strides(form: Attention, arguments: Arguments) -> dict[str, str]:
    """For each operand its pointer, offset, and steps to the next head, row and column."""
    e, out = expression, {}
    for x, access, row, column in (("q", form.q, "row", ""), ("k", form.k, "d", "key"),
                                   ("v", form.v, "key", "d")):  # fmt: skip
        out[x] = arguments.of(access.base)
        out[f"{x}0"] = e(access.offset)
        out[f"{x}_head"] = e(batch_of(access.shape, access.strides)[1])
        out[f"{x}_{row}"] = e(access.strides[-2])
        if column:
            out[f"{x}_{column}"] = e(access.strides[-1])
    out["o_head"] = e(batch_of(form.q.shape, form.store)[1])
    out["o_row"] = e(form.store[-2])
    return out


def _reach(form: Attention, plan: AttentionPlan, isa: Isa) -> dict[str, str]:
    """The parts of a tile that say which keys it visits, and what of their scores counts."""
    words = {"tile": plan.keys, **tile_words(plan.tile, isa)}
    if form.cached:
        return {"bounds": templates.BEFORE, "scored": fill(templates.MASKED, **words), "high": "",
                "floor": ""}  # fmt: skip
    first, end = "0", "keys"
    if form.window is not None:
        first = f"max64(0, row - {form.window[0]}) / {plan.nr} * {plan.nr}"
        end = f"min64(keys, row + m + {form.window[1]})"
    later = bool(form.biases or form.window)
    keys = expression(form.k.shape[-1])
    scored = fill(templates.STORED, **words)
    return {
        "bounds": fill(templates.BOUNDS, keys=keys, first=first, end=end),
        "scored": scored if later else scored + templates.LARGEST,
        "high": fill(
            templates.WITH_BIASES, biases=_biases(form), window=_window(form, plan), **words
        ) if later else "",
        "floor": "" if form.window is None else templates.FLOOR,
    }  # fmt: skip


def _starts(form: Attention, arguments: Arguments) -> Starts:
    """(name, type, place): where each operand of a bias begins for a head and its first query."""
    out = []
    for i, bias in enumerate(form.biases):
        for access, prefix, dtype in ((bias.read, "bias", F32), (bias.indices, "at", IDS)):
            if access is not None:
                place = (
                    f"{arguments.of(access.base, dtype)} + {expression(access.offset)} "
                    f"+ h * {expression(batch_of(access.shape, access.strides)[1])} "
                    f"+ row * {expression(access.strides[-2])}"
                )
                out.append((f"{prefix}{i}", c_type(Operand(access.base, dtype=dtype)), place))
    return out


def _more(form: Attention, starts: Starts) -> str:
    """The parameters of a tile that biases and a sliding window add."""
    more = "".join(f"const {c} *{name}, " for name, c, _ in starts)
    return more + ("int64_t row, " if form.window else "")


def _biases(form: Attention) -> str:
    """C that adds to x, the scores of query i and keys from c on, `left` of them."""
    lines = []
    for i, bias in enumerate(form.biases):
        row, column = (expression(x) for x in bias.read.strides[-2:])
        start = f"bias{i} + i * {row} + c * {column}"
        if bias.indices is not None:
            of_row, apart = (expression(x) for x in bias.indices.strides[-2:])
            value = (
                f"vf_take({start}, {column}, {expression(bias.step)}, "
                f"at{i} + i * {of_row} + c * {apart}, {apart}, left)"
            )
        elif bias.read.strides[-1] == 1:
            value = f"vf_load_upto({start}, left)"
        else:
            value = f"vf_gather({start}, {column}, left)"
        lines.append(f"                x = vf_add(x, {value});\n")
    return "".join(lines)


def _needs(form: Attention) -> set[str]:
    needs = {"take" for b in form.biases if b.indices is not None}
    strided = any(b.indices is None and b.read.strides[-1] != 1 for b in form.biases)
    if form.cache not in (None, F32):
        return needs | {f"keep_{form.cache}", "strided"}
    return needs | ({"strided"} if strided else set())


def _window(form: Attention, plan: AttentionPlan) -> str:
    """C that sets stored scores of query i to -inf where the key is outside its window."""
    if form.window is None:
        return ""
    before, after = form.window
    return fill(templates.OUTSIDE, tile=plan.keys, before=before, after=after)
