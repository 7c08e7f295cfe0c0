"""The table of instruction sets: every row has every entry."""

from __future__ import annotations

import pytest

from canao.graph.dtypes import DTYPES, F32
from canao.isa.registry import ISAS, isas_of
from canao.isa.table import FLOAT, OPERATIONS, SIZES

BYTES = {"__m256": 32, "__m512": 64, "float32x4_t": 16, "float": 4}


def test_every_isa_has_the_same_types_of_weights_and_they_are_element_types():
    kinds = {frozenset(isa.tiles) for isa in ISAS.values()}
    assert kinds == {frozenset({"f32", "i8", "q7_i8", "bf16", "f16", "f32_i8", "f32_f16"})}
    assert {frozenset(isa.loads) for isa in ISAS.values()} == {frozenset({"i8", "bf16", "f16"})}
    assert {frozenset(isa.keeps) for isa in ISAS.values()} == {frozenset({"i8", "f16"})}


def test_what_the_table_repeats_of_the_element_types_agrees_with_them():
    """Instruction sets import nothing, so that a new one is a file by itself."""
    assert F32.name == FLOAT
    sizes = {dtype.c: dtype.bytes for dtype in DTYPES.values()}
    assert {c: sizes[c] for c in SIZES if c in sizes} == {c: SIZES[c] for c in SIZES if c in sizes}
    assert set(SIZES) - set(sizes) == {"int16_t"}, "what levels are widened to is no element type"


@pytest.mark.parametrize("name", ISAS)
def test_an_isa_says_each_operation_once_and_names_a_vector_of_its_width(name):
    isa = ISAS[name]
    assert isa.name == name
    assert set(isa.bodies) == set(OPERATIONS)
    assert isa.width * 4 == BYTES[isa.vector]


@pytest.mark.parametrize("name", ISAS)
def test_the_default_tiles_fit_the_registers(name):
    isa = ISAS[name]
    for tile in isa.tiles.values():
        mr, vectors = tile.shape or (isa.mr, isa.vectors)
        # Sums, weights of a step, and broadcasts; or what stands for these two.
        if tile.blocks:  # in registers of their own: four for sums, of 16 rows of 64 bytes each
            assert vectors <= 4 and mr == tile.rows == 16
            assert tile.blocks.depth * SIZES[tile.activations] == isa.width * 4 == 64
            continue
        assert mr * vectors + vectors + 1 <= isa.registers or tile.pairs
        assert tile.held(mr, vectors) <= isa.registers


@pytest.mark.parametrize("name", ISAS)
def test_the_rows_of_tiles_agree_with_the_element_types(name):
    for kind, tile in ISAS[name].tiles.items():
        assert tile.weights == DTYPES[kind.split("_")[-1]].c
        assert tile.weights in SIZES and tile.activations in SIZES
        assert tile.kr >= 1
        # Rows that are rounded say how they are stored, weights with an offset where sums start.
        assert bool(tile.store) == (not kind.startswith("f32"))
        assert bool(tile.offset) == bool(tile.start)
        assert bool(tile.pairs) == bool(tile.low) == bool(tile.high)
        if tile.lanes:
            assert bool(tile.lanes.product) != tile.pairs
            assert bool(tile.lanes.first) == bool(tile.lanes.second) == tile.pairs
        # Blocks have whole turns of the loop by lanes, and sums that are added as floats.
        assert tile.deep % (tile.kr * tile.steps) == 0
        assert not tile.block or (tile.vc == "vf" and tile.wide > 1)
        whole = (tile.load_w, tile.spread, tile.product, tile.to_float, tile.to_bits, tile.of_bits)
        for body in whole:
            assert "return " in body and body.endswith(";")


@pytest.mark.parametrize("triple", ["x86_64-linux-musl", "aarch64-linux-musl"])
def test_a_machines_isas_come_narrowest_first(triple):
    widths = [isa.width for isa in isas_of(triple)]
    assert widths == sorted(widths) and len(widths) > 1


@pytest.mark.parametrize("name", ISAS)
def test_an_extension_has_all_that_it_extends_and_better_tiles(name):
    isa = ISAS[name]
    assert bool(isa.extends) == bool(isa.gains)
    if isa.extends:
        base = ISAS[isa.extends]
        assert isa.vector == base.vector and isa.bodies == base.bodies
        assert set(isa.features) > set(base.features)
        better = {kind for kind, tile in isa.tiles.items() if tile != base.tiles[kind]}
        assert better == isa.gains
