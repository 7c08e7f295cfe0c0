"""The languages that row kernels and vector mathematics are written in, as a table.

Text that is the same in all of them uses the names `vf`, `VF` and `vf_*` for vectors, which each
language defines; what differs is a field here. Templates name the fields as `$words`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from canao.graph.dtypes import I32, DType


@dataclass(frozen=True, slots=True)
class Language:
    """How one language of the C family says what kernels need.

    kernel        what comes before a kernel's name
    inline        what comes before a function that kernels call
    pointer       what comes before the type of a pointer to memory of the whole device
    restrict      that two pointers do not overlap
    int64         a whole number for sizes and places, of 64 bits where that costs nothing
    types         names of element types where they are not those of C
    unroll        what comes before a loop that must be unrolled
    barrier       the threads of a group wait for each other, as a statement
    infinity, nan numbers that literals cannot say
    sqrt          square root of one float
    """

    name: str
    kernel: str
    inline: str
    pointer: str
    restrict: str
    int64: str
    types: Mapping[str, str]
    unroll: str
    barrier: str
    infinity: str
    nan: str
    sqrt: str

    def type_of(self, dtype: DType) -> str:
        """The type of an element in memory."""
        return self.types.get(dtype.name, dtype.c)

    def words(self) -> Mapping[str, str]:
        """What templates fill in: `$inline`, `$pointer`, `$int64` and `$int32`."""
        return {"inline": self.inline, "pointer": self.pointer, "int64": self.int64,
                "int32": self.type_of(I32)}  # fmt: skip


C11 = Language(
    name="c11", kernel="static void", inline="CANAO_INLINE", pointer="", restrict="restrict",
    int64="int64_t", types={}, unroll="UNROLL", barrier="", infinity="INF_F", nan="NAN_F",
    sqrt="__builtin_sqrtf",
)  # fmt: skip
OPENCL = Language(
    name="opencl", kernel="__kernel void", inline="static inline", pointer="__global ",
    restrict="restrict", int64="int",
    types={"i32": "int", "bool": "int", "f16": "half", "bf16": "ushort", "i8": "char"},
    unroll="__attribute__((opencl_unroll_hint))", barrier="barrier(CLK_LOCAL_MEM_FENCE);",
    infinity="INFINITY", nan="NAN", sqrt="sqrt",
)  # fmt: skip
LANGUAGES = {language.name: language for language in (C11, OPENCL)}
