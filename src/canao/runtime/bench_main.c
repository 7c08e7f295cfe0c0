/* Times a compiled model without any Python in the figure.
 *
 *   bench LIBRARY WEIGHTS length threads cores warmup samples min_ms max_ms mode [IDS OUTPUTS]
 *
 * cores: comma-separated, one a thread, or - for none. mode is one of
 *   time      runs of a sequence of that length
 *   next      one token after such a sequence
 *   profile   each step of such runs
 *   run       one run: ids come from the file IDS (int32, one input after the other), all outputs go
 *             to the file OUTPUTS (float32)
 * The report on standard output has one item on each line, `name value...`; samples are nanoseconds.
 * With samples come two readings of what else ran (bench_others.h).
 * A library that continues sequences gives the last token's outputs only. */
#define _GNU_SOURCE
#include "bench_others.h"
#include "canao_runtime.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_INPUTS = 8, MAX_OUTPUTS = 64, MAX_THREADS = 64 };

struct library {
    const struct canao_program *(*describe)(void);
    int (*open)(const char *, int, const int *, canao_model **);
    int (*run)(canao_model *, const int32_t *const *, int32_t, float *const *);
    int (*profile)(canao_model *, const int32_t *const *, int32_t, float *const *, uint64_t *);
    int (*extend)(canao_model *, const int32_t *const *, int32_t, int32_t, float *const *);
    int (*reset)(canao_model *, int32_t);
    int64_t (*output_size)(int, int32_t);
    const char *(*message)(int);
    const char *(*isa)(void);
};

struct request {
    int32_t length;
    int next;
    int threads, pinned, cores[MAX_THREADS];
    long warmup, samples;
    uint64_t least, most; /* nanoseconds */
};

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int fail(const char *what, const char *why)
{
    fprintf(stderr, "%s: %s\n", what, why);
    return 1;
}

static int find(void *handle, const char *name, void *function)
{
    void *found = dlsym(handle, name);
    memcpy(function, &found, sizeof found);
    return found != NULL;
}

static int load(const char *path, struct library *l)
{
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (handle && !find(handle, "canao_extend", &l->extend))
        dlerror(); /* an encoder */
    return handle && find(handle, "canao_describe", &l->describe) &&
           find(handle, "canao_open", &l->open) && find(handle, "canao_run", &l->run) &&
           find(handle, "canao_profile", &l->profile) &&
           find(handle, "canao_output_size", &l->output_size) &&
           find(handle, "canao_message", &l->message) && find(handle, "canao_isa", &l->isa) &&
           (!l->extend || find(handle, "canao_reset", &l->reset));
}

/* The most memory this process held. Not getrusage: its figure outlives exec, so that it would tell
 * of the program that started this one. */
static long peak_bytes(void)
{
    char line[128];
    long kilobytes = 0;
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        if (sscanf(line, "VmHWM: %ld kB", &kilobytes) == 1)
            break;
    if (status)
        fclose(status);
    return kilobytes * 1024;
}

/* One sample: a run of a whole sequence, or of one token after it. */
static int run_once(const struct library *l, canao_model *m, const struct request *q,
                    const int32_t *const *in, float *const *out)
{
    return l->extend ? l->extend(m, in, q->next ? 1 : q->length, 1, out)
                     : l->run(m, in, q->length, out);
}

static int make_ready(const struct library *l, canao_model *m, const struct request *q)
{
    return l->extend ? l->reset(m, q->next ? q->length : 0) : 0;
}

static int time_runs(const struct library *l, canao_model *m, const struct request *q,
                     const int32_t *const *in, float *const *out)
{
    char *readings = NULL;
    size_t size = 0;
    FILE *others = open_memstream(&readings, &size);
    if (!others)
        return fail("samples", "not enough memory");
    const int own = q->pinned ? q->cores[0] : -1;
    read_clock(others, "begin", own);
    read_others(others, "begin", own); /* before the warm-up: reading leaves the caches cold */
    if (q->next)
        l->extend(m, in, q->length, 0, out);
    for (long i = 0; i < q->warmup; i++) {
        make_ready(l, m, q);
        run_once(l, m, q, in, out);
    }
    size_t room = 4096, count = 0;
    uint64_t *ns = malloc(room * sizeof *ns);
    const uint64_t start = now();
    while (ns) {
        int status = make_ready(l, m, q);
        const uint64_t before = now();
        if (count >= (size_t)q->samples && before - start >= q->least)
            break;
        if (count && q->most && before - start >= q->most)
            break;
        if (!status)
            status = run_once(l, m, q, in, out);
        if (status)
            return fail("run", l->message(status));
        ns[count++] = now() - before;
        if (count == room)
            ns = realloc(ns, (room *= 2) * sizeof *ns);
    }
    if (!ns)
        return fail("samples", "not enough memory");
    read_others(others, "end", own);
    read_clock(others, "end", own);
    fclose(others);
    printf("%ssamples", readings);
    free(readings);
    for (size_t i = 0; i < count; i++)
        printf(" %llu", (unsigned long long)ns[i]);
    printf("\n");
    free(ns);
    return 0;
}

