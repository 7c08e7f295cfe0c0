/* The engine of CPUs: the threads of a pool, of which the caller is one, run a model's steps. */
#define _GNU_SOURCE
#include "canao_engine.h"
#include "canao_model.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

enum { MAX_THREADS = 64 };

struct canao_engine {
    const unsigned char *weights;
    /* Activations, then the cache. 0: for all threads together; the others from the first batch */
    unsigned char *arenas[MAX_THREADS];
    int32_t *positions; /* 0, 1 ... max_length - 1 */
    unsigned char *scratch;
    canao_pool *pool;
    int threads;
    int pins, cores[MAX_THREADS]; /* cores: of each thread, if it pins them */
    int uneven;                   /* whether these are of several kinds */
    int64_t shares[MAX_THREADS + 1]; /* then: what the cores before each thread's can do together */
    int orphaned; /* this process was forked, and the pool's threads are not in it */
    /* the call under way */
#if defined(__linux__)
    int pinned;
    cpu_set_t before; /* the caller's cores */
#endif
    struct canao_sequence sequence;
    uint64_t *ns;
};

struct batch {
    canao_engine *engine;
    struct canao_sequence *sequences; /* longest first */
    unsigned count;
    atomic_uint next; /* the first sequence that no thread has taken */
};

/* On a processor that can run nothing, the program of the least level: no model is open there, and
 * all that is read of it are numbers that it shares with the others. */
const struct canao_program *canao_engine_program(void)
{
    const struct canao_level *level = canao_cpu_level();
    return (level ? level : &canao_levels[canao_level_count - 1])->program;
}

const char *canao_engine_name(void)
{
    const struct canao_level *level = canao_cpu_level();
    return level ? level->isa : NULL;
}

const char *canao_engine_lacks(int status)
{
    return status == CANAO_CPU ? canao_cpu_lacks() : NULL;
}

static int32_t *count_up(int32_t count)
{
    int32_t *numbers = malloc((size_t)count * sizeof *numbers);
    for (int32_t i = 0; numbers && i < count; i++)
        numbers[i] = i;
    return numbers;
}

/* Asks for large pages: rows of activations on small pages, scattered over memory, evict each other
 * from L2 (2 % of BERT-base at 128 tokens). */
static unsigned char *allocate(uint64_t size)
{
    const size_t bytes = (size_t)size + 64;
    void *p = NULL;
#ifdef MADV_HUGEPAGE
    const size_t large = (size_t)2 << 20;
    if (bytes >= large / 2) {
        const size_t rounded = (bytes + large - 1) / large * large;
        if (posix_memalign(&p, large, rounded))
            return NULL;
        madvise(p, rounded, MADV_HUGEPAGE);
        return p;
    }
#endif
    return posix_memalign(&p, 64, bytes) ? NULL : p;
}

static unsigned char *allocate_arena(void)
{
    const struct canao_program *p = canao_engine_program();
    return allocate(p->arena_bytes + p->cache_bytes);
}

/* Whether this thread can be pinned to each of the cores; its own stay as they are. */
static int check_cores(const int *cores, int threads)
{
    int status = CANAO_OK;
#if defined(__linux__)
    cpu_set_t before;
    if (sched_getaffinity(0, sizeof before, &before))
        return CANAO_THREADS;
#endif
    for (int t = 0; t < threads && !status; t++)
        if (canao_pin(cores[t]))
            status = CANAO_THREADS;
#if defined(__linux__)
    sched_setaffinity(0, sizeof before, &before);
#endif
    return status;
}

int canao_engine_check(int threads, const int *cores)
{
    if (threads < 1 || threads > MAX_THREADS)
        return CANAO_ARGUMENT;
    if (!canao_cpu_level())
        return CANAO_CPU;
    return cores ? check_cores(cores, threads) : CANAO_OK;
}

