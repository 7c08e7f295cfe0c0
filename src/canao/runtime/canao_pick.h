/* Picks one of several students that an application carries: the first that keeps a latency budget
 * on the device it runs on. Include it in one C or C++ file; on Linux it may need -ldl.
 *
 *     const struct canao_student students[] = {{"8ms/model.so", "8ms/weights.bin"},
 *                                              {"4ms/model.so", "4ms/weights.bin"}};
 *     const struct canao_question question = {.threads = 1, .length = 128, .runs = 256,
 *                                             .percentile = 90, .budget_ms = 6};
 *     struct canao_picked picked;
 *     if (!canao_pick(students, 2, &question, &picked))
 *         picked.run(picked.model, inputs, length, outputs);
 *     canao_unpick(&picked);
 *
 * Students are given best first. Each library is loaded by itself, as all have the same names. */
#ifndef CANAO_PICK_H
#define CANAO_PICK_H

#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct canao_student {
    const char *library; /* a path, or a name that dlopen finds */
    const char *weights;
};

struct canao_question {
    int threads;        /* as of canao_open */
    const int *cores;   /* as of canao_open: one for each thread, or NULL */
    int32_t length;     /* tokens of the sequence that is timed */
    int32_t runs;       /* of each student, until one keeps the budget */
    double percentile;  /* of their times */
    double budget_ms;
};

/* What was picked. `index` is its place among the students, -1 if none could be run. `status` is that
 * of the last student that could not be run: of the enum canao_status, or CANAO_NOT_LOADED; `why` says
 * in English which that was, and what was wrong with it. */
struct canao_picked {
    int index;
    int keeps; /* whether it keeps the budget; 0: none does, and this one is the fastest */
    double ms; /* the percentile of its times */
    int status;
    char why[256];
    void *library;
    struct canao_model *model;
    int (*run)(struct canao_model *, const int32_t *const *, int32_t, float *const *);
    int64_t (*output_size)(int, int32_t);
    void (*close)(struct canao_model *);
    const char *(*message)(int);
};

enum { CANAO_NOT_LOADED = -1 }; /* dlopen failed, or the file is no library of CANAO */

static inline int canao_found_(void *library, const char *name, void *function)
{
    void *found = dlsym(library, name);
    memcpy(function, &found, sizeof found);
    return found != NULL;
}

/* Closes the model and its library. */
static inline void canao_unpick(struct canao_picked *picked)
{
    if (picked->library) {
        picked->close(picked->model);
        dlclose(picked->library);
    }
    picked->library = NULL;
    picked->model = NULL;
}

static inline int canao_timed_(const struct canao_student *student,
                               const struct canao_question *q, struct canao_picked *one)
{
    int (*open)(const char *, int, const int *, struct canao_model **);
    int (*time)(struct canao_model *, int32_t, int32_t, double, double *);
    void *library = dlopen(student->library, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        const char *why = dlerror();
        snprintf(one->why, sizeof one->why, "%s", why ? why : student->library);
        return CANAO_NOT_LOADED;
    }
    int status = CANAO_NOT_LOADED;
    if (canao_found_(library, "canao_open", &open) && canao_found_(library, "canao_time", &time) &&
        canao_found_(library, "canao_run", &one->run) &&
        canao_found_(library, "canao_output_size", &one->output_size) &&
        canao_found_(library, "canao_close", &one->close) &&
        canao_found_(library, "canao_message", &one->message))
        status = open(student->weights, q->threads, q->cores, &one->model);
    else
        snprintf(one->why, sizeof one->why, "%s: is no library of CANAO that times itself",
                 student->library);
    if (!status) {
        one->library = library;
        status = time(one->model, q->length, q->runs, q->percentile, &one->ms);
    }
    if (status && !one->why[0])
        snprintf(one->why, sizeof one->why, "%s: %s", student->library, one->message(status));
    if (status && one->library)
        canao_unpick(one);
    else if (status)
        dlclose(library);
    return status;
}

/* Times one student after the other until one keeps the budget, and leaves that one open; where none
 * does, the fastest. 0 if one is open; else the status of the last one. */
static inline int canao_pick(const struct canao_student *students, int count,
                             const struct canao_question *question, struct canao_picked *picked)
{
    memset(picked, 0, sizeof *picked);
    picked->index = -1;
    picked->status = CANAO_NOT_LOADED;
    snprintf(picked->why, sizeof picked->why, "no students were given");
    if (!(question->budget_ms > 0)) {
        picked->status = 1; /* CANAO_ARGUMENT */
        snprintf(picked->why, sizeof picked->why, "the budget is not over 0");
        return picked->status;
    }
    for (int i = 0; i < count; i++) {
        struct canao_picked one;
        memset(&one, 0, sizeof one);
        one.status = canao_timed_(&students[i], question, &one);
        if (one.status) {
            picked->status = one.status;
            memcpy(picked->why, one.why, sizeof one.why);
            continue;
        }
        one.index = i;
        one.keeps = one.ms <= question->budget_ms;
        if (picked->library && !one.keeps && one.ms >= picked->ms) {
            canao_unpick(&one);
            continue;
        }
        canao_unpick(picked);
        *picked = one;
        if (one.keeps)
            break;
    }
    return picked->library ? 0 : picked->status;
}

#endif
