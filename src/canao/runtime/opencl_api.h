/* The part of OpenCL 1.2 that the runtime calls: types, constants and functions, by the names and
 * values of the standard. The functions are found when a model is opened (opencl_device.c), so that
 * no library needs OpenCL to be built or loaded. */
#ifndef CANAO_OPENCL_API_H
#define CANAO_OPENCL_API_H

#include <stddef.h>
#include <stdint.h>

typedef int32_t cl_int;
typedef uint32_t cl_uint, cl_bool;
typedef uint64_t cl_ulong, cl_bitfield;
typedef intptr_t cl_context_properties;
typedef struct canao_cl_platform *cl_platform_id;
typedef struct canao_cl_device *cl_device_id;
typedef struct canao_cl_context *cl_context;
typedef struct canao_cl_queue *cl_command_queue;
typedef struct canao_cl_mem *cl_mem;
typedef struct canao_cl_program *cl_program;
typedef struct canao_cl_kernel *cl_kernel;
typedef struct canao_cl_event *cl_event;

enum { CL_FALSE, CL_TRUE };

/* Errors. */
enum {
    CL_SUCCESS = 0,
    CL_DEVICE_NOT_FOUND = -1,
    CL_DEVICE_NOT_AVAILABLE = -2,
    CL_COMPILER_NOT_AVAILABLE = -3,
    CL_MEM_OBJECT_ALLOCATION_FAILURE = -4,
    CL_OUT_OF_RESOURCES = -5,
    CL_OUT_OF_HOST_MEMORY = -6,
    CL_BUILD_PROGRAM_FAILURE = -11,
    CL_INVALID_BUFFER_SIZE = -61,
};

/* Types of devices, which are bits; all of them at once is beyond an int. */
enum {
    CL_DEVICE_TYPE_CPU = 1 << 1,
    CL_DEVICE_TYPE_GPU = 1 << 2,
    CL_DEVICE_TYPE_ACCELERATOR = 1 << 3,
};
#define CL_DEVICE_TYPE_ALL UINT64_C(0xFFFFFFFF)

/* What is asked of a platform and of a device. */
enum {
    CL_PLATFORM_VERSION = 0x0901,
    CL_PLATFORM_NAME = 0x0902,
    CL_DEVICE_TYPE = 0x1000,
    CL_DEVICE_MAX_COMPUTE_UNITS = 0x1002,
    CL_DEVICE_MAX_WORK_GROUP_SIZE = 0x1004,
    CL_DEVICE_MAX_WORK_ITEM_SIZES = 0x1005,
    CL_DEVICE_MAX_CLOCK_FREQUENCY = 0x100C,
    CL_DEVICE_MAX_MEM_ALLOC_SIZE = 0x1010,
    CL_DEVICE_GLOBAL_MEM_SIZE = 0x101F,
    CL_DEVICE_AVAILABLE = 0x1027,
    CL_DEVICE_NAME = 0x102B,
    CL_DRIVER_VERSION = 0x102D,
    CL_DEVICE_VERSION = 0x102F,
    CL_DEVICE_EXTENSIONS = 0x1030,
    CL_DEVICE_HOST_UNIFIED_MEMORY = 0x1035,
};

/* Properties of contexts, queues, buffers and mappings. */
enum {
    CL_CONTEXT_PLATFORM = 0x1084,
    CL_QUEUE_PROFILING_ENABLE = 1 << 1,
    CL_MEM_READ_WRITE = 1 << 0,
    CL_MEM_READ_ONLY = 1 << 2,
    CL_MEM_ALLOC_HOST_PTR = 1 << 4,
    CL_MAP_READ = 1 << 0,
    CL_MAP_WRITE = 1 << 1,
};

