"""OpenCL C is a second row of the language table: clang's OpenCL front end takes row kernels and
vector functions that are written in it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from canao.emit import vecmath
from canao.emit.c.rows import rows_text
from canao.emit.language import C11, OPENCL
from canao.fuse.forms.rows import Rows
from canao.graph.ir import Graph
from canao.graph.ops import OPS
from canao.isa.registry import ISAS
from canao.isa.table import OPERATIONS
from canao.schedule.schedule import Step
from tests.scheduled import NAMES, staged

HERE = Path(__file__).parent
FLOAT8 = (HERE / "float8.cl").read_text(encoding="utf-8")
TYPES = (HERE / "opencl_types.cl").read_text(encoding="utf-8")
ISA = ISAS["avx2"]  # whose vectors have eight floats too
COMMAND = [
    sys.executable, "-m", "ziglang", "clang", "-x", "cl", "-cl-std=CL2.0", "-cl-no-stdinc",
    "-Xclang", "-fdeclare-opencl-builtins", "-target", "spir64-unknown-unknown", "-fsyntax-only",
    "-Wall", "-Werror", "-Wno-unused-function", "-Wno-unused-variable", "-",
]  # fmt: skip
# In the other one all rows are computed in epilogues of packed GEMMs.
WITH_ROWS = [name for name in NAMES if name != "mobile-odd"]
C_ONLY = r"\b(?:int64_t|int32_t|CANAO_\w+|UNROLL|INF_F|NAN_F|__builtin_\w+)\b"


def prelude() -> str:
    return FLOAT8 + vecmath.functions(OPENCL) + "".join(vecmath.helpers(OPENCL).values())


def row_steps(name: str) -> Iterator[tuple[Graph, Step]]:
    """The row kernels of a program, one for each name."""
    stages = staged(name, ISA.name)
    kernels = {s.name: s for s in stages.schedule.steps if isinstance(s.region.form, Rows)}
    return ((stages.program.graph, step) for step in kernels.values())


def diagnosed(text: str) -> str:
    """What clang says about OpenCL C: nothing if it is valid."""
    done = subprocess.run(COMMAND, input=TYPES + text, capture_output=True, text=True, timeout=120)
    return done.stderr or ("" if done.returncode == 0 else f"exit status {done.returncode}")


def test_float8_has_every_operation_of_the_isa_table():
    assert set(re.findall(r"\bvf_(\w+)\(", FLOAT8)) >= set(OPERATIONS)
    assert ISA.width == 8


@pytest.mark.parametrize("name", WITH_ROWS)
def test_row_kernels_and_vector_functions_are_valid_opencl(name):
    kernels = [rows_text(graph, step, ISA, OPENCL).text for graph, step in row_steps(name)]
    assert kernels
    text = prelude() + "".join(kernels)
    assert re.findall(C_ONLY, text) == []
    assert diagnosed(text) == ""


def test_the_compiler_refuses_row_kernels_in_c11():
    graph, step = next(row_steps("bert-odd"))
    assert "error:" in diagnosed(prelude() + rows_text(graph, step, ISA, C11).text)


def test_every_element_wise_op_is_valid_opencl():
    ops = [*vecmath.STEPS, *(name for name, row in OPS.items() if row.vector)]
    lines = [f"    r += {vecmath.vector_code(op, *'xyzxy')};" for op in ops]
    assert {"erf", "gelu", "fma"} <= set(ops)
    head = ["static vf all(vf x, vf y, vf z)", "{", "    vf r = x;"]
    body = "\n".join([*head, *lines, "    return r;", "}"])
    assert diagnosed(prelude() + body) == ""
