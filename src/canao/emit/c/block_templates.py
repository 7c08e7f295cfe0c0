"""The inner loop of a register tile by instructions that multiply whole blocks."""

from __future__ import annotations

from collections.abc import Mapping

from canao.emit.writer import fill
from canao.isa.table import Blocks

# Instructions that multiply whole blocks: what a tile needs for its sums is in memory anyhow, so
# that the number of rows need not be known to the compiler.
BLOCKS_LOOP = """\
/* acc[m][$NR] += a[m][k] b[k][$NR] by blocks, $DEEP of the depth in each: a by rows lda apart, b a
   packed panel of ${weights}. Where `fresh`, acc holds nothing yet. Where `ahead`, what lies at
   `next` is fetched meanwhile, `step` bytes for every element of the depth. `shapes` are those that
   blocks have. */
static __attribute__((noinline)) void panel_fma_${weights}_${shape}(
    int64_t m, int64_t k, const $A *a, int64_t lda, const $W *b, const int ahead,
    const char *next, int64_t step, $VC acc[$MR][$NV], int fresh, uint64_t *shapes)
{
    for (; k > 0; fresh = 0) {
        const int64_t deep = k < $DEEP ? (k + $KR - 1) / $KR * $KR : $DEEP;
        int64_t turns = k < $DEEP ? 1 : k / $DEEP;
        k -= turns * deep;
        block_shapes(m, deep / $KR, shapes);
        if (fresh) {
${zero_sums}
        } else {
${load_sums}
        }
        for (; turns; turns--, a += deep, b += deep * $NR) {
            if (ahead)
                for (const char *end = next + deep * step; next < end; next += 64)
                    __builtin_prefetch(next);
            _tile_loadd(4, a, lda * (int64_t)sizeof *a);
${products}
        }
${store_sums}
    }
    BLOCKS_IN_MEMORY();
}
"""


def blocks_loop(blocks: Blocks, words: Mapping[str, object]) -> str:
    """The loop over blocks, whose registers have numbers."""
    vectors = words["NV"]
    assert isinstance(vectors, int)
    lines = dict[str, list[str]](zero_sums=[], load_sums=[], products=[], store_sums=[])
    for v in range(vectors):
        weights = 5 + v % 3
        lines["zero_sums"].append(f"            _tile_zero({v});")
        lines["load_sums"].append(f"            _tile_loadd({v}, &acc[0][{v}], sizeof acc[0]);")
        lines["products"] += [
            f"            _tile_loadd({weights}, b + {v} * VF * {words['KR']}, "
            f"{words['NR']} * {words['KR']} * (int64_t)sizeof *b);",
            f"            {blocks.product}({v}, 4, {weights});",
        ]
        lines["store_sums"].append(f"        _tile_stored({v}, &acc[0][{v}], sizeof acc[0]);")
    text = {name: "\n".join(part) for name, part in lines.items()}
    return fill(BLOCKS_LOOP, **words, **text, DEEP=blocks.depth)
