/* The public functions of a compiled model: open, run, run a batch, close. Every argument, the
 * weights file and the handle are checked; nothing aborts. */
#define _GNU_SOURCE
#include "canao_model.h"
#include "canao_runtime.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MAX_THREADS = 64, HEADER_BYTES = 64 };

struct sequence {
    int32_t length;
    int32_t past, wanted; /* tokens before these; last tokens whose outputs are copied */
    const int32_t *const *inputs;
    float *const *outputs;
};

struct model {
    const unsigned char *file;
    /* Activations, then the cache. 0: for all threads together; the others from the first batch */
    unsigned char *arenas[MAX_THREADS];
    int32_t *positions; /* 0, 1 ... max_length - 1 */
    int32_t past;       /* tokens of the sequence whose keys and values are in the cache */
    unsigned char *scratch;
    canao_pool *pool;
    int threads;
    int pins, cores[MAX_THREADS]; /* cores: of each thread, if it pins them */
    int uneven;                   /* whether these are of several kinds */
    int64_t shares[MAX_THREADS + 1]; /* then: what the cores before each thread's can do together */
    int orphaned; /* this process was forked, and the pool's threads are not in it */
    atomic_flag busy;
    /* the call under way */
#if defined(__linux__)
    int pinned;
    cpu_set_t before; /* the caller's cores */
#endif
    struct sequence sequence;
    uint64_t *ns;
};

struct batch {
    struct model *model;
    struct sequence *sequences; /* longest first */
    unsigned count;
    atomic_uint next; /* the first sequence that no thread has taken */
};

/* What runs on this processor. On one that can run nothing, the program of the least level: no model
 * is open there, and all that is read of it are numbers that it shares with the others. */
static const struct canao_program *program(void)
{
    const struct canao_level *level = canao_cpu_level();
    return (level ? level : &canao_levels[canao_level_count - 1])->program;
}

static const char magic[8] = {'C', 'A', 'N', 'A', 'O', 'W', '0', '2'};

/* The models that are open. What a caller holds is no address: it names a place in this table, and
 * which of the models that were there it means. So a handle that was closed is known for that, and
 * so is every copy of it. */
enum { PLACE_BITS = 16, FIRST_ROOM = 16, MAX_MODELS = 1 << 15 };

struct place {
    struct model *model; /* NULL: none */
    uint64_t number;     /* of the model, among all that this process opened */
};

static struct {
    pthread_mutex_t lock;
    struct place *places;
    size_t room, open;
    uint64_t opened;
} table = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* Where the model of a handle is; NULL if it is not open. With the table locked. */
static struct place *find(const canao_model *handle)
{
    const uintptr_t bits = (uintptr_t)handle;
    const size_t place = bits & (((uintptr_t)1 << PLACE_BITS) - 1);
    if (!place || place > table.room)
        return NULL;
    struct place *found = &table.places[place - 1];
    return found->model && found->number == bits >> PLACE_BITS ? found : NULL;
}

static int make_room(void)
{
    const size_t room = table.room ? 2 * table.room : FIRST_ROOM;
    struct place *places =
        room > MAX_MODELS ? NULL : realloc(table.places, room * sizeof *places);
    if (!places)
        return 0;
    memset(places + table.room, 0, (room - table.room) * sizeof *places);
    table.places = places;
    table.room = room;
    return 1;
}

/* The handle of a model from now on; NULL if there is no memory for one more. */
static canao_model *enlist(struct model *m)
{
    canao_model *handle = NULL;
    pthread_mutex_lock(&table.lock);
    size_t i = 0;
    while (i < table.room && table.places[i].model)
        i++;
    if (i < table.room || make_room()) {
        table.places[i] = (struct place){m, ++table.opened};
        table.open++;
        handle = (canao_model *)(uintptr_t)(table.opened << PLACE_BITS | (i + 1));
    }
    pthread_mutex_unlock(&table.lock);
    return handle;
}

