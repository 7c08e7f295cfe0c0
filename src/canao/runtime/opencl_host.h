/* What the files of the OpenCL engine share. */
#ifndef CANAO_OPENCL_HOST_H
#define CANAO_OPENCL_HOST_H

#include "canao_launch.h"
#include "canao_runtime.h"
#include "opencl_api.h"

/* A device, and the names that messages and kept programs know it by. */
struct device {
    cl_platform_id platform;
    cl_device_id id;
    cl_bitfield type;
    char name[128], driver[128];
    char platform_name[128], platform_version[128];
};

/* opencl_device.c: the functions of OpenCL, once one of those below has returned CANAO_OK. */
extern struct opencl canao_cl;

/* Finds OpenCL and the device that models run on. */
int canao_opencl_choose(struct device *device);
/* All devices that CANAO_OPENCL_DEVICE may name, as JSON; NULL if OpenCL cannot be loaded. */
CANAO_EXPORT const char *canao_opencl_devices(void);
/* Whether a device names an extension. */
int canao_opencl_has(cl_device_id device, const char *extension);
/* A number of a device's; 0 where it does not say. */
uint64_t canao_opencl_number(cl_device_id device, cl_uint what);

/* Keeps for this thread what CANAO_DEVICE means, in one line; returns that status. */
int canao_opencl_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The line that was kept last; never NULL. */
const char *canao_opencl_why(void);
/* What an error of OpenCL's is called; its number where that has no room here. */
const char *canao_opencl_error(cl_int code);

/* A whole number of an environment variable, `usual` if it is unset; -1 for all that is not one, or
 * is beyond `most`. */
long canao_opencl_setting(const char *name, long usual, long most);

/* opencl_program.c: the program built for a device, from disk if it was built there before. */
int canao_opencl_build(cl_context context, const struct device *device, cl_program *program);

#endif