/* Whoever shares out work evenly among cores of several kinds waits for the slowest. */
static void weigh_cores(canao_engine *e)
{
    int known = e->pins;
    for (int t = 0; known && t < e->threads; t++) {
        const int capacity = canao_core_capacity(e->cores[t]);
        known = capacity > 0;
        e->shares[t + 1] = e->shares[t] + capacity;
        e->uneven |= e->shares[t + 1] != (t + 1) * e->shares[1];
    }
    e->uneven &= known;
}

static int start_pool(canao_engine *e)
{
    e->pool = canao_pool_start(e->threads, e->pins ? e->cores : NULL);
    return e->pool ? CANAO_OK : CANAO_THREADS;
}

void canao_engine_close(canao_engine *e)
{
    if (e->orphaned)
        canao_pool_abandon(e->pool);
    else
        canao_pool_stop(e->pool);
    free(e->scratch);
    free(e->positions);
    for (int t = 0; t < e->threads; t++)
        free(e->arenas[t]);
    free(e);
}

int canao_engine_open(const unsigned char *file, int threads, const int *cores,
                      canao_engine **engine, int *keeps)
{
    const struct canao_program *p = canao_engine_program();
    canao_engine *e = calloc(1, sizeof *e);
    if (!e)
        return CANAO_MEMORY;
    *keeps = 1;
    e->weights = file + CANAO_HEADER_BYTES;
    e->threads = threads;
    e->pins = cores != NULL;
    for (int t = 0; cores && t < threads; t++)
        e->cores[t] = cores[t];
    weigh_cores(e);
    e->arenas[0] = allocate_arena();
    e->positions = count_up(p->max_length);
    e->scratch = allocate(p->scratch_bytes * (uint64_t)threads);
    int status = e->arenas[0] && e->scratch && e->positions ? CANAO_OK : CANAO_MEMORY;
    if (!status)
        status = start_pool(e);
    if (status)
        canao_engine_close(e);
    else
        *engine = e;
    return status;
}

/* What the pool of the parent left goes when the child next calls the model, or closes it. */
void canao_engine_forked(canao_engine *e) { e->orphaned = 1; }

/* In a forked process: the model's own threads again. */
static int revive(canao_engine *e)
{
    if (!e->orphaned)
        return CANAO_OK;
    canao_pool_abandon(e->pool);
    const int status = start_pool(e);
    e->orphaned = status != CANAO_OK;
    return status;
}

/* Pins the caller, who is a thread of the pool. */
int canao_engine_enter(canao_engine *e)
{
    int status = revive(e);
#if defined(__linux__)
    e->pinned = !status && e->pins && !sched_getaffinity(0, sizeof e->before, &e->before);
    if (e->pinned && canao_pin(e->cores[0]))
        status = CANAO_THREADS;
#endif
    return status;
}

void canao_engine_leave(canao_engine *e)
{
#if defined(__linux__)
    if (e->pinned)
        sched_setaffinity(0, sizeof e->before, &e->before);
#else
    (void)e;
#endif
}

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static struct canao_call make_call(const canao_engine *e, const struct canao_sequence *sequence,
                                   unsigned char *arena, int thread)
{
    const struct canao_program *p = canao_engine_program();
    return (struct canao_call){
        .tokens = sequence->length,
        .past = sequence->past,
        .first = sequence->length - sequence->wanted,
        .inputs = sequence->inputs,
        .positions = e->positions + sequence->past,
        .weights = e->weights,
        .arena = arena,
        .cache = arena + p->arena_bytes,
        .scratch = e->scratch + (uint64_t)thread * p->scratch_bytes,
        .threads = 1,
        .few_tokens = p->few_tokens,
    };
}

/* All threads on one sequence. */
static void run_steps(void *context, int thread)
{
    canao_engine *e = context;
    struct canao_call call = make_call(e, &e->sequence, e->arenas[0], thread);
    call.thread = thread;
    call.threads = e->threads;
    call.shares = e->uneven ? e->shares : NULL;
    const struct canao_program *p = canao_engine_program();
    for (int i = 0; i < p->step_count; i++) {
        const struct canao_step *step = &p->steps[i];
        uint64_t start = 0;
        if (step->barrier || e->ns || canao_few_tokens(&call, step->last_only))
            canao_pool_barrier(e->pool);
        if (e->ns)
            start = now();
        step->run(&call);
        if (e->ns) {
            canao_pool_barrier(e->pool);
            if (thread == 0)
                e->ns[i] += now() - start;
        }
    }
}

