/* What the files of the OpenCL engine share. */
#ifndef CANAO_OPENCL_HOST_H
#define CANAO_OPENCL_HOST_H

#include "canao_launch.h"
#include "canao_runtime.h"
#include "opencl_api.h"

/* Characters of a driver's version: Qualcomm's tells its history. So many of them are shown. */
enum { CANAO_DRIVER = 512, CANAO_SHOWN = 160 };

/* A device, and the names that messages, kept programs and known defects know it by. */
struct device {
    cl_platform_id platform;
    cl_device_id id;
    cl_bitfield type;
    char name[128], version[128], driver[CANAO_DRIVER];
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

/* opencl_program.c: the launches of the program, and after its steps those of the probes. */
int canao_opencl_launches(void);
const struct canao_launch *canao_opencl_launch(int i);
/* The source of a program, in pieces, of which one kernel is wanted, or all if that is NULL. */
struct program_text {
    const char *const *pieces;
    int count;
    const char *kernel;
};
/* A program built for a device, from disk if it was built there before. `code` is the error of
 * OpenCL's where there is one. */
int canao_opencl_build(cl_context context, const struct device *device,
                       const struct program_text *text, cl_program *program, cl_int *code);
/* Whether the text before `end` has a part in it, in letters of any case. */
int canao_opencl_mentions(const char *text, const char *end, const char *part);

/* opencl_probe.c: whether a driver is known not to hold several kernels in one program. */
int canao_opencl_apart(const struct device *device);
/* Whether `got` has the words that the probes have to write; what is wrong otherwise. */
int canao_opencl_judge(const struct device *device, const unsigned char *got);

#endif
