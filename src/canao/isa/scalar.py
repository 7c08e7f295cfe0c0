"""One float at a time: plain C, for any machine."""

from __future__ import annotations

from canao.isa.table import FLOAT_TILE, Isa, Levels, TileOps

ISA = Isa(
    name="scalar", vector="float", width=1,
    registers=16, mr=4, vectors=3,
    triples=("x86_64", "aarch64"), cpu="x86_64",
    prologue=(),
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
    levels=Levels(element="int8_t", bytes=1, store="*p = (int8_t)vf_round(v);",
                  load_i8="return *p;"),  # fmt: skip
    tiles={
        "f32": FLOAT_TILE,
        "i8": TileOps(
            weights="int8_t", activations="int8_t", kr=1, vw="int32_t", va="int32_t", vc="int32_t",
            load_w="return *p;", spread="return *p;", product="return c + a * w;",
            zero="0", to_float="return (float)c;",
            to_bits="float f; __builtin_memcpy(&f, &c, 4); return f;",
            of_bits="int32_t n; __builtin_memcpy(&n, &c, 4); return n;",
        ),
    },
)  # fmt: skip
