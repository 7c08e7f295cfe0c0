"""What OpenCL kernels are made of: vectors under the names of emit/rowcode.py, narrow types, and
results over a group of work-items. OpenCL 1.2, without extensions.

Loads and stores are macros, as pointers lead to several kinds of memory.
"""

from __future__ import annotations

from canao.emit import vecmath
from canao.emit.arguments import row_type
from canao.emit.language import OPENCL
from canao.emit.writer import fill
from canao.graph.dtypes import QUANTIZED

_VECTORS = """\
typedef float$V vf;
typedef int$V vi;
enum { VF = $V };
#define vf_load(p) vload$V(0, p)
#define vf_store(p, v) vstore$V(v, 0, p)
/* Buffers end so late that whole vectors can be read where rows end (canao_launch.h). */
#define vf_load_n(p, n) vf_keep(vf_load(p), n, 0.0f)
#define vf_set1(x) ((vf)(x))
static inline vf vf_add(vf a, vf b) { return a + b; }
static inline vf vf_sub(vf a, vf b) { return a - b; }
static inline vf vf_mul(vf a, vf b) { return a * b; }
static inline vf vf_div(vf a, vf b) { return a / b; }
static inline vf vf_max(vf a, vf b) { return fmax(a, b); }
static inline vf vf_min(vf a, vf b) { return fmin(a, b); }
#ifdef FP_FAST_FMAF
static inline vf vf_fma(vf a, vf b, vf c) { return fma(a, b, c); }
#else
static inline vf vf_fma(vf a, vf b, vf c) { return mad(a, b, c); }
#endif
static inline vf vf_sqrt(vf a) { return sqrt(a); }
static inline vf vf_abs(vf a) { return fabs(a); }
static inline vf vf_round(vf a) { return rint(a); }
/* 2^n is a normal number wherever this is called. */
static inline vf vf_ldexp(vf a, vf n) { return a * as_float$V((convert_int$V(n) + 127) << 23); }
static inline vf vf_select(vf x, vf a, vf b) { return select(b, a, isgreater(x, (vf)(0.0f))); }
static inline vf vf_keep(vf v, int n, float fill)
{
    return select((vf)(fill), v, (vi)($places) < (vi)(n));
}
/* All but the first n elements. */
static inline vf vf_from(vf v, int n, float fill)
{
    return select((vf)(fill), v, (vi)($places) >= (vi)(n));
}
$sums
/* The first n elements. */
static inline void vf_store_n(__global float *p, vf v, int n)
{
    if (n >= VF) {
        vf_store(p, v);
        return;
    }
    if (n <= 0)
        return;
$parts
}
"""
_SUMS = {
    4: "static inline float vf_sum(vf v) { return (v.x + v.y) + (v.z + v.w); }\n"
       "static inline float vf_top(vf v) { return fmax(fmax(v.x, v.y), fmax(v.z, v.w)); }",
    8: "static inline float vf_sum(vf v) { const float4 h = v.lo + v.hi; "
       "return (h.x + h.y) + (h.z + h.w); }\n"
       "static inline float vf_top(vf v) { const float4 h = fmax(v.lo, v.hi); "
       "return fmax(fmax(h.x, h.y), fmax(h.z, h.w)); }",
    16: "static inline float vf_sum(vf v) { const float8 g = v.lo + v.hi; "
        "const float4 h = g.lo + g.hi; return (h.x + h.y) + (h.z + h.w); }\n"
        "static inline float vf_top(vf v) { const float8 g = fmax(v.lo, v.hi); "
        "const float4 h = fmax(g.lo, g.hi); return fmax(fmax(h.x, h.y), fmax(h.z, h.w)); }",
}  # fmt: skip
_HALVES = """\
typedef half f16_row;
#define load_f16(p) vload_half$V(0, p)
#define load_f16_n(p, n) vf_keep(load_f16(p), n, 0.0f)
static inline vf load_f16_by(__global const half *p, int step, int n)
{
    return (vf)($halves);
}
#define f16_row_store(p, v) vstore_half$V(v, 0, p)
static inline void f16_row_store_n(__global half *p, vf v, int n)
{
    if (n >= VF) {
        f16_row_store(p, v);
        return;
    }
    if (n <= 0)
        return;
$parts
}
"""
_BYTES = """\
#define load_i8(p) convert_float$V(vload$V(0, p))
#define load_i8_n(p, n) vf_keep(load_i8(p), n, 0.0f)
static inline vf load_i8_by(__global const char *p, int step, int n)
{
    return (vf)($bytes);
}
"""
_LEVELS = """\
/* Levels of a row, and after them the float that they are multiples of. */
typedef char $KIND;
#define ${KIND}_store(p, v) vstore$V(convert_char${V}_sat_rte(v), 0, p)
static inline void ${KIND}_store_n(__global char *p, vf x, int n)
{
    const char$V v = convert_char${V}_sat_rte(x);
    if (n >= VF) {
        vstore$V(v, 0, p);
        return;
    }
    if (n <= 0)
        return;
$parts
}
static inline float ${KIND}_inverse(float top) { return top > 0.0f ? $LEVELS.0f / top : 0.0f; }
static inline void ${KIND}_end(__global char *row, int scale, float top)
{
    *(__global float *)(row + scale) = top / $LEVELS.0f;
}
"""
# Each work-item of a row gives its part; all get the result. Items are the first dimension.
_GROUP = """\
static inline float group_$name(float x, __local float *part, int items)
{
    const int lane = get_local_id(0);
    barrier(CLK_LOCAL_MEM_FENCE);
    part[lane] = x;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int n = items; n > 1; n = (n + 1) / 2) {
        if (lane < n / 2)
            part[lane] = $both;
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    return part[0];
}
"""
_OTHER = "part[lane + (n + 1) / 2]"
_BOTH = {"sum": f"part[lane] + {_OTHER}", "top": f"fmax(part[lane], {_OTHER})"}


