"""What the cores can do at this moment: multiply-adds and reading of memory."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from canao.build import build_program, runtime_files
from canao.emit.c.peak import peak_source
from canao.errors import DeviceError
from canao.isa.table import FLOAT
from canao.target import get_target
from peers.host import on_cores

# 256 MiB are more than the caches of most machines; the best of the passes counts, as for FMA.
_READ = """
#define _POSIX_C_SOURCE 199309L
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { WORDS = 1 << 25, PASSES = 4 };

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(void)
{
    uint64_t *words = malloc((size_t)WORDS * sizeof *words), sum = 0;
    double best = 0.0;
    if (!words)
        return 1;
    for (size_t i = 0; i < WORDS; i++)
        words[i] = i;
    for (int pass = 0; pass < PASSES; pass++) {
        const double begin = seconds();
        for (size_t i = 0; i < WORDS; i++)
            sum += words[i];
        const double rate = 8.0 * WORDS / (seconds() - begin);
        best = rate > best ? rate : best;
        words[pass] = sum; /* no pass is like the one before, so that none is left out */
    }
    printf("%.6e %llu\\n", best, (unsigned long long)sum);
    free(words);
    return 0;
}
"""


class Machine:
    """C programs, run on every given core at once; their rates are added up. One for each type of
    `products`, a name of `Isa.tiles`."""

    def __init__(self, cores: Sequence[int], products: Sequence[str] = (FLOAT,)) -> None:
        target, self.cores = get_target(), tuple(cores)
        header = runtime_files("canao_runtime.h")
        self._products = {
            p: build_program({"peak.c": peak_source(best, p), **header}, best)
            for p, best in ((p, target.for_products(p)) for p in products)
        }
        self._read = build_program({"read.c": _READ}, target)

    def peak_flops(self, product: str = FLOAT) -> float:
        """Operations a second of products of a type, two for a multiply-add, of all the cores
        together."""
        return self._run(self._products[product])

    def bandwidth(self) -> float:
        """Bytes/s of sequential reading from memory, of all the cores together."""
        return self._run(self._read)

    def _run(self, program: Path) -> float:
        started = []
        for core in self.cores:
            with on_cores((core,)):
                started.append(subprocess.Popen([str(program)], stdout=subprocess.PIPE, text=True))
        total = 0.0
        for process in started:
            told, _ = process.communicate(timeout=300)
            if process.returncode:
                raise DeviceError(f"{program.name}: the measurement of the machine failed")
            total += float(told.split()[0])
        return total
