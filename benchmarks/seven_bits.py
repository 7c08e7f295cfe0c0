"""What weights of 7 bits would gain on AVX2 beside activations of 7 bits, and what they would lose.

    python benchmarks/seven_bits.py          writes results/seven_bits.jsonl
    python benchmarks/seven_bits.py --table  writes the tables of seven_bits.md

Three inner loops of the same register tiles, on operands that lie in the L1 cache, in interleaved
rounds: CANAO's of int8, which widens to 16 bits; CANAO's of int8-7bit, whose pairs of products 16
bits hold; and one of 7 bits by 7, of which 16 bits hold pairs of pairs, so that two steps are added
up before they are widened. All three compute the same numbers, which the program checks.

Accuracy is that of MiniLM-L6 (of `pip install 'canao[demo]'`) on random texts, by the interpreter.
Records that are badly measured are refused (README.md).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from marks import footnotes, marked
from pages import by_machine, fill, table
from peers.catalog import isa_label, own_label
from peers.interleave import distances
from peers.ratios import by_round, interval, median_ms
from peers.records import Record, Records
from peers.results import Results, add_options, file_of

from canao.build import Unit, build_program, runtime_files
from canao.cli.demo_command import packaged_teacher
from canao.compiler.loading import load_model
from canao.compiler.pipeline import compile_graph
from canao.device.bench import local_device
from canao.emit.c.prelude import MACROS, vector_operations
from canao.emit.c.tile_templates import tile_loop, tile_operations
from canao.emit.writer import fill as filled
from canao.errors import CanaoError, DeviceError, InputError
from canao.graph.dtypes import Q7
from canao.graph.interp import interpret
from canao.graph.ir import Graph
from canao.isa import avx2
from canao.isa.table import Isa
from canao.machine import local_machine
from canao.precision.quantize import FLOAT32, INT8, SEVEN_BITS
from canao.target import Target, get_target

FOLDER = Path(__file__).resolve().parent
RECORDS, PAGE = FOLDER / "results" / "seven_bits.jsonl", FOLDER / "seven_bits.md"
IDENTITY = ("kind", "cpu", "isa")
ISA_NAME, DEFAULT_TILE = "avx2", (6, 16)
TILES = (DEFAULT_TILE, (5, 16), (4, 16), (3, 16), (10, 8), (8, 8), (6, 8))
DEPTH, CALLS = 384, 300
TEXTS, TOKENS = 4, 32
Times = dict[tuple[str, str], list[float]]

# Weights are stored with 64 added, so that they are 1 to 127: 4 * 127 * 63 = 32004 at most.
TWO_STEPS = replace(
    avx2.FOURS, kr=8, offset=64, vw="struct two", va="struct two",
    load_w="const struct two w = {_mm256_loadu_si256((const __m256i *)p), "
           "_mm256_loadu_si256((const __m256i *)(p + 32))}; return w;",
    spread="int32_t fours[2]; __builtin_memcpy(fours, p, 8); "
           "const struct two a = {_mm256_set1_epi32(fours[0]), _mm256_set1_epi32(fours[1])}; "
           "return a;",
    product="const __m256i sums = _mm256_add_epi16(_mm256_maddubs_epi16(w.first, a.first), "
            "_mm256_maddubs_epi16(w.second, a.second)); "
            "return _mm256_add_epi32(c, _mm256_madd_epi16(sums, _mm256_set1_epi16(1)));",
)  # fmt: skip
BOTH_SEVEN = "q7_q7"
ISA: Isa = replace(avx2.ISA, tiles={**avx2.ISA.tiles, BOTH_SEVEN: TWO_STEPS})
# A loop, and what it is called in records, where `peers/ratios.py` knows CANAO's by their names.
LOOPS = {"i8": own_label(INT8), "q7_i8": own_label(SEVEN_BITS), BOTH_SEVEN: "7 by 7 bits"}

MAIN = """
#include <stdio.h>
#include <time.h>

