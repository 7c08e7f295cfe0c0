"""The inner loops of ARM's products: all that they work with stays in registers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from arm_loops import LOOPS, compiled, defaults  # noqa: E402

from canao.isa.registry import ISAS  # noqa: E402

pytestmark = pytest.mark.as_shipped


def test_every_product_with_instructions_of_its_own_is_looked_at() -> None:
    seen = [ISAS[isa].tiles[product] for isa, product in LOOPS]
    own = [isa.tiles[p] for isa in ISAS.values() if "aarch64" in isa.triples for p in isa.gains]
    assert own and all(loop in seen for loop in own)


@pytest.mark.parametrize(("isa", "product"), LOOPS)
def test_default_tiles_multiply_without_the_stack(isa: str, product: str) -> None:
    """A turn multiplies every vector of the tile in each of its steps, and loads no broadcasts
    where there are instructions by lanes."""
    ops = ISAS[isa].tiles[product]
    for tile, inner, _ in compiled(isa, product, defaults(isa, product)):
        mr, nr = map(int, tile.split("x"))
        vectors = nr // (ISAS[isa].width * ops.wide)
        assert inner.stack == 0
        assert inner.multiplies == mr * vectors * ops.steps
        if ops.lanes:
            assert not any("ld1r" in line or "dup" in line for line in inner.body)
