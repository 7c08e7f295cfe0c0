/* What the generated file and the runtime share. Not part of the public interface. */
#ifndef CANAO_RUNTIME_H
#define CANAO_RUNTIME_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#define CANAO_EXPORT __attribute__((visibility("default")))

/* What one thread needs to run a step. Memory is in bytes; steps know the types in it. */
struct canao_call {
    int64_t tokens;
    int64_t past;  /* tokens before these in the sequence */
    int64_t first; /* of these tokens, the first whose outputs are wanted */
    const int32_t *const *inputs;
    const int32_t *positions; /* past, past + 1 ... */
    const unsigned char *weights;
    unsigned char *arena;   /* shared by all threads */
    unsigned char *cache;   /* keys and values, shared by all threads */
    unsigned char *scratch; /* this thread's own */
    int thread, threads;
    const int64_t *shares; /* see canao_share; NULL: all threads have equal ones */
    int32_t few_tokens; /* for each thread: see canao_few_tokens */
};

/* One kernel. With `barrier`, no thread begins it before all have ended the steps before it. With
 * `last_only`, it computes only rows of tokens whose outputs are wanted. */
struct canao_step {
    void (*run)(const struct canao_call *call);
    const char *name;
    int barrier, last_only;
};

/* Ids are one for each token; legal are 0 .. limit - 1, for a limit of 0 all from 0 on. Floats are a
 * float32 tensor of a fixed shape, whose size is not checked. */
enum canao_kind { CANAO_IDS, CANAO_FLOATS };

struct canao_input {
    const char *name;
    enum canao_kind kind;
    int32_t limit;
};

/* `offset` is in bytes; `size` holds the coefficients of 1, s and s^2 of the number of floats. */
struct canao_output {
    const char *name;
    int64_t offset;
    int64_t size[3];
};

struct canao_program {
    const struct canao_step *steps;
    int step_count;
    const struct canao_input *inputs;
    int input_count;
    const struct canao_output *outputs;
    int output_count;
    int32_t max_length;
    int32_t few_tokens; /* for each thread: see canao_few_tokens */
    uint64_t layout;
    uint64_t weights_bytes, arena_bytes, scratch_bytes, cache_bytes;
    const char *interface; /* what canao_interface returns */
};

/* A feature that a processor may have, and the bit that says so. On x86: of a register (`word`: 0 is
 * eax, 3 is edx) that cpuid answers for a leaf (`source`) and a part of it; `state` is what the system
 * must save for it, as bits of XCR0. On ARM: of the entry `source` of the auxiliary vector. */
struct canao_feature {
    const char *name;
    uint32_t source, part;
    int word, bit;
    uint64_t state;
};

/* The kernels of one instruction set, and all features that their code may use. */
struct canao_level {
    const char *isa;
    const struct canao_program *program;
    const struct canao_feature *features;
    int feature_count;
};

/* Those of this library, the widest first. All of the library's code but the kernels is compiled for
 * the least processor, so that it can find out which kernels it may call. */
extern const struct canao_level canao_levels[];
extern const int canao_level_count;

/* cpu.c: the first level all of whose features this processor has; NULL if there is none. */
const struct canao_level *canao_cpu_level(void);
/* What this processor lacks for the least level, in English. */
const char *canao_cpu_lacks(void);

/* A thread's share of `total` units of work. In all kernels of the same total it is the same. On cores
 * of several kinds it grows with what the thread's core can do: shares[t] is that of all cores before
 * thread t's together. */
static inline void canao_share(int64_t total, const struct canao_call *call, int64_t *begin,
                               int64_t *end)
{
    const int64_t *shares = call->shares;
    const int t = call->thread, all = call->threads;
    *begin = shares ? total * shares[t] / shares[all] : total * t / all;
    *end = shares ? total * shares[t + 1] / shares[all] : total * (t + 1) / all;
}

/* As canao_share, for rows: every token has equally many, one after another. Leaves out the rows of
 * tokens before the first wanted one. */
static inline void canao_share_last(int64_t total, const struct canao_call *call, int64_t *begin,
                                    int64_t *end)
{
    const int64_t first = total / call->tokens * call->first;
    canao_share(total - first, call, begin, end);
    *begin += first;
    *end += first;
}

/* Whether a step has too few tokens for its threads to share out rows: register tiles would be half
 * empty, and every thread would read all weights. Packed GEMMs then share out columns, and there is
 * a barrier before every step, as shares are no longer the same rows everywhere. */
static inline int canao_few_tokens(const struct canao_call *call, int last_only)
{
    const int64_t tokens = call->tokens - (last_only ? call->first : 0);
    return call->threads > 1 && tokens <= (int64_t)call->few_tokens * call->threads;
}

/* With few tokens, gives a thread all rows of a packed GEMM and a share of its columns, in whole
 * panels of nr. With more tokens, changes nothing. */
static inline void canao_share_columns(int64_t total, int last_only, int64_t columns, int64_t nr,
                                       const struct canao_call *call, int64_t *begin, int64_t *end,
                                       int64_t *left, int64_t *right)
{
    if (!canao_few_tokens(call, last_only))
        return;
    *begin = last_only ? total / call->tokens * call->first : 0;
    *end = total;
    canao_share((columns + nr - 1) / nr, call, left, right);
    *left *= nr;
    *right = *right * nr < columns ? *right * nr : columns;
}

/* Ids spread over an input's table, the same in every run; free() them. NULL: no memory. */
static inline int32_t *canao_made_up_ids(int32_t limit, int32_t length)
{
    int32_t *ids = (int32_t *)malloc((size_t)length * sizeof *ids);
    uint32_t state = 12345;
    for (int32_t i = 0; ids && i < length; i++) {
        state = state * 1664525u + 1013904223u;
        ids[i] = limit ? (int32_t)((state >> 8) % (uint32_t)limit) : 0;
    }
    return ids;
}

/* thread_pool.c: `threads` - 1 workers, which wait for work by spinning briefly and then sleeping.
 * canao_pool_barrier returns when all threads have called it. */
typedef struct canao_pool canao_pool;
typedef void (*canao_work)(void *context, int thread);

canao_pool *canao_pool_start(int threads, const int *cores);
void canao_pool_run(canao_pool *pool, canao_work work, void *context);
void canao_pool_barrier(canao_pool *pool);
void canao_pool_stop(canao_pool *pool);
/* Frees the pool of the process that this one was forked from: its threads are not here. */
void canao_pool_abandon(canao_pool *pool);
/* Pins the calling thread to a core; 0 on success. */
int canao_pin(int core);
/* What a core can do, by the system's scale up to 1024; 0 where it does not say. */
int canao_core_capacity(int core);

/* The description of the program, for the benchmark and for other languages. */
CANAO_EXPORT const struct canao_program *canao_describe(void);

/* As canao_run, with a barrier around each step, whose nanoseconds are added to ns[step]. */
typedef struct canao_model canao_model;
CANAO_EXPORT int canao_profile(canao_model *model, const int32_t *const *inputs, int32_t length,
                               float *const *outputs, uint64_t *ns);

#endif
