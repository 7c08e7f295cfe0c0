"""What OpenCL kernels are made of: vectors under the names of emit/rowcode.py, narrow types, and
results over a group of work-items. OpenCL 1.2, without extensions.

Loads and stores are macros, as pointers lead to several kinds of memory.
"""

from __future__ import annotations

from canao.emit import vecmath
from canao.emit.language import OPENCL
from canao.emit.writer import fill

# Names of the elements of a vector: s0 to sf.
_ELEMENTS = "0123456789abcdef"
_VECTORS = """\
typedef float$V vf;
typedef int$V vi;
enum { VF = $V };
#define vf_load(p) vload$V(0, p)
#define vf_store(p, v) vstore$V(v, 0, p)
#define vf_load_n(p, n) ((vf)($loads))
#define vf_store_n(p, v, n) \\
    do { \\
        const vf stored = v; \\
$stores    } while (0)
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
static inline vf vf_keep(vf v, int n, float fill) { return (vf)($kept); }
$sums
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
#define load_f16_n(p, n) ((vf)($loads))
#define load_f16_by(p, step, n) ((vf)($steps))
#define f16_row_store(p, v) vstore_half$V(v, 0, p)
#define f16_row_store_n(p, v, n) \\
    do { \\
        const vf stored = v; \\
$stores    } while (0)
"""
_BYTES = """\
#define load_i8(p) convert_float$V(vload$V(0, p))
#define load_i8_n(p, n) ((vf)($loads))
#define load_i8_by(p, step, n) ((vf)($steps))
"""
# Each work-item of a row gives its part; all get the result. Items are the first dimension.
_GROUPS = """\
static inline float group_sum(float x, __local float *part, int items)
{
    const int lane = get_local_id(0);
    barrier(CLK_LOCAL_MEM_FENCE);
    part[lane] = x;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int n = items; n > 1; n = (n + 1) / 2) {
        if (lane < n / 2)
            part[lane] += part[lane + (n + 1) / 2];
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    return part[0];
}
static inline float group_top(float x, __local float *part, int items)
{
    const int lane = get_local_id(0);
    barrier(CLK_LOCAL_MEM_FENCE);
    part[lane] = x;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int n = items; n > 1; n = (n + 1) / 2) {
        if (lane < n / 2)
            part[lane] = fmax(part[lane], part[lane + (n + 1) / 2]);
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    return part[0];
}
"""


def prelude(vector: int, needs: frozenset[str]) -> list[str]:
    """Pieces of the source before its kernels, for vectors of so many floats."""
    names = _ELEMENTS[:vector]
    every = list(enumerate(names))
    stores = "".join(f"        if ((n) > {i}) (p)[{i}] = stored.s{c}; \\\n" for i, c in every)
    pieces = [fill(
        _VECTORS, V=vector, sums=_SUMS[vector], stores=stores,
        loads=", ".join(f"(n) > {i} ? (p)[{i}] : 0.0f" for i, _ in every),
        kept=", ".join(f"n > {i} ? v.s{c} : fill" for i, c in every),
    )]  # fmt: skip
    pieces.append(vecmath.functions(OPENCL))
    if any(name.endswith("f16") or name == "f16_row" for name in needs):
        pieces.append(fill(
            _HALVES, V=vector,
            loads=", ".join(f"(n) > {i} ? vload_half({i}, p) : 0.0f" for i, _ in every),
            steps=", ".join(f"(n) > {i} ? vload_half({i} * (step), p) : 0.0f" for i, _ in every),
            stores="".join(f"        if ((n) > {i}) vstore_half(stored.s{c}, {i}, p); \\\n"
                           for i, c in every),
        ))  # fmt: skip
    if "load_i8" in needs:
        pieces.append(fill(
            _BYTES, V=vector,
            loads=", ".join(f"(n) > {i} ? (float)(p)[{i}] : 0.0f" for i, _ in every),
            steps=", ".join(f"(n) > {i} ? (float)(p)[{i} * (step)] : 0.0f" for i, _ in every),
        ))  # fmt: skip
    if "group" in needs:
        pieces.append(_GROUPS)
    helpers = vecmath.helpers(OPENCL)
    pieces += [text for name, text in helpers.items() if name in needs]
    return pieces
