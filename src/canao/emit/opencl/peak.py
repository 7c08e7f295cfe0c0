"""A program that measures what an OpenCL device can do in multiply-adds of float32, in which all
products are added up whatever they are stored in."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from canao.emit.c.header import STATUSES
from canao.emit.c.interface import c_string
from canao.emit.c.unit import Source
from canao.emit.opencl.prelude import prelude
from canao.emit.opencl.unit import OPTIONS
from canao.emit.writer import fill
from canao.schedule.weights import HEADER, MAGIC
from canao.target import OPENCL, Target

_GROUPS, _ITEMS, _STEPS, _CHAINS = 1024, 64, 256, 8
_KERNEL = """\
__kernel __attribute__((reqd_work_group_size($items, 1, 1)))
void peak(const int s, const int past, const int first, __global uchar *b0, const ulong o0)
{
    const vf a = vf_set1(0.999f), b = vf_set1(1e-3f * (float)get_global_id(0));
$start
    for (int step = 0; step < $steps * s; step++) {
$chains
    }
    ((__global float *)(b0 + o0))[0] = vf_sum($sum);
}
"""
_PROGRAM = """\
#include "canao_launch.h"
#include "canao_runtime.h"

static const char *const source[] = {$source};
static const struct canao_argument arguments[] = {{CANAO_ARENA, 0}};
static const struct canao_launch launches[] = {
    {"peak", arguments, 1, {$items, 1}, {{{$groups, 0, 0}, 1}, {{1, 0, 0}, 1}}}};
static const int64_t input_bytes[][3] = {{0, 4, 0}};
const struct canao_gpu canao_gpu = {
    .source = source, .source_count = $count, .options = $options, .launches = launches,
    .input_bytes = input_bytes,
};
static const struct canao_step steps[] = {{NULL, "peak", 0, 0}};
static const struct canao_input inputs[] = {{"ids", CANAO_IDS, 0}};
static const struct canao_output outputs[] = {{"sum", 0, {1, 0, 0}}};
const struct canao_program canao_program = {
    .steps = steps, .step_count = 1, .inputs = inputs, .input_count = 1, .outputs = outputs,
    .output_count = 1, .max_length = 64, .weights_bytes = $weights, .arena_bytes = 64,
    .interface = "",
};
"""
# Longer runs until one takes ten milliseconds: what starts a kernel is then a small part of it.
_MAIN = """\
#include "canao_model.h"
#include "canao_runtime.h"

#include <stdio.h>

enum { ROUNDS = 5, LONG_NS = 10000000 };

int main(int count, char **names)
{
    static const int32_t ids[64];
    const int32_t *const inputs[] = {ids};
    float sum = 0.0f, *const outputs[] = {&sum};
    canao_model *model = NULL;
    int status = count == 2 ? canao_open(names[1], 1, NULL, &model) : CANAO_ARGUMENT;
    double best = 0.0;
    uint64_t ns = 0;
    for (int32_t length = 1; length <= 64 && !status && ns < LONG_NS; length *= 2)
        for (int round = 0; round < ROUNDS && !status; round++) {
            ns = 0;
            status = canao_profile(model, inputs, length, outputs, &ns);
            const double rate = ns ? $flops * length * 1e9 / (double)ns : 0.0;
            best = rate > best ? rate : best;
        }
    if (status)
        fprintf(stderr, "%s\\n", canao_message(status));
    else
        printf("%.6e %g\\n", best, (double)sum);
    canao_close(model);
    return status;
}
"""


@dataclass(frozen=True, slots=True)
class PeakProgram:
    """`program` goes into a library; `main` runs it with `weights`, a file of its own, and prints
    operations a second, two for a multiply-add."""

    program: Source
    main: str
    weights: bytes


def peak_program(target: Target) -> PeakProgram:
    """That for the vectors of a target."""
    names = [f"x{i}" for i in range(_CHAINS)]
    kernel = fill(
        _KERNEL, items=_ITEMS, steps=_STEPS, sum=" + ".join(names),
        start="\n".join(f"    vf {x} = vf_set1({i}.5f);" for i, x in enumerate(names)),
        chains="\n".join(f"        {x} = vf_fma({x}, a, b);" for x in names),
    )  # fmt: skip
    pieces = [*prelude(target.vector, frozenset()), kernel]
    size = HEADER + 64
    program = fill(
        _PROGRAM, source=", ".join(c_string(p) for p in pieces), items=_ITEMS, groups=_GROUPS,
        count=len(pieces), options=c_string(OPTIONS), weights=size,
    )  # fmt: skip
    flops = 2.0 * _GROUPS * _ITEMS * _STEPS * _CHAINS * target.vector
    head = struct.pack("<8sQQ", MAGIC, 0, size).ljust(size, b"\0")
    return PeakProgram(
        Source(program, _HEADER, target, backend=OPENCL), fill(_MAIN, flops=flops), head
    )


_HEADER = f"""\
#include <stdint.h>

{STATUSES}
typedef struct canao_model canao_model;
int canao_open(const char *weights, int threads, const int *cores, canao_model **model);
int canao_run(canao_model *model, const int32_t *const *inputs, int32_t length,
              float *const *outputs);
int canao_run_batch(canao_model *model, int count, const int32_t *const *const *inputs,
                    const int32_t *lengths, float *const *const *outputs);
int64_t canao_output_size(int index, int32_t length);
int canao_time(canao_model *model, int32_t length, int32_t runs, double percentile, double *ms);
const char *canao_interface(void);
const char *canao_isa(void);
void canao_close(canao_model *model);
const char *canao_message(int status);
"""
