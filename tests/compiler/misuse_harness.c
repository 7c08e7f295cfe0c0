/* What programs do wrong with a model, and forking, for sanitizers.
 *
 *   harness WEIGHTS THREADS handles | cores | files FOLDER | fork
 *
 * Says which line is not as the header has it, and ends with 1 there. */
#define _GNU_SOURCE
#include "canao_model.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(holds)                                                    \
    do {                                                                \
        if (!(holds)) {                                                 \
            fprintf(stderr, "line %d: %s\n", __LINE__, #holds);         \
            exit(1);                                                    \
        }                                                               \
    } while (0)

enum { LENGTH = 13, FORKS = 8 };

static const char *weights;
static int threads;
static int32_t ids[LENGTH];
static float *want[CANAO_OUTPUTS];

static canao_model *opened(void)
{
    canao_model *model;
    CHECK(canao_open(weights, threads, NULL, &model) == CANAO_OK);
    return model;
}

static size_t bytes(int output) { return (size_t)canao_output_size(output, LENGTH) * sizeof(float); }

static int run(canao_model *model, float *const *outputs)
{
    const int32_t *inputs[CANAO_INPUTS];
    for (int i = 0; i < CANAO_INPUTS; i++)
        inputs[i] = ids;
    return canao_run(model, inputs, LENGTH, outputs);
}

/* Runs the model; the numbers must be those of the first run of all. */
static int right(canao_model *model)
{
    float *out[CANAO_OUTPUTS];
    int same = 1;
    for (int i = 0; i < CANAO_OUTPUTS; i++)
        out[i] = calloc(1, bytes(i));
    const int status = run(model, out);
    for (int i = 0; i < CANAO_OUTPUTS; i++) {
        same = same && !memcmp(out[i], want[i], bytes(i));
        free(out[i]);
    }
    return status ? status : same ? 0 : -1;
}

static void *run_until_closed(void *model)
{
    int status = CANAO_OK;
    while (status == CANAO_OK)
        status = right(model);
    CHECK(status == CANAO_CLOSED);
    return NULL;
}

static void handles(void)
{
    canao_model *first = opened(), *second = opened();
    canao_close(first);
    canao_close(first);
    CHECK(right(first) == CANAO_CLOSED && right(second) == CANAO_OK);
    canao_model *third = opened(); /* in the memory, and the place, of the first */
    CHECK(third != first && right(third) == CANAO_OK && right(first) == CANAO_CLOSED);
    canao_close(first);
    CHECK(right(third) == CANAO_OK);
    CHECK(right(NULL) == CANAO_ARGUMENT);
    for (uintptr_t bits = 1; bits; bits <<= 1)
        CHECK(right((canao_model *)bits) == CANAO_CLOSED);
    CHECK(canao_run_batch(first, 0, NULL, NULL, NULL) == CANAO_OK);
#ifdef CANAO_RESUMES
    CHECK(canao_reset(first, 0) == CANAO_CLOSED);
#endif
    canao_close(NULL);

    canao_model *many[40];
    for (int i = 0; i < 40; i++)
        many[i] = opened();
    for (int i = 0; i < 40; i += 2)
        canao_close(many[i]);
    for (int i = 0; i < 40; i++)
        CHECK(right(many[i]) == (i % 2 ? CANAO_OK : CANAO_CLOSED));
    for (int i = 0; i < 40; i++)
        canao_close(many[i]);

    /* Closed while another thread calls it: the call ends first. */
    pthread_t caller;
    CHECK(!pthread_create(&caller, NULL, run_until_closed, second));
    usleep(20000);
    canao_close(second);
    CHECK(!pthread_join(caller, NULL));
    canao_close(third);
}

static void cores(void)
{
    cpu_set_t before, after;
    const int impossible[] = {-1, -2147483647 - 1, 1000, CPU_SETSIZE - 1, CPU_SETSIZE, 2147483647};
    CHECK(!sched_getaffinity(0, sizeof before, &before));
    int good = 0;
    while (!CPU_ISSET(good, &before))
        good++;
    for (int t = 0; t < threads; t++)
        for (size_t i = 0; i < sizeof impossible / sizeof *impossible; i++) {
            canao_model *model = (canao_model *)1;
            int named[64];
            for (int k = 0; k < threads; k++)
                named[k] = k == t ? impossible[i] : good;
            CHECK(canao_open(weights, threads, named, &model) == CANAO_THREADS && !model);
        }
    CHECK(!sched_getaffinity(0, sizeof after, &after) && CPU_EQUAL(&before, &after));
}

static void files(const char *folder)
{
    canao_model *model;
    char pipe[4096];
    snprintf(pipe, sizeof pipe, "%s/pipe", folder);
    CHECK(!mkfifo(pipe, 0600));
    const char *const wrong[] = {pipe, folder, "/dev/zero", "/dev/null", "/nowhere"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        CHECK(canao_open(wrong[i], threads, NULL, &model) == CANAO_FILE && !model);
}

static void await(pid_t child)
{
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void *keep_busy(void *model)
{
    int status = CANAO_OK;
    while (status == CANAO_OK || status == CANAO_BUSY)
        status = right(model);
    return NULL;
}

#ifdef CANAO_RESUMES
static int extended(canao_model *model, int first, int count, float *out)
{
    const int32_t *inputs[] = {ids + first};
    float *outputs[] = {out};
    return canao_extend(model, inputs, count, 1, outputs);
}

/* A sequence goes on in the child from where it was, and in the parent as if nothing had been. */
static void sequences(void)
{
    canao_model *model = opened();
    const size_t size = (size_t)canao_output_size(0, 1) * sizeof(float);
    float *whole = malloc(size), *part = malloc(size);
    CHECK(extended(model, 0, LENGTH, whole) == CANAO_OK && canao_reset(model, 0) == CANAO_OK);
    CHECK(extended(model, 0, 6, part) == CANAO_OK);
    const pid_t child = fork();
    CHECK(child >= 0 && extended(model, 6, LENGTH - 6, part) == CANAO_OK);
    for (size_t i = 0; i < size / sizeof(float); i++)
        CHECK(part[i] - whole[i] < 1e-4f && whole[i] - part[i] < 1e-4f);
    free(whole);
    free(part);
    canao_close(model);
    if (!child)
        _exit(0);
    await(child);
}
#endif

/* Children leave by _exit: a leak checker cannot suspend threads that a fork left behind. */
static void forks(void)
{
    canao_model *model = opened(), *unused = opened();
    CHECK(right(model) == CANAO_OK);
    pid_t child = fork();
    if (!child) {
        alarm(60);
        CHECK(right(model) == CANAO_OK && right(unused) == CANAO_OK);
        const pid_t grandchild = fork();
        CHECK(right(model) == CANAO_OK);
        if (grandchild)
            await(grandchild);
        canao_close(model);
        canao_close(model);
        CHECK(right(model) == CANAO_CLOSED);
        canao_close(unused);
        _exit(0);
    }
    CHECK(right(model) == CANAO_OK);
    await(child);
    if (!(child = fork())) {
        canao_close(model); /* without a call before */
        canao_close(unused);
        _exit(0);
    }
    await(child);
    CHECK(right(model) == CANAO_OK);
    /* Forked while another thread is in a call. */
    pthread_t caller;
    CHECK(!pthread_create(&caller, NULL, keep_busy, model));
    for (int i = 0; i < FORKS; i++) {
        usleep(1000);
        if (!(child = fork())) {
            alarm(60);
            CHECK(right(model) == CANAO_OK && right(unused) == CANAO_OK);
            _exit(0);
        }
        await(child);
    }
    canao_close(model);
    CHECK(!pthread_join(caller, NULL));
    canao_close(unused);
#ifdef CANAO_RESUMES
    sequences();
#endif
}

int main(int argc, char **argv)
{
    if (argc < 4)
        return 2;
    alarm(240);
    weights = argv[1];
    threads = atoi(argv[2]);
    for (int i = 0; i < LENGTH; i++)
        ids[i] = i % 2;
    for (int i = 0; i < CANAO_OUTPUTS; i++)
        want[i] = calloc(1, bytes(i));
    canao_model *model = opened();
    CHECK(run(model, want) == CANAO_OK);
    canao_close(model);
    switch (argv[3][0] == 'f' ? argv[3][1] : argv[3][0]) {
    case 'h': handles(); break;
    case 'c': cores(); break;
    case 'i': files(argv[4]); break;
    case 'o': forks(); break;
    default: return 2;
    }
    for (int i = 0; i < CANAO_OUTPUTS; i++)
        free(want[i]);
    return 0;
}
