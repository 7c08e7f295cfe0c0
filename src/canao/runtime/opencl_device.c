/* OpenCL on this machine: its library, its devices, and what is wrong with them in English. */
#define _GNU_SOURCE
#include "canao_model.h"
#include "opencl_host.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { TEXT = 1024, LIST = 512, MAX_PLATFORMS = 16, MAX_DEVICES = 64, JSON = 1 << 15 };

struct opencl canao_cl;

/* Each thread has a text of its own. Not _Thread_local: Android before API 29 loads no library that
 * has such variables. */
static pthread_key_t texts;
static int no_texts;

static void make_texts(void) { no_texts = pthread_key_create(&texts, free); }

/* NULL: no memory. */
static char *own_text(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_texts);
    char *text = no_texts ? NULL : pthread_getspecific(texts);
    if (text || no_texts)
        return text;
    text = calloc(1, TEXT);
    if (text && pthread_setspecific(texts, text)) {
        free(text);
        text = NULL;
    }
    return text;
}

int canao_opencl_fail(const char *format, ...)
{
    char *text = own_text();
    if (text) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(text, TEXT, format, arguments);
        va_end(arguments);
        for (char *c = text; *c; c++)
            if (*c > 0 && *c < ' ')
                *c = ' ';
    }
    return CANAO_DEVICE;
}

const char *canao_opencl_why(void)
{
    const char *text = own_text();
    return text && *text ? text : "the OpenCL device cannot run the model";
}

const char *canao_opencl_error(cl_int code)
{
    switch (code) {
    case CL_DEVICE_NOT_AVAILABLE: return "the device is not available";
    case CL_COMPILER_NOT_AVAILABLE: return "the driver has no compiler";
    case CL_MEM_OBJECT_ALLOCATION_FAILURE: return "out of memory";
    case CL_OUT_OF_RESOURCES: return "out of resources, or the device is lost";
    case CL_OUT_OF_HOST_MEMORY: return "out of host memory";
    case CL_INVALID_BUFFER_SIZE: return "the device has no buffer of that size";
    default: return "the driver refuses";
    }
}

long canao_opencl_setting(const char *name, long usual, long most)
{
    const char *text = getenv(name);
    if (!text || !*text)
        return usual;
    long number = 0;
    for (; *text; text++) {
        if (*text < '0' || *text > '9' || number > most)
            return -1;
        number = 10 * number + (*text - '0');
    }
    return number > most ? -1 : number;
}

/* Where OpenCL is: on Linux, and by the names that makers of Android's phones give it. */
static const char *const libraries[] = {
    "libOpenCL.so.1",
    "libOpenCL.so",
    "libOpenCL-pixel.so",
    "libGLES_mali.so",
    "libmali.so",
    "libPVROCL.so",
    "/vendor/lib64/libOpenCL.so",
    "/system/vendor/lib64/libOpenCL.so",
    "/vendor/lib64/egl/libGLES_mali.so",
    "/system/lib64/libOpenCL.so",
};

