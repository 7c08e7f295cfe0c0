"""The programs that measure peaks: that compilers leave in what they measure, and what they say."""

from __future__ import annotations

import re

import pytest

from canao.build import assembly, get_toolchain
from canao.device.bench import local_device
from canao.emit.c.peak import peak_source
from canao.isa.registry import ISAS, isas_of
from canao.target import get_target

pytestmark = pytest.mark.as_shipped

CHAINS, BLOCKS = 12, 4
# (instruction set, product): the instruction that multiplies.
MULTIPLY = {
    ("scalar", "i8"): "imull",
    ("avx2", "f32"): r"vfmadd\d+ps", ("avx2", "f32_i8"): r"vfmadd\d+ps", ("avx2", "i8"): "vpmaddwd",
    ("avx2", "q7_i8"): "vpmaddubsw", ("avxvnni", "i8"): "vpdpbusd",
    ("avx512", "bf16"): r"vfmadd\d+ps", ("avx512", "i8"): "vpmaddwd",
    ("avx512vnni", "i8"): "vpdpbusd",
    ("avx512bf16", "bf16"): "vdpbf16ps",
    ("avx512amx", "i8"): "tdpbssd", ("avx512amx", "bf16"): "tdpbf16ps",
    ("neon", "f32"): r"fmla\tv\d+\.4s", ("neon", "i8"): "smull",
    ("neon_dotprod", "i8"): "sdot", ("neon_dotprod", "f16"): r"fmla\tv\d+\.8h",
    ("neon_i8mm", "i8"): "smmla", ("neon_i8mm", "bf16"): "bfmmla",
}  # fmt: skip


def test_every_product_that_an_instruction_set_has_of_its_own_is_looked_at() -> None:
    own = {(isa.name, product) for isa in ISAS.values() for product in isa.gains
           if product != "q7_i8" or isa.tiles[product] != isa.tiles["i8"]}  # fmt: skip
    assert own | {(isa.name, "i8") for isa in ISAS.values() if not isa.extends} <= set(MULTIPLY)


@pytest.mark.parametrize(("isa", "product"), MULTIPLY)
def test_each_chain_multiplies_in_each_step(isa: str, product: str) -> None:
    """A product of the same numbers would be taken out of the loop, or shared by the chains."""
    name = next(n for n in ("x86_64-linux", "aarch64-linux")
                if isa in {i.name for i in isas_of(get_target(n).triple)})  # fmt: skip
    target = get_target(name).with_isa(isa)
    text = assembly(peak_source(target, product), target, get_toolchain("zig"))
    blocks = text.split("\n.LBB")
    instruction = rf"^\s(?:{{vex}}\s+)?{MULTIPLY[isa, product]}"
    found = max(len(re.findall(instruction, block, re.M)) for block in blocks)
    if ISAS[isa].tiles[product].blocks:  # compilers take no such instruction away, but unroll
        assert found and found % BLOCKS == 0
    else:
        assert found == CHAINS


def test_peaks_of_this_machine() -> None:
    """One instruction multiplies no more than `kr` elements of the depth for each sum; of blocks,
    two products of vectors take as long as one of 16 rows, which ends every 16 cycles. A Xeon of
    2023 begins a `vdpbf16ps` in every other cycle, in which it begins four products of float32:
    half the peak."""
    device = local_device()
    for product in ("i8", "q7_i8", "bf16", "f16", "f32_i8"):
        tile = ISAS[device.target.for_products(product).isa].tiles[product]
        most = 8 * tile.kr if tile.blocks else tile.kr
        least = 0.4 if product == "bf16" else 0.5
        # Another program may take one of the peaks its time.
        for _ in range(4):
            share = device.peak_flops(1, product) / device.peak_flops(1)
            if least < share < 1.2 * most:
                break
            device = local_device()
        else:
            pytest.fail(f"{product}: {share:.2f} times the peak of float32")
