/* canao_time: how long a sequence takes on this device, for an application that has to know. */
#define _GNU_SOURCE
#include "canao_model.h"
#include "canao_runtime.h"

#include <stdlib.h>
#include <time.h>

enum { MOST_RUNS = 1000000 };

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double milliseconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* The percentile is the smallest time that at least so many of them do not exceed. */
static int time_runs(canao_model *model, const int32_t *const *inputs, int32_t length,
                     float *const *outputs, int32_t runs, double percentile, double *ms)
{
    double *times = malloc((size_t)runs * sizeof *times);
    int status = times ? CANAO_OK : CANAO_MEMORY;
    for (int32_t i = -(runs / 10) - 1; i < runs && !status; i++) { /* the first ones warm up */
        const double before = milliseconds_now();
        status = canao_run(model, inputs, length, outputs);
        if (i >= 0)
            times[i] = milliseconds_now() - before;
    }
    if (!status) {
        qsort(times, (size_t)runs, sizeof *times, ascending);
        const double rank = percentile / 100 * runs - 1e-9;
        int32_t place = (int32_t)rank + (rank > (int32_t)rank); /* rounded up, from 1 */
        *ms = times[place < 1 ? 0 : place - 1];
    }
    free(times);
    return status;
}

CANAO_EXPORT int canao_time(canao_model *model, int32_t length, int32_t runs, double percentile,
                            double *ms)
{
    if (!ms || runs < 1 || runs > MOST_RUNS || !(percentile > 0 && percentile <= 100))
        return CANAO_ARGUMENT;
    const struct canao_program *p = canao_describe();
    if (length < 1 || length > p->max_length)
        return CANAO_LENGTH;
    int32_t **in = calloc((size_t)p->input_count, sizeof *in);
    float **out = calloc((size_t)p->output_count, sizeof *out);
    int status = in && out ? CANAO_OK : CANAO_MEMORY;
    for (int i = 0; i < p->input_count && !status; i++) {
        if (p->inputs[i].kind != CANAO_IDS)
            status = CANAO_ARGUMENT; /* nobody can make up what a tensor holds */
        else if (!(in[i] = canao_made_up_ids(p->inputs[i].limit, length)))
            status = CANAO_MEMORY;
    }
    for (int i = 0; i < p->output_count && !status; i++) {
        const size_t size = (size_t)canao_output_size(i, length);
        if (!(out[i] = malloc((size ? size : 1) * sizeof **out)))
            status = CANAO_MEMORY;
    }
    if (!status)
        status = time_runs(model, (const int32_t *const *)in, length, out, runs, percentile, ms);
    for (int i = 0; in && i < p->input_count; i++)
        free(in[i]);
    for (int i = 0; out && i < p->output_count; i++)
        free(out[i]);
    free(in);
    free(out);
    return status;
}
