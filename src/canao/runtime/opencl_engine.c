/* The engine of an OpenCL device: weights, activations and caches are in its memory, and each step
 * of a model is a launch of a kernel. No call waits without a limit: a device that is lost or hangs
 * is an error, of this call and of all later ones. */
#define _GNU_SOURCE
#include "canao_engine.h"
#include "canao_model.h"
#include "opencl_host.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { FLIGHTS = 2, WHY = 1024, LIMIT_S = 30, MOST_S = 86400 };
enum { SPIN_NS = 200000, PAUSE_NS = 20000, LONGEST_PAUSE_NS = 200000 };
enum { UNENDED = 1 }; /* what `await` returns besides states of OpenCL, of which none is that */
enum { COUNTS = 3, FIRST = 2 }; /* parameters of each kernel before its arguments */
enum { AT_ONCE = 16 << 20 }; /* bytes of the weights */

/* Memory of the host that the device copies from and to. Not the caller's: a device that hangs
 * could still write there when the call has returned. */
struct staging {
    cl_mem memory;
    unsigned char *bytes;
    size_t room;
};

/* A sequence on its way through the device. Two may be: the device computes one while the results
 * of the one before it are fetched. */
struct flight {
    const struct canao_sequence *sequence; /* NULL: none */
    struct staging in, out;
    cl_event done;
    cl_event *launches; /* NULL, or of each launch the event; NULL for what was left out */
    int watched;        /* whether `launches` are those of this sequence */
};

struct canao_engine {
    struct device device;
    uint64_t limit; /* nanoseconds that may pass in which nothing ends */
    cl_context context;
    cl_command_queue queue, profiling, used; /* used: by the call under way */
    cl_program *programs; /* of the launches whose kernel has one: of the first, if all share it */
    cl_kernel *kernels;   /* one of each launch, as it keeps its arguments */
    cl_mem weights, arena, cache, positions, probed, *inputs;
    struct flight flights[FLIGHTS];
    int32_t counts[COUNTS]; /* those that the kernels have; the first is 0 where they have none */
    int ran;                /* whether a sequence has come through */
    /* For steps that this CPU runs, as no kernel does; NULL where there are none: the weights here,
     * whole numbers from 0 on, their memory, and the nanoseconds that they last took. */
    const unsigned char *weights_here;
    int32_t *numbers;
    unsigned char *scratch;
    uint64_t *took;
    int forked, hung, lost;
    char why[WHY]; /* it is lost */
};

/* In the file of the program, which is the only one. */
extern const struct canao_program canao_program;

const struct canao_program *canao_engine_program(void) { return &canao_program; }

const char *canao_engine_name(void) { return "opencl"; }

const char *canao_engine_lacks(int status)
{
    return status == CANAO_DEVICE ? canao_opencl_why() : NULL;
}

/* CANAO_OK, or CANAO_DEVICE for an error in what the device was asked to do. */
static int check(const canao_engine *e, cl_int code, const char *what)
{
    return !code ? CANAO_OK
                 : canao_opencl_fail("%s cannot %s: %s (OpenCL error %d)", e->device.name, what,
                                     canao_opencl_error(code), (int)code);
}

static int64_t polynomial(const int64_t *coefficients, int64_t s)
{
    return coefficients[0] + coefficients[1] * s + coefficients[2] * s * s;
}

/* From one cache line to the next: where an input begins in staging memory. */
static size_t rounded(size_t bytes) { return (bytes + 63) / 64 * 64; }

/* Of the buffer that probes read and write: what they are given, and then their results. */
static size_t given_bytes(void) { return (size_t)canao_gpu.probes.given_count * 4; }
static size_t right_bytes(void) { return (size_t)canao_gpu.probes.right_count * 4; }

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* How many launches have ended, of those that are watched, before the first that has not. */
static int count_ended(const struct flight *f)
{
    int i = 0;
    for (; f && f->watched && i < canao_program.step_count; i++) {
        cl_int state = CL_COMPLETE;
        if (f->launches[i] && (canao_cl.get_event_info(f->launches[i],
                                                       CL_EVENT_COMMAND_EXECUTION_STATUS,
                                                       sizeof state, &state, NULL) ||
                               state > CL_COMPLETE))
            break;
    }
    return i;
}

/* Waits until an event is over: CL_COMPLETE, an error, or UNENDED once nothing has ended for too
 * long. Not clWaitForEvents, which has no limit. */