/* Takes a model out of the table; NULL if it is not in it. */
static struct model *withdraw(const canao_model *handle)
{
    struct model *m = NULL;
    pthread_mutex_lock(&table.lock);
    struct place *place = find(handle);
    if (place) {
        m = place->model;
        place->model = NULL;
        if (!--table.open) {
            free(table.places);
            table.places = NULL;
            table.room = 0;
        }
    }
    pthread_mutex_unlock(&table.lock);
    return m;
}

/* Takes a model for one call. */
static int take(const canao_model *handle, struct model **m)
{
    int status = CANAO_CLOSED;
    pthread_mutex_lock(&table.lock);
    const struct place *place = find(handle);
    if (place) {
        *m = place->model;
        status = atomic_flag_test_and_set(&(*m)->busy) ? CANAO_BUSY : CANAO_OK;
    }
    pthread_mutex_unlock(&table.lock);
    return status;
}

/* A forked process has the memory of this one and the thread that forked, but no other thread: none
 * of the pools, and none that was in a call. So its models are free, and get threads of their own
 * when they are next called. */
static void before_fork(void) { pthread_mutex_lock(&table.lock); }

static void after_fork(void) { pthread_mutex_unlock(&table.lock); }

static void in_child(void)
{
    for (size_t i = 0; i < table.room; i++)
        if (table.places[i].model) {
            table.places[i].model->orphaned = 1;
            atomic_flag_clear(&table.places[i].model->busy);
        }
    pthread_mutex_unlock(&table.lock);
}

static int fork_is_unwatched;

static void watch_forks(void)
{
    fork_is_unwatched = pthread_atfork(before_fork, after_fork, in_child);
}

static int map_weights(const char *path, const unsigned char **file)
{
    struct stat info;
    /* Without O_NONBLOCK a pipe that nobody writes to would be waited for. */
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return CANAO_FILE;
    if (fstat(fd, &info) || !S_ISREG(info.st_mode)) {
        close(fd);
        return CANAO_FILE;
    }
    if ((uint64_t)info.st_size != program()->weights_bytes) {
        close(fd);
        return CANAO_FORMAT;
    }
    void *mapped = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (mapped == MAP_FAILED)
        return CANAO_FILE;
    uint64_t head[2]; /* layout, size */
    memcpy(head, (const unsigned char *)mapped + sizeof magic, sizeof head);
    if (memcmp(mapped, magic, sizeof magic) || head[0] != program()->layout ||
        head[1] != program()->weights_bytes) {
        munmap(mapped, (size_t)info.st_size);
        return CANAO_FORMAT;
    }
    *file = mapped;
    return CANAO_OK;
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
    return allocate(program()->arena_bytes + program()->cache_bytes);
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

/* Whoever shares out work evenly among cores of several kinds waits for the slowest. */
static void weigh_cores(struct model *m)
{
    int known = m->pins;
    for (int t = 0; known && t < m->threads; t++) {
        const int capacity = canao_core_capacity(m->cores[t]);
        known = capacity > 0;
        m->shares[t + 1] = m->shares[t] + capacity;
        m->uneven |= m->shares[t + 1] != (t + 1) * m->shares[1];
    }
    m->uneven &= known;
}

static int start_pool(struct model *m)
{
    m->pool = canao_pool_start(m->threads, m->pins ? m->cores : NULL);
    return m->pool ? CANAO_OK : CANAO_THREADS;
}

static void discard(struct model *m)
{
    if (m->orphaned)
        canao_pool_abandon(m->pool);
    else
        canao_pool_stop(m->pool);
    free(m->scratch);
    free(m->positions);
    for (int t = 0; t < m->threads; t++)
        free(m->arenas[t]);
    if (m->file)
        munmap((void *)m->file, (size_t)program()->weights_bytes);
    free(m);
}

CANAO_EXPORT int canao_open(const char *weights, int threads, const int *cores, canao_model **model)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    if (!weights || !model)
        return CANAO_ARGUMENT;
    *model = NULL;
    if (threads < 1 || threads > MAX_THREADS)
        return CANAO_ARGUMENT;
    if (!canao_cpu_level())
        return CANAO_CPU;
    int status = cores ? check_cores(cores, threads) : CANAO_OK;
    if (status)
        return status;
    pthread_once(&once, watch_forks);
    struct model *m = fork_is_unwatched ? NULL : calloc(1, sizeof *m);
    if (!m)
        return CANAO_MEMORY;
    atomic_flag_clear(&m->busy);
    m->threads = threads;
    m->pins = cores != NULL;
    for (int t = 0; cores && t < threads; t++)
        m->cores[t] = cores[t];
    weigh_cores(m);
    status = map_weights(weights, &m->file);
    if (!status) {
        m->arenas[0] = allocate_arena();
        m->positions = count_up(program()->max_length);
        m->scratch = allocate(program()->scratch_bytes * (uint64_t)threads);
        if (!m->arenas[0] || !m->scratch || !m->positions)
            status = CANAO_MEMORY;
    }
    if (!status)
        status = start_pool(m);
    if (!status && !(*model = enlist(m)))
        status = CANAO_MEMORY;
    if (status)
        discard(m);
    return status;
}