enum { DEPTH = $DEPTH, CALLS = $CALLS, ROUNDS = $ROUNDS, MOST = 512, LEVELS = 63 };
typedef void product(const void *a, const void *b, int32_t *c);
struct loop { const char *name; product *run; int mr, nr, kr, offset, wide; };

static int8_t a8[MOST * DEPTH], w[MOST * DEPTH], packed[MOST * DEPTH];
static int16_t a16[MOST * DEPTH];
static int32_t sums[MOST];
"""
FUNCTION = """
static __attribute__((noinline)) void run_${product}_${shape}(
    const void *a, const void *b, int32_t *c)
{
    $VC acc[$MR][$NV];
    UNROLL for (int i = 0; i < $MR; i++)
        UNROLL for (int v = 0; v < $NV; v++)
            acc[i][v] = $ZERO;
    panel_fma_${product}_${shape}($MR, DEPTH, a, DEPTH, b, 0, 0, 0, acc);
    UNROLL for (int i = 0; i < $MR; i++)
        UNROLL for (int v = 0; v < $NV; v++)
            _mm256_storeu_si256((__m256i *)(c + i * $NR + v * VF), acc[i][v]);
}
"""
REST = """
static const struct loop LOOPS[] = {
$TABLE};
enum { COUNT = sizeof LOOPS / sizeof LOOPS[0] };

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Levels from -63 to 63; the first row and column have the largest only, the second the least. */
static void draw(int8_t *x, int count)
{
    static uint32_t state = 1;
    for (int i = 0; i < count; i++)
        for (int p = 0; p < DEPTH; p++) {
            state = state * 1664525u + 1013904223u;
            const int level = (int)((state >> 8) % (2 * LEVELS + 1)) - LEVELS;
            x[i * DEPTH + p] = (int8_t)(i == 0 ? LEVELS : i == 1 ? -LEVELS : level);
        }
}

static void pack(const struct loop *l)
{
    const int part = l->kr < 4 ? l->kr : 4;
    for (int p = 0; p < DEPTH; p++)
        for (int j = 0; j < l->nr; j++) {
            const int at = p / l->kr * l->nr * l->kr + j / VF * VF * l->kr +
                           p % l->kr / part * VF * part + j % VF * part + p % part;
            packed[at] = (int8_t)(uint8_t)(w[j * DEPTH + p] + l->offset);
        }
}

static int right(const struct loop *l)
{
    pack(l);
    l->run(l->wide ? (const void *)a16 : a8, packed, sums);
    for (int i = 0; i < l->mr; i++)
        for (int j = 0; j < l->nr; j++) {
            int32_t want = 0;
            for (int p = 0; p < DEPTH; p++)
                want += a8[i * DEPTH + p] * (w[j * DEPTH + p] + l->offset);
            if (want != sums[i * l->nr + j])
                return 0;
        }
    return 1;
}

