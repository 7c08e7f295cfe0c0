"""A program of three kernels for OpenCL, written by hand: what the runtime does with any program,
and what it says of one that is wrong."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from canao.build import build_library
from canao.emit.c.header import _HEADER, _RESUMES, STATUSES
from canao.emit.c.interface import c_string
from canao.emit.c.unit import Source
from canao.emit.opencl.defects import DEFECTS, Defect, defect_tables
from canao.emit.opencl.prelude import prelude
from canao.emit.opencl.probe import Probes
from canao.emit.opencl.probes import probes_of
from canao.emit.writer import Writer
from canao.inference.library import addresses
from canao.target import get_target

MAX_LENGTH, LIMIT, LAYOUT = 64, 1000, 0xC0FFEE
WEIGHTS = np.array([1.5, -2, 0.25, 8], np.float32)
OK, ARGUMENT, LENGTH, TOKEN, FILE, FORMAT, DEVICE = 0, 1, 2, 3, 4, 5, 11

# x = 2 weights + position; the cache keeps the ids of all tokens; rows are x + id and their sum.
KERNELS = """
#define FLOATS(buffer, offset) ((global float *)((global char *)(buffer) + (offset)))
#define INTS(buffer, offset) ((global int *)((global char *)(buffer) + (offset)))
#if !defined(CANAO_ONLY) || defined(CANAO_ONLY_twice)
kernel void twice(int s, int past, int first, global void *w, ulong wo, global void *p, ulong po,
                  global void *a, ulong ao)
{
    const int i = get_global_id(0);
    if (i < s)
        FLOATS(a, ao)[i] = 2 * FLOATS(w, wo)[(past + i) % 4] + INTS(p, po)[i];
}
#endif
#if !defined(CANAO_ONLY) || defined(CANAO_ONLY_remember)
kernel void remember(int s, int past, int first, global void *ids, ulong io, global void *c,
                     ulong co)
{
    const int i = get_global_id(0);
    if (i < s)
        INTS(c, co)[past + i] = INTS(ids, io)[i];
}
#endif
#if !defined(CANAO_ONLY) || defined(CANAO_ONLY_sum)
kernel void sum(int s, int past, int first, global void *ids, ulong io, global void *c, ulong co,
                global void *a, ulong ao, global void *y, ulong yo)
{
    const int i = get_global_id(0), k = get_global_id(1);
    if (i < first || i >= s || k >= 2)
        return;
    float value = FLOATS(a, ao)[i] + INTS(ids, io)[i];
    if (k) {
        value = 0;
        for (int t = 0; t <= past + i; t++)
            value += INTS(c, co)[t];
    }
    FLOATS(y, yo)[2 * i + k] = value;
}
#endif
"""
HANGS = KERNELS.replace(
    "    if (i < first", "    while (((volatile global int *)INTS(ids, io))[0] != -7)\n"
    "        ;\n    if (i < first", 1
)  # fmt: skip
assert HANGS != KERNELS
# What all kinds of programs ask of a driver.
VECTOR, NEEDS = 4, frozenset({"load_f16", "load_i8", "q8", "dot4", "log"})
PROBES = probes_of(VECTOR, NEEDS, ["vf_gelu(vf_exp2(vf_log(vf_sqrt(x))))"], 8)
# The numbers of bytes are told the kernels by launches: weights begin after 16, x after 64.
PROGRAM = """
#include "canao_launch.h"
#include "canao_runtime.h"
static const struct canao_step steps[] =
    {{{{NULL, "twice", 1, 0}}, {{NULL, "remember", 1, 0}}, {{NULL, "sum", 1, 1}}}};
static const struct canao_input inputs[] = {{{{"ids", CANAO_IDS, {limit}}}}};
static const struct canao_output outputs[] =
    {{{{"rows", 1024, {{0, 2, 0}}}}, {{"x", 64, {{0, 1, 0}}}}}};
