/* The public functions of a compiled model: open, run, run a batch, close. Every argument, the
 * weights file and the handle are checked; nothing aborts. What runs the steps is an engine. */
#define _GNU_SOURCE
#include "canao_engine.h"
#include "canao_model.h"
#include "canao_runtime.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct model {
    const unsigned char *file; /* NULL where the engine has all that it needs of it */
    canao_engine *engine;
    int32_t past; /* tokens of the sequence whose keys and values the engine has */
    atomic_flag busy;
};

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
 * of the engines', and none that was in a call. So its models are free. */
static void before_fork(void) { pthread_mutex_lock(&table.lock); }

static void after_fork(void) { pthread_mutex_unlock(&table.lock); }

static void in_child(void)
{
    for (size_t i = 0; i < table.room; i++)
        if (table.places[i].model) {
            canao_engine_forked(table.places[i].model->engine);
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
    const struct canao_program *p = canao_engine_program();
    if ((uint64_t)info.st_size != p->weights_bytes) {
        close(fd);
        return CANAO_FORMAT;
    }
    void *mapped = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (mapped == MAP_FAILED)
        return CANAO_FILE;
    uint64_t head[2]; /* layout, size */
    memcpy(head, (const unsigned char *)mapped + sizeof magic, sizeof head);
    if (memcmp(mapped, magic, sizeof magic) || head[0] != p->layout ||
        head[1] != p->weights_bytes) {
        munmap(mapped, (size_t)info.st_size);
        return CANAO_FORMAT;
    }
    *file = mapped;
    return CANAO_OK;
}

static void unmap_weights(struct model *m)
{
    if (m->file)
        munmap((void *)m->file, (size_t)canao_engine_program()->weights_bytes);
    m->file = NULL;
}

static void discard(struct model *m)
{
    if (m->engine)
        canao_engine_close(m->engine);
    unmap_weights(m);
    free(m);
}

CANAO_EXPORT int canao_open(const char *weights, int threads, const int *cores, canao_model **model)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    if (!weights || !model)
        return CANAO_ARGUMENT;
    *model = NULL;
    int status = canao_engine_check(threads, cores), keeps = 1;
    if (status)
        return status;
    pthread_once(&once, watch_forks);
    struct model *m = fork_is_unwatched ? NULL : calloc(1, sizeof *m);
    if (!m)
        return CANAO_MEMORY;
    atomic_flag_clear(&m->busy);
    status = map_weights(weights, &m->file);
    if (!status)
        status = canao_engine_open(m->file, threads, cores, &m->engine, &keeps);
    if (!keeps)
        unmap_weights(m);
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

CANAO_EXPORT int64_t canao_output_size(int index, int32_t length)
{
    const struct canao_program *p = canao_engine_program();
    if (index < 0 || index >= p->output_count || length < 1 || length > p->max_length)
        return 0;
    const int64_t *size = p->outputs[index].size, s = length;
    return size[0] + size[1] * s + size[2] * s * s;
}

/* Copies the last rows of each output, one for each wanted token; all rows if all are wanted. */
void canao_copy_outputs(const struct canao_sequence *sequence, const unsigned char *arena)
{
    const struct canao_program *p = canao_engine_program();
    for (int i = 0; i < p->output_count && sequence->wanted; i++) {
        const size_t size = (size_t)canao_output_size(i, sequence->wanted) * sizeof(float);
        const size_t whole = (size_t)canao_output_size(i, sequence->length) * sizeof(float);
        memcpy(sequence->outputs[i], arena + p->outputs[i].offset + whole - size, size);
    }
}

static int check(const struct canao_sequence *sequence)
{
    const struct canao_program *p = canao_engine_program();
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

/* Takes the model for one call. */
static int enter(const canao_model *handle, struct model **taken)
{
    int status = take(handle, taken);
    if (status)
        return status;
    status = canao_engine_enter((*taken)->engine);
    if (status)
        atomic_flag_clear(&(*taken)->busy);
    return status;
}

static void leave(struct model *m)
{
    canao_engine_leave(m->engine);
    atomic_flag_clear(&m->busy);
}

static int run(const canao_model *handle, const struct canao_sequence *sequence, uint64_t *ns)
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
    status = canao_engine_run(m->engine, sequence, ns);
    leave(m);
    return status;
}

static struct canao_sequence whole_sequence(const int32_t *const *inputs, int32_t length,
                                            float *const *outputs)
{
    return (struct canao_sequence){length, 0, length, inputs, outputs};
}

CANAO_EXPORT int canao_run(canao_model *model, const int32_t *const *inputs, int32_t length,
                           float *const *outputs)
{
    const struct canao_sequence sequence = whole_sequence(inputs, length, outputs);
    return run(model, &sequence, NULL);
}

CANAO_EXPORT int canao_profile(canao_model *model, const int32_t *const *inputs, int32_t length,
                               float *const *outputs, uint64_t *ns)
{
    const struct canao_sequence sequence = whole_sequence(inputs, length, outputs);
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
    const struct canao_sequence sequence = {length, m->past, wanted, inputs, outputs};
    status = check(&sequence);
    if (!status)
        status = canao_engine_run(m->engine, &sequence, NULL);
    if (!status)
        m->past += length;
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

CANAO_EXPORT int canao_run_batch(canao_model *model, int count, const int32_t *const *const *inputs,
                                 const int32_t *lengths, float *const *const *outputs)
{
    struct model *m = NULL;
    if (!model || count < 0 || (count && (!inputs || !lengths || !outputs)))
        return CANAO_ARGUMENT;
    if (!count)
        return CANAO_OK;
    struct canao_sequence *sequences = malloc((size_t)count * sizeof *sequences);
    int status = sequences ? CANAO_OK : CANAO_MEMORY;
    for (int i = 0; i < count && !status; i++) {
        sequences[i] = whole_sequence(inputs[i], lengths[i], outputs[i]);
        status = check(&sequences[i]);
    }
    if (!status && !(status = enter(model, &m))) {
        m->past = 0;
        status = canao_engine_run_batch(m->engine, sequences, count);
        leave(m);
    }
    free(sequences);
    return status;
}

CANAO_EXPORT const struct canao_program *canao_describe(void) { return canao_engine_program(); }

CANAO_EXPORT const char *canao_interface(void) { return canao_engine_program()->interface; }

CANAO_EXPORT const char *canao_isa(void) { return canao_engine_name(); }

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
    const char *own = canao_engine_lacks(status);
    if (own)
        return own;
    const int known = (int)(sizeof text / sizeof *text);
    return status >= 0 && status < known ? text[status] : "unknown status";
}