int main(void)
{
    draw(a8, 16);
    draw(w, 32);
    for (int i = 0; i < 16 * DEPTH; i++)
        a16[i] = a8[i];
    for (int n = 0; n < COUNT; n++)
        if (!right(&LOOPS[n])) {
            printf("wrong %s\\n", LOOPS[n].name);
            return 1;
        }
    for (int round = -1; round < ROUNDS; round++)
        for (int n = 0; n < COUNT; n++) {
            const struct loop *l = &LOOPS[round % 2 ? COUNT - 1 - n : n];
            pack(l);
            const double begin = seconds();
            for (int call = 0; call < CALLS; call++) {
                l->run(l->wide ? (const void *)a16 : a8, packed, sums);
                __asm__ volatile("" ::: "memory");
            }
            if (round >= 0)
                printf("%s %.9f\\n", l->name, (seconds() - begin) / CALLS * 1e6);
        }
    return 0;
}
"""


def shape(tile: tuple[int, int]) -> str:
    return f"{tile[0]}x{tile[1]}"


def source(tiles: Sequence[tuple[int, int]], rounds: int) -> str:
    """C that checks each loop of each register tile, and prints microseconds of a call by round."""
    parts = ["#define _GNU_SOURCE", MACROS, vector_operations(ISA),
             "struct two { __m256i first, second; };"]  # fmt: skip
    parts += [tile_operations(product, ISA) for product in LOOPS]
    parts += [tile_loop(tile, product, ISA) for tile in tiles for product in LOOPS]
    parts.append(filled(MAIN, DEPTH=DEPTH, CALLS=CALLS, ROUNDS=rounds))
    rows = []
    for mr, nr in tiles:
        for product in LOOPS:
            ops, name = ISA.tiles[product], f"{product}_{mr}x{nr}"
            parts.append(filled(FUNCTION, product=product, shape=f"{mr}x{nr}", VC=ops.vc, MR=mr,
                                NR=nr, NV=nr // ISA.width, ZERO=ops.zero))  # fmt: skip
            wide = int(ops.activations == "int16_t")
            rows.append(f'    {{"{mr}x{nr} {product}", run_{name}, {mr}, {nr}, {ops.kr}, '
                        f"{ops.offset}, {wide}}},\n")  # fmt: skip
    parts.append(REST.replace("$TABLE", "".join(rows)))
    return "\n".join(parts)


def run(target: Target, tiles: Sequence[tuple[int, int]], rounds: int, core: int) -> Times:
    """Microseconds of a call in each round, by register tile and loop. DeviceError if a loop
    computes something else."""
    unit = Unit(source(tiles, rounds), target.with_isa(ISA_NAME))
    program = build_program({"main.c": unit, **runtime_files("canao_runtime.h")}, target.least)
    done = subprocess.run([str(program)], capture_output=True, text=True,
                          preexec_fn=lambda: os.sched_setaffinity(0, {core}))  # fmt: skip
    if done.returncode:
        raise DeviceError(f"the loops do not run: {done.stdout.strip() or done.stderr.strip()}")
    found: Times = {}
    for line in done.stdout.splitlines():
        tile, product, us = line.split()
        found.setdefault((tile, product), []).append(float(us))
    return found


def accuracy() -> dict[str, dict[str, float]]:
    """How far vectors of tokens of random texts are from float32's, by what is rounded."""
    graph = load_model(packaged_teacher())[1]
    graphs = {
        precision: compile_graph(graph, get_target().with_isa(ISA_NAME), precision=precision)
        .program.graph for precision in (FLOAT32, INT8, SEVEN_BITS)
    }  # fmt: skip
    graphs[LOOPS[BOTH_SEVEN]] = _of_seven(graphs[SEVEN_BITS], graphs[FLOAT32])
    given = [i for i in graph.inputs if i.given]
    rng = np.random.default_rng(0)
    texts = [rng.integers(1000, 30000, TOKENS) for _ in range(TEXTS)]
    vectors = {}
    for name, of in graphs.items():
        rows = [interpret(of, [ids] + [np.zeros_like(ids)] * (len(given) - 1), np.float32)
                [of.outputs[0][1]].reshape(TOKENS, -1) for ids in texts]  # fmt: skip
        vectors[name] = np.concatenate(rows)
    plain = vectors.pop(FLOAT32)
    return {name: dict(zip(("difference", "cosine"), distances(v, plain), strict=True))
            for name, v in vectors.items()}  # fmt: skip


def _of_seven(graph: Graph, float32: Graph) -> Graph:
    """A graph of int8-7bit whose weights have 63 levels to either side, too."""
    constants = dict(graph.constants)
    for n in graph.nodes:
        if n.op == "quantized_linear":
            name, scales = n.inputs[1:3]
            weights = float32.constants[name.removesuffix(".i8")]
            top = np.abs(weights).max(1, keepdims=True)
            constants[name] = np.rint(weights / top * Q7.levels).astype(np.int8)
            constants[scales] = (top[:, 0] / np.float32(Q7.levels)).astype(np.float32)
    return graph.replace(constants=constants)


