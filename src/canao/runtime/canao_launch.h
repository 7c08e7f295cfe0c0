/* The launches of a program that runs on a GPU, as data that names no interface of the GPU's: emitted
 * beside `canao_program`, whose steps are these, one for each, with `run` NULL; but for steps that no
 * kernel computes, whose `run` is called with the arena where the CPU sees it, and which have no
 * kernel here.
 *
 * A kernel takes s, past and first (int32: tokens of the call, tokens before them, the first of them
 * that it has to compute, which is 0 but in steps that are `last_only`), then two parameters for each
 * argument: the buffer, and from which byte on (uint64). */
#ifndef CANAO_LAUNCH_H
#define CANAO_LAUNCH_H

#include <stdint.h>

/* So many bytes after its end kernels may read of a buffer, in whole vectors, whatever is there. */
enum { CANAO_PAST_END = 512 };

/* Buffers: weights (after the file's header), arena, cache, the ids or floats of an input, and the
 * whole numbers 0 .. max_length - 1, of which a kernel gets those from `past` on. */
enum canao_area { CANAO_WEIGHTS, CANAO_ARENA, CANAO_CACHE, CANAO_INPUT, CANAO_POSITIONS };

/* `offset` is in bytes; of an input it is its number in canao_program.inputs. */
struct canao_argument {
    enum canao_area area;
    int64_t offset;
};

/* ceil(n / tile) groups, for n = size[0] + size[1] s + size[2] s^2. */
struct canao_groups {
    int64_t size[3];
    int64_t tile;
};

/* One launch: `kernel` is a function of the source, `local` how many work-items a group has in each
 * of two dimensions. */
struct canao_launch {
    const char *kernel;
    const struct canao_argument *arguments;
    int argument_count;
    int64_t local[2];
    struct canao_groups groups[2];
};

/* Options of the compiler with which a program is quicker, for devices that have an extension; for all
 * if it is NULL. */
struct canao_options {
    const char *extension, *options;
};

/* `quicker` are tried in their order, and passed over where the compiler refuses, before `options`,
 * which all take. `input_bytes`: coefficients of 1, s and s^2 in the bytes of each input of
 * canao_program. */
struct canao_gpu {
    const char *const *source; /* in pieces, one after another */
    int source_count;
    const char *options;
    const struct canao_launch *launches;
    const int64_t (*input_bytes)[3];
    const struct canao_options *quicker;
    int quicker_count;
};
extern const struct canao_gpu canao_gpu;

#endif