static const struct {
    const char *name;
    size_t place; /* in struct opencl */
} functions[] = {
    {"clGetPlatformIDs", offsetof(struct opencl, get_platform_ids)},
    {"clGetPlatformInfo", offsetof(struct opencl, get_platform_info)},
    {"clGetDeviceIDs", offsetof(struct opencl, get_device_ids)},
    {"clGetDeviceInfo", offsetof(struct opencl, get_device_info)},
    {"clCreateContext", offsetof(struct opencl, create_context)},
    {"clReleaseContext", offsetof(struct opencl, release_context)},
    {"clCreateCommandQueue", offsetof(struct opencl, create_command_queue)},
    {"clReleaseCommandQueue", offsetof(struct opencl, release_command_queue)},
    {"clCreateBuffer", offsetof(struct opencl, create_buffer)},
    {"clReleaseMemObject", offsetof(struct opencl, release_mem_object)},
    {"clCreateProgramWithSource", offsetof(struct opencl, create_program_with_source)},
    {"clCreateProgramWithBinary", offsetof(struct opencl, create_program_with_binary)},
    {"clBuildProgram", offsetof(struct opencl, build_program)},
    {"clGetProgramBuildInfo", offsetof(struct opencl, get_program_build_info)},
    {"clGetProgramInfo", offsetof(struct opencl, get_program_info)},
    {"clReleaseProgram", offsetof(struct opencl, release_program)},
    {"clCreateKernel", offsetof(struct opencl, create_kernel)},
    {"clSetKernelArg", offsetof(struct opencl, set_kernel_arg)},
    {"clGetKernelWorkGroupInfo", offsetof(struct opencl, get_kernel_work_group_info)},
    {"clReleaseKernel", offsetof(struct opencl, release_kernel)},
    {"clEnqueueWriteBuffer", offsetof(struct opencl, enqueue_write_buffer)},
    {"clEnqueueReadBuffer", offsetof(struct opencl, enqueue_read_buffer)},
    {"clEnqueueMapBuffer", offsetof(struct opencl, enqueue_map_buffer)},
    {"clEnqueueUnmapMemObject", offsetof(struct opencl, enqueue_unmap_mem_object)},
    {"clEnqueueNDRangeKernel", offsetof(struct opencl, enqueue_nd_range_kernel)},
    {"clEnqueueMarkerWithWaitList", offsetof(struct opencl, enqueue_marker_with_wait_list)},
    {"clGetEventInfo", offsetof(struct opencl, get_event_info)},
    {"clGetEventProfilingInfo", offsetof(struct opencl, get_event_profiling_info)},
    {"clReleaseEvent", offsetof(struct opencl, release_event)},
    {"clFlush", offsetof(struct opencl, flush)},
};

/* A symbol as a function, which ISO C converts no address of data to. */
static void *symbol(void *library, const char *name, void *function)
{
    void *found = dlsym(library, name);
    memcpy(function, &found, sizeof found);
    return found;
}

/* The name of a function that a library lacks; NULL where all were found. */
static const char *find_functions(void *library, struct opencl *found)
{
    void (*enable)(void) = NULL; /* Pixel phones have another way to each function */
    void *(*pixel)(const char *) = NULL;
    if (symbol(library, "enableOpenCL", &enable))
        enable();
    symbol(library, "loadOpenCLPointer", &pixel);
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        const char *name = functions[i].name;
        void *function = pixel ? pixel(name) : dlsym(library, name);
        if (!function)
            return name;
        memcpy((unsigned char *)found + functions[i].place, &function, sizeof function);
    }
    return NULL;
}

/* Loads one library; it stays, as drivers have threads that run its code. */
static int load(const char *path, const char **lacks)
{
    struct opencl found;
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return 0;
    *lacks = find_functions(library, &found);
    if (*lacks)
        dlclose(library);
    else
        canao_cl = found;
    return !*lacks;
}

static int fail_to_load(const char *named, const char *lacks)
{
    if (lacks)
        return canao_opencl_fail("%s is no library of OpenCL 1.2: it lacks %s; install the driver "
                                 "of the GPU, or name another one in CANAO_OPENCL_LIBRARY",
                                 named ? named : "what is here", lacks);
    if (named)
        return canao_opencl_fail("OpenCL cannot be loaded from '%s', which CANAO_OPENCL_LIBRARY "
                                 "names; name another one, or unset it", named);
    char tried[LIST] = "";
    for (size_t i = 0, end = 0; i < sizeof libraries / sizeof *libraries && end < LIST; i++)
        end += (size_t)snprintf(tried + end, LIST - end, "%s%s", i ? ", " : "", libraries[i]);
    return canao_opencl_fail("there is no OpenCL here (looked for %s); install the driver of the "
                             "GPU, or name the library in CANAO_OPENCL_LIBRARY", tried);
}

/* Whether no other process had OpenCL in use and then forked this one: of its driver, threads and
 * device are missing here. */