static cl_int await(const canao_engine *e, cl_event event, const struct flight *f)
{
    const uint64_t start = now();
    uint64_t last = start; /* when a launch was last known to have ended */
    struct timespec pause = {0, PAUSE_NS};
    for (int ended = 0;;) {
        cl_int state;
        const cl_int code = canao_cl.get_event_info(event, CL_EVENT_COMMAND_EXECUTION_STATUS,
                                                    sizeof state, &state, NULL);
        if (code || state <= CL_COMPLETE)
            return code ? code : state;
        const uint64_t moment = now();
        if (moment - start < SPIN_NS) {
            sched_yield();
            continue;
        }
        if (moment - last > e->limit) {
            const int more = count_ended(f);
            if (more == ended)
                return UNENDED;
            ended = more;
            last = moment;
        }
        nanosleep(&pause, NULL);
        pause.tv_nsec += pause.tv_nsec < LONGEST_PAUSE_NS ? PAUSE_NS : 0;
    }
}

/* Of a device that has not ended in time what it was given; `f` may be NULL. */
static int fail_to_end(const canao_engine *e, const struct flight *f)
{
    const int ended = count_ended(f);
    const int known = f && f->watched && ended < canao_program.step_count;
    return canao_opencl_fail("%s does not end %s%s within %llu s; the model is lost: close it, and "
                             "open it anew when the device has recovered "
                             "(CANAO_OPENCL_TIMEOUT_S sets another limit)", e->device.name,
                             known ? "kernel " : "what it was given",
                             known ? canao_gpu.launches[ended].kernel : "",
                             (unsigned long long)(e->limit / 1000000000u));
}

/* Whether all that the device was given is over, well or not. */
static int drained(const canao_engine *e)
{
    cl_event event = NULL;
    if (canao_cl.enqueue_marker_with_wait_list(e->used, 0, NULL, &event) ||
        canao_cl.flush(e->used))
        return 0;
    const cl_int state = await(e, event, NULL);
    canao_cl.release_event(event);
    return state != UNENDED;
}

/* The engine is of no use from now on, for what this thread was told last. */
static int lose(canao_engine *e, int hung)
{
    e->lost = 1;
    snprintf(e->why, sizeof e->why, "%s", canao_opencl_why());
    e->hung = hung || !drained(e);
    return CANAO_DEVICE;
}

/* What it means that `await` returned a state; `f` may be NULL. */
static int check_end(canao_engine *e, const struct flight *f, cl_int state)
{
    if (state == CL_COMPLETE)
        return CANAO_OK;
    if (state == UNENDED)
        fail_to_end(e, f);
    else
        canao_opencl_fail("%s failed in a run: %s (OpenCL error %d); the model is lost: close it, "
                          "and open it anew", e->device.name, canao_opencl_error(state),
                          (int)state);
    return lose(e, state == UNENDED);
}

/* Waits for a command by itself, when a model is opened or its memory grows. */
static int finish(canao_engine *e, cl_event event)
{
    const cl_int code = canao_cl.flush(e->queue);
    const cl_int state = code ? CL_COMPLETE : await(e, event, NULL);
    canao_cl.release_event(event);
    return code ? check(e, code, "begin") : check_end(e, NULL, state);
}

static void release_events(struct flight *f)
{
    if (f->done)
        canao_cl.release_event(f->done);
    f->done = NULL;
    for (int i = 0; f->launches && i < canao_program.step_count; i++) {
        if (f->launches[i])
            canao_cl.release_event(f->launches[i]);
        f->launches[i] = NULL;
    }
}

static void release_staging(const canao_engine *e, struct staging *s)
{
    if (s->bytes)
        canao_cl.enqueue_unmap_mem_object(e->queue, s->memory, s->bytes, 0, NULL, NULL);
    if (s->memory)
        canao_cl.release_mem_object(s->memory);
    *s = (struct staging){0};
}

static void release_memory(cl_mem memory)
{
    if (memory)
        canao_cl.release_mem_object(memory);
}

static void release_kernels(canao_engine *e)
{
    for (int i = 0; e->kernels && i < canao_opencl_launches(); i++) {
        if (e->kernels[i])
            canao_cl.release_kernel(e->kernels[i]);
        e->kernels[i] = NULL;
    }
    for (int i = 0; e->programs && i < canao_opencl_launches(); i++) {
        if (e->programs[i])
            canao_cl.release_program(e->programs[i]);
        e->programs[i] = NULL;
    }
}

/* Gives back all that the device and its driver hold. */
static void release(canao_engine *e)
{
    for (int i = 0; i < FLIGHTS; i++) {
        release_events(&e->flights[i]);
        release_staging(e, &e->flights[i].in);
        release_staging(e, &e->flights[i].out);
    }
    release_kernels(e);
    for (int i = 0; e->inputs && i < canao_program.input_count; i++)
        release_memory(e->inputs[i]);
    release_memory(e->weights);
    release_memory(e->arena);
    release_memory(e->cache);
    release_memory(e->positions);
    release_memory(e->probed);
    if (e->profiling)
        canao_cl.release_command_queue(e->profiling);
    if (e->queue)
        canao_cl.release_command_queue(e->queue);
    if (e->context)
        canao_cl.release_context(e->context);
}