CANAO_EXPORT void canao_close(canao_model *handle)
{
    struct model *m = withdraw(handle);
    if (!m)
        return;
    const struct timespec moment = {0, 100000};
    while (atomic_flag_test_and_set(&m->busy)) /* for the call under way */
        nanosleep(&moment, NULL);
    discard(m);
}

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static struct canao_call make_call(const struct model *m, const struct sequence *sequence,
                                   unsigned char *arena, int thread)
{
    const struct canao_program *p = program();
    return (struct canao_call){
        .tokens = sequence->length,
        .past = sequence->past,
        .first = sequence->length - sequence->wanted,
        .inputs = sequence->inputs,
        .positions = m->positions + sequence->past,
        .weights = m->file + HEADER_BYTES,
        .arena = arena,
        .cache = arena + p->arena_bytes,
        .scratch = m->scratch + (uint64_t)thread * p->scratch_bytes,
        .threads = 1,
        .few_tokens = p->few_tokens,
    };
}

/* All threads on one sequence. */
static void run_steps(void *context, int thread)
{
    struct model *m = context;
    struct canao_call call = make_call(m, &m->sequence, m->arenas[0], thread);
    call.thread = thread;
    call.threads = m->threads;
    call.shares = m->uneven ? m->shares : NULL;
    const struct canao_program *p = program();
    for (int i = 0; i < p->step_count; i++) {
        const struct canao_step *step = &p->steps[i];
        uint64_t start = 0;
        if (step->barrier || m->ns || canao_few_tokens(&call, step->last_only))
            canao_pool_barrier(m->pool);
        if (m->ns)
            start = now();
        step->run(&call);
        if (m->ns) {
            canao_pool_barrier(m->pool);
            if (thread == 0)
                m->ns[i] += now() - start;
        }
    }
}

CANAO_EXPORT int64_t canao_output_size(int index, int32_t length)
{
    const struct canao_program *p = program();
    if (index < 0 || index >= p->output_count || length < 1 || length > p->max_length)
        return 0;
    const int64_t *size = p->outputs[index].size, s = length;
    return size[0] + size[1] * s + size[2] * s * s;
}

/* Copies the last rows of each output, one for each wanted token; all rows if all are wanted. */
static void copy_outputs(const struct sequence *sequence, const unsigned char *arena)
{
    const struct canao_program *p = program();
    for (int i = 0; i < p->output_count && sequence->wanted; i++) {
        const size_t size = (size_t)canao_output_size(i, sequence->wanted) * sizeof(float);
        const size_t whole = (size_t)canao_output_size(i, sequence->length) * sizeof(float);
        memcpy(sequence->outputs[i], arena + p->outputs[i].offset + whole - size, size);
    }
}

