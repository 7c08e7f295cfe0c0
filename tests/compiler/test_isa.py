"""Each row of each ISA's table, and each op's code, computes what it means in NumPy.

One program for each ISA applies every operation to numbers that it reads, and prints the results
bit by bit.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import pytest

from canao.build import Unit, build_program, runtime_files
from canao.emit.c.prelude import MACROS, vector_operations
from canao.emit.vecmath import RARE, STEPS, functions, helpers, vector_code
from canao.graph.dtypes import I32
from canao.graph.ops import OPS, POINTWISE
from canao.isa.registry import ISAS
from canao.isa.table import OPERATIONS
from canao.target import Target, get_target
from tests.oracle import SAME, assert_close

pytestmark = pytest.mark.as_shipped

HOST, ARM = get_target(), Target("aarch64-musl", "neon", "aarch64-linux-musl", "cortex_a76")
COUNT = 256  # numbers for each operand; a multiple of every vector
OPERANDS = 5
UNTOUCHED, FILL = np.float32(7), np.float32(-3)
F = np.float32

_TOP = float(np.finfo(F).max)
AWKWARD = [0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 1.5, 2.5, _TOP, -_TOP, 1.1754944e-38, 1e-45, np.inf,
           -np.inf, 123456.789, -7.25]  # fmt: skip
PLAIN = [0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 1.5, 3.25, 1e3, -1e3, 1e-6, -1e-6, 7.75, -0.125, 40.0,
         -7.25]  # fmt: skip
HALVES = [0.0, -0.0, 0.5, -0.5, 1.5, -1.5, 2.5, -2.5, 0.49999997, 2.0, -3.0, 1e3 + 0.5, -87.3,
          126.5, 1048576.5, -1048577.5]  # fmt: skip
EXPONENTS = [-126, -125, -64, -24, -1, 0, 1, 2, 23, 24, 63, 64, 100, 125, 126, 127]


def pairs(first: list[float], second: list[float]) -> np.ndarray:
    """Every number of `first` with every one of `second`, and others; [OPERANDS, COUNT]."""
    a, b = np.repeat(np.array(first, F), 16), np.tile(np.array(second, F), 16)
    return np.stack([a, b, np.roll(a, 37), np.roll(b, 53), np.roll(a, 91)])


# Where not every number is in an operation's domain, or adding up needs a bound on the error.
DOMAINS = {
    "fma": pairs(PLAIN, PLAIN), "sum": pairs(PLAIN, PLAIN), "round": pairs(HALVES, HALVES),
    "ldexp": pairs(AWKWARD, EXPONENTS),
}  # fmt: skip


def first(n: int, inside: np.ndarray, outside: np.ndarray | np.float32) -> np.ndarray:
    """`inside` in the first n lanes, `outside` in the others."""
    return np.where(np.arange(len(inside)) < n, inside, outside)


# operation -> what it computes of its parameters, in their order in OPERATIONS
MEANINGS: dict[str, Callable[..., np.ndarray]] = {
    "load": lambda p: p, "load_n": lambda p, n: first(n, p, F(0)),
    "store": lambda p, v: v, "store_n": lambda p, v, n: first(n, v, p),
    "set1": lambda x: x,
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide,
    "max": np.maximum, "min": np.minimum, "sqrt": np.sqrt, "abs": np.abs, "round": np.rint,
    "fma": lambda a, b, c: a.astype(float) * b + c,
    "ldexp": lambda a, n: np.ldexp(a, n.astype(int)),
    "keep": lambda v, n, fill: first(n, v, fill),
    "select": lambda x, a, b: np.where(x > 0, a, b),
    "sum": lambda v: v.sum(dtype=float, keepdims=True), "top": lambda v: v.max(keepdims=True),
}  # fmt: skip
# op -> what its operands are, where some numbers are not in its domain
POSITIVE = [abs(x) for x in PLAIN]
NOT_ZERO = [x or 1.0 for x in PLAIN]
OP_DOMAINS = {"sqrt": pairs(POSITIVE, PLAIN), "reciprocal": pairs(NOT_ZERO, PLAIN),
              "log": pairs([x or 1.0 for x in POSITIVE], PLAIN), "div": pairs(PLAIN, NOT_ZERO)}
# Of whole numbers from -128 to 127, shifted by small ones.
_ALL = pairs(PLAIN, [abs(x) for x in NOT_ZERO])
OP_DOMAINS["levels"] = np.stack([
    *_ALL[:2], np.arange(COUNT, dtype=F) % 7 - 3, np.full(COUNT, -128, F), np.full(COUNT, 127, F)
])  # fmt: skip
SMALL = [float(x) for x in range(-8, 8)]  # for functions with an exponential in them
STEP_MEANINGS = {"copy": lambda x: x[0], "fma": lambda x: x[0] * x[1] + x[2]}
VECTORS = (*POINTWISE, *STEPS)
WHOLE = tuple(name for name, row in OPS.items() if row.whole)
WHOLE_NUMBERS = pairs([float(x) for x in range(-8, 8)], [0.0, 1.0, -1.0, 2.0] * 4)


def domain(op: str) -> np.ndarray:
    exponential = any(f in OPS[op].vector for f in ("exp", "tanh", "erf", "gelu", "sig", "soft")) \
        if op in OPS else False  # fmt: skip
    return OP_DOMAINS.get(op, pairs(SMALL, SMALL) if exponential else pairs(PLAIN, PLAIN))


def inputs() -> bytes:
    """What the program reads: [OPERANDS, COUNT] for each operation, and for each op's code."""
    tables = [DOMAINS.get(op, pairs(AWKWARD, AWKWARD)) for op in OPERATIONS]
    tables += [domain(op) for op in VECTORS] + [WHOLE_NUMBERS] * len(WHOLE)
    return np.stack(tables).astype(F).tobytes()


