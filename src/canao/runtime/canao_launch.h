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

/* Buffers: weights (after the file's header), arena, cache, the ids or floats of an input, the whole
 * numbers 0 .. max_length - 1, of which a kernel gets those from `past` on, and that of the probes. */
enum canao_area {
    CANAO_WEIGHTS, CANAO_ARENA, CANAO_CACHE, CANAO_INPUT, CANAO_POSITIONS, CANAO_PROBED
};

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

/* Of what probes write, the words that say one thing, which messages call `what`. They are floats, or
 * bits that only are right if they are the same. A float may be off by `relative` of the right one,
 * or of `least` where that is more; for NaN any NaN is right. */
struct canao_check {
    const char *name, *what;
    int first, count; /* of canao_probes.right */
    int bits;
    float relative, least;
};

/* Kernels that say whether a driver computes what the others rely on, in a program of their own, which
 * models share. They run once, when a model is opened, on a buffer that has the words `given`, then as
 * many as in `right`, each of them `blank`: that is what has to become `right`. Where nothing may be
 * written, `right` is blank. */
struct canao_probes {
    const char *const *source;
    int source_count;
    const struct canao_launch *launches;
    int launch_count;
    int32_t counts[3]; /* s, past and first */
    uint32_t blank;
    const uint32_t *given, *right;
    int given_count, right_count;
    const struct canao_check *checks;
    int check_count;
};

/* A defect that drivers are known to have. `met` ends with NULL: of a device that it is known of, the
 * name, the version, the platform or the driver has one of these in it. `check` is what finds it, ""
 * if nothing does; `apart`: such a driver is given a program for each kernel. */
struct canao_defect {
    const char *const *met;
    const char *check;
    int apart;
    const char *wrong, *source; /* in words, and who says so */
};

/* `quicker` are tried in their order, and passed over where the compiler refuses, before `options`,
 * which all take. `input_bytes`: coefficients of 1, s and s^2 in the bytes of each input of
 * canao_program. Where CANAO_ONLY is defined, the source has no kernel but K for which CANAO_ONLY_K is
 * defined. */
struct canao_gpu {
    const char *const *source; /* in pieces, one after another */
    int source_count;
    const char *options;
    const struct canao_launch *launches;
    const int64_t (*input_bytes)[3];
    const struct canao_options *quicker;
    int quicker_count;
    struct canao_probes probes;
    const struct canao_defect *defects;
    int defect_count;
};
extern const struct canao_gpu canao_gpu;

#endif