/* What is asked of programs, kernels and events. */
enum {
    CL_PROGRAM_BINARY_SIZES = 0x1165,
    CL_PROGRAM_BINARIES = 0x1166,
    CL_PROGRAM_BUILD_LOG = 0x1183,
    CL_KERNEL_WORK_GROUP_SIZE = 0x11B0,
    CL_EVENT_COMMAND_EXECUTION_STATUS = 0x11D3,
    CL_COMPLETE = 0,
    CL_PROFILING_COMMAND_START = 0x1282,
    CL_PROFILING_COMMAND_END = 0x1283,
};

/* The functions: clGetPlatformIDs is get_platform_ids, and so on. */
struct opencl {
    cl_int (*get_platform_ids)(cl_uint, cl_platform_id *, cl_uint *);
    cl_int (*get_platform_info)(cl_platform_id, cl_uint, size_t, void *, size_t *);
    cl_int (*get_device_ids)(cl_platform_id, cl_bitfield, cl_uint, cl_device_id *, cl_uint *);
    cl_int (*get_device_info)(cl_device_id, cl_uint, size_t, void *, size_t *);
    cl_context (*create_context)(const cl_context_properties *, cl_uint, const cl_device_id *,
                                 void (*)(const char *, const void *, size_t, void *), void *,
                                 cl_int *);
    cl_int (*release_context)(cl_context);
    cl_command_queue (*create_command_queue)(cl_context, cl_device_id, cl_bitfield, cl_int *);
    cl_int (*release_command_queue)(cl_command_queue);
    cl_mem (*create_buffer)(cl_context, cl_bitfield, size_t, void *, cl_int *);
    cl_int (*release_mem_object)(cl_mem);
    cl_program (*create_program_with_source)(cl_context, cl_uint, const char **, const size_t *,
                                             cl_int *);
    cl_program (*create_program_with_binary)(cl_context, cl_uint, const cl_device_id *,
                                             const size_t *, const unsigned char **, cl_int *,
                                             cl_int *);
    cl_int (*build_program)(cl_program, cl_uint, const cl_device_id *, const char *,
                            void (*)(cl_program, void *), void *);
    cl_int (*get_program_build_info)(cl_program, cl_device_id, cl_uint, size_t, void *, size_t *);
    cl_int (*get_program_info)(cl_program, cl_uint, size_t, void *, size_t *);
    cl_int (*release_program)(cl_program);
    cl_kernel (*create_kernel)(cl_program, const char *, cl_int *);
    cl_int (*set_kernel_arg)(cl_kernel, cl_uint, size_t, const void *);
    cl_int (*get_kernel_work_group_info)(cl_kernel, cl_device_id, cl_uint, size_t, void *,
                                         size_t *);
    cl_int (*release_kernel)(cl_kernel);
    cl_int (*enqueue_write_buffer)(cl_command_queue, cl_mem, cl_bool, size_t, size_t, const void *,
                                   cl_uint, const cl_event *, cl_event *);
    cl_int (*enqueue_read_buffer)(cl_command_queue, cl_mem, cl_bool, size_t, size_t, void *,
                                  cl_uint, const cl_event *, cl_event *);
    void *(*enqueue_map_buffer)(cl_command_queue, cl_mem, cl_bool, cl_bitfield, size_t, size_t,
                                cl_uint, const cl_event *, cl_event *, cl_int *);
    cl_int (*enqueue_unmap_mem_object)(cl_command_queue, cl_mem, void *, cl_uint, const cl_event *,
                                       cl_event *);
    cl_int (*enqueue_nd_range_kernel)(cl_command_queue, cl_kernel, cl_uint, const size_t *,
                                      const size_t *, const size_t *, cl_uint, const cl_event *,
                                      cl_event *);
    cl_int (*enqueue_marker_with_wait_list)(cl_command_queue, cl_uint, const cl_event *,
                                            cl_event *);
    cl_int (*get_event_info)(cl_event, cl_uint, size_t, void *, size_t *);
    cl_int (*get_event_profiling_info)(cl_event, cl_uint, size_t, void *, size_t *);
    cl_int (*release_event)(cl_event);
    cl_int (*flush)(cl_command_queue);
};

#endif