def parameters(op: str) -> list[tuple[str, str]]:
    """(type, name) of each parameter of an operation."""
    return [tuple(p.replace("*", "* ").rsplit(" ", 1)) for p in OPERATIONS[op][1].split(", ")]  # type: ignore[misc]


def counts(op: str, width: int) -> range:
    """The numbers of lanes that an operation on some of them may be asked for."""
    if not any(name == "n" and kind == "int64_t" for kind, name in parameters(op)):
        return range(1)
    return range(width + 2) if op == "keep" else range(width)


def call(op: str, width: int) -> str:
    """C that prints the results of one operation."""
    result, arguments, vectors = OPERATIONS[op][0], [], 0
    for kind, name in parameters(op):
        if kind == "vf":
            arguments.append(f"vf_load(x[{vectors}] + i)")
            vectors += 1
        else:
            arguments.append({"const float *": "x[0] + i", "float *": "out", "int64_t": "n",
                              "float": "FILL" if name == "fill" else "x[0][i]"}[kind])  # fmt: skip
    text = f"vf_{op}({', '.join(arguments)})"
    made = {"vf": f"vf_store(out, {text})", "float": f"out[0] = {text}", "void": text}[result]
    lanes = "1" if result == "float" else "VF"
    return _loop(made, lanes, len(counts(op, width)))


def _loop(made: str, lanes: str, count: int) -> str:
    return (
        "    read_operands();\n"
        f"    for (int i = 0; i < COUNT; i += VF) for (int64_t n = 0; n < {count}; n++) {{\n"
        f"        fill(); {made}; show({lanes});\n    }}\n"
    )


def program(isa: str) -> str:
    calls = [call(op, ISAS[isa].width) for op in OPERATIONS]
    x = [f"vf_load(x[{k}] + i)" for k in range(OPERANDS)]
    calls += [_loop(f"vf_store(out, {vector_code(op, *x)})", "VF", 1) for op in VECTORS]
    whole = [f"(int32_t)x[{k}][i + j]" for k in range(OPERANDS)]
    for op in WHOLE:
        each = f"const int32_t v = {OPS[op].whole.format(*whole)}; out[j] = (float)v;"
        calls.append(_loop(f"for (int j = 0; j < VF; j++) {{ {each} }}", "VF", 1))
    body, rare = "".join(calls), "".join(helpers()[name] for name in RARE)
    return f"""#include <inttypes.h>
#include <stdio.h>
{MACROS}{vector_operations(ISAS[isa])}{functions()}{rare}
enum {{ COUNT = {COUNT} }};
static const float FILL = {FILL:.1f}f;
static float x[{OPERANDS}][COUNT], out[VF];

static void read_operands(void)
{{
    if (fread(x, sizeof x, 1, stdin) != 1)
        printf("short\\n");
}}

static void fill(void)
{{
    for (int i = 0; i < VF; i++)
        out[i] = {UNTOUCHED:.1f}f;
}}

static void show(int lanes)
{{
    for (int i = 0; i < lanes; i++) {{
        union {{ float f; uint32_t u; }} bits = {{out[i]}};
        printf("%08" PRIx32 "\\n", bits.u);
    }}
}}

int main(void)
{{
{body}    return 0;
}}
"""


