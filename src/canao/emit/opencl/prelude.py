"""What OpenCL kernels are made of: vectors under the names of emit/rowcode.py, narrow types, and
results over a group of work-items. OpenCL 1.2; extensions that a compiler has are used where there
is another way without.

Loads and stores are macros, as pointers lead to several kinds of memory.
"""

from __future__ import annotations

from canao.emit import vecmath
from canao.emit.arguments import row_type
from canao.emit.language import OPENCL
from canao.emit.writer import fill
from canao.graph.dtypes import QUANTIZED

# Defined where a compiler is not to use what it may have for dot products.
NO_DOT4 = "CANAO_NO_DOT4"
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
/* Beyond the largest half it is that, and not infinity. */
#define to_f16(v) clamp(v, -65504.0f, 65504.0f)
#define f16_row_store(p, v) vstore_half$V(to_f16(v), 0, p)
static inline void f16_row_store_n(__global half *p, vf x, int n)
{
    const vf v = to_f16(x);
    if (n >= VF) {
        vstore_half$V(v, 0, p);
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
# All ways give the same sums: deeper products than 32 bits hold are not quantised, so that nothing
# saturates. cl_qcom_dot_product8 is left out: who uses it does not agree on which bytes are signed.
_DOT4 = """\
/* Products of four bytes each of two words, added to c. */
#if defined($NO_DOT4)
#elif defined(cl_arm_integer_dot_product_accumulate_int8)
#pragma OPENCL EXTENSION cl_arm_integer_dot_product_accumulate_int8 : enable
#define dot4(x, y, c) arm_dot_acc(as_char4(x), as_char4(y), c)
#elif defined(cl_arm_integer_dot_product_int8)
#pragma OPENCL EXTENSION cl_arm_integer_dot_product_int8 : enable
#define dot4(x, y, c) (arm_dot(as_char4(x), as_char4(y)) + (c))
#elif defined(__opencl_c_integer_dot_product_input_4x8bit_packed)
#ifdef cl_khr_integer_dot_product
#pragma OPENCL EXTENSION cl_khr_integer_dot_product : enable
#endif
#define dot4(x, y, c) dot_acc_sat_4x8packed_ss_int(as_uint(x), as_uint(y), c)
#elif defined(__NV_CL_C_VERSION)
static inline int dot4(int x, int y, int c)
{
    int sum;
    __asm__("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(sum) : "r"(x), "r"(y), "r"(c));
    return sum;
}
#define dot4 dot4
#endif
/* The same of a vector of words by one. */
static inline vi vi_dot4(vi y, int x, vi c)
{
#ifdef dot4
    return (vi)($dots);
#else
    c = mad24(y << 24 >> 24, (vi)(x << 24 >> 24), c);
    c = mad24(y << 16 >> 24, (vi)(x << 16 >> 24), c);
    c = mad24(y << 8 >> 24, (vi)(x << 8 >> 24), c);
    return mad24(y >> 24, (vi)(x >> 24), c);
#endif
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
        "dots": ", ".join(f"dot4(y.s{i:x}, x, c.s{i:x})" for i in places), "NO_DOT4": NO_DOT4,
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
    own = {"strided": _STRIDED, "take": _TAKE, "dot4": _DOT4}
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
