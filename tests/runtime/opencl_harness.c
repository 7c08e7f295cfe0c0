/* Threads that open, call and close models on a driver that is not there, for sanitizers.
 *
 *   harness WEIGHTS DRIVER STATE
 *
 * STATE is that of all events but those of the first models: 0, or an error; or "wrong": then each
 * word of the probes' results is wrong in turn, and no model is opened; or "apart": a program cannot
 * hold several kernels. Ends with 1 where something is not as the header has it, or the driver was
 * not given back what it gave. */
#include "canao_launch.h"
#include "canao_model.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 3, TURNS = 5, LENGTH = 20 };

const char *canao_opencl_devices(void);
int canao_profile(canao_model *model, const int32_t *const *inputs, int32_t length,
                  float *const *outputs, uint64_t *ns);

static const char *weights;
static int want; /* the status of calls */

/* One of each call, of a model of its own; how many were not as they should be. */
static int use(int32_t length)
{
    int32_t ids[LENGTH] = {1, 2, 3};
    float rows[2 * LENGTH], x[LENGTH];
    uint64_t ns[3] = {0};
    const int32_t *const inputs[1] = {ids}, *const *const batch[3] = {inputs, inputs, inputs};
    float *const outputs[2] = {rows, x}, *const *const results[3] = {outputs, outputs, outputs};
    const int32_t lengths[3] = {length, 1, 2};
    canao_model *model;
    if (!canao_opencl_devices())
        return 1;
    int status = canao_open(weights, 1, NULL, &model), wrong = 0;
    if (status)
        return status != want;
    wrong += canao_run(model, inputs, length, outputs) != want;
    wrong += canao_profile(model, inputs, length, outputs, ns) != want;
    wrong += canao_run_batch(model, 3, batch, lengths, results) != want;
    wrong += canao_extend(model, inputs, length, 1, outputs) != want;
    wrong += canao_run(model, inputs, 0, outputs) != CANAO_LENGTH;
    wrong += want && !strstr(canao_message(want), "the model is lost");
    canao_close(model);
    return wrong;
}

static void *serve(void *wrong)
{
    for (int32_t turn = 0; turn < TURNS; turn++)
        *(int *)wrong += use(turn + 1);
    return NULL;
}

/* Tells a driver what the probes have to write, of which word `wrong` is none of them. */
static void answer(void (*tell)(const char *, const uint32_t *, size_t), uint32_t *words, int wrong)
{
    const struct canao_probes *p = &canao_gpu.probes;
    int end = p->right_count;
    memcpy(words, p->right, (size_t)end * sizeof *words);
    if (wrong >= 0)
        words[wrong] = 0x42c80001; /* a hundred and a little */
    for (int i = p->launch_count - 1; i >= 0; i--) {
        const struct canao_launch *launch = &p->launches[i];
        const int first = (int)(launch->arguments[1].offset / 4) - p->given_count;
        tell(launch->kernel, words + first, (size_t)(end - first) * sizeof *words);
        end = first;
    }
}

/* How many wrong words were not found. */
static int overlooked(void (*tell)(const char *, const uint32_t *, size_t), uint32_t *words)
{
    int found = 0;
    for (int i = 0; i < canao_gpu.probes.right_count; i++) {
        canao_model *model = NULL;
        answer(tell, words, i);
        found += canao_open(weights, 1, NULL, &model) == CANAO_DEVICE && !model &&
                 strstr(canao_message(CANAO_DEVICE), "computes wrong: ");
    }
    return canao_gpu.probes.right_count - found;
}

static void *symbol(void *library, const char *name, void *function)
{
    void *found = dlsym(library, name);
    memcpy(function, &found, sizeof found);
    return found;
}

int main(int argc, char **argv)
{
    void (*device)(uint64_t, const char *, int), (*events)(int32_t);
    void (*tell)(const char *, const uint32_t *, size_t);
    void (*single)(int);
    int (*live)(void);
    pthread_t threads[THREADS];
    int wrong[THREADS] = {0};
    void *driver = argc == 4 ? dlopen(argv[2], RTLD_NOW) : NULL;
    if (!driver || !symbol(driver, "fake_device", &device) ||
        !symbol(driver, "fake_events", &events) || !symbol(driver, "fake_live", &live) ||
        !symbol(driver, "fake_answer", &tell) || !symbol(driver, "fake_single", &single))
        return 1;
    uint32_t *words = calloc((size_t)canao_gpu.probes.right_count, sizeof *words);
    if (!words)
        return 1;
    answer(tell, words, -1);
    weights = argv[1];
    device(4, "fast", 1);
    if (use(LENGTH)) /* before any event has another state */
        return 1;
    if (!strcmp(argv[3], "wrong")) {
        const int count = overlooked(tell, words);
        free(words);
        return count || live();
    }
    single(!strcmp(argv[3], "apart"));
    events(atoi(argv[3]));
    want = atoi(argv[3]) ? CANAO_DEVICE : CANAO_OK;
    for (int t = 0; t < THREADS; t++)
        if (pthread_create(&threads[t], NULL, serve, &wrong[t]))
            return 1;
    for (int t = 0; t < THREADS; t++)
        pthread_join(threads[t], NULL);
    for (int t = 0; t < THREADS; t++)
        if (wrong[t])
            return 1;
    free(words);
    return live() != 0;
}
