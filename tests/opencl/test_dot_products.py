"""Products of whole numbers on an OpenCL device, four elements of the depth at once and one by one:
the same sums, whatever the device's compiler has for dot products, and the interpreter's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from canao.emit.opencl import unit
from canao.emit.opencl.prelude import NO_DOT4
from canao.fuse.group import fuse
from canao.graph.interp import interpret
from canao.graph.ir import Graph
from canao.lower.opencl.packed_gemm import ItemGemmPlan
from canao.lower.scheduling import backend_of, default_plans, schedule_program
from canao.target import VECTORS, get_target
from tests.compiler import programs
from tests.compiler.test_families import QUICK
from tests.compiler.test_int8 import products, texts
from tests.oracle import SAME, assert_close

# Depths and widths off words of four, tiles and panels; one with columns of several groups.
SIZES = ((1, 7), (3, 17), (5, 1), (30, 17), (33, 7), (150, 33))
OF_SEVEN_BITS = ((30, 7), (33, 17))
TEXTS = texts((1, 9, 40))
FEW = ((33, 7),)


def sums(
    graph: Graph, vector: int, deep: int, folder: Path, mr: int = 8, silent: bool = True
) -> list[np.ndarray]:
    """The library's outputs of each text, with plans of so many rows and elements of the depth.
    silent: its compiler has nothing to say."""
    target = get_target().on_opencl(vector)
    program = fuse(graph, backend_of(target).legal, lambda *_: True)
    plans = [
        replace(p, deep=deep, mr=mr) if isinstance(p, ItemGemmPlan) else p
        for p in default_plans(program, target)
    ]
    assert sum(isinstance(p, ItemGemmPlan) for p in plans) == len(graph.outputs)
    schedule = schedule_program(program, plans, target)
    command = programs.build_schedule(schedule, target, folder, None, QUICK)
    return programs.run([*command, "1"], TEXTS, silent=silent)


def same(got: list[np.ndarray], want: list[np.ndarray]) -> bool:
    return all(map(np.array_equal, got, want))


@pytest.mark.parametrize("vector", VECTORS)
def test_sums_are_exact(vector: int, tmp_path: Path) -> None:
    """To the bit by one and by four; scales are quotients, which devices may round otherwise."""
    graph = products(SIZES, OF_SEVEN_BITS)
    one = sums(graph, vector, 1, tmp_path)
    for given, flat in zip(TEXTS, one, strict=True):
        values = interpret(graph, given, np.float32)
        want = np.concatenate([values[name].ravel() for _, name in graph.outputs])
        assert_close(flat, want, tolerance=0, relative=SAME)
    assert same(sums(graph, vector, 4, tmp_path), one)


@pytest.mark.parametrize("mr", [1, 6])
def test_tiles_of_other_rows(mr: int, tmp_path: Path) -> None:
    graph = products(FEW)
    assert same(sums(graph, 4, 4, tmp_path, mr), sums(graph, 4, 1, tmp_path))


# What a compiler would have, written out: `right` adds the products of x and y to c, or does not.
PLAIN = """
static inline int stub(char4 x, char4 y, int c)
{
    const int4 z = convert_int4(x) * convert_int4(y);
    return c + (z.x + z.y + z.z + z.w) * RIGHT;
}
"""
WAYS = {
    "arm_acc": "#define cl_arm_integer_dot_product_accumulate_int8 1\n#define arm_dot_acc stub\n",
    "arm": "#define cl_arm_integer_dot_product_int8 1\n#define arm_dot(x, y) stub(x, y, 0)\n",
    "khr": "#define __opencl_c_integer_dot_product_input_4x8bit_packed 1\n"
           "#define dot_acc_sat_4x8packed_ss_int(x, y, c) stub(as_char4(x), as_char4(y), c)\n",
}  # fmt: skip


def before(patch: pytest.MonkeyPatch, text: str) -> None:
    """Puts a text before what all kernels' source begins with."""
    prelude = unit.prelude
    patch.setattr(unit, "prelude", lambda vector, needs: [text, *prelude(vector, needs)])


@pytest.mark.parametrize("way", WAYS)
def test_what_compilers_offer(way: str, tmp_path: Path) -> None:
    """Each is used where it is there, which one shows that adds nothing up."""
    graph = products(FEW)
    plain = sums(graph, 4, 4, tmp_path)
    for right in (1, 0):
        with pytest.MonkeyPatch.context() as patch:
            before(patch, f"#define RIGHT {right}\n{PLAIN}{WAYS[way]}")
            got = sums(graph, 4, 4, tmp_path, silent=False)  # of an extension that it knows not
            assert same(got, plain) is bool(right)


def test_a_compiler_that_refuses_what_it_says_it_has(tmp_path: Path) -> None:
    graph = products(FEW)
    plain = sums(graph, 4, 4, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        before(patch, f"#ifndef {NO_DOT4}\n#error there is none\n#endif\n")
        assert same(sums(graph, 4, 4, tmp_path, silent=False), plain)