int canao_engine_run(canao_engine *e, const struct canao_sequence *sequence, uint64_t *ns)
{
    e->sequence = *sequence;
    e->ns = ns;
    canao_pool_run(e->pool, run_steps, e);
    canao_copy_outputs(sequence, e->arenas[0]);
    return CANAO_OK;
}

/* Each thread on sequences of its own, in an arena of its own: nothing to wait for. */
static void run_sequences(void *context, int thread)
{
    struct batch *b = context;
    unsigned char *arena = b->engine->arenas[thread];
    const struct canao_program *p = canao_engine_program();
    for (;;) {
        const unsigned i = atomic_fetch_add_explicit(&b->next, 1, memory_order_relaxed);
        if (i >= b->count)
            return;
        const struct canao_call call = make_call(b->engine, &b->sequences[i], arena, thread);
        for (int k = 0; k < p->step_count; k++)
            p->steps[k].run(&call);
        canao_copy_outputs(&b->sequences[i], arena);
    }
}

static int longer_first(const void *a, const void *b)
{
    const int32_t x = ((const struct canao_sequence *)a)->length;
    const int32_t y = ((const struct canao_sequence *)b)->length;
    return (x < y) - (x > y);
}

/* Tokens of the thread that ends last when sequences[first] and those after it are shared out. */
static int64_t longest_share(const struct canao_sequence *sequences, int first, int count,
                             int threads)
{
    int64_t taken[MAX_THREADS] = {0}, longest = 0;
    for (int i = first; i < count; i++) {
        int idle = 0;
        for (int t = 1; t < threads; t++)
            if (taken[t] < taken[idle])
                idle = t;
        taken[idle] += sequences[i].length;
        if (taken[idle] > longest)
            longest = taken[idle];
    }
    return longest;
}

/* How many of the longest sequences all threads run together, before each thread takes whole
 * sequences of the others: the number for which the batch is estimated to end first. Running a
 * sequence together pays if it would keep one thread busy after all others have finished. Barriers
 * and uneven shares are assumed to cost a quarter of the threads. */
static int count_together(const struct canao_sequence *sequences, int count, int threads)
{
    int best = 0;
    double least = (double)longest_share(sequences, 0, count, threads), together = 0, left = 0;
    for (int i = 0; i < count; i++)
        left += sequences[i].length;
    for (int n = 1; n <= count; n++) {
        together += sequences[n - 1].length / (0.75 * threads);
        left -= sequences[n - 1].length;
        if (together + left / threads >= least) /* and with n it only grows */
            break;
        const double time = together + (double)longest_share(sequences, n, count, threads);
        if (time < least) {
            least = time;
            best = n;
        }
    }
    return best;
}

static int allocate_arenas(canao_engine *e)
{
    for (int t = 1; t < e->threads; t++)
        if (!e->arenas[t] && !(e->arenas[t] = allocate_arena()))
            return CANAO_MEMORY;
    return CANAO_OK;
}

int canao_engine_run_batch(canao_engine *e, struct canao_sequence *sequences, int count)
{
    qsort(sequences, (size_t)count, sizeof *sequences, longer_first);
    const int together = count_together(sequences, count, e->threads);
    if (together < count && allocate_arenas(e))
        return CANAO_MEMORY;
    for (int i = 0; i < together; i++)
        canao_engine_run(e, &sequences[i], NULL);
    struct batch batch = {.engine = e, .sequences = sequences, .count = (unsigned)count};
    atomic_init(&batch.next, (unsigned)together);
    if (together < count)
        canao_pool_run(e->pool, run_sequences, &batch);
    return CANAO_OK;
}
