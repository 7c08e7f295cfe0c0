/* Prints the OpenCL devices of a machine, as JSON. */
#include "opencl_host.h"

#include <stdio.h>

int main(void)
{
    const char *devices = canao_opencl_devices();
    if (!devices) {
        fprintf(stderr, "%s\n", canao_opencl_why());
        return 1;
    }
    puts(devices);
    return 0;
}