/* Leaves what a device that hangs may still use, and what is not of this process. */
void canao_engine_close(canao_engine *e)
{
    if (!e->forked && !e->hung)
        release(e);
    for (int i = 0; i < FLIGHTS; i++)
        free(e->flights[i].launches);
    free(e->kernels);
    free(e->programs);
    free(e->inputs);
    free(e->numbers);
    free(e->scratch);
    free(e->took);
    free(e);
}

static int open_queue(canao_engine *e)
{
    const cl_context_properties properties[] = {CL_CONTEXT_PLATFORM,
                                                (cl_context_properties)e->device.platform, 0};
    cl_int code = CL_SUCCESS;
    e->context = canao_cl.create_context(properties, 1, &e->device.id, NULL, NULL, &code);
    if (e->context)
        e->queue = canao_cl.create_command_queue(e->context, e->device.id, 0, &code);
    e->used = e->queue;
    return check(e, code, "be opened");
}

static cl_ulong kernel_number(const canao_engine *e, cl_kernel kernel, cl_uint what)
{
    cl_ulong number = 0; /* fewer bytes are its lower ones */
    return canao_cl.get_kernel_work_group_info(kernel, e->device.id, what, sizeof number, &number,
                                               NULL) ? 0 : number;
}

/* Whether the device can run a kernel in the groups that it is written for. */
static int check_groups(const canao_engine *e, cl_kernel kernel, const struct canao_launch *launch)
{
    enum { DIMENSIONS = 8 };
    size_t most[DIMENSIONS] = {0};
    const uint64_t needed = (uint64_t)(launch->local[0] * launch->local[1]);
    const uint64_t had = kernel_number(e, kernel, CL_KERNEL_WORK_GROUP_SIZE);
    if (needed > had)
        return canao_opencl_fail("kernel %s has groups of %llu work-items, and %s runs at most "
                                 "%llu of it; compile the model with --no-fusion", launch->kernel,
                                 (unsigned long long)needed, e->device.name,
                                 (unsigned long long)had);
    if (canao_cl.get_device_info(e->device.id, CL_DEVICE_MAX_WORK_ITEM_SIZES, sizeof most, most,
                                 NULL))
        return CANAO_OK; /* it will say so when it is asked to run it */
    for (int d = 0; d < 2; d++)
        if ((uint64_t)launch->local[d] > most[d])
            return canao_opencl_fail("kernel %s has %lld work-items in a row, and %s takes at most "
                                     "%zu; compile the model with --no-fusion", launch->kernel,
                                     (long long)launch->local[d], e->device.name, most[d]);
    return CANAO_OK;
}

/* Which launch's program has the kernel of launch i: the first one's of the model's or of the probes';
 * where each kernel has a program of its own, that of the first launch of that kernel. */
static int program_of(int i, int apart)
{
    int owner = i < canao_program.step_count ? 0 : canao_program.step_count;
    for (const char *kernel = canao_opencl_launch(i)->kernel; apart; owner++) {
        const char *other = canao_opencl_launch(owner)->kernel;
        if (other && !strcmp(other, kernel))
            break;
    }
    return owner;
}

static int make_kernel(canao_engine *e, int i, int apart, cl_int *code)
{
    const struct canao_launch *launch = canao_opencl_launch(i);
    if (!launch->kernel)
        return CANAO_OK;
    cl_program *program = &e->programs[program_of(i, apart)];
    const int probe = i >= canao_program.step_count;
    const struct program_text text = {
        .pieces = probe ? canao_gpu.probes.source : canao_gpu.source,
        .count = probe ? canao_gpu.probes.source_count : canao_gpu.source_count,
        .kernel = apart ? launch->kernel : NULL,
    };
    int status = CANAO_OK;
    if (!*program)
        status = canao_opencl_build(e->context, &e->device, &text, program, code);
    if (status)
        return status;
    e->kernels[i] = canao_cl.create_kernel(*program, launch->kernel, code);
    if (!e->kernels[i])
        return canao_opencl_fail("%s makes no kernel of %s: %s (OpenCL error %d)", e->device.name,
                                 launch->kernel, canao_opencl_error(*code), (int)*code);
    return check_groups(e, e->kernels[i], launch);
}

static int make_kernels(canao_engine *e, int apart, cl_int *code)
{
    int status = CANAO_OK;
    for (int i = 0; i < canao_opencl_launches() && !status; i++)
        status = make_kernel(e, i, apart, code);
    return status;
}

/* The kernels of the program and of the probes: of one program, or of one for each kernel where a
 * driver is known not to hold several, or says that it has no memory for them. */
