/* The public functions of a compiled model: open, run, close. Every argument and the weights file
 * are checked; nothing aborts. */
#define _GNU_SOURCE
#include "canao_model.h"
#include "canao_runtime.h"

#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MAX_THREADS = 64, HEADER_BYTES = 64 };

struct canao_model {
    const unsigned char *file;
    float *arena, *scratch;
    canao_team *team;
    int threads;
    int core; /* of thread 0; -1: not pinned */
    atomic_flag busy;
    /* the call under way */
    int32_t length;
    const int32_t *const *inputs;
    uint64_t *ns;
};

static const char magic[8] = {'C', 'A', 'N', 'A', 'O', 'W', '0', '1'};

static int map_weights(const char *path, const unsigned char **file)
{
    struct stat info;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return CANAO_FILE;
    if (fstat(fd, &info) || !S_ISREG(info.st_mode)) {
        close(fd);
        return CANAO_FILE;
    }
    if ((uint64_t)info.st_size != canao_program.weights_bytes) {
        close(fd);
        return CANAO_FORMAT;
    }
    void *mapped = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (mapped == MAP_FAILED)
        return CANAO_FILE;
    uint64_t head[2]; /* layout, size */
    memcpy(head, (const unsigned char *)mapped + sizeof magic, sizeof head);
    if (memcmp(mapped, magic, sizeof magic) || head[0] != canao_program.layout ||
        head[1] != canao_program.weights_bytes) {
        munmap(mapped, (size_t)info.st_size);
        return CANAO_FORMAT;
    }
    *file = mapped;
    return CANAO_OK;
}

static float *allocate(uint64_t floats)
{
    void *p = NULL;
    return posix_memalign(&p, 64, (size_t)(floats + 16) * sizeof(float)) ? NULL : p;
}

CANAO_EXPORT int canao_open(const char *weights, int threads, const int *cores, canao_model **model)
{
    if (!weights || !model)
        return CANAO_ARGUMENT;
    *model = NULL;
    if (threads < 1 || threads > MAX_THREADS)
        return CANAO_ARGUMENT;
    canao_model *m = calloc(1, sizeof *m);
    if (!m)
        return CANAO_MEMORY;
    atomic_flag_clear(&m->busy);
    m->threads = threads;
    m->core = cores ? cores[0] : -1;
    int status = map_weights(weights, &m->file);
    if (!status) {
        m->arena = allocate(canao_program.arena_floats);
        m->scratch = allocate(canao_program.scratch_floats * (uint64_t)threads);
        if (!m->arena || !m->scratch)
            status = CANAO_MEMORY;
    }
    if (!status && !(m->team = canao_team_start(threads, cores)))
        status = CANAO_THREADS;
    if (status) {
        canao_close(m);
        return status;
    }
    *model = m;
    return CANAO_OK;
}

CANAO_EXPORT void canao_close(canao_model *m)
{
    if (!m)
        return;
    canao_team_stop(m->team);
    free(m->scratch);
    free(m->arena);
    if (m->file)
        munmap((void *)m->file, (size_t)canao_program.weights_bytes);
    free(m);
}

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void run_steps(void *context, int thread)
{
    canao_model *m = context;
    const struct canao_call call = {
        .tokens = m->length,
        .inputs = m->inputs,
        .weights = (const float *)(m->file + HEADER_BYTES),
        .arena = m->arena,
        .scratch = m->scratch + (uint64_t)thread * canao_program.scratch_floats,
        .thread = thread,
        .threads = m->threads,
    };
    for (int i = 0; i < canao_program.step_count; i++) {
        const struct canao_step *step = &canao_program.steps[i];
        uint64_t start = 0;
        if (step->waits || m->ns)
            canao_team_meet(m->team);
        if (m->ns)
            start = now();
        step->run(&call);
        if (m->ns) {
            canao_team_meet(m->team);
            if (thread == 0)
                m->ns[i] += now() - start;
        }
    }
}

static int check(const int32_t *const *inputs, int32_t length, float *const *outputs)
{
    if (!inputs || !outputs)
        return CANAO_ARGUMENT;
    for (int i = 0; i < canao_program.output_count; i++)
        if (!outputs[i])
            return CANAO_ARGUMENT;
    if (length < 1 || length > canao_program.max_length)
        return CANAO_LENGTH;
    for (int i = 0; i < canao_program.input_count; i++) {
        if (!inputs[i])
            return CANAO_ARGUMENT;
        const int32_t limit = canao_program.inputs[i].limit;
        for (int32_t t = 0; t < length; t++)
            if (inputs[i][t] < 0 || (limit && inputs[i][t] >= limit))
                return CANAO_TOKEN;
    }
    return CANAO_OK;
}

CANAO_EXPORT int64_t canao_output_size(int index, int32_t length)
{
    if (index < 0 || index >= canao_program.output_count || length < 1 ||
        length > canao_program.max_length)
        return 0;
    const int64_t *size = canao_program.outputs[index].size, s = length;
    return size[0] + size[1] * s + size[2] * s * s;
}

static int run(canao_model *m, const int32_t *const *inputs, int32_t length, float *const *outputs,
               uint64_t *ns)
{
    if (!m)
        return CANAO_ARGUMENT;
    const int status = check(inputs, length, outputs);
    if (status)
        return status;
    if (atomic_flag_test_and_set(&m->busy))
        return CANAO_BUSY;
    m->length = length;
    m->inputs = inputs;
    m->ns = ns;
#if defined(__linux__)
    cpu_set_t before;
    const int pinned = m->core >= 0 && !sched_getaffinity(0, sizeof before, &before);
    if (pinned && canao_pin(m->core)) {
        atomic_flag_clear(&m->busy);
        return CANAO_THREADS;
    }
#endif
    canao_team_run(m->team, run_steps, m);
#if defined(__linux__)
    if (pinned)
        sched_setaffinity(0, sizeof before, &before);
#endif
    for (int i = 0; i < canao_program.output_count; i++)
        memcpy(outputs[i], m->arena + canao_program.outputs[i].offset,
               (size_t)canao_output_size(i, length) * sizeof(float));
    atomic_flag_clear(&m->busy);
    return CANAO_OK;
}

CANAO_EXPORT int canao_run(canao_model *m, const int32_t *const *inputs, int32_t length,
                           float *const *outputs)
{
    return run(m, inputs, length, outputs, NULL);
}

CANAO_EXPORT int canao_profile(canao_model *m, const int32_t *const *inputs, int32_t length,
                               float *const *outputs, uint64_t *ns)
{
    return ns ? run(m, inputs, length, outputs, ns) : CANAO_ARGUMENT;
}

CANAO_EXPORT const struct canao_program *canao_describe(void) { return &canao_program; }

CANAO_EXPORT const char *canao_message(int status)
{
    static const char *const text[] = {
        "no error",
        "a null pointer, or a count out of range",
        "the length is outside 1 .. the model's maximum",
        "an id is negative or beyond the model's tables",
        "the weights file cannot be opened or mapped",
        "the weights file is damaged or belongs to another library",
        "not enough memory",
        "threads cannot be started or pinned to the named cores",
        "another call on this model is under way",
    };
    const int known = (int)(sizeof text / sizeof *text);
    return status >= 0 && status < known ? text[status] : "unknown status";
}