static void run_together(struct model *m, const struct sequence *sequence, uint64_t *ns)
{
    m->sequence = *sequence;
    m->ns = ns;
    canao_pool_run(m->pool, run_steps, m);
    copy_outputs(sequence, m->arenas[0]);
}

/* Each thread on sequences of its own, in an arena of its own: nothing to wait for. */
static void run_sequences(void *context, int thread)
{
    struct batch *b = context;
    unsigned char *arena = b->model->arenas[thread];
    const struct canao_program *p = program();
    for (;;) {
        const unsigned i = atomic_fetch_add_explicit(&b->next, 1, memory_order_relaxed);
        if (i >= b->count)
            return;
        const struct canao_call call = make_call(b->model, &b->sequences[i], arena, thread);
        for (int k = 0; k < p->step_count; k++)
            p->steps[k].run(&call);
        copy_outputs(&b->sequences[i], arena);
    }
}

static int check(const struct sequence *sequence)
{
    const struct canao_program *p = program();
    const int32_t length = sequence->length;
    if (!sequence->inputs || (sequence->wanted && !sequence->outputs))
        return CANAO_ARGUMENT;
    for (int i = 0; i < p->output_count && sequence->wanted; i++)
        if (!sequence->outputs[i])
            return CANAO_ARGUMENT;
    if (length < 1 || length > p->max_length - sequence->past)
        return CANAO_LENGTH;
    for (int i = 0; i < p->input_count; i++) {
        const int32_t *ids = sequence->inputs[i], limit = p->inputs[i].limit;
        if (!ids)
            return CANAO_ARGUMENT;
        if (p->inputs[i].kind != CANAO_IDS)
            continue;
        for (int32_t t = 0; t < length; t++)
            if (ids[t] < 0 || (limit && ids[t] >= limit))
                return CANAO_TOKEN;
    }
    return CANAO_OK;
}

/* In a forked process: the model's own threads again. */
static int revive(struct model *m)
{
    if (!m->orphaned)
        return CANAO_OK;
    canao_pool_abandon(m->pool);
    const int status = start_pool(m);
    m->orphaned = status != CANAO_OK;
    return status;
}

/* Takes the model for one call and pins the caller. */
static int enter(const canao_model *handle, struct model **taken)
{
    int status = take(handle, taken);
    if (status)
        return status;
    struct model *m = *taken;
    status = revive(m);
#if defined(__linux__)
    m->pinned = !status && m->pins && !sched_getaffinity(0, sizeof m->before, &m->before);
    if (m->pinned && canao_pin(m->cores[0]))
        status = CANAO_THREADS;
#endif
    if (status)
        atomic_flag_clear(&m->busy);
    return status;
}

static void leave(struct model *m)
{
#if defined(__linux__)
    if (m->pinned)
        sched_setaffinity(0, sizeof m->before, &m->before);
#endif
    atomic_flag_clear(&m->busy);
}

static int run(const canao_model *handle, const struct sequence *sequence, uint64_t *ns)
{
    struct model *m = NULL;
    if (!handle)
        return CANAO_ARGUMENT;
    int status = check(sequence);
    if (!status)
        status = enter(handle, &m);
    if (status)
        return status;
    m->past = 0; /* now, so that a process forked during the call reads nothing half-written */
    run_together(m, sequence, ns);
    leave(m);
    return CANAO_OK;
}

static struct sequence whole_sequence(const int32_t *const *inputs, int32_t length,
                                      float *const *outputs)
{
    return (struct sequence){length, 0, length, inputs, outputs};
}

CANAO_EXPORT int canao_run(canao_model *model, const int32_t *const *inputs, int32_t length,
                           float *const *outputs)
{
    const struct sequence sequence = whole_sequence(inputs, length, outputs);
    return run(model, &sequence, NULL);
}

CANAO_EXPORT int canao_profile(canao_model *model, const int32_t *const *inputs, int32_t length,
                               float *const *outputs, uint64_t *ns)
{
    const struct sequence sequence = whole_sequence(inputs, length, outputs);
    return ns ? run(model, &sequence, ns) : CANAO_ARGUMENT;
}