static int make_all_kernels(canao_engine *e)
{
    const size_t room = (size_t)canao_opencl_launches() + 1;
    const int apart = canao_opencl_apart(&e->device);
    cl_int code = CL_SUCCESS;
    e->kernels = calloc(room, sizeof *e->kernels);
    e->programs = calloc(room, sizeof *e->programs);
    if (!e->kernels || !e->programs)
        return CANAO_MEMORY;
    int status = make_kernels(e, apart, &code);
    if (status && !apart && code == CL_OUT_OF_HOST_MEMORY) {
        release_kernels(e);
        status = make_kernels(e, 1, &code);
    }
    return status;
}

/* A buffer of the device's; `what` is in it. */
static int make_buffer(const canao_engine *e, cl_bitfield flags, uint64_t bytes, const char *what,
                       cl_mem *made)
{
    const uint64_t most = canao_opencl_number(e->device.id, CL_DEVICE_MAX_MEM_ALLOC_SIZE);
    cl_int code = CL_SUCCESS;
    if (most && bytes + CANAO_PAST_END > most)
        return canao_opencl_fail("the %s take %llu bytes, and %s has buffers of at most %llu; "
                                 "compile a smaller model, or take another device", what,
                                 (unsigned long long)bytes, e->device.name,
                                 (unsigned long long)most);
    *made = canao_cl.create_buffer(e->context, flags, (size_t)bytes + CANAO_PAST_END, NULL,
                                   &code);
    if (!*made)
        return canao_opencl_fail("%s has no room for the %s, %llu bytes: %s (OpenCL error %d); "
                                 "close other models, or take another device", e->device.name,
                                 what, (unsigned long long)bytes, canao_opencl_error(code),
                                 (int)code);
    return CANAO_OK;
}

/* Memory of the host for `bytes`, in place of less. Drivers give it in a place that the device
 * reaches by itself. */
static int make_staging(canao_engine *e, struct staging *s, size_t bytes)
{
    if (s->room >= bytes)
        return CANAO_OK;
    release_staging(e, s);
    const int status = make_buffer(e, CL_MEM_READ_WRITE | CL_MEM_ALLOC_HOST_PTR, bytes,
                                   "inputs or outputs", &s->memory);
    if (status)
        return status;
    cl_int code = CL_SUCCESS;
    cl_event event = NULL;
    s->bytes = canao_cl.enqueue_map_buffer(e->queue, s->memory, CL_FALSE,
                                           CL_MAP_READ | CL_MAP_WRITE, 0, bytes, 0, NULL, &event,
                                           &code);
    s->room = s->bytes ? bytes : 0;
    return s->bytes ? finish(e, event) : check(e, code, "map memory of the host");
}

/* Where input i begins in staging memory, at a length; of the number of inputs, where they end. */
static size_t input_place(int i, int64_t length)
{
    size_t place = 0;
    for (int k = 0; k < i; k++)
        place += rounded((size_t)polynomial(canao_gpu.input_bytes[k], length));
    return place;
}

static int make_inputs(canao_engine *e)
{
    const int count = canao_program.input_count;
    e->inputs = calloc((size_t)count + 1, sizeof *e->inputs);
    int status = e->inputs ? CANAO_OK : CANAO_MEMORY;
    for (int i = 0; i < count && !status; i++) {
        const int64_t bytes = polynomial(canao_gpu.input_bytes[i], canao_program.max_length);
        status = make_buffer(e, CL_MEM_READ_ONLY, (uint64_t)bytes, "inputs", &e->inputs[i]);
    }
    return status;
}

/* Copies something to the device that stays there: by way of staging memory, as what is copied from
 * may be gone before a device that hangs is done with it. */
static int upload(canao_engine *e, cl_mem to, const unsigned char *from, uint64_t bytes,
                  const char *what)
{
    struct staging staging = {0};
    int status = make_staging(e, &staging, bytes < AT_ONCE ? (size_t)bytes : AT_ONCE);
    for (uint64_t done = 0; done < bytes && !status; done += AT_ONCE) {
        const size_t part = bytes - done < AT_ONCE ? (size_t)(bytes - done) : AT_ONCE;
        cl_event event = NULL;
        memcpy(staging.bytes, from + done, part);
        const cl_int code = canao_cl.enqueue_write_buffer(e->queue, to, CL_FALSE, (size_t)done,
                                                          part, staging.bytes, 0, NULL, &event);
        status = code ? check(e, code, what) : finish(e, event);
    }
    if (!e->hung)
        release_staging(e, &staging);
    return status;
}

static int make_positions(canao_engine *e)
{
    const int32_t count = canao_program.max_length;
    const uint64_t bytes = (uint64_t)count * sizeof(int32_t);
    int32_t *numbers = malloc((size_t)bytes);
    int status = numbers ? CANAO_OK : CANAO_MEMORY;
    for (int32_t i = 0; numbers && i < count; i++)
        numbers[i] = i;
    if (!status)
        status = make_buffer(e, CL_MEM_READ_ONLY, bytes, "positions", &e->positions);
    if (!status)
        status = upload(e, e->positions, (const unsigned char *)numbers, bytes,
                        "take the positions");
    e->numbers = numbers;
    return status;
}

