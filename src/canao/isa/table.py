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
class Lanes:
    """Instructions that multiply by one lane of a vector: what a row has for several steps is read
    at once, and need not be spread.

    steps    of the inner loop whose activations a vector holds
    load     body of `va tile_load_a(const ACTIVATIONS *p)`: steps * kr activations
    product  body of `vb tile_by_lane(va a, vw w, vb c, const int lane)`: c + the lane of a times w

    Instructions that take two rows at once (`pairs`) cannot name a lane. With these, `load` reads
    two steps of one row; `first` and `second`, bodies of `va tile_first(va a, va b)`, make of two
    such rows what the first step multiplies by, and the second.
    """

    steps: int
    load: str
    product: str = ""
    first: str = ""
    second: str = ""


@dataclass(frozen=True, slots=True)
class Block:
    """Sums of a short block of the depth, in fewer bits, which are then added to float32 sums.

    depth  elements of the depth in a block
    vb     C type of a block's sums, `wide` times VF
    zero   C of sums of nothing
    part   body of `vf tile_part(vb c, const int i)`: VF of the sums from the (i VF)th on, as floats
    """

    depth: int
    vb: str
    wide: int
    zero: str
    part: str


@dataclass(frozen=True, slots=True)
class Blocks:
    """Instructions that multiply whole blocks, in registers that hold nothing else.

    A block of rows has as many as a register tile, one of sums VF columns. The sums of a register
    tile are blocks 0 to 3, its rows block 4, weights blocks 5 to 7.

    depth    elements of the depth in a block
    product  C of what adds to sums the products of rows by weights, each by its number
    grant    C of asking the system for these registers: whether a program may use them
    pack     C that puts VF columns of floats `rows[kr]` to `p`, as a panel of weights has them; ''
             where attention has no use for it
    """

    depth: int
    product: str
    grant: str
    pack: str = ""


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
    lanes        where instructions multiply by a lane: see there; `spread` and `product` are then
                 for steps that are left over
    block        where products are added up in a type of their own first: see there; `load_w` then
                 reads `wide` times as many columns, and vb takes the place of vc in products
    blocks       where instructions multiply whole blocks: see there; only the operations for sums
                 are then in use
    shape        default register tile, rows and vectors of sums in a row, where it is not the
                 instruction set's: then with other widths as many rows as fit
    rows         of a register tile at most: with more, compilers find no registers for all of it
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
    lanes: Lanes | None = None
    block: Block | None = None
    blocks: Blocks | None = None
    shape: tuple[int, int] | None = None
    rows: int = 14

    @property
    def together(self) -> int:
        """Rows that an instruction takes."""
        return 2 if self.pairs else 1

    @property
    def wide(self) -> int:
        """Columns of a vector of sums of the inner loop, in vectors of floats."""
        return self.block.wide if self.block else 1

    @property
    def steps(self) -> int:
        """Steps whose activations are read at once."""
        return self.lanes.steps if self.lanes else 1

    @property
    def deep(self) -> int:
        """Elements of the depth of which an inner loop has no rest."""
        return max(
            self.kr * self.steps,
            self.block.depth if self.block else 0,
            self.blocks.depth if self.blocks else 0,
        )

    def held(self, mr: int, vectors: int) -> int:
        """Registers of an inner loop's tile: sums, weights of a step, what these are multiplied
        by, and where that is read for several steps at once, one that is being read. Blocks have
        registers of their own."""
        if self.blocks:
            return 0
        rows = mr + -mr % self.together
        weights, read = (2, 2) if self.pairs else (vectors, 1)
        return rows * vectors + weights + (rows + read if self.lanes else 1)


# float32 in memory and in registers needs nothing that the vector table does not have.
FLOAT_TILE = TileOps(
    weights="float", activations="float", kr=1, vw="vf", va="vf",
    load_w="return vf_load(p);", spread="return vf_set1(*p);",
    product="return vf_fma(a, w, c);",
)  # fmt: skip

# Bytes of an element in memory, by its C type.
SIZES = {"int8_t": 1, "int16_t": 2, "uint16_t": 2, "float": 4}


def float_tiles(
    loads: Mapping[str, str], stores: Mapping[str, str], tile: TileOps = FLOAT_TILE
) -> dict[str, TileOps]:
    """Tiles that multiply float32, of weights of other types: each is loaded as float32.

    The rows of bf16 and f16 are rounded to these, and lie in memory as float32: that takes no
    instructions to read.
    """
    return {
        FLOAT: tile,
        "f32_i8": replace(tile, weights="int8_t", load_w=loads["i8"]),
        "f32_f16": replace(tile, weights="uint16_t", load_w=loads["f16"]),
        "bf16": replace(tile, weights="uint16_t", load_w=loads["bf16"], store=stores["bf16"]),
        "f16": replace(tile, weights="uint16_t", load_w=loads["f16"], store=stores["f16"]),
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