_STRIDED = """\
static inline vf vf_gather(__global const float *p, int step, int n)
{
    return (vf)($floats);
}
"""
_TAKE = """\
/* Element i: at[i * next] of row i of p. Elements are `step` floats apart, rows `apart`. */
static inline vf vf_take(__global const float *p, int apart, int step, __global const int *at,
                         int next, int n)
{
    return (vf)($taken);
}
"""


def prelude(vector: int, needs: frozenset[str]) -> list[str]:
    """Pieces of the source before its kernels, for vectors of so many floats."""
    places = range(vector)
    words = {
        "V": vector, "sums": _SUMS[vector], "places": ", ".join(map(str, places)),
        "halves": _each("vload_half({i} * step, p)", vector),
        "bytes": _each("(float)p[{i} * step]", vector),
        "floats": _each("p[{i} * step]", vector),
        "taken": _each("p[{i} * apart + at[{i} * next] * step]", vector),
    }  # fmt: skip
    pieces = [fill(_VECTORS, parts=_parts("vstore{}({}, 0, p);", "*p = {};", vector), **words)]
    pieces.append(vecmath.functions(OPENCL))
    if any(name in needs for name in ("load_f16", "f16_row")):
        parts = _parts("vstore_half{}({}, 0, p);", "vstore_half({}, 0, p);", vector)
        pieces.append(fill(_HALVES, parts=parts, **words))
    for dtype in QUANTIZED:
        if row_type(dtype) in needs:
            parts = _parts("vstore{}({}, 0, p);", "*p = {};", vector, "char")
            kind = row_type(dtype)
            pieces.append(fill(_LEVELS, KIND=kind, LEVELS=dtype.levels, parts=parts, V=vector))
    if "load_i8" in needs:
        pieces.append(fill(_BYTES, **words))
    if "group" in needs:
        pieces += [fill(_GROUP, name=name, both=both) for name, both in _BOTH.items()]
    own = {"strided": _STRIDED, "take": _TAKE}
    helpers = vecmath.helpers(OPENCL) | {name: fill(text, **words) for name, text in own.items()}
    return pieces + [text for name, text in helpers.items() if name in needs]


def _each(element: str, vector: int) -> str:
    """The elements of a vector of which the first n are read."""
    return ", ".join(f"n > {i} ? {element.format(i=i)} : 0.0f" for i in range(vector))


def _parts(store: str, last: str, vector: int, element: str = "float") -> str:
    """C that stores the first n elements of v, fewer than all, in parts of halved sizes."""
    lines, size, name = [], vector, "v"
    while size > 1:
        size //= 2
        part = f"v{size}"
        kind = f"{element}{size}" if size > 1 else element
        lines.append(f"    {kind} {part} = {name}.lo;")
        stored = (store if size > 1 else last).format(*([size, part] if size > 1 else [part]))
        again = f" p += {size}; {part} = {name}.hi;" if size > 1 else ""
        lines.append(f"    if (n & {size}) {{ {stored}{again} }}")
        name = part
    return "\n".join(lines)
