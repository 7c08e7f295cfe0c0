/* A library of OpenCL with devices that are not there: kernels do nothing, or write what they are
 * told to, where their second buffer begins, and each function fails when it is told to. It counts
 * what was made and not given back. */
#include "opencl_api.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 8, NAME = 64, TEXT = 512 };
enum { INVALID_VALUE = -30, INVALID_KERNEL_NAME = -46, KERNEL_GROUP = 256 };
enum { SECOND = 5 }; /* the argument of a kernel that is its second buffer */

struct canao_cl_platform { int number; };
struct canao_cl_device { cl_bitfield type; char name[NAME]; int available; };
struct canao_cl_mem { size_t size; unsigned char *bytes; };
struct canao_cl_program { char options[TEXT]; };
struct canao_cl_kernel { char name[NAME]; cl_mem to; cl_ulong offset; };
struct object { cl_int state; };
struct answer { char kernel[NAME]; const unsigned char *words; size_t size; };

static struct canao_cl_platform platform;
static struct canao_cl_device devices[MOST];
static cl_uint device_count;
static atomic_int live;     /* objects that exist */
static cl_int event_state;  /* of events that are made from now on */
static const char *failing; /* the function that fails, at the call `countdown` from now */
static int countdown, times;
static cl_int failure;
static _Thread_local char built[256]; /* options of the last program, of each thread */
static struct answer answers[MOST];
static int answer_count;
static int single; /* what a driver does that cannot hold several kernels in one program */
static char driver[TEXT] = "7", version[TEXT] = "OpenCL 1.2 fake";

int fake_live(void) { return live; }
void fake_events(cl_int state) { event_state = state; }
const char *fake_options(void) { return built; }

void fake_device(cl_bitfield type, const char *name, int available)
{
    struct canao_cl_device *d = &devices[device_count++];
    d->type = type;
    d->available = available;
    strncpy(d->name, name, NAME - 1);
}

void fake_failure(const char *function, int call, cl_int code)
{
    free((char *)failing);
    failing = strdup(function);
    countdown = call;
    times = 1;
    failure = code;
}

/* The next calls fail, so many of them. */
void fake_failures(const char *function, int count, cl_int code)
{
    fake_failure(function, 0, code);
    times = count;
}

/* What a kernel writes from now on; the words stay where they are. */
void fake_answer(const char *kernel, const unsigned char *words, size_t size)
{
    int i = 0;
    while (i < answer_count && strcmp(answers[i].kernel, kernel))
        i++;
    answer_count += i == answer_count;
    strncpy(answers[i].kernel, kernel, NAME - 1);
    answers[i].words = words;
    answers[i].size = size;
}

/* Fails to make kernels (1) or programs (2) where there are several in one; or kernels anyway (3). */
void fake_single(int how) { single = how; }

void fake_driver(const char *named, const char *of)
{
    strncpy(driver, named, TEXT - 1);
    strncpy(version, of, TEXT - 1);
}

/* Whether the failure that was asked for has come. */
int fake_failed(void) { return failing && countdown < 0; }

static cl_int fails(const char *function)
{
    if (!failing || strcmp(failing, function))
        return CL_SUCCESS;
    const int call = countdown--;
    return call <= 0 && call > -times ? failure : CL_SUCCESS;
}

static void *make(const char *function, size_t size, cl_int *code)
{
    const cl_int wrong = fails(function);
    if (code)
        *code = wrong;
    if (wrong)
        return NULL;
    live++;
    return calloc(1, size);
}

static cl_int end(const char *function, void *object)
{
    live--;
    free(object);
    return fails(function);
}

static cl_int enqueue(const char *function, cl_event *event)
{
    cl_int wrong;
    if (!event)
        return fails(function);
    struct object *made = make(function, sizeof *made, &wrong);
    if (made)
        made->state = event_state;
    *event = (cl_event)made;
    return wrong;
}

