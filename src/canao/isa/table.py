"""One table of vector operations, the same names for every ISA; scalar is one of them.

A row is the C body of a static inline function over `vf`, VF floats. Kernels use only these
names, so that adding an ISA is adding a module beside this one: its operations, its registers,
and how compilers and processors call it.

    load_n, store_n   the first n lanes, 0 <= n < VF; other lanes read as 0, are not written
    keep              lanes from n on become `fill`
    select            a where x > 0, else b
    ldexp             a * 2^n for whole n in [-126, 127]

Register tiles of products have operations of their own, one row of `TileOps` for each pair of
types: a step of the inner loop takes `kr` elements of the depth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

# name -> (result, parameters): the interface that each ISA fills in.
OPERATIONS = {
    "load": ("vf", "const float *p"),
    "load_n": ("vf", "const float *p, int64_t n"),
    "store": ("void", "float *p, vf v"),
    "store_n": ("void", "float *p, vf v, int64_t n"),
    "set1": ("vf", "float x"),
    "add": ("vf", "vf a, vf b"),
    "sub": ("vf", "vf a, vf b"),
    "mul": ("vf", "vf a, vf b"),
    "div": ("vf", "vf a, vf b"),
    "max": ("vf", "vf a, vf b"),
    "min": ("vf", "vf a, vf b"),
    "fma": ("vf", "vf a, vf b, vf c"),
    "sqrt": ("vf", "vf a"),
    "abs": ("vf", "vf a"),
    "round": ("vf", "vf a"),
    "ldexp": ("vf", "vf a, vf n"),
    "keep": ("vf", "vf v, int64_t n, float fill"),
    "select": ("vf", "vf x, vf a, vf b"),
    "sum": ("float", "vf v"),
    "top": ("float", "vf v"),
}


# The name of the tiles that multiply float32 by float32.
FLOAT = "f32"


@dataclass(frozen=True, slots=True)
class TileOps:
    """The inner loop of a product of rows of one type by weights of one type, as C.

    weights      C type of a weight in memory
    activations  C type of an element of the rows that are multiplied
    kr           elements of the depth that a step takes
    pairs        whether `product` takes two rows by half as many columns: see below
    load_w       body of `vw tile_load_w(const WEIGHTS *p)`: VF columns of a panel, kr deep
    spread       body of `va tile_spread(const ACTIVATIONS *p)`: kr activations for every column
    product      body of `vc tile_product(va a, vw w, vc c)`: c + a w
    vw, va, vc   C types of what `load_w` and `spread` give, and of VF sums
    zero         C of sums of nothing
    to_float     body of `vf tile_to_float(vc c)`: the sums as floats
    to_bits      body of `vf tile_to_bits(vc c)`: the same bits, to be stored; `of_bits` is back
    offset       what is added to weights where they are stored, as instructions for unsigned bytes
                 want; a product then starts with `-offset` times the sum of its row
    start        body of `vc tile_start(int32_t n)`: VF times the same whole number, for an offset
    store        body of `void rows_store(ACTIVATIONS *p, vf v)`: VF floats as elements of the rows;
                 of whole numbers from -128 to 127, of bf16 and f16 rounded half to even, f16 not
                 beyond the largest. '' where rows are float32 as they come

    Instructions for `pairs` multiply 2 rows by VF / 2 columns and give these 2 x VF / 2 sums in one
    vector. Then `spread` is body of `va tile_spread(const ACTIVATIONS *p, const ACTIVATIONS *q)`,
    of two rows, `load_w` reads VF / 2 columns, and `low`, `high` are bodies of `vc tile_low(vc a,
    vc b)`: the lower halves of both, the upper halves of both.
    """

    weights: str
    activations: str
    kr: int
    vw: str
    va: str
    load_w: str
    spread: str
    product: str
    vc: str = "vf"
    zero: str = "vf_set1(0.0f)"
    to_float: str = "return c;"
    to_bits: str = "return c;"
    of_bits: str = "return c;"
    offset: int = 0
    start: str = ""
    store: str = ""
    pairs: bool = False
    low: str = ""
    high: str = ""


# float32 in memory and in registers needs nothing that the vector table does not have.
FLOAT_TILE = TileOps(
    weights="float", activations="float", kr=1, vw="vf", va="vf",
    load_w="return vf_load(p);", spread="return vf_set1(*p);",
    product="return vf_fma(a, w, c);",
)  # fmt: skip

# Bytes of an element in memory, by its C type.
SIZES = {"int8_t": 1, "int16_t": 2, "uint16_t": 2, "float": 4}


def float_tiles(loads: Mapping[str, str], stores: Mapping[str, str]) -> dict[str, TileOps]:
    """Tiles that multiply float32, of weights of other types: each is loaded as float32.

    The rows of bf16 and f16 are rounded to these, and lie in memory as float32: that takes no
    instructions to read.
    """
    return {
        FLOAT: FLOAT_TILE,
        "f32_i8": replace(FLOAT_TILE, weights="int8_t", load_w=loads["i8"]),
        "f32_f16": replace(FLOAT_TILE, weights="uint16_t", load_w=loads["f16"]),
        "bf16": replace(FLOAT_TILE, weights="uint16_t", load_w=loads["bf16"], store=stores["bf16"]),
        "f16": replace(FLOAT_TILE, weights="uint16_t", load_w=loads["f16"], store=stores["f16"]),
    }


def int8_tiles(ops: TileOps) -> dict[str, TileOps]:
    """Tiles that multiply whole numbers of 8 bits, of which rows may have 7."""
    return {"i8": ops, "q7_i8": ops}


@dataclass(frozen=True, slots=True)
class Isa:
    """An instruction set as code generation sees it.

    vector, width      C type of a vector, and its floats
    registers          vector registers
    mr, vectors        default register tile: rows, and vectors in a row
    triples            first parts of the target triples that have it
    features           flags of a processor that has it, as Linux names them; () is any
    cpu, gcc_march     what ziglang's clang and other compilers call the least such processor
    prologue, bodies   includes and helpers, and the operations
    tiles              the operations of register tiles by the types of what they multiply: 'f32',
                       'i8', 'bf16' and 'f16' of both, 'q7_i8' of rows of 7 bits by int8, 'f32_i8'
                       and 'f32_f16' of float32 rows by int8 and f16
    loads              type of a table -> body of `vf load(const TYPE *p)`: VF elements as floats
    keeps              type of a cache -> body of `void keep(TYPE *p, vf v)`: VF floats as elements,
                       of i8 whole numbers from -127 to 127, rounded half to even; f16 not beyond
                       the largest
    emulated           tiles that it has no instructions for
    helpers            C functions that `loads`, `keeps` and `store` of narrow types call
    extends, gains     the instruction set whose vectors it has, and the tiles that are better: only
                       libraries with these are compiled for it
    """

    name: str
    vector: str
    width: int
    registers: int
    mr: int
    vectors: int
    triples: tuple[str, ...]
    prologue: tuple[str, ...]
    bodies: Mapping[str, str]
    loads: Mapping[str, str]
    keeps: Mapping[str, str]
    tiles: Mapping[str, TileOps]
    features: tuple[str, ...] = ()
    cpu: str = ""
    gcc_march: str = ""
    helpers: str = ""
    emulated: frozenset[str] = frozenset()
    extends: str = ""
    gains: frozenset[str] = frozenset()
