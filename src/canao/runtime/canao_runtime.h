/* What the generated file and the runtime share. Not part of the public interface. */
#ifndef CANAO_RUNTIME_H
#define CANAO_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

#define CANAO_EXPORT __attribute__((visibility("default")))

/* What one thread needs to run a step. */
struct canao_call {
    int64_t tokens;
    int64_t past;  /* tokens before these in the text */
    int64_t first; /* of these tokens, the first whose outputs are wanted */
    const int32_t *const *inputs;
    const int32_t *positions; /* past, past + 1 ... */
    const float *weights;
    float *arena;   /* shared by the team */
    float *cache;   /* keys and values, shared by the team */
    float *scratch; /* this thread's own */
    int thread, threads;
};

/* One kernel; with `waits`, all threads meet before it. With `last`, it computes only rows of tokens
 * whose outputs are wanted. */
struct canao_step {
    void (*run)(const struct canao_call *call);
    const char *name;
    int waits, last;
};

/* Ids below `limit` are legal; 0: any that is not negative; CANAO_FLOATS: no ids but a tensor of
 * float32 of a fixed shape, whose size the caller answers for. */
enum { CANAO_FLOATS = -1 };

struct canao_input {
    const char *name;
    int32_t limit;
};

/* `size` holds the coefficients of 1, s and s^2. */
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
    uint64_t layout;
    uint64_t weights_bytes;
    uint64_t arena_floats, scratch_floats, cache_floats;
};

extern const struct canao_program canao_program;

/* Thread's share of `total` units, at the same places in every kernel that works on rows. */
static inline void canao_share(int64_t total, const struct canao_call *call, int64_t *begin,
                               int64_t *end)
{
    *begin = total * call->thread / call->threads;
    *end = total * (call->thread + 1) / call->threads;
}

/* Thread's share of rows, c for each token, without those of tokens before the first wanted. */
static inline void canao_share_last(int64_t total, const struct canao_call *call, int64_t *begin,
                                    int64_t *end)
{
    const int64_t first = total / call->tokens * call->first;
    canao_share(total - first, call, begin, end);
    *begin += first;
    *end += first;
}

/* Whether a step has too few tokens for its threads: with at most 4 each, sharing out rows would
 * leave register tiles half empty and have every thread read all weights. All threads then meet
 * before the step, as their shares are by other things than rows. */
static inline int canao_narrow(const struct canao_call *call, int last)
{
    return call->threads > 1 && call->tokens - (last ? call->first : 0) <= 4 * call->threads;
}

/* In a narrow step a thread has all rows of the product, and some of its columns: panels of nr. */
static inline void canao_share_columns(int64_t total, int last, int64_t columns, int64_t nr,
                                       const struct canao_call *call, int64_t *begin, int64_t *end,
                                       int64_t *left, int64_t *right)
{
    if (!canao_narrow(call, last))
        return;
    *begin = last ? total / call->tokens * call->first : 0;
    *end = total;
    canao_share((columns + nr - 1) / nr, call, left, right);
    *left *= nr;
    *right = *right * nr < columns ? *right * nr : columns;
}

/* team.c: `threads` - 1 workers that wait for work, spinning briefly and then asleep. */
typedef struct canao_team canao_team;
typedef void (*canao_work)(void *context, int thread);

canao_team *canao_team_start(int threads, const int *cores);
void canao_team_run(canao_team *team, canao_work work, void *context);
void canao_team_meet(canao_team *team);
void canao_team_stop(canao_team *team);
/* Pins the calling thread to a core; 0 on success. */
int canao_pin(int core);

/* The description of the program, for the benchmark and for other languages. */
CANAO_EXPORT const struct canao_program *canao_describe(void);

/* As canao_run, and adds each step's nanoseconds to ns[step]; all threads meet around each step. */
typedef struct canao_model canao_model;
CANAO_EXPORT int canao_profile(canao_model *model, const int32_t *const *inputs, int32_t length,
                               float *const *outputs, uint64_t *ns);

#endif