static cl_int answer(const void *value, size_t size, size_t room, void *to, size_t *needed)
{
    if (needed)
        *needed = size;
    if (to && room < size)
        return INVALID_VALUE;
    if (to)
        memcpy(to, value, size);
    return CL_SUCCESS;
}

static cl_int text(const char *value, size_t room, void *to, size_t *needed)
{
    return answer(value, strlen(value) + 1, room, to, needed);
}

static cl_int number(cl_ulong value, size_t size, size_t room, void *to, size_t *needed)
{
    return answer(&value, size, room, to, needed);
}

cl_int clGetPlatformIDs(cl_uint room, cl_platform_id *to, cl_uint *count)
{
    if (to && room)
        *to = &platform;
    *count = 1;
    return fails("clGetPlatformIDs");
}

cl_int clGetPlatformInfo(cl_platform_id p, cl_uint what, size_t room, void *to, size_t *needed)
{
    (void)p;
    const cl_int wrong = fails("clGetPlatformInfo");
    return wrong ? wrong : text(what == CL_PLATFORM_NAME ? "Fake" : "OpenCL 1.2 fake", room, to,
                                needed);
}

cl_int clGetDeviceIDs(cl_platform_id p, cl_bitfield type, cl_uint room, cl_device_id *to,
                      cl_uint *count)
{
    (void)p;
    (void)type;
    for (cl_uint i = 0; i < device_count && i < room; i++)
        to[i] = &devices[i];
    *count = device_count;
    return device_count ? fails("clGetDeviceIDs") : CL_DEVICE_NOT_FOUND;
}

cl_int clGetDeviceInfo(cl_device_id d, cl_uint what, size_t room, void *to, size_t *needed)
{
    static const size_t sizes[3] = {128, 128, 64};
    const cl_int wrong = fails("clGetDeviceInfo");
    if (wrong)
        return wrong;
    switch (what) {
    case CL_DEVICE_NAME: return text(d->name, room, to, needed);
    case CL_DRIVER_VERSION: return text(driver, room, to, needed);
    case CL_DEVICE_VERSION: return text(version, room, to, needed);
    case CL_DEVICE_EXTENSIONS: return text("cl_khr_fp16 cl_khr_x", room, to, needed);
    case CL_DEVICE_TYPE: return number(d->type, sizeof(cl_ulong), room, to, needed);
    case CL_DEVICE_AVAILABLE: return number((cl_ulong)d->available, 4, room, to, needed);
    case CL_DEVICE_HOST_UNIFIED_MEMORY: return number(0, 4, room, to, needed);
    case CL_DEVICE_MAX_WORK_ITEM_SIZES: return answer(sizes, sizeof sizes, room, to, needed);
    case CL_DEVICE_MAX_WORK_GROUP_SIZE: return number(KERNEL_GROUP, 8, room, to, needed);
    case CL_DEVICE_MAX_MEM_ALLOC_SIZE: return number(1 << 28, 8, room, to, needed);
    case CL_DEVICE_GLOBAL_MEM_SIZE: return number(1 << 30, 8, room, to, needed);
    default: return number(16, 4, room, to, needed);
    }
}

cl_context clCreateContext(const cl_context_properties *p, cl_uint n, const cl_device_id *d,
                           void (*f)(const char *, const void *, size_t, void *), void *u,
                           cl_int *code)
{
    (void)p, (void)n, (void)d, (void)f, (void)u;
    return make("clCreateContext", 1, code);
}

cl_int clReleaseContext(cl_context c) { return end("clReleaseContext", c); }

cl_command_queue clCreateCommandQueue(cl_context c, cl_device_id d, cl_bitfield p, cl_int *code)
{
    (void)c, (void)d, (void)p;
    return make("clCreateCommandQueue", 1, code);
}

cl_int clReleaseCommandQueue(cl_command_queue q) { return end("clReleaseCommandQueue", q); }