/* What steps need that this CPU runs; `*keeps` as in canao_engine_open. */
static int make_here(canao_engine *e, const unsigned char *file, int *keeps)
{
    enum { LINE = 64 };
    const uint64_t bytes = (canao_program.scratch_bytes / LINE + 1) * LINE;
    void *scratch = NULL;
    int here = 0;
    for (int i = 0; i < canao_program.step_count; i++)
        here |= canao_program.steps[i].run != NULL;
    if (!here)
        return CANAO_OK;
    *keeps = 1;
    e->weights_here = file + CANAO_HEADER_BYTES;
    e->took = calloc((size_t)canao_program.step_count, sizeof *e->took);
    if (!e->took || posix_memalign(&scratch, LINE, (size_t)bytes))
        return CANAO_MEMORY;
    e->scratch = scratch;
    return CANAO_OK;
}

static int make_buffers(canao_engine *e, const unsigned char *file)
{
    const struct canao_program *p = &canao_program;
    const uint64_t weights = p->weights_bytes - CANAO_HEADER_BYTES;
    int status = make_buffer(e, CL_MEM_READ_ONLY, weights, "weights", &e->weights);
    if (!status)
        status = upload(e, e->weights, file + CANAO_HEADER_BYTES, weights, "take the weights");
    if (!status)
        status = make_buffer(e, CL_MEM_READ_WRITE, p->arena_bytes, "activations", &e->arena);
    if (!status)
        status = make_buffer(e, CL_MEM_READ_WRITE, p->cache_bytes, "keys and values", &e->cache);
    if (!status)
        status = make_positions(e);
    if (!status && canao_gpu.probes.launch_count)
        status = make_buffer(e, CL_MEM_READ_WRITE, given_bytes() + right_bytes(), "probes",
                             &e->probed);
    return status ? status : make_inputs(e);
}

static cl_mem buffer_of(const canao_engine *e, const struct canao_argument *argument)
{
    switch (argument->area) {
    case CANAO_WEIGHTS: return e->weights;
    case CANAO_ARENA: return e->arena;
    case CANAO_CACHE: return e->cache;
    case CANAO_INPUT: return e->inputs[argument->offset];
    case CANAO_POSITIONS: return e->positions;
    case CANAO_PROBED: return e->probed;
    }
    return NULL;
}

/* Sets from which byte on a kernel has an argument, after `past` tokens. */
static cl_int set_offset(cl_kernel kernel, const struct canao_argument *argument, int number,
                         int32_t past)
{
    cl_ulong offset = argument->area == CANAO_INPUT ? 0 : (cl_ulong)argument->offset;
    if (argument->area == CANAO_POSITIONS)
        offset += (cl_ulong)past * sizeof(int32_t);
    const cl_uint place = (cl_uint)(COUNTS + 2 * number + 1);
    return canao_cl.set_kernel_arg(kernel, place, sizeof offset, &offset);
}

/* Sets what is the same in all calls. */
static int set_arguments(const canao_engine *e)
{
    for (int i = 0; i < canao_opencl_launches(); i++) {
        const struct canao_launch *launch = canao_opencl_launch(i);
        for (int k = 0; k < launch->argument_count; k++) {
            const struct canao_argument *argument = &launch->arguments[k];
            const cl_mem buffer = buffer_of(e, argument);
            cl_int code = canao_cl.set_kernel_arg(e->kernels[i], (cl_uint)(COUNTS + 2 * k),
                                                  sizeof buffer, &buffer);
            if (!code)
                code = set_offset(e->kernels[i], argument, k, 0);
            if (code)
                return canao_opencl_fail("kernel %s takes no argument %d: %s (OpenCL error %d)",
                                         launch->kernel, k, canao_opencl_error(code), (int)code);
        }
    }
    return CANAO_OK;
}

/* Work-items of a launch in one dimension; 0: there is nothing to do. */
static size_t work_items(const struct canao_launch *launch, int dimension, int64_t length)
{
    const struct canao_groups *groups = &launch->groups[dimension];
    const int64_t n = polynomial(groups->size, length);
    return n < 1 ? 0 : (size_t)((n + groups->tile - 1) / groups->tile * launch->local[dimension]);
}

