"""The public C header of one library."""

from __future__ import annotations

from canao.emit.c.inputs import described
from canao.emit.c.interface import c_comment
from canao.emit.expressions import expression
from canao.graph.ir import Graph, Input


def given(graph: Graph) -> list[Input]:
    """The inputs that the caller gives."""
    return [slot for slot in graph.inputs if slot.given]


def header(graph: Graph) -> str:
    """The public C header of one library."""
    inputs = "\n".join(
        f" *   inputs[{i}]   {c_comment(slot.name)}, {described(slot)}"
        for i, slot in enumerate(given(graph))
    )
    outputs = "\n".join(
        f" *   outputs[{i}]  {c_comment(name)}, "
        f"floats [{', '.join(expression(d) for d in graph.shape(value))}]"
        for i, (name, value) in enumerate(graph.outputs)
    )
    return _HEADER.format(
        inputs=inputs,
        outputs=outputs,
        max_length=graph.max_length,
        input_count=len(given(graph)),
        output_count=len(graph.outputs),
        resumes=_RESUMES if graph.resumes else "",
        statuses=STATUSES,
    )


# What the functions return.
STATUSES = """\
enum canao_status {
    CANAO_OK = 0,
    CANAO_ARGUMENT = 1, /* a null pointer, or a count out of range */
    CANAO_LENGTH = 2,   /* length outside 1 .. CANAO_MAX_LENGTH */
    CANAO_TOKEN = 3,    /* an id that the model has no row for */
    CANAO_FILE = 4,     /* the weights cannot be opened or mapped */
    CANAO_FORMAT = 5,   /* the weights are not those of this library */
    CANAO_MEMORY = 6,
    CANAO_THREADS = 7,  /* threads cannot be started, or pinned to the cores */
    CANAO_BUSY = 8,     /* another call on the same model is under way */
    CANAO_CLOSED = 9,   /* the model was closed, or never opened */
    CANAO_CPU = 10,     /* this processor lacks what the kernels need; the message says what */
    CANAO_DEVICE = 11   /* the GPU that runs the kernels failed, or is not there; the same */
};
"""
_RESUMES = """\
/* A sequence that grows. The model keeps keys and values of its tokens: each is computed once.
 *
 * canao_extend appends `length` tokens, of which it gives the outputs of the last `wanted` as if
 * these were a sequence of that length: canao_output_size(i, wanted) floats. wanted is 0 to length;
 * for 0, outputs may be NULL. A sequence is at most CANAO_MAX_LENGTH tokens in all: what would go
 * beyond is CANAO_LENGTH. On any status but CANAO_OK the sequence is as it was.
 *
 * canao_reset forgets all tokens but the first `kept`, 0 to the length of the sequence.
 *
 * canao_run and canao_run_batch use the same memory: after them the sequence is empty. */
#define CANAO_RESUMES 1
int canao_extend(canao_model *model, const int32_t *const *inputs, int32_t length, int32_t wanted,
                 float *const *outputs);
int canao_reset(canao_model *model, int32_t kept);

"""
_HEADER = """\
/* C interface of a model compiled by CANAO. Link with model.so; it needs libc only.
 *
{inputs}
{outputs}
 *
 * s is the length of the sequence in tokens, 1 to CANAO_MAX_LENGTH; nothing is padded.
 */
#ifndef CANAO_MODEL_H
#define CANAO_MODEL_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

#define CANAO_MAX_LENGTH {max_length}
#define CANAO_INPUTS {input_count}
#define CANAO_OUTPUTS {output_count}

{statuses}
/* A handle, not an address: what is done with one that was closed is CANAO_CLOSED. */
typedef struct canao_model canao_model;

/* Maps the weights file and starts `threads` - 1 threads, of 1 to 64. `cores` pins thread i to
 * cores[i]; NULL pins none. Thread 0 is the caller of canao_run or canao_run_batch, pinned for the
 * length of the call. A core that this process may not use is CANAO_THREADS. On a processor that
 * cannot run the library's kernels it is CANAO_CPU, and nothing is opened.
 *
 * A library whose kernels run on a GPU copies the weights there. `threads` is 1 and `cores` NULL,
 * anything else CANAO_ARGUMENT; what is wrong with the GPU is CANAO_DEVICE, here and in all calls.
 *
 * A process that is forked has the model too, in the state that it was in, and may call it and
 * must close it for itself: the first call there starts threads anew, or is CANAO_THREADS. No GPU
 * survives that: there it is CANAO_DEVICE. */
int canao_open(const char *weights, int threads, const int *cores, canao_model **model);

/* One sequence. Outputs are written by the caller's thread; models are independent. */
int canao_run(canao_model *model, const int32_t *const *inputs, int32_t length,
              float *const *outputs);

/* `count` sequences of any lengths, nothing padded: inputs[n][i], lengths[n] and outputs[n][i] are
 * those of the nth. Threads take whole sequences, longest first, or share one as in canao_run where
 * that ends sooner; the numbers are those of canao_run, to the bit. Arguments are checked before
 * anything runs: on any status but CANAO_OK and CANAO_DEVICE no output is written. The status is
 * that of the first sequence that is wrong. No output may overlap another. The first batch that is
 * shared out takes the memory of an arena for each thread but one, which is kept until canao_close;
 * CANAO_MEMORY leaves the model usable. A count of 0 does nothing. */
int canao_run_batch(canao_model *model, int count, const int32_t *const *const *inputs,
                    const int32_t *lengths, float *const *const *outputs);

{resumes}/* Floats of an output at a length; 0 for an index or a length out of range. */
int64_t canao_output_size(int index, int32_t length);

/* How long a sequence of `length` tokens takes on this device: it runs a made-up one `runs` times,
 * of 1 to a million, after a tenth as many that do not count, and `*ms` is that percentile of the
 * times, over 0 up to 100. An application that carries several models finds out so which are fast
 * enough; canao_pick.h does it. A model whose inputs are not all ids is CANAO_ARGUMENT. */
int canao_time(canao_model *model, int32_t length, int32_t runs, double percentile, double *ms);

/* What the library takes and gives, as JSON: inputs, outputs, max_length and resumes as in the
 * manifest. */
const char *canao_interface(void);

/* The instruction set of the kernels that run on this processor, as "avx2"; NULL where none can. */
const char *canao_isa(void);

/* Ends the threads and frees the memory, once a call under way on another thread has ended. For
 * NULL, and for a model that is closed already, it does nothing. */
void canao_close(canao_model *model);

/* What a status means, in English. */
const char *canao_message(int status);

#ifdef __cplusplus
}}
#endif
#endif
"""
