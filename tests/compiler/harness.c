/* Runs a compiled model from text on standard input, for sanitizers and emulators.
 *
 *   harness WEIGHTS THREADS    lines of: length, then the ids of each input in turn
 *
 * Inputs of exactly `length` ids and outputs of exactly their size are on the heap, so that a
 * sanitizer sees every access beyond them. */
#include "canao_model.h"

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    canao_model *model;
    if (argc != 3)
        return 2;
    int status = canao_open(argv[1], atoi(argv[2]), NULL, &model);
    if (status) {
        fprintf(stderr, "%s\n", canao_message(status));
        return 10 + status;
    }
    int length;
    while (scanf("%d", &length) == 1) {
        int32_t *in[CANAO_INPUTS];
        float *out[CANAO_OUTPUTS];
        for (int i = 0; i < CANAO_INPUTS; i++) {
            in[i] = malloc((size_t)length * sizeof(int32_t));
            for (int t = 0; t < length; t++)
                if (scanf("%d", &in[i][t]) != 1)
                    return 3;
        }
        for (int i = 0; i < CANAO_OUTPUTS; i++)
            out[i] = malloc((size_t)canao_output_size(i, length) * sizeof(float));
        status = canao_run(model, (const int32_t *const *)in, length, out);
        printf("%d", status);
        for (int i = 0; i < CANAO_OUTPUTS; i++) {
            for (int64_t k = 0; !status && k < canao_output_size(i, length); k++)
                printf(" %.9g", (double)out[i][k]);
            free(out[i]);
        }
        printf("\n");
        for (int i = 0; i < CANAO_INPUTS; i++)
            free(in[i]);
    }
    canao_close(model);
    return 0;
}