/* Launches a kernel for a length, unless there is nothing to do, for which some drivers abort. */
static int launch_kernel(const canao_engine *e, int i, int64_t length, cl_event *event)
{
    const struct canao_launch *launch = canao_opencl_launch(i);
    const size_t local[2] = {(size_t)launch->local[0], (size_t)launch->local[1]};
    const size_t all[2] = {work_items(launch, 0, length), work_items(launch, 1, length)};
    if (!all[0] || !all[1])
        return CANAO_OK;
    const cl_int code = canao_cl.enqueue_nd_range_kernel(e->used, e->kernels[i], 2, NULL, all,
                                                         local, 0, NULL, event);
    return !code ? CANAO_OK
                 : canao_opencl_fail("%s cannot run kernel %s: %s (OpenCL error %d)",
                                     e->device.name, launch->kernel, canao_opencl_error(code),
                                     (int)code);
}

/* Runs a probe by itself, as some drivers compile a kernel when it first runs. */
static int run_probe(canao_engine *e, int i)
{
    const struct canao_probes *p = &canao_gpu.probes;
    cl_event event = NULL;
    cl_int code = CL_SUCCESS;
    for (cl_uint k = 0; k < COUNTS && !code; k++)
        code = canao_cl.set_kernel_arg(e->kernels[i], k, sizeof p->counts[k], &p->counts[k]);
    const int status = code ? check(e, code, "take the probes")
                            : launch_kernel(e, i, p->counts[0], &event);
    return status || !event ? status : finish(e, event);
}

/* Runs the probes, whose results are then in memory of the host, after what they are given. */
static int fetch_probes(canao_engine *e, const struct staging *staging)
{
    const struct canao_probes *p = &canao_gpu.probes;
    cl_event event = NULL;
    memcpy(staging->bytes, p->given, given_bytes());
    for (size_t at = 0; at < right_bytes(); at += sizeof p->blank)
        memcpy(staging->bytes + given_bytes() + at, &p->blank, sizeof p->blank);
    cl_int code = canao_cl.enqueue_write_buffer(e->queue, e->probed, CL_FALSE, 0,
                                                given_bytes() + right_bytes(), staging->bytes, 0,
                                                NULL, NULL);
    int status = check(e, code, "take the probes");
    for (int i = canao_program.step_count; i < canao_opencl_launches() && !status; i++)
        status = run_probe(e, i);
    if (status)
        return status;
    code = canao_cl.enqueue_read_buffer(e->queue, e->probed, CL_FALSE, given_bytes(),
                                        right_bytes(), staging->bytes + given_bytes(), 0, NULL,
                                        &event);
    return code ? check(e, code, "give what the probes found") : finish(e, event);
}

/* Whether the driver computes what the kernels rely on. */
static int run_probes(canao_engine *e)
{
    struct staging staging = {0};
    int status = make_staging(e, &staging, given_bytes() + right_bytes());
    if (!status)
        status = fetch_probes(e, &staging);
    if (status && staging.bytes && !e->lost)
        lose(e, 0); /* it may still read what it was given */
    if (!status)
        status = canao_opencl_judge(&e->device, staging.bytes + given_bytes());
    if (!e->hung)
        release_staging(e, &staging);
    return status;
}

static int read_limit(canao_engine *e)
{
    static const char name[] = "CANAO_OPENCL_TIMEOUT_S";
    const long seconds = canao_opencl_setting(name, LIMIT_S, MOST_S);
    e->limit = (uint64_t)seconds * 1000000000u;
    return seconds > 0 ? CANAO_OK
                       : canao_opencl_fail("%s is '%s'; give whole seconds, from 1 to %d", name,
                                           getenv(name), MOST_S);
}

int canao_engine_check(int threads, const int *cores)
{
    struct device device;
    return threads != 1 || cores ? CANAO_ARGUMENT : canao_opencl_choose(&device);
}

int canao_engine_open(const unsigned char *file, int threads, const int *cores,
                      canao_engine **engine, int *keeps)
{
    (void)threads;
    (void)cores;
    canao_engine *e = calloc(1, sizeof *e);
    if (!e)
        return CANAO_MEMORY;
    *keeps = 0;
    int status = read_limit(e);
    if (!status)
        status = canao_opencl_choose(&e->device);
    if (!status)
        status = open_queue(e);
    if (!status)
        status = make_all_kernels(e);
    if (!status)
        status = make_buffers(e, file);
    if (!status)
        status = set_arguments(e);
    if (!status)
        status = make_here(e, file, keeps);
    if (!status && canao_gpu.probes.launch_count)
        status = run_probes(e);
    if (status)
        canao_engine_close(e);
    else
        *engine = e;
    return status;
}

void canao_engine_forked(canao_engine *e) { e->forked = 1; }

int canao_engine_enter(canao_engine *e)
{
    if (e->forked)
        return canao_opencl_fail("the model was opened before this process was forked, which "
                                 "OpenCL does not survive; open it in a process that is started "
                                 "anew");
    return e->lost ? canao_opencl_fail("%s", e->why) : CANAO_OK;
}

void canao_engine_leave(canao_engine *e) { (void)e; }