cl_mem clCreateBuffer(cl_context c, cl_bitfield flags, size_t size, void *host, cl_int *code)
{
    (void)c, (void)flags, (void)host;
    cl_mem made = make("clCreateBuffer", sizeof *made, code);
    if (made) {
        made->size = size;
        made->bytes = calloc(1, size);
    }
    return made;
}

cl_int clReleaseMemObject(cl_mem m)
{
    free(m->bytes);
    return end("clReleaseMemObject", m);
}

cl_program clCreateProgramWithSource(cl_context c, cl_uint n, const char **s, const size_t *l,
                                     cl_int *code)
{
    (void)c, (void)n, (void)s, (void)l;
    return make("clCreateProgramWithSource", sizeof(struct canao_cl_program), code);
}

cl_program clCreateProgramWithBinary(cl_context c, cl_uint n, const cl_device_id *d,
                                     const size_t *l, const unsigned char **b, cl_int *taken,
                                     cl_int *code)
{
    (void)c, (void)n, (void)d, (void)l, (void)b;
    *taken = CL_SUCCESS;
    return make("clCreateProgramWithBinary", sizeof(struct canao_cl_program), code);
}

cl_int clBuildProgram(cl_program p, cl_uint n, const cl_device_id *d, const char *o,
                      void (*f)(cl_program, void *), void *u)
{
    (void)n, (void)d, (void)f, (void)u;
    strncpy(p->options, o, TEXT - 1);
    strncpy(built, o, sizeof built - 1);
    if (single == 2 && !strstr(o, "CANAO_ONLY"))
        return CL_OUT_OF_HOST_MEMORY;
    return fails("clBuildProgram");
}

cl_int clGetProgramBuildInfo(cl_program p, cl_device_id d, cl_uint what, size_t room, void *to,
                             size_t *needed)
{
    (void)p, (void)d, (void)what;
    const cl_int wrong = fails("clGetProgramBuildInfo");
    return wrong ? wrong : text("a note\n\nptxas ERROR: 'twice' has too much\nmore errors\n", room,
                                to, needed);
}

cl_int clGetProgramInfo(cl_program p, cl_uint what, size_t room, void *to, size_t *needed)
{
    (void)p;
    const cl_int wrong = fails("clGetProgramInfo");
    if (wrong || what != CL_PROGRAM_BINARIES)
        return wrong ? wrong : number(6, 8, room, to, needed);
    memcpy(*(unsigned char **)to, "binary", 6);
    return CL_SUCCESS;
}

cl_int clReleaseProgram(cl_program p) { return end("clReleaseProgram", p); }

cl_kernel clCreateKernel(cl_program p, const char *name, cl_int *code)
{
    char own[TEXT];
    snprintf(own, sizeof own, "-D CANAO_ONLY -D CANAO_ONLY_%s", name);
    const int apart = strstr(p->options, "CANAO_ONLY") != NULL;
    const char *end = strstr(p->options, own);
    if (single == 3 || (single == 1 && !apart)) {
        *code = CL_OUT_OF_HOST_MEMORY;
        return NULL;
    }
    if (apart && (!end || strcmp(end, own))) {
        *code = INVALID_KERNEL_NAME;
        return NULL;
    }
    cl_kernel made = make("clCreateKernel", sizeof *made, code);
    if (made)
        strncpy(made->name, name, NAME - 1);
    return made;
}

cl_int clSetKernelArg(cl_kernel k, cl_uint i, size_t size, const void *value)
{
    if (i == SECOND && size == sizeof k->to)
        memcpy(&k->to, value, size);
    if (i == SECOND + 1 && size == sizeof k->offset)
        memcpy(&k->offset, value, size);
    return fails("clSetKernelArg");
}

