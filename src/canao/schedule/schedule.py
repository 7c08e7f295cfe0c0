"""Schedule: everything that is decided about a program before its code is written, as one value.

    Schedule   the program's regions as steps, and where all that they touch lies
    Step       one kernel: what it reads and writes, how threads share it out, whether it waits
    Work       how threads share out a kernel
    Buffer     a part of a thread's scratch memory

Sizes and offsets are in bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from canao.fuse.group import Program, Region
from canao.graph.dtypes import F32, DType
from canao.graph.ir import Dim, dim_at
from canao.schedule.kv_cache import Cache, CachePlan
from canao.schedule.memory import MemoryPlan
from canao.schedule.operands import Operand, aligned
from canao.schedule.plan import Plan
from canao.schedule.weights import WeightLayout
from canao.schedule.work import Grid, Work

# With at most this many tokens for each thread, threads share out the columns of packed GEMMs, not
# the rows, and there is a barrier before every step. Sharing out rows would leave register tiles
# half empty and make every thread read all weights.
FEW_TOKENS = 4
# Bytes that vectors may read past the end of the last buffer.
_SLACK = 256


@dataclass(frozen=True, slots=True)
class Buffer:
    """`count` elements rounded up to a multiple, `times` over, in a thread's scratch memory. None
    has wider elements than the one before it, so that all lie on boundaries of their elements."""

    name: str
    count: Dim
    multiple: int = 1
    times: Dim = 1
    dtype: DType = F32

    def elements(self, s: int) -> int:
        """How many there are at a length of s tokens."""
        whole = -(-dim_at(self.count, s) // self.multiple) * self.multiple
        return whole * dim_at(self.times, s)

    def bytes(self, s: int) -> int:
        """How many these take."""
        return self.dtype.bytes * self.elements(s)


@dataclass(frozen=True, slots=True)
class Step:
    """One kernel of a run, in the order of execution.

    region      what it computes, by `plan`
    name        of its kernel; steps of one name share their code
    reads       its pointers, in their order; `writes` are those of the values that it stores
    work        how the threads share it out
    waits       whether a barrier is before it, where steps share out rows
    last_only   whether it may leave out rows of tokens whose outputs are not wanted
    scratch     buffers in the thread's scratch memory, one after another
    cache       the part of the cache that causal attention keeps keys and values in
    appends     whether it is the step of such attention that puts keys and values there
    grid        of its work-items, on a GPU
    """

    region: Region
    plan: Plan
    name: str
    reads: tuple[Operand, ...]
    writes: tuple[Operand, ...]
    work: Work
    waits: bool
    last_only: bool = False
    scratch: tuple[Buffer, ...] = ()
    cache: Cache | None = None
    appends: bool = False
    grid: Grid | None = None


@dataclass(frozen=True, slots=True)
class Location:
    """Where a value lies: `area` is weights, arena or input; `offset` is in bytes, of an input its
    number."""

    area: str
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Schedule:
    """A program, ready to be written out.

    steps     kernels in the order of execution; alias regions have none
    memory    where values lie in the arena
    weights   where constants lie in the weights file
    cache     keys and values of earlier tokens
    scratch   bytes that each thread needs for itself
    """

    program: Program
    steps: tuple[Step, ...]
    memory: MemoryPlan
    weights: WeightLayout
    cache: CachePlan
    scratch: int

    def place(self, operand: Operand) -> Location:
        """Where the bytes of an operand are."""
        graph, name = self.program.graph, operand.value
        if name in graph.constants:
            return Location("weights", self.weights.offset(operand))
        for i, slot in enumerate(graph.inputs):
            if slot.name == name:
                return Location("input", i)
        return Location("arena", self.memory.place(name))

    def kernel_names(self) -> tuple[str, ...]:
        """The kernel of each region, '' for an alias."""
        names = {s.region.output: s.name for s in self.steps if not s.appends}
        return tuple(names.get(r.output, "") for r in self.program.regions)


def scratch_bytes(buffers: Sequence[Sequence[Buffer]], max_length: int) -> int:
    """Bytes of scratch memory that a thread needs for any of the steps."""
    sizes = (sum(b.bytes(max_length) for b in several) for several in buffers)
    most = max(sizes, default=0)
    return aligned(most + _SLACK)


