"""One float at a time: plain C, for any machine."""

from __future__ import annotations

from canao.isa.table import Isa, TileOps, float_tiles, int8_tiles

# f16 to float32 and back, rounded half to even, not beyond the largest.
HALF = """\
CANAO_INLINE uint32_t bits_of(float x) { uint32_t n; __builtin_memcpy(&n, &x, 4); return n; }
CANAO_INLINE float of_bits(uint32_t n) { float x; __builtin_memcpy(&x, &n, 4); return x; }
CANAO_INLINE float of_half(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = (uint32_t)(h & 0x7fff) << 13;
    if (rest >= 0x0f800000) /* infinite, or not a number */
        return of_bits(sign | rest | 0x7f800000);
    /* The exponent starts at -112 of float32's. */
    return of_bits(sign | bits_of(of_bits(rest) * 0x1p112f));
}
CANAO_INLINE uint16_t half_of(float x)
{
    const uint32_t n = bits_of(x), sign = n >> 16 & 0x8000, size = n & 0x7fffffff;
    if (size > 0x7f800000)
        return (uint16_t)(sign | 0x7e00);
    if (size >= 0x477fe000) /* 65504, the largest */
        return (uint16_t)(sign | 0x7bff);
    if (size < 0x38800000) /* below the normal ones: multiples of 2^-24 */
        return (uint16_t)(sign | (bits_of(of_bits(size) + 0.5f) - 0x3f000000));
    const uint32_t up = size + 0xfff + (size >> 13 & 1);
    return (uint16_t)(sign | (up >= 0x477ff000 ? 0x7bff : (up - 0x38000000) >> 13));
}"""
LOADS = {
    "i8": "return *p;",
    "bf16": "return of_bits((uint32_t)*p << 16);",
    "f16": "return of_half(*p);",
}
STORES = {
    "bf16": "const uint32_t x = bits_of(v); "
            "*p = of_bits((x + 0x7fff + (x >> 16 & 1)) & 0xffff0000);",
    "f16": "*p = of_half(half_of(v));",
}
ISA = Isa(
    name="scalar", vector="float", width=1,
    registers=16, mr=4, vectors=3,
    triples=("x86_64", "aarch64"), cpu="x86_64",
    prologue=(), helpers=HALF, emulated=frozenset({"bf16", "f16"}),
    bodies={
        "load": "return *p;",
        "load_n": "return n > 0 ? *p : 0.0f;",
        "store": "*p = v;",
        "store_n": "if (n > 0) *p = v;",
        "set1": "return x;",
        "add": "return a + b;", "sub": "return a - b;",
        "mul": "return a * b;", "div": "return a / b;",
        "max": "return a > b ? a : b;", "min": "return a < b ? a : b;",
        "fma": "return a * b + c;",
        "sqrt": "return __builtin_sqrtf(a);",
        "abs": "return __builtin_fabsf(a);",
        # Adding and taking away 1.5 * 2^23 rounds to the nearest whole number below 2^22.
        "round": "const float big = 12582912.0f; return (a + big) - big;",
        "ldexp": "union { uint32_t u; float f; } power = {(uint32_t)((int32_t)n + 127) << 23}; "
                 "return a * power.f;",
        "keep": "return n > 0 ? v : fill;",
        "select": "return x > 0.0f ? a : b;",
        "sum": "return v;", "top": "return v;",
    },
    loads=LOADS,
    keeps={"f16": "*p = half_of(v);", "i8": "*p = (int8_t)vf_round(v);"},
    tiles=float_tiles(LOADS, STORES) | int8_tiles(
        TileOps(
            store="*p = (int8_t)vf_round(v);",
            weights="int8_t", activations="int8_t", kr=1, vw="int32_t", va="int32_t", vc="int32_t",
            load_w="return *p;", spread="return *p;", product="return c + a * w;",
            zero="0", to_float="return (float)c;",
            to_bits="float f; __builtin_memcpy(&f, &c, 4); return f;",
            of_bits="int32_t n; __builtin_memcpy(&n, &c, 4); return n;",
        ),
    ),
)  # fmt: skip
