/* Runs texts from standard input as one batch, for sanitizers.
 *
 *   batch_harness WEIGHTS THREADS    lines of: length, then the ids of each input in turn
 *
 * Prints what harness.c prints. Inputs and outputs of exactly their size are on the heap. Linked
 * with --wrap=posix_memalign,--wrap=malloc the first batch has no memory: it must say so, write
 * nothing, and leave the model usable. */
#include "canao_model.h"

#include <stdio.h>
#include <stdlib.h>

enum { MAX_TEXTS = 256 };

struct text {
    int32_t *in[CANAO_INPUTS];
    float *out[CANAO_OUTPUTS];
};

static struct text texts[MAX_TEXTS];
static const int32_t *const *inputs[MAX_TEXTS];
static float *const *outputs[MAX_TEXTS];
static int32_t lengths[MAX_TEXTS];

#ifdef NO_MEMORY
static int refuse_blocks, refuse_lists;

int __real_posix_memalign(void **p, size_t alignment, size_t size);
void *__real_malloc(size_t size);
int __wrap_posix_memalign(void **p, size_t alignment, size_t size);
void *__wrap_malloc(size_t size);

int __wrap_posix_memalign(void **p, size_t alignment, size_t size)
{
    return refuse_blocks ? 12 : __real_posix_memalign(p, alignment, size);
}

void *__wrap_malloc(size_t size) { return refuse_lists ? NULL : __real_malloc(size); }

/* 0 if a batch without memory fails as it should. */
static int starve(canao_model *model, int count)
{
    int wrong = 0;
    for (int i = 0; i < 2; i++) {
        refuse_blocks = i == 0;
        refuse_lists = i == 1;
        outputs[0][0][0] = -1;
        wrong |= canao_run_batch(model, count, inputs, lengths, outputs) != CANAO_MEMORY;
        wrong |= outputs[0][0][0] != -1;
        refuse_blocks = refuse_lists = 0;
        wrong |= canao_run(model, inputs[0], lengths[0], outputs[0]) != CANAO_OK;
    }
    return wrong;
}
#endif

static int read_texts(void)
{
    int count = 0;
    for (; count < MAX_TEXTS && scanf("%d", &lengths[count]) == 1; count++) {
        struct text *text = &texts[count];
        const int32_t length = lengths[count];
        for (int i = 0; i < CANAO_INPUTS; i++) {
            text->in[i] = malloc((size_t)length * sizeof(int32_t));
            for (int32_t t = 0; t < length; t++)
                if (scanf("%d", &text->in[i][t]) != 1)
                    return -1;
        }
        for (int i = 0; i < CANAO_OUTPUTS; i++)
            text->out[i] = malloc((size_t)canao_output_size(i, length) * sizeof(float));
        inputs[count] = (const int32_t *const *)text->in;
        outputs[count] = text->out;
    }
    return count;
}

int main(int argc, char **argv)
{
    canao_model *model;
    if (argc != 3)
        return 2;
    int status = canao_open(argv[1], atoi(argv[2]), NULL, &model);
    if (status)
        return 10 + status;
    const int count = read_texts();
    if (count < 0)
        return 3;
#ifdef NO_MEMORY
    if (starve(model, count))
        return 4;
#endif
    for (int repeat = 0; repeat < 2 && !status; repeat++)
        status = canao_run_batch(model, count, inputs, lengths, outputs);
    canao_close(model);
    for (int i = 0; i < count; i++) {
        printf("%d", status);
        for (int k = 0; k < CANAO_OUTPUTS; k++) {
            for (int64_t n = 0; !status && n < canao_output_size(k, lengths[i]); n++)
                printf(" %.9g", (double)texts[i].out[k][n]);
            free(texts[i].out[k]);
        }
        printf("\n");
        for (int k = 0; k < CANAO_INPUTS; k++)
            free(texts[i].in[k]);
    }
    return 0;
}
