/* Times a compiled model without any Python in the figure.
 *
 *   bench LIBRARY WEIGHTS length threads cores warmup samples min_ms max_ms mode [IDS OUTPUTS]
 *   bench weights PARTS OUT
 *
 * cores: comma-separated, one a thread, or - for none. Where the system lets no thread be pinned to
 * them, none is, and the report says `unpinned`. mode is one of
 *   time      runs of a sequence of that length
 *   next      one token after such a sequence
 *   profile   each step of such runs
 *   run       a run of each sequence of the file IDS (int32: its length, then one input after the
 *             other); all outputs go to the file OUTPUTS (float32). `length` is the longest
 * The report on standard output has one item on each line, `name value...`; samples are nanoseconds.
 * With samples come two readings of what else ran (bench_others.h).
 * A library that continues sequences gives the last token's outputs only.
 *
 * The second form writes a weights file OUT that is as good as any for timing: numbers that are made
 * up, but for those of the file PARTS (int64: the size of OUT, how many parts, of each its place and
 * its bytes; then the parts). */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include "bench_others.h"
#include "canao_runtime.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MAX_INPUTS = 8, MAX_OUTPUTS = 64, MAX_THREADS = 64 };
enum { LEAST_PAGE = 4096 };
enum { THREADS = 7 }; /* canao_open: threads cannot be started, or pinned */

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
    dprintf(STDERR_FILENO, "%s: %s\n", what, why); /* Android has no `stderr` before API 23 */
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

/* Reads a byte of each page of the weights, as texts with all tokens would in time. What a few runs
 * bring in depends on how the system happens to keep the file: on the day that it is written three
 * times as much of it as later. */