static int time_steps(const struct library *l, canao_model *m, const struct request *q,
                      const int32_t *const *in, float *const *out)
{
    const struct canao_program *p = l->describe();
    const size_t steps = (size_t)p->step_count;
    uint64_t *ns = malloc(steps * sizeof *ns);
    if (!ns)
        return fail("profile", "not enough memory");
    for (long i = 0; i < q->warmup; i++)
        l->run(m, in, q->length, out);
    for (size_t i = 0; i < steps; i++)
        printf("step %s\n", p->steps[i].name);
    for (long k = 0; k < q->samples; k++) {
        memset(ns, 0, steps * sizeof *ns);
        const int status = l->profile(m, in, q->length, out, ns);
        if (status)
            return fail("profile", l->message(status));
        printf("profile");
        for (size_t i = 0; i < steps; i++)
            printf(" %llu", (unsigned long long)ns[i]);
        printf("\n");
    }
    free(ns);
    return 0;
}

static int run_files(const struct library *l, canao_model *m, const struct request *q,
                     const int32_t *const *in, float *const *out, const char *from, const char *to)
{
    const struct canao_program *p = l->describe();
    const size_t tokens = (size_t)q->length;
    FILE *file = fopen(from, "rb");
    int whole = file != NULL;
    for (int i = 0; whole && i < p->input_count; i++)
        whole = fread((int32_t *)in[i], sizeof **in, tokens, file) == tokens;
    if (file)
        fclose(file);
    if (!whole)
        return fail(from, "cannot be read");
    const int status = l->run(m, in, q->length, out);
    if (status)
        return fail("run", l->message(status));
    file = fopen(to, "wb");
    whole = file != NULL;
    for (int i = 0; whole && i < p->output_count; i++) {
        const size_t size = (size_t)l->output_size(i, q->length);
        whole = fwrite(out[i], sizeof **out, size, file) == size;
    }
    if (file && fclose(file))
        whole = 0;
    return whole ? 0 : fail(to, "cannot be written");
}

/* A number of an int's range, or -1, which is none of what is asked for: 2^32 must not become 0. */
static int int_of(const char *text)
{
    const long number = atol(text);
    return number < 0 || number > INT32_MAX ? -1 : (int)number;
}

static int parse(char **argv, struct request *q)
{
    q->length = int_of(argv[3]);
    q->threads = int_of(argv[4]);
    q->pinned = 0;
    if (strcmp(argv[5], "-"))
        for (char *c = strtok(argv[5], ","); c && q->pinned < MAX_THREADS; c = strtok(NULL, ","))
            q->cores[q->pinned++] = int_of(c);
    q->warmup = atol(argv[6]);
    q->samples = atol(argv[7]);
    q->least = (uint64_t)atol(argv[8]) * 1000000u;
    q->most = (uint64_t)atol(argv[9]) * 1000000u;
    return q->length >= 1 && q->threads >= 1 && q->threads <= MAX_THREADS &&
           (!q->pinned || q->pinned == q->threads);
}

int main(int argc, char **argv)
{
    struct library l = {0};
    struct request q;
    const char *mode = argc < 11 ? "" : argv[10];
    if (argc != (strcmp(mode, "run") ? 11 : 13) || !parse(argv, &q))
        return fail("bench", "wrong arguments: 1 to 64 threads, and a core for each or none");
    q.next = !strcmp(mode, "next");
    const uint64_t start = now();
    if (!load(argv[1], &l)) {
        const char *why = dlerror();
        return fail(argv[1], why ? why : "not a library made by CANAO");
    }
    if (q.next && !l.extend)
        return fail(argv[1], "the model does not continue sequences");
    canao_model *m;
    int status = l.open(argv[2], q.threads, q.pinned ? q.cores : NULL, &m);
    if (status)
        return fail(l.isa() ? argv[2] : argv[1], l.message(status));
    printf("load %llu\n", (unsigned long long)(now() - start));
    printf("isa %s\n", l.isa());

    const struct canao_program *p = l.describe();
    const int32_t *in[MAX_INPUTS];
    float *out[MAX_OUTPUTS];
    if (p->input_count > MAX_INPUTS || p->output_count > MAX_OUTPUTS)
        return fail(argv[1], "too many inputs or outputs");
    for (int i = 0; i < p->input_count; i++)
        if (!(in[i] = canao_made_up_ids(p->inputs[i].limit, q.length)))
            return fail("inputs", "not enough memory");
    for (int i = 0; i < p->output_count; i++)
        if (!(out[i] = malloc((size_t)l.output_size(i, q.length) * sizeof(float) + 64)))
            return fail("outputs", "not enough memory");
    if (!strcmp(mode, "run"))
        return run_files(&l, m, &q, in, out, argv[11], argv[12]);
    const uint64_t first = now();
    status = l.extend ? l.extend(m, in, q.length, 1, out) : l.run(m, in, q.length, out);
    if (!status && l.extend)
        status = l.reset(m, 0);
    if (status)
        return fail("run", l.message(status));
    printf("cold %llu\n", (unsigned long long)(now() - first));
    status = strcmp(mode, "profile") ? time_runs(&l, m, &q, in, out)
                                         : time_steps(&l, m, &q, in, out);
    printf("peak %ld\n", peak_bytes());
    return status;
}