@cache
def printed(isa: str, emulator: str) -> np.ndarray:
    """All that the program of an ISA prints, as floats."""
    target = ARM if isa == "neon" and HOST.isa != "neon" else HOST.with_isa(isa)
    static = ("-static",) if emulator else ()
    # A file of its own for the least processor, for which zig has a libc already.
    sources = {"main.c": Unit(program(isa), target), **runtime_files("canao_runtime.h")}
    built = build_program(sources, target.least, None, static)
    command = [emulator, str(built)] if emulator else [str(built)]
    done = subprocess.run(command, input=inputs(), capture_output=True, timeout=120, check=True)
    return np.array([int(line, 16) for line in done.stdout.split()], np.uint32).view(F)


def results(isa: str, emulator: str) -> Iterator[tuple[str, int, int, np.ndarray]]:
    """(operation or op, first lane, count, result) of each call, in the program's order."""
    values, width, at = printed(isa, emulator), ISAS[isa].width, 0
    calls = [(f"vf_{op}", counts(op, width), OPERATIONS[op][0]) for op in OPERATIONS]
    calls += [(f"vector {op}", range(1), "vf") for op in VECTORS]
    calls += [(f"whole {op}", range(1), "vf") for op in WHOLE]
    for name, several, result in calls:
        lanes = 1 if result == "float" else width
        for i in range(0, COUNT, width):
            for n in several:
                yield name, i, n, values[at : at + lanes]
                at += lanes
    assert at == len(values)


def runnable() -> list[str]:
    order = ["scalar", "avx2", "avx512"]
    if HOST.isa in order:
        return order[: order.index(HOST.isa) + 1]
    return ["scalar", "neon"]


@pytest.fixture(params=ISAS)
def machine(request: pytest.FixtureRequest) -> tuple[str, str]:
    """An ISA, and the emulator that runs its programs here; '' where none is needed."""
    isa = request.param
    if isa in runnable():
        return isa, ""
    if isa == "neon":
        return isa, request.getfixturevalue("qemu")
    pytest.skip(f"this CPU has no {isa}")


def test_every_operation_has_a_meaning_and_every_isa_a_row() -> None:
    assert set(MEANINGS) == set(OPERATIONS)
    assert all(set(isa.bodies) == set(OPERATIONS) for isa in ISAS.values())


@pytest.mark.parametrize("op", OPERATIONS)
def test_operation_is_its_meaning(op: str, machine: tuple[str, str]) -> None:
    width, data = ISAS[machine[0]].width, DOMAINS.get(op, pairs(AWKWARD, AWKWARD))
    seen = 0
    for name, i, n, got in results(*machine):
        if name != f"vf_{op}":
            continue
        vectors = iter(data[:, i : i + width])
        known = {"const float *": data[0, i : i + width], "float *": np.full(width, UNTOUCHED),
                 "int64_t": n}  # fmt: skip
        given = []
        for kind, called in parameters(op):
            scalar = FILL if called == "fill" else np.full(width, data[0, i])
            given.append(next(vectors) if kind == "vf" else known.get(kind, scalar))
        with np.errstate(all="ignore"):
            check(op, got, MEANINGS[op](*given), given)
        seen += 1
    assert seen == COUNT // width * len(counts(op, width))


def check(op: str, got: np.ndarray, want: np.ndarray, given: list) -> None:
    if op == "fma":  # rounded once or twice
        size = np.abs(given[0].astype(float) * given[1]) + np.abs(given[2])
        assert (np.abs(got - want) <= 2.0**-23 * size).all()
    elif op == "sum":  # in any order
        assert abs(got - want) <= 2.0**-22 * np.abs(given[0]).sum(dtype=float)
    else:
        np.testing.assert_array_equal(got, want.astype(F))
    if op in ("abs", "load", "store", "set1"):
        np.testing.assert_array_equal(np.signbit(got), np.signbit(want))


@pytest.mark.parametrize("op", VECTORS)
def test_vector_code_is_the_meaning_of_its_op(op: str, machine: tuple[str, str]) -> None:
    width, data = ISAS[machine[0]].width, domain(op).astype(float)
    got = np.concatenate([r for name, _, _, r in results(*machine) if name == f"vector {op}"])
    operands = list(data[: OPS[op].arity[0]]) if op in OPS else list(data)
    want = OPS[op].meaning(operands, {}) if op in OPS else STEP_MEANINGS[op](operands)
    assert len(got) == COUNT and width
    assert_close(got, want, tolerance=SAME, relative=SAME)


@pytest.mark.parametrize("op", WHOLE)
def test_whole_number_code_is_the_meaning_of_its_op(op: str, machine: tuple[str, str]) -> None:
    got = np.concatenate([r for name, _, _, r in results(*machine) if name == f"whole {op}"])
    operands = list(WHOLE_NUMBERS.astype(int)[: OPS[op].arity[0]])
    want = OPS[op].meaning(operands, {"dtype": I32})
    np.testing.assert_array_equal(got, np.asarray(want).astype(F))