/* Sets what kernels have to know of a sequence, unless it is what they know. */
static int set_counts(canao_engine *e, const struct canao_sequence *s)
{
    const int32_t counts[COUNTS] = {s->length, s->past, s->length - s->wanted}, all = 0;
    if (!memcmp(counts, e->counts, sizeof counts))
        return CANAO_OK;
    e->counts[0] = 0; /* until all have them */
    for (int i = 0; i < canao_program.step_count; i++) {
        const struct canao_launch *launch = &canao_gpu.launches[i];
        cl_int code = CL_SUCCESS;
        if (!launch->kernel)
            continue;
        for (cl_uint k = 0; k < COUNTS && !code; k++)
            code = canao_cl.set_kernel_arg(e->kernels[i], k, sizeof counts[k],
                                           k == FIRST && !canao_program.steps[i].last_only
                                               ? &all
                                               : &counts[k]);
        for (int k = 0; k < launch->argument_count && !code; k++)
            if (launch->arguments[k].area == CANAO_POSITIONS)
                code = set_offset(e->kernels[i], &launch->arguments[k], k, s->past);
        if (code)
            return canao_opencl_fail("kernel %s does not take the length: %s (OpenCL error %d)",
                                     launch->kernel, canao_opencl_error(code), (int)code);
    }
    memcpy(e->counts, counts, sizeof counts);
    return CANAO_OK;
}

static int send_inputs(const canao_engine *e, const struct flight *f)
{
    const struct canao_sequence *s = f->sequence;
    for (int i = 0; i < canao_program.input_count; i++) {
        const size_t bytes = (size_t)polynomial(canao_gpu.input_bytes[i], s->length);
        unsigned char *from = f->in.bytes + input_place(i, s->length);
        if (!bytes)
            continue;
        memcpy(from, s->inputs[i], bytes);
        const cl_int code = canao_cl.enqueue_write_buffer(e->used, e->inputs[i], CL_FALSE, 0,
                                                          bytes, from, 0, NULL, NULL);
        if (code)
            return check(e, code, "take the inputs");
    }
    return CANAO_OK;
}

/* Runs a step on this CPU, once the device has done all before it and shows its memory. */
static int run_here(canao_engine *e, struct flight *f, int i)
{
    const struct canao_sequence *s = f->sequence;
    cl_event event = NULL;
    cl_int code = CL_SUCCESS;
    unsigned char *arena = canao_cl.enqueue_map_buffer(
        e->used, e->arena, CL_FALSE, CL_MAP_READ | CL_MAP_WRITE, 0,
        (size_t)canao_program.arena_bytes, 0, NULL, &event, &code);
    if (!code)
        code = canao_cl.flush(e->used);
    int status = check(e, code, "show its memory");
    if (!status)
        status = check_end(e, f, await(e, event, f));
    if (event)
        canao_cl.release_event(event);
    if (status)
        return status;
    const struct canao_call call = {
        .tokens = s->length,
        .past = s->past,
        .first = s->length - s->wanted,
        .inputs = s->inputs,
        .positions = e->numbers + s->past,
        .weights = e->weights_here,
        .arena = arena,
        .scratch = e->scratch,
        .threads = 1,
        .few_tokens = canao_program.few_tokens,
    };
    const uint64_t start = now();
    canao_program.steps[i].run(&call);
    e->took[i] = now() - start;
    return check(e, canao_cl.enqueue_unmap_mem_object(e->used, e->arena, arena, 0, NULL, NULL),
                 "take its memory back");
}

static int launch_kernels(canao_engine *e, struct flight *f)
{
    int status = CANAO_OK;
    for (int i = 0; i < canao_program.step_count && !status; i++)
        status = canao_gpu.launches[i].kernel
                     ? launch_kernel(e, i, f->sequence->length, f->watched ? &f->launches[i] : NULL)
                     : run_here(e, f, i);
    return status;
}

/* Bytes of an output that are wanted: the last rows. */
static size_t output_bytes(const struct canao_sequence *s, int i)
{
    return s->wanted ? (size_t)canao_output_size(i, s->wanted) * sizeof(float) : 0;
}

static size_t all_output_bytes(const struct canao_sequence *s)
{
    size_t bytes = 0;
    for (int i = 0; i < canao_program.output_count; i++)
        bytes += rounded(output_bytes(s, i));
    return bytes;
}

static int fetch_outputs(const canao_engine *e, const struct flight *f)
{
    const struct canao_sequence *s = f->sequence;
    unsigned char *to = f->out.bytes;
    for (int i = 0; i < canao_program.output_count; i++) {
        const size_t bytes = output_bytes(s, i);
        const size_t whole = (size_t)canao_output_size(i, s->length) * sizeof(float);
        if (!bytes)
            continue;
        const size_t from = (size_t)canao_program.outputs[i].offset + whole - bytes;
        const cl_int code = canao_cl.enqueue_read_buffer(e->used, e->arena, CL_FALSE, from, bytes,
                                                         to, 0, NULL, NULL);
        if (code)
            return check(e, code, "give the outputs");
        to += rounded(bytes);
    }
    return CANAO_OK;
}

