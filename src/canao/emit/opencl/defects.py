"""Defects that OpenCL drivers are known to have, as a table of data: what goes wrong on which,
which check of the probes finds it, what is done about it, and who says so.

The table is here and not in the runtime, as its rows name checks, which are generated, and are
printed in docs/gpu.md; a library has it as data beside its launches (runtime/canao_launch.h). The
probes run on every device, known or not: a row makes a message say that the defect is known.

What is not here: defects of images and of subgroups, neither of which a kernel uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from canao.emit.c.interface import c_string
from canao.emit.c.unit import table
from canao.emit.writer import Writer

# What is done: a model is not opened where the check fails; each kernel gets a program of its own;
# or no kernel or call of CANAO's is made so that it meets the defect.
REFUSED, APART, AVOIDED = "refused", "apart", "avoided"


@dataclass(frozen=True, slots=True)
class Defect:
    """One row.

    drivers   which it is known of, for people
    met       of these the name, version, platform or driver has one of these in it, in letters of
              any case; none: nothing that a program can ask tells, and the check alone decides
    wrong     what goes wrong, as a sentence
    check     of probe.CHECKS, that which finds it; '' if none does
    measure   what is done about it
    how       where that is, if it is not the check
    source    who says so
    """

    drivers: str
    met: tuple[str, ...]
    wrong: str
    check: str
    measure: str
    source: str
    how: str = ""


DEFECTS = (
    Defect(
        "Adreno 6xx", ("Adreno(TM) 6",),
        "it cannot build a program of several kernels: error -6, or the compiler crashes",
        "", APART, "llama.cpp PR 26436",
        "each kernel is a program of its own; on other drivers where the program of all fails with "
        "error -6",
    ),
    Defect(
        "Adreno, compilers E031.38 to E031.41",
        ("Compiler E031.38", "Compiler E031.39", "Compiler E031.40", "Compiler E031.41"),
        "its compiler makes products of matrices wrong", "tile", REFUSED, "llama.cpp PR 26476",
    ),
    Defect(
        "Adreno 730", ("Adreno(TM) 730",), "it computes the scores of attention wrong",
        "branches", REFUSED, "llama.cpp issue 29081",
    ),
    Defect(
        "Adreno, with Vulkan", (), "its Vulkan driver makes products wrong in some runs",
        "tile", REFUSED, "react-native-executorch issue 1478",
    ),
    Defect(
        "PowerVR (Pixel 10), with Vulkan", (), "its Vulkan driver gives zeros",
        "arguments", REFUSED, "executorch issue 17299",
    ),
    Defect(
        "Mali-G76, with Vulkan", (), "its Vulkan driver gives NaN", "infinities",
        REFUSED, "executorch issue 22322",
    ),
    Defect(
        "AMD gfx900", ("gfx900",), "it writes zero for the halves below the least normal one",
        "half_stores", REFUSED, "llvm-project PR 224911",
    ),
    Defect(
        "PoCL 3.1", ("PoCL 3.1",),
        "it takes branches that differ between work-items for ones that do not, in a kernel with "
        "barriers that returns early", "branches", AVOIDED, "met in CANAO's tests",
        "kernels with barriers do not return early",
    ),
    Defect(
        "Adreno", (), "it aborts where a kernel is run for no work-items", "", AVOIDED,
        "llama.cpp PR 27630", "nothing is run for no work-items",
    ),
    Defect(
        "several", (), "parts of buffers are refused, or wrong, unless they are aligned",
        "arguments", AVOIDED, "llama.cpp PR 25464",
        "kernels get whole buffers, and from which byte on",
    ),
)  # fmt: skip


def defect_tables(w: Writer, defects: Sequence[Defect]) -> str:
    """C of the rows that a program can tell, and how `canao_gpu` names them."""
    known = [d for d in defects if d.met]
    for i, defect in enumerate(known):
        met = ", ".join(map(c_string, defect.met))
        w.line(f"static const char *const met_{i}[] = {{{met}, NULL}};")
    with table(w, "static const struct canao_defect defects[] ="):
        for i, d in enumerate(known):
            w.line(f"{{met_{i}, {c_string(d.check)}, {int(d.measure == APART)},")
            w.line(f" {c_string(d.wrong)}, {c_string(d.source)}}},")
    return f".defects = defects, .defect_count = {len(known)},"