cl_int clGetKernelWorkGroupInfo(cl_kernel k, cl_device_id d, cl_uint what, size_t room, void *to,
                                size_t *needed)
{
    (void)k, (void)d, (void)what;
    const cl_int wrong = fails("clGetKernelWorkGroupInfo");
    return wrong ? wrong : number(KERNEL_GROUP, 8, room, to, needed);
}

cl_int clReleaseKernel(cl_kernel k) { return end("clReleaseKernel", k); }

cl_int clEnqueueWriteBuffer(cl_command_queue q, cl_mem m, cl_bool b, size_t at, size_t size,
                            const void *from, cl_uint n, const cl_event *w, cl_event *event)
{
    (void)q, (void)b, (void)n, (void)w;
    if (at > m->size || size > m->size - at)
        return INVALID_VALUE;
    memcpy(m->bytes + at, from, size);
    return enqueue("clEnqueueWriteBuffer", event);
}

cl_int clEnqueueReadBuffer(cl_command_queue q, cl_mem m, cl_bool b, size_t at, size_t size,
                           void *to, cl_uint n, const cl_event *w, cl_event *event)
{
    (void)q, (void)b, (void)n, (void)w;
    if (at > m->size || size > m->size - at)
        return INVALID_VALUE;
    memcpy(to, m->bytes + at, size);
    return enqueue("clEnqueueReadBuffer", event);
}

void *clEnqueueMapBuffer(cl_command_queue q, cl_mem m, cl_bool b, cl_bitfield f, size_t at,
                         size_t size, cl_uint n, const cl_event *w, cl_event *event, cl_int *code)
{
    (void)q, (void)b, (void)f, (void)n, (void)w;
    *code = at + size > m->size ? INVALID_VALUE : enqueue("clEnqueueMapBuffer", event);
    live += !*code; /* to be unmapped */
    return *code ? NULL : m->bytes + at;
}

cl_int clEnqueueUnmapMemObject(cl_command_queue q, cl_mem m, void *p, cl_uint n, const cl_event *w,
                               cl_event *event)
{
    (void)q, (void)m, (void)p, (void)n, (void)w, (void)event;
    live--;
    return fails("clEnqueueUnmapMemObject");
}

cl_int clEnqueueNDRangeKernel(cl_command_queue q, cl_kernel k, cl_uint d, const size_t *o,
                              const size_t *g, const size_t *l, cl_uint n, const cl_event *w,
                              cl_event *event)
{
    (void)q, (void)d, (void)o, (void)g, (void)l, (void)n, (void)w;
    for (int i = 0; i < answer_count; i++)
        if (!strcmp(answers[i].kernel, k->name)) {
            if (k->offset > k->to->size || answers[i].size > k->to->size - k->offset)
                return INVALID_VALUE;
            memcpy(k->to->bytes + k->offset, answers[i].words, answers[i].size);
        }
    return enqueue("clEnqueueNDRangeKernel", event);
}

cl_int clEnqueueMarkerWithWaitList(cl_command_queue q, cl_uint n, const cl_event *w,
                                   cl_event *event)
{
    (void)q, (void)n, (void)w;
    return enqueue("clEnqueueMarkerWithWaitList", event);
}

cl_int clGetEventInfo(cl_event e, cl_uint what, size_t room, void *to, size_t *needed)
{
    (void)what;
    const cl_int wrong = fails("clGetEventInfo");
    return wrong ? wrong : answer(&((struct object *)e)->state, 4, room, to, needed);
}

cl_int clGetEventProfilingInfo(cl_event e, cl_uint what, size_t room, void *to, size_t *needed)
{
    (void)e;
    const cl_int wrong = fails("clGetEventProfilingInfo");
    return wrong ? wrong : number(what == CL_PROFILING_COMMAND_START ? 100 : 142, 8, room, to,
                                  needed);
}

cl_int clReleaseEvent(cl_event e) { return end("clReleaseEvent", e); }

cl_int clFlush(cl_command_queue q)
{
    (void)q;
    return fails("clFlush");
}
