"""Processors that code may be chosen for by name (`--cpu`): one row each.

What such code may use follows from its instruction set. From the row follow which extensions of
the instruction set may be taken, how instructions are ordered, and how large blocks in cache are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# The name of a kind of processor as a whole, for which nothing is chosen.
GENERIC = "generic"
_KB, _MB = 1 << 10, 1 << 20


@dataclass(frozen=True, slots=True)
class Processor:
    """One row.

    clang     what clang calls it; zig's clang has underscores there
    features  what it has beyond the least processor of its kind, by Linux' names
    l2_bytes  data cache of one core: the smallest that chips usually have, a core's share if it is
              shared
    """

    clang: str
    features: tuple[str, ...]
    l2_bytes: int

    @property
    def zig(self) -> str:
        return self.clang.replace("-", "_")


ARM_V8_2 = ("aes", "pmull", "sha1", "sha2", "crc32", "atomics", "fphp", "asimdhp", "asimdrdm",
            "lrcpc", "asimddp")  # fmt: skip
_M1 = (*ARM_V8_2, "jscvt", "fcma", "asimdfhm")
# Many phones have SVE switched off, so that nothing here relies on it.
_V1 = (*_M1, "sve", "i8mm", "bf16")

# Arm's Technical Reference Manuals say what each core has and which sizes its L2 may have.
_ARM = (
    Processor("cortex-a55", ARM_V8_2, 128 * _KB),
    Processor("cortex-a76", ARM_V8_2, 256 * _KB),
    Processor("cortex-a78", ARM_V8_2, 256 * _KB),
    Processor("cortex-x1", ARM_V8_2, _MB),
    Processor("cortex-x4", (*_V1, "sve2"), 2 * _MB),
    Processor("neoverse-n1", ARM_V8_2, _MB),
    Processor("neoverse-v1", _V1, _MB),
    Processor("apple-m1", _M1, 3 * _MB),
)
# First part of a triple -> name -> row; GENERIC is the target's own.
PROCESSORS: Mapping[str, Mapping[str, Processor]] = {"aarch64": {p.clang: p for p in _ARM}}


def processor_names(arch: str) -> tuple[str, ...]:
    """What `--cpu` takes for triples that begin with `arch`; nothing where it takes no name."""
    return (GENERIC, *PROCESSORS[arch]) if arch in PROCESSORS else ()