const struct canao_program canao_program = {{
    .steps = steps, .step_count = 3, .inputs = inputs, .input_count = 1, .outputs = outputs,
    .output_count = 2, .max_length = {max_length}, .few_tokens = 0, .layout = {layout},
    .weights_bytes = {weights_bytes}, .arena_bytes = {arena_bytes}, .scratch_bytes = 0,
    .cache_bytes = {cache_bytes}, .interface = "{{}}",
}};
static const struct canao_argument arguments[3][4] = {{
    {{{{CANAO_WEIGHTS, 16}}, {{CANAO_POSITIONS, 0}}, {{CANAO_ARENA, 64}}}},
    {{{{CANAO_INPUT, 0}}, {{CANAO_CACHE, 32}}}},
    {{{{CANAO_INPUT, 0}}, {{CANAO_CACHE, 32}}, {{CANAO_ARENA, 64}}, {{CANAO_ARENA, 1024}}}},
}};
static const struct canao_launch launches[] = {{
    {{{first}, arguments[0], 3, {{{local}, 1}}, {{{{{{0, 1, 0}}, {local}}}, {{{{1, 0, 0}}, 1}}}}}},
    {{"remember", arguments[1], 2, {{8, 1}}, {{{{{{0, 1, 0}}, 8}}, {{{{1, 0, 0}}, 1}}}}}},
    {{"sum", arguments[2], 4, {{4, 2}}, {{{{{{0, 1, 0}}, 4}}, {{{{2, 0, 0}}, 2}}}}}},
}};
static const char *const source[] = {{{pieces}}};
static const int64_t input_bytes[][3] = {{{{0, 4, 0}}}};
static const struct canao_options quicker[] = {{{quicker}{{NULL, NULL}}}};
{tables}
const struct canao_gpu canao_gpu = {{
    .source = source, .source_count = {count}, .options = {options}, .launches = launches,
    .input_bytes = input_bytes, .quicker = quicker, .quicker_count = {quicker_count},
    {more}
}};
"""


@dataclass(frozen=True)
class Tiny:
    """What may be another in a program: its kernels, the first of them, the size of its groups,
    what it asks of drivers and knows of them."""

    kernels: str = KERNELS
    options: str = "-cl-std=CL1.2"
    quicker: tuple[tuple[str, str], ...] = ()  # an extension or "", and options
    first: str = "twice"
    local: int = 8
    arena_bytes: int = 4096
    vector: int = VECTOR
    probes: Probes = PROBES
    defects: tuple[Defect, ...] = DEFECTS
    target: str = "host"

    def source(self) -> Source:
        # In pieces, as a file of C may have no string of any length.
        text = "".join([*prelude(self.vector, NEEDS), self.kernels])
        lines, w = text.splitlines(keepends=True), Writer()
        more = self.probes.tables(w) + defect_tables(w, self.defects)
        code = PROGRAM.format(
            limit=LIMIT, max_length=MAX_LENGTH, layout=LAYOUT, weights_bytes=64 + 16 + 16,
            arena_bytes=self.arena_bytes, cache_bytes=32 + 4 * MAX_LENGTH, local=self.local,
            first=c_string(self.first), options=c_string(self.options), count=len(lines),
            quicker="".join(f"{{{c_string(name) if name else 'NULL'}, {c_string(options)}}}, "
                            for name, options in self.quicker), quicker_count=len(self.quicker),
            pieces=",\n    ".join(c_string(line) for line in lines), tables=w.text(), more=more,
        )  # fmt: skip
        header = _HEADER.format(inputs=" * ids", outputs=" * rows", max_length=MAX_LENGTH,
                                input_count=1, output_count=2, resumes=_RESUMES,
                                statuses=STATUSES)  # fmt: skip
        return Source(code, header, get_target(self.target), "opencl")

    def build(self, *flags: str) -> Path:
        return build_library([self.source()], None, flags)

    def but(self, **changes: object) -> Tiny:
        return replace(self, **changes)  # type: ignore[arg-type]


def write_weights(path: Path) -> Path:
    size = 64 + 16 + 16
    head = b"CANAOW02" + struct.pack("<QQ", LAYOUT, size)
    path.write_bytes(head.ljust(64 + 16, b"\0") + WEIGHTS.tobytes())
    return path


def expected(ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Both outputs of a whole sequence."""
    at = np.arange(len(ids))
    x = 2 * WEIGHTS[at % 4] + at.astype(np.float32)
    return np.stack([x + np.float32(ids), np.cumsum(ids)], axis=1).astype(np.float32), x


class Opened:
    """A model of the library that `load` made, by the C interface."""

    def __init__(self, library: ctypes.CDLL, weights: Path) -> None:
        self.library, self.handle = library, ctypes.c_void_p()
        status = library.canao_open(str(weights).encode(), 1, None, ctypes.byref(self.handle))
        self.check(status)

    def check(self, status: int) -> None:
        if status:
            raise Failure(status, self.library.canao_message(status).decode())

    def run(self, ids: Sequence[int], function: str = "canao_run") -> tuple[np.ndarray, ...]:
        return self._call(function, ids, len(ids))

    def profile(self, ids: Sequence[int]) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        """The outputs, and the nanoseconds of each kernel."""
        ns = np.full(3, 7, np.uint64)
        return self._call("canao_profile", ids, len(ids), ns.ctypes.data_as(ctypes.c_void_p)), ns

    def extend(self, ids: Sequence[int], wanted: int) -> tuple[np.ndarray, ...]:
        given, outputs = np.array(ids, np.int32), self._outputs(wanted)
        self.check(self.library.canao_extend(self.handle, addresses([given]), len(ids), wanted,
                                             addresses(outputs)))  # fmt: skip
        return outputs

    def batch(self, sequences: Sequence[Sequence[int]]) -> list[tuple[np.ndarray, ...]]:
        given = [np.array(ids, np.int32) for ids in sequences]
        outputs = [self._outputs(len(ids)) for ids in sequences]
        lengths = (ctypes.c_int32 * len(given))(*map(len, given))
        rows = [addresses([ids]) for ids in given]
        places = [addresses(row) for row in outputs]
        self.check(self.library.canao_run_batch(self.handle, len(given), table(rows), lengths,
                                                table(places)))  # fmt: skip
        return outputs

    def close(self) -> None:
        self.library.canao_close(self.handle)

    def _outputs(self, rows: int) -> tuple[np.ndarray, ...]:
        return np.full((rows, 2), -1, np.float32), np.full(rows, -1, np.float32)

    def _call(self, name: str, ids: Sequence[int], length: int, *more: object):
        given, outputs = np.array(ids, np.int32), self._outputs(length)
        function = getattr(self.library, name)
        self.check(function(self.handle, addresses([given]), length, addresses(outputs), *more))
        return outputs


class Failure(Exception):
    """A status that is not CANAO_OK, and what the library says of it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status, self.message = status, message


def table(rows: Sequence[object]) -> object:
    """Pointers to arrays of pointers."""
    return (ctypes.c_void_p * len(rows))(*(ctypes.addressof(row) for row in rows))  # type: ignore
