"""What stands before the kernels of a file: macros, and the vector type with its operations."""

from __future__ import annotations

from canao.isa.table import OPERATIONS, Isa

MACROS = """\
#include "canao_runtime.h"

#define CANAO_INLINE static inline __attribute__((always_inline, unused))
#define UNROLL _Pragma("GCC unroll 16")
#define INF_F __builtin_inff()
#define NAN_F __builtin_nanf("")
#define LOG2_E 1.44269504f

CANAO_INLINE int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
CANAO_INLINE int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }
"""


def vector_operations(isa: Isa) -> str:
    """The vector type and its operations as C."""
    lines = [*isa.prologue, f"typedef {isa.vector} vf;", f"enum {{ VF = {isa.width} }};", ""]
    for name, (result, parameters) in OPERATIONS.items():
        lines.append(f"CANAO_INLINE {result} vf_{name}({parameters}) {{ {isa.bodies[name]} }}")
    return "\n".join([*lines, ""])