#ifdef CANAO_RESUMES
CANAO_EXPORT int canao_extend(canao_model *model, const int32_t *const *inputs, int32_t length,
                              int32_t wanted, float *const *outputs)
{
    struct model *m = NULL;
    if (!model || wanted < 0 || wanted > length)
        return CANAO_ARGUMENT;
    int status = enter(model, &m);
    if (status)
        return status;
    const struct sequence sequence = {length, m->past, wanted, inputs, outputs};
    status = check(&sequence);
    if (!status) {
        run_together(m, &sequence, NULL);
        m->past += length;
    }
    leave(m);
    return status;
}

CANAO_EXPORT int canao_reset(canao_model *model, int32_t kept)
{
    struct model *m = NULL;
    if (!model || kept < 0)
        return CANAO_ARGUMENT;
    int status = enter(model, &m);
    if (status)
        return status;
    if (kept > m->past)
        status = CANAO_ARGUMENT;
    else
        m->past = kept;
    leave(m);
    return status;
}
#endif

static int longer_first(const void *a, const void *b)
{
    const int32_t x = ((const struct sequence *)a)->length;
    const int32_t y = ((const struct sequence *)b)->length;
    return (x < y) - (x > y);
}

/* Tokens of the thread that ends last when sequences[first] and those after it are shared out. */
static int64_t longest_share(const struct sequence *sequences, int first, int count, int threads)
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
static int count_together(const struct sequence *sequences, int count, int threads)
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

static int allocate_arenas(struct model *m)
{
    for (int t = 1; t < m->threads; t++)
        if (!m->arenas[t] && !(m->arenas[t] = allocate_arena()))
            return CANAO_MEMORY;
    return CANAO_OK;
}

static int run_batch(struct model *m, struct sequence *sequences, int count)
{
    qsort(sequences, (size_t)count, sizeof *sequences, longer_first);
    const int together = count_together(sequences, count, m->threads);
    if (together < count && allocate_arenas(m))
        return CANAO_MEMORY;
    for (int i = 0; i < together; i++)
        run_together(m, &sequences[i], NULL);
    struct batch batch = {.model = m, .sequences = sequences, .count = (unsigned)count};
    atomic_init(&batch.next, (unsigned)together);
    if (together < count)
        canao_pool_run(m->pool, run_sequences, &batch);
    return CANAO_OK;
}

CANAO_EXPORT int canao_run_batch(canao_model *model, int count, const int32_t *const *const *inputs,
                                 const int32_t *lengths, float *const *const *outputs)
{
    struct model *m = NULL;
    if (!model || count < 0 || (count && (!inputs || !lengths || !outputs)))
        return CANAO_ARGUMENT;
    if (!count)
        return CANAO_OK;
    struct sequence *sequences = malloc((size_t)count * sizeof *sequences);
    int status = sequences ? CANAO_OK : CANAO_MEMORY;
    for (int i = 0; i < count && !status; i++) {
        sequences[i] = whole_sequence(inputs[i], lengths[i], outputs[i]);
        status = check(&sequences[i]);
    }
    if (!status && !(status = enter(model, &m))) {
        m->past = 0;
        status = run_batch(m, sequences, count);
        leave(m);
    }
    free(sequences);
    return status;
}

CANAO_EXPORT const struct canao_program *canao_describe(void) { return program(); }

CANAO_EXPORT const char *canao_interface(void) { return program()->interface; }

CANAO_EXPORT const char *canao_isa(void)
{
    const struct canao_level *level = canao_cpu_level();
    return level ? level->isa : NULL;
}

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
        "the model is closed, or was never opened",
    };
    if (status == CANAO_CPU)
        return canao_cpu_lacks();
    const int known = (int)(sizeof text / sizeof *text);
    return status >= 0 && status < known ? text[status] : "unknown status";
}
