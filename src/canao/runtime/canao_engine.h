/* What runs the steps of a model, behind the public functions of model.c: threads on a CPU
 * (cpu_engine.c), or an OpenCL device (opencl_engine.c). A library has one of the two. */
#ifndef CANAO_ENGINE_H
#define CANAO_ENGINE_H

#include "canao_runtime.h"

enum { CANAO_HEADER_BYTES = 64 }; /* of the weights file, before the weights */

/* One sequence of a call, whose arguments were checked. */
struct canao_sequence {
    int32_t length;
    int32_t past, wanted; /* tokens before these; last tokens whose outputs are copied */
    const int32_t *const *inputs;
    float *const *outputs;
};

typedef struct canao_engine canao_engine;

/* The program that runs here; that of the least processor where none can. */
const struct canao_program *canao_engine_program(void);
/* What its kernels are for, as "avx2" or "opencl"; NULL where they cannot run. */
const char *canao_engine_name(void);
/* What a status means that is this engine's own, CANAO_CPU or CANAO_DEVICE: of the last call of this
 * thread that failed so. NULL for every other status. */
const char *canao_engine_lacks(int status);

/* Whether the arguments of canao_open can be met, before a file is read. */
int canao_engine_check(int threads, const int *cores);
/* `file` is the whole weights file, mapped. On CANAO_OK with `*keeps` 0 it is no longer needed. */
int canao_engine_open(const unsigned char *file, int threads, const int *cores,
                      canao_engine **engine, int *keeps);
void canao_engine_close(canao_engine *engine);

/* Around each call: what the calling thread has to be, and was. */
int canao_engine_enter(canao_engine *engine);
void canao_engine_leave(canao_engine *engine);
/* Runs a sequence and copies its outputs. `ns`, if not NULL, has a place for each step, to which its
 * nanoseconds are added. */
int canao_engine_run(canao_engine *engine, const struct canao_sequence *sequence, uint64_t *ns);
/* Runs sequences in any order, which may change in memory. */
int canao_engine_run_batch(canao_engine *engine, struct canao_sequence *sequences, int count);
/* This process was forked from that of the engine: in the child, where only the memory is left. */
void canao_engine_forked(canao_engine *engine);

/* model.c: copies the last rows of each output, one for each wanted token, out of an arena. */
void canao_copy_outputs(const struct canao_sequence *sequence, const unsigned char *arena);

#endif