static int in_own_process(void)
{
    static atomic_int first;
    int process = 0;
    const int own = (int)getpid();
    return atomic_compare_exchange_strong(&first, &process, own) || process == own;
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Loads OpenCL unless it is there. With the lock held. */
static int load_any(void)
{
    static int loaded;
    const char *named = getenv("CANAO_OPENCL_LIBRARY"), *lacks = NULL;
    if (named && !*named)
        named = NULL;
    if (!loaded && named)
        loaded = load(named, &lacks);
    for (size_t i = 0; !loaded && !named && i < sizeof libraries / sizeof *libraries; i++)
        loaded = load(libraries[i], &lacks);
    return loaded ? CANAO_OK : fail_to_load(named, lacks);
}

static int take_lock(void)
{
    if (!in_own_process())
        return canao_opencl_fail("OpenCL was in use before this process was forked, and does not "
                                 "survive that; open the model in a process that is started anew");
    pthread_mutex_lock(&lock);
    const int status = load_any();
    if (status)
        pthread_mutex_unlock(&lock);
    return status;
}

/* A device's place among all. */
struct found {
    cl_platform_id platform;
    cl_device_id id;
};

/* All devices of all platforms; returns how many. */
static int find_devices(struct found *found)
{
    cl_platform_id platforms[MAX_PLATFORMS];
    cl_device_id ids[MAX_DEVICES];
    cl_uint platform_count = 0;
    int count = 0;
    if (canao_cl.get_platform_ids(MAX_PLATFORMS, platforms, &platform_count))
        return 0;
    for (cl_uint p = 0; p < platform_count && p < MAX_PLATFORMS && count < MAX_DEVICES; p++) {
        const cl_uint room = (cl_uint)(MAX_DEVICES - count);
        cl_uint more = 0;
        if (canao_cl.get_device_ids(platforms[p], CL_DEVICE_TYPE_ALL, room, ids, &more))
            continue; /* a platform without devices */
        for (cl_uint i = 0; i < more && i < room; i++)
            found[count++] = (struct found){platforms[p], ids[i]};
    }
    return count;
}

uint64_t canao_opencl_number(cl_device_id device, cl_uint what)
{
    uint64_t number = 0; /* fewer bytes are its lower ones: the least comes first */
    return canao_cl.get_device_info(device, what, sizeof number, &number, NULL) ? 0 : number;
}

/* A text of a device, "" where it has none or one that is too long. */
static void ask_device(cl_device_id device, cl_uint what, char *text, size_t room)
{
    if (canao_cl.get_device_info(device, what, room - 1, text, NULL))
        *text = 0;
    text[room - 1] = 0;
}

static void ask_platform(cl_platform_id platform, cl_uint what, char *text, size_t room)
{
    if (canao_cl.get_platform_info(platform, what, room - 1, text, NULL))
        *text = 0;
    text[room - 1] = 0;
}

static struct device describe(const struct found *found)
{
    struct device d = {.platform = found->platform, .id = found->id};
    d.type = canao_opencl_number(d.id, CL_DEVICE_TYPE);
    ask_device(d.id, CL_DEVICE_NAME, d.name, sizeof d.name);
    ask_device(d.id, CL_DEVICE_VERSION, d.version, sizeof d.version);
    ask_device(d.id, CL_DRIVER_VERSION, d.driver, sizeof d.driver);
    ask_platform(d.platform, CL_PLATFORM_NAME, d.platform_name, sizeof d.platform_name);
    ask_platform(d.platform, CL_PLATFORM_VERSION, d.platform_version, sizeof d.platform_version);
    return d;
}

static const char *type_name(cl_bitfield type)
{
    return type & CL_DEVICE_TYPE_GPU           ? "gpu"
           : type & CL_DEVICE_TYPE_ACCELERATOR ? "accelerator"
           : type & CL_DEVICE_TYPE_CPU         ? "cpu"
                                               : "other";
}

/* The devices by number, for messages: what has no room is left out. */
static void list(const struct found *found, int count, char *text)
{
    size_t end = 0;
    *text = 0;
    for (int i = 0; i < count && end < LIST; i++) {
        const struct device d = describe(&found[i]);
        end += (size_t)snprintf(text + end, LIST - end, "%s%d %s (%s)", i ? ", " : "", i, d.name,
                                type_name(d.type));
    }
}

/* The first that is no CPU: models for those are compiled for threads. -1: none. */
static int first_gpu(const struct found *found, int count)
{
    for (int i = 0; i < count; i++)
        if (canao_opencl_number(found[i].id, CL_DEVICE_TYPE) &
            (CL_DEVICE_TYPE_GPU | CL_DEVICE_TYPE_ACCELERATOR))
            return i;
    return -1;
}

static int choose(struct device *device)
{
    static const char name[] = "CANAO_OPENCL_DEVICE";
    struct found found[MAX_DEVICES];
    char listed[LIST];
    const int count = find_devices(found);
    if (!count)
        return canao_opencl_fail("OpenCL is here, but no device for it; install the driver of the "
                                 "GPU");
    long number = canao_opencl_setting(name, count, MAX_DEVICES);
    list(found, count, listed);
    if (number < 0 || (number >= count && getenv(name) && *getenv(name)))
        return canao_opencl_fail("%s is '%s', which is no number of an OpenCL device here: %s",
                                 name, getenv(name), listed);
    if (number == count && (number = first_gpu(found, count)) < 0)
        return canao_opencl_fail("no OpenCL device here is a GPU; %s names one of these by its "
                                 "number: %s", name, listed);
    *device = describe(&found[number]);
    if (!canao_opencl_number(device->id, CL_DEVICE_AVAILABLE))
        return canao_opencl_fail("%s is not available now; wait for it, or name another OpenCL "
                                 "device in %s: %s", device->name, name, listed);
    return CANAO_OK;
}

int canao_opencl_choose(struct device *device)
{
    int status = take_lock();
    if (status)
        return status;
    status = choose(device);
    pthread_mutex_unlock(&lock);
    return status;
}

/* Text that grows, up to a bound. */
struct text {
    char *start;
    size_t length, room;
};

static void put(struct text *t, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    const int more = vsnprintf(t->start + t->length, t->room - t->length, format, arguments);
    va_end(arguments);
    t->length += more > 0 ? (size_t)more : 0;
    if (t->length >= t->room)
        t->length = t->room - 1;
}

/* A string as JSON has it; bytes that are not ASCII are no names of devices. */
static void put_string(struct text *t, const char *name, const char *value)
{
    put(t, ",\"%s\":\"", name);
    for (; *value; value++) {
        const unsigned char c = (unsigned char)*value;
        if (c < ' ' || c > '~')
            put(t, "?");
        else
            put(t, c == '"' || c == '\\' ? "\\%c" : "%c", c);
    }
    put(t, "\"");
}

static void put_number(struct text *t, const char *name, cl_device_id device, cl_uint what)
{
    put(t, ",\"%s\":%llu", name, (unsigned long long)canao_opencl_number(device, what));
}

int canao_opencl_has(cl_device_id device, const char *extension)
{
    size_t size = 0;
    if (canao_cl.get_device_info(device, CL_DEVICE_EXTENSIONS, 0, NULL, &size) || !size)
        return 0;
    char *all = calloc(1, size + 1);
    const int has = all &&
                    !canao_cl.get_device_info(device, CL_DEVICE_EXTENSIONS, size, all, NULL) &&
                    strstr(all, extension);
    free(all);
    return has;
}

static void put_device(struct text *t, const struct found *found, int number)
{
    const struct device d = describe(found);
    put(t, "%s{\"number\":%d", number ? "," : "", number);
    put_string(t, "name", d.name);
    put_string(t, "platform", d.platform_name);
    put_string(t, "driver", d.driver);
    put_string(t, "type", type_name(d.type));
    put_string(t, "version", d.version);
    put(t, ",\"fp16\":%s", canao_opencl_has(d.id, "cl_khr_fp16") ? "true" : "false");
    put_number(t, "memory", d.id, CL_DEVICE_GLOBAL_MEM_SIZE);
    put_number(t, "max_alloc", d.id, CL_DEVICE_MAX_MEM_ALLOC_SIZE);
    put_number(t, "work_group", d.id, CL_DEVICE_MAX_WORK_GROUP_SIZE);
    put_number(t, "compute_units", d.id, CL_DEVICE_MAX_COMPUTE_UNITS);
    put_number(t, "clock_mhz", d.id, CL_DEVICE_MAX_CLOCK_FREQUENCY);
    const int integrated = canao_opencl_number(d.id, CL_DEVICE_HOST_UNIFIED_MEMORY) != 0;
    put(t, ",\"integrated\":%s}", integrated ? "true" : "false");
}

CANAO_EXPORT const char *canao_opencl_devices(void)
{
    static char json[JSON]; /* written once */
    enum { LONGEST = 3072 }; /* of one device */
    struct found found[MAX_DEVICES];
    if (take_lock())
        return NULL;
    if (!*json) {
        struct text t = {json, 0, sizeof json};
        const int count = find_devices(found);
        put(&t, "[");
        for (int i = 0; i < count && t.length + LONGEST < t.room; i++)
            put_device(&t, &found[i], i);
        put(&t, "]");
    }
    pthread_mutex_unlock(&lock);
    return json;
}