def measure(target: Target, rounds: int, core: int) -> Record:
    stamp = local_device().environment((core,))
    engines = {
        f"{tile}/{LOOPS[product]}": {"samples_us": [[us] for us in of], "right": True,
                                     "difference": 0.0}
        for (tile, product), of in run(target, TILES, rounds, core).items()
    }  # fmt: skip
    return {"kind": "seven_bits", "model": "loops", "length": DEPTH, "threads": 1,
            "cpu": stamp["cpu"], "isa": isa_label(ISA_NAME, stamp["isa"]), "environment": stamp,
            "engines": engines, "accuracy": accuracy()}  # fmt: skip


def loops(records: Sequence[Record]) -> str:
    """Of each register tile the loops' speed, and how many times as fast that of 7 by 7 bits is."""
    int8, seven, both = LOOPS.values()
    rows = [["register tile", *(f"{name}, Gop/s" for name in LOOPS.values()),
             f"{both} against {seven}", f"against {int8}"], ["---", *["--:"] * 5]]  # fmt: skip
    (record,) = records
    for tile in map(shape, TILES):
        speeds = [_speed(record, tile, name) for name in LOOPS.values()]
        ratios = [_times(record, f"{tile}/{slow}", f"{tile}/{both}") for slow in (seven, int8)]
        rows.append([tile, *(f"{x:.1f}" for x in speeds), *ratios])
    best = [max(_speed(record, shape(t), name) for t in TILES) for name in LOOPS.values()]
    rows.append([marked("best of each", record), *(f"{x:.1f}" for x in best),
                 f"{best[2] / best[1]:.2f}x", f"{best[2] / best[0]:.2f}x"])  # fmt: skip
    return table(rows) + footnotes(records)


def _speed(record: Mapping[str, Any], tile: str, name: str) -> float:
    """Operations in a nanosecond, two for a product that is added up."""
    mr, nr = map(int, tile.split("x"))
    return 2 * mr * nr * DEPTH / (median_ms(record["engines"][f"{tile}/{name}"]) * 1e6)


def _times(record: Mapping[str, Any], slow: str, fast: str) -> str:
    values = by_round(record, slow, fast)
    low, high = interval(values)
    return f"{median(values):.2f}x ({low:.2f} to {high:.2f})"


def losses(records: Sequence[Record]) -> str:
    rows = [["", "cosine to float32", "largest difference, standard deviations"],
            ["---", "--:", "--:"]]  # fmt: skip
    for name in (INT8, SEVEN_BITS, LOOPS[BOTH_SEVEN]):
        found = records[0]["accuracy"][name]
        rows.append([name, f"{found['cosine']:.5f}", f"{found['difference']:.2g}"])
    return table(rows)


def sections(records: Sequence[Record]) -> dict[str, str]:
    return {name: by_machine(records, "seven_bits", build)
            for name, build in (("loops", loops), ("accuracy", losses))}  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--core", type=int, help="default: the first that is allowed")
    parser.add_argument("--table", action="store_true", help="write the tables of seven_bits.md")
    add_options(parser, RECORDS)
    given = parser.parse_args(arguments)
    try:
        records = Records(file_of(given, RECORDS), IDENTITY)
        if given.table:
            fill(PAGE, sections(records.read()))
            return 0
        if ISA_NAME not in local_machine().features:
            raise InputError("this processor has no AVX2, which the loops are of")
        core = local_machine().cores[0] if given.core is None else given.core
        results = Results.start(records, given.draft)
        results.take("loops of 7 bits", lambda: measure(get_target(), given.rounds, core))
        if given.draft:
            print("".join(f"{text}\n" for text in sections(records.read()).values()))
        results.close()
    except CanaoError as error:
        print(f"seven_bits: error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