static void copy_outputs(const struct flight *f)
{
    const unsigned char *from = f->out.bytes;
    for (int i = 0; i < canao_program.output_count; i++) {
        const size_t bytes = output_bytes(f->sequence, i);
        if (!bytes)
            continue;
        memcpy(f->sequence->outputs[i], from, bytes);
        from += rounded(bytes);
    }
}

/* What a flight needs of the host. Nothing is lost where there is no memory for it. */
static int make_ready(canao_engine *e, struct flight *f, const struct canao_sequence *s,
                      int watched)
{
    const int count = canao_program.step_count;
    if (watched && !f->launches && !(f->launches = calloc((size_t)count + 1, sizeof(cl_event))))
        return CANAO_MEMORY;
    f->watched = watched;
    int status = make_staging(e, &f->in, input_place(canao_program.input_count, s->length));
    return status ? status : make_staging(e, &f->out, all_output_bytes(s));
}

/* Gives a sequence to the device, which begins with it. */
static int submit(canao_engine *e, struct flight *f, const struct canao_sequence *s, int watched)
{
    int status = make_ready(e, f, s, watched);
    if (status)
        return status;
    f->sequence = s;
    status = set_counts(e, s);
    if (!status)
        status = send_inputs(e, f);
    if (!status)
        status = launch_kernels(e, f);
    if (!status)
        status = fetch_outputs(e, f);
    cl_int code = CL_SUCCESS;
    if (!status)
        code = canao_cl.enqueue_marker_with_wait_list(e->used, 0, NULL, &f->done);
    if (!status && !code)
        code = canao_cl.flush(e->used);
    if (!status)
        status = check(e, code, "begin");
    return status ? lose(e, 0) : CANAO_OK;
}

/* Adds the time of each launch. */
static int add_times(const canao_engine *e, const struct flight *f, uint64_t *ns)
{
    for (int i = 0; i < canao_program.step_count; i++) {
        cl_ulong start = 0, end = 0;
        if (!canao_gpu.launches[i].kernel)
            ns[i] += e->took[i];
        if (!f->launches[i])
            continue;
        cl_int code = canao_cl.get_event_profiling_info(f->launches[i], CL_PROFILING_COMMAND_START,
                                                        sizeof start, &start, NULL);
        if (!code)
            code = canao_cl.get_event_profiling_info(f->launches[i], CL_PROFILING_COMMAND_END,
                                                     sizeof end, &end, NULL);
        if (code)
            return check(e, code, "say how long a kernel took");
        ns[i] += end > start ? end - start : 0;
    }
    return CANAO_OK;
}

/* Waits for a sequence and copies its outputs. */
static int collect(canao_engine *e, struct flight *f, uint64_t *ns)
{
    int status = check_end(e, f, await(e, f->done, f));
    if (status)
        return status;
    status = ns ? add_times(e, f, ns) : CANAO_OK;
    copy_outputs(f);
    release_events(f);
    f->sequence = NULL;
    e->ran = 1;
    return status;
}

/* The queue of the call: one that measures is slower on some devices. */
static int take_queue(canao_engine *e, int measures)
{
    cl_int code = CL_SUCCESS;
    if (measures && !e->profiling)
        e->profiling = canao_cl.create_command_queue(e->context, e->device.id,
                                                     CL_QUEUE_PROFILING_ENABLE, &code);
    e->used = measures && e->profiling ? e->profiling : e->queue;
    return check(e, code, "measure its kernels");
}

/* The first run is watched: some drivers compile a kernel when it first runs, so that a whole run
 * may take longer than the limit. */
int canao_engine_run(canao_engine *e, const struct canao_sequence *sequence, uint64_t *ns)
{
    struct flight *f = &e->flights[0];
    int status = take_queue(e, ns != NULL);
    if (!status)
        status = submit(e, f, sequence, ns || !e->ran);
    return status ? status : collect(e, f, ns);
}

int canao_engine_run_batch(canao_engine *e, struct canao_sequence *sequences, int count)
{
    int status = take_queue(e, 0);
    for (int i = 0; i < count && !status; i++) {
        struct flight *f = &e->flights[i % FLIGHTS];
        if (f->sequence)
            status = collect(e, f, NULL);
        if (!status)
            status = submit(e, f, &sequences[i], !e->ran);
    }
    for (int i = 0; i < FLIGHTS; i++) {
        struct flight *f = &e->flights[(count + i) % FLIGHTS];
        const int late = f->sequence && !e->lost ? collect(e, f, NULL) : CANAO_OK;
        status = status ? status : late;
    }
    return status;
}