static void read_all(const char *weights)
{
    char file[PATH_MAX], line[PATH_MAX + 128];
    FILE *maps = realpath(weights, file) ? fopen("/proc/self/maps", "r") : NULL;
    while (maps && fgets(line, sizeof line, maps)) {
        unsigned long at, end;
        int path = 0;
        line[strcspn(line, "\n")] = 0;
        if (sscanf(line, "%lx-%lx r%*s %*s %*s %*s %n", &at, &end, &path) == 2 && path &&
            !strncmp(line + path, file, strlen(file)) && /* or another file has its place by now */
            (!line[path + strlen(file)] || !strcmp(line + path + strlen(file), " (deleted)")))
            for (; at < end; at += LEAST_PAGE)
                (void)*(const volatile char *)at;
    }
    if (maps)
        fclose(maps);
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
    struct readings others = {0};
    const int own = q->pinned ? q->cores[0] : -1;
    read_clock(&others, "begin", own);
    read_others(&others, "begin", own); /* before the warm-up: reading leaves the caches cold */
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
    read_others(&others, "end", own);
    read_clock(&others, "end", own);
    if (!ns || others.lost)
        return fail("samples", "not enough memory");
    printf("%ssamples", others.text);
    free(others.text);
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

/* One sequence of the file: 1 if there was one, 0 at the end, -1 if it is cut short or too long. */
static int read_sequence(FILE *file, const struct canao_program *p, const int32_t *const *in,
                         int32_t most, int32_t *length)
{
    if (fread(length, sizeof *length, 1, file) != 1)
        return ferror(file) ? -1 : 0;
    if (*length < 1 || *length > most)
        return -1;
    for (int i = 0; i < p->input_count; i++)
        if (fread((int32_t *)in[i], sizeof **in, (size_t)*length, file) != (size_t)*length)
            return -1;
    return 1;
}

static int run_files(const struct library *l, canao_model *m, const struct request *q,
                     const int32_t *const *in, float *const *out, const char *from, const char *to)
{
    const struct canao_program *p = l->describe();
    FILE *source = fopen(from, "rb"), *target = fopen(to, "wb");
    int32_t length = 0;
    int status = 0, more = source ? 1 : -1, whole = target != NULL;
    while (whole && !status &&
           (more = source ? read_sequence(source, p, in, q->length, &length) : -1) > 0) {
        status = l->run(m, in, length, out);
        for (int i = 0; whole && !status && i < p->output_count; i++) {
            const size_t size = (size_t)l->output_size(i, length);
            whole = fwrite(out[i], sizeof **out, size, target) == size;
        }
    }
    if (source)
        fclose(source);
    if (target && fclose(target))
        whole = 0;
    if (status)
        return fail("run", l->message(status));
    if (!whole)
        return fail(to, "cannot be written");
    return more < 0 ? fail(from, "cannot be read") : 0;
}

/* Numbers that are ordinary ones in every type that weights have: read as float32 or bf16 they are
 * +-2^-7 to +-2^-6, as half precision near +-1, as bytes anything. The same in every file. */
static void make_up(uint16_t *to, size_t count, uint64_t *state)
{
    for (size_t i = 0; i < count; i++) {
        *state = *state * 6364136223846793005u + 1442695040888963407u;
        to[i] = (uint16_t)(0x3C00u | (*state >> 40 & 0x807Fu));
    }
}

static int write_made_up(FILE *file, int64_t size)
{
    static uint16_t block[1 << 15];
    uint64_t state = 1;
    for (int64_t left = size; left > 0; left -= (int64_t)sizeof block) {
        const size_t bytes = left < (int64_t)sizeof block ? (size_t)left : sizeof block;
        make_up(block, sizeof block / sizeof *block, &state);
        if (fwrite(block, 1, bytes, file) != bytes)
            return 0;
    }
    return 1;
}

/* One part of the file PARTS to its place. */
static int copy_part(FILE *from, FILE *to, int64_t place, int64_t bytes)
{
    static char block[1 << 15];
    if (fseeko(to, (off_t)place, SEEK_SET))
        return 0;
    for (int64_t left = bytes; left > 0; left -= (int64_t)sizeof block) {
        const size_t some = left < (int64_t)sizeof block ? (size_t)left : sizeof block;
        if (fread(block, 1, some, from) != some || fwrite(block, 1, some, to) != some)
            return 0;
    }
    return 1;
}

static int make_weights(const char *from, const char *to)
{
    enum { MOST_PARTS = 4096 };
    static int64_t places[2 * MOST_PARTS];
    int64_t head[2]; /* size of the whole, how many parts */
    FILE *parts = fopen(from, "rb");
    int known = parts && fread(head, sizeof *head, 2, parts) == 2 && head[0] >= 0 &&
                head[1] >= 0 && head[1] <= MOST_PARTS;
    const size_t words = known ? 2 * (size_t)head[1] : 0;
    known = known && fread(places, sizeof *places, words, parts) == words;
    FILE *file = known ? fopen(to, "wb") : NULL;
    int whole = file && write_made_up(file, head[0]);
    for (size_t i = 0; whole && i < words; i += 2)
        whole = places[i] >= 0 && places[i + 1] >= 0 && places[i] <= head[0] - places[i + 1] &&
                copy_part(parts, file, places[i], places[i + 1]);
    if (file && fclose(file))
        whole = 0;
    if (parts)
        fclose(parts);
    return !known ? fail(from, "cannot be read") : whole ? 0 : fail(to, "cannot be written");
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

/* Opens the model; unpinned if the system does not let its threads be pinned. */
static int open_model(const struct library *l, const char *weights, struct request *q,
                      canao_model **m)
{
    int status = l->open(weights, q->threads, q->pinned ? q->cores : NULL, m);
    if (status != THREADS || !q->pinned)
        return status;
    q->pinned = 0;
    printf("unpinned %d\n", q->threads);
    return l->open(weights, q->threads, NULL, m);
}

int main(int argc, char **argv)
{
    struct library l = {0};
    struct request q;
    if (argc == 4 && !strcmp(argv[1], "weights"))
        return make_weights(argv[2], argv[3]);
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
    int status = open_model(&l, argv[2], &q, &m);
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
    read_all(argv[2]);
    printf("peak %ld\n", peak_bytes());
    return status;
}
