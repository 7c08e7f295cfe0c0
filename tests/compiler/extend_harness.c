/* Runs a decoder from commands on standard input, for sanitizers and emulators.
 *
 *   harness WEIGHTS THREADS    lines of: e length wanted ids...    canao_extend
 *                                        r kept                    canao_reset
 *                                        w length ids...           canao_run
 *
 * One line of output each: the status, then the first output's floats. Buffers are of exactly the
 * size that the call may touch, so that a sanitizer sees every access beyond. */
#include "canao_model.h"

#include <stdio.h>
#include <stdlib.h>

static int32_t *read_ids(int count)
{
    int32_t *ids = malloc((size_t)(count > 0 ? count : 1) * sizeof *ids);
    for (int i = 0; i < count; i++)
        if (scanf("%d", &ids[i]) != 1)
            exit(3);
    return ids;
}

static void call(canao_model *model, int extend, int length, int wanted)
{
    int32_t *ids = read_ids(length);
    const int64_t size = canao_output_size(0, wanted);
    float *out = size ? malloc((size_t)size * sizeof *out) : NULL;
    const int32_t *in[] = {ids};
    float *outs[] = {out};
    const int status = extend ? canao_extend(model, in, length, wanted, out ? outs : NULL)
                              : canao_run(model, in, length, outs);
    printf("%d", status);
    for (int64_t i = 0; !status && i < size; i++)
        printf(" %.9g", (double)out[i]);
    printf("\n");
    free(out);
    free(ids);
}

int main(int argc, char **argv)
{
    canao_model *model;
    if (argc != 3)
        return 2;
    const int status = canao_open(argv[1], atoi(argv[2]), NULL, &model);
    if (status) {
        fprintf(stderr, "%s\n", canao_message(status));
        return 10 + status;
    }
    const int32_t *none[] = {NULL};
    if (canao_extend(NULL, none, 1, 0, NULL) != CANAO_ARGUMENT ||
        canao_extend(model, NULL, 1, 0, NULL) != CANAO_ARGUMENT ||
        canao_extend(model, none, 1, 0, NULL) != CANAO_ARGUMENT ||
        canao_extend(model, none, 1, 1, NULL) != CANAO_ARGUMENT ||
        canao_reset(NULL, 0) != CANAO_ARGUMENT)
        return 4;
    char command;
    int length, wanted;
    while (scanf(" %c %d", &command, &length) == 2) {
        if (command == 'r')
            printf("%d\n", canao_reset(model, length));
        else if (command == 'w')
            call(model, 0, length, length);
        else if (scanf("%d", &wanted) == 1)
            call(model, 1, length, wanted);
    }
    canao_close(model);
    return 0;
}
