"""A C program that measures the FMA peak of one core, for shares of peak in profiles."""

from __future__ import annotations

from canao.emit.c.prelude import MACROS, vector_operations
from canao.isa.registry import ISAS
from canao.target import Target

# Twelve independent chains cover the FMA latency of every core that the ISAs are found on.
_MAIN = """
#include <stdio.h>
#include <time.h>

enum { CHAINS = 12, STEPS = 200000, ROUNDS = 25 };

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(void)
{
    volatile float start = 1e-3f;
    double best = 0.0;
    vf x[CHAINS];
    const vf a = vf_set1(1.0f - start), b = vf_set1(start);
    for (int c = 0; c < CHAINS; c++)
        x[c] = vf_set1((float)c);
    for (int round = 0; round < ROUNDS; round++) {
        const double begin = seconds();
        for (int step = 0; step < STEPS; step++)
            UNROLL for (int c = 0; c < CHAINS; c++)
                x[c] = vf_fma(x[c], a, b);
        const double rate = 2.0 * CHAINS * STEPS * VF / (seconds() - begin);
        best = rate > best ? rate : best;
    }
    float sum = 0.0f;
    for (int c = 0; c < CHAINS; c++)
        sum += vf_sum(x[c]);
    printf("%.6e %g\\n", best, (double)sum);
    return 0;
}
"""


def peak_source(target: Target) -> str:
    """Prints the best FLOP/s of several short rounds, and a sum that keeps the work alive."""
    head = "#define _POSIX_C_SOURCE 199309L\n" + MACROS
    return head + vector_operations(ISAS[target.isa]) + _MAIN
