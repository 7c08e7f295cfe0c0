"""What a backend is: for each form of kernel a lowering, which says how it may run.

    Lowering   legality, plans and kernels of one form
    Kernel     what a region is as code, apart from where its operands lie
    Backend    a lowering for each form
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from canao.fuse.forms.form import Alias, Form
from canao.fuse.group import Program, Region
from canao.graph.dtypes import DType
from canao.graph.ir import Graph, Type
from canao.schedule.kv_cache import CacheLayout
from canao.schedule.operands import Operand, stored_bytes
from canao.schedule.plan import Plan
from canao.schedule.schedule import Buffer
from canao.schedule.work import Grid, Work
from canao.target import Target

P = TypeVar("P", bound=Plan)


@dataclass(frozen=True, slots=True)
class Kernel:
    """What a region is as code.

    name     base name: docs/kernels.md
    reads    pointers in their order
    work     how threads share it out
    facts    all that the code depends on; kernels of equal facts and names share it
    scratch  buffers in the thread's scratch memory
    cache    keys and values that it keeps; `appending` is the work of putting them there
    grid     of its work-items on a GPU, and of those that append; None on a CPU
    """

    name: str
    reads: tuple[Operand, ...]
    work: Work
    facts: Hashable
    scratch: tuple[Buffer, ...] = ()
    cache: CacheLayout | None = None
    appending: Work | None = None
    grid: Grid | None = None
    append_grid: Grid | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """What the kernels of one program share.

    panels   tables that lie as the weights of a packed GEMM, with the operand that says how
    """

    graph: Graph
    target: Target
    panels: Mapping[str, Operand] = field(default_factory=dict)


class Lowering(Protocol[P]):
    """One form of kernel on one backend. Its plans are of the type `plans`."""

    plans: type[P]

    def legal(self, graph: Graph, form: Any) -> bool:
        """Whether there is a kernel for the form."""
        ...

    def default(self, form: Any, target: Target) -> P:
        """A good plan without measuring."""
        ...

    def space(self, form: Any, target: Target) -> Iterator[P]:
        """Legal plans, in any order; some may come twice."""
        ...

    def kernel(self, context: Context, region: Region, plan: P) -> Kernel:
        """The kernel of a region by a plan."""
        ...


@runtime_checkable
class Tunable(Lowering[P], Protocol[P]):
    """A lowering of products by register tiles, whose plans are worth measuring, as far as the
    tuner has to know it."""

    def product(self, form: Any) -> str:
        """Which row of an instruction set's tiles multiplies."""
        ...

    def tile(self, plan: P) -> tuple[int, int]:
        """The register tile: rows and columns."""
        ...

    def rough_cost(self, form: Any, plan: P, rows: int, keys: int, target: Target) -> float:
        """What a row costs, of `rows` that a thread has: only to order what is measured first."""
        ...

    def in_effect(self, plan: P, rows: int) -> P:
        """The plan that this one is when a thread has only so many rows."""
        ...


@dataclass(frozen=True)
class Backend:
    """A lowering for each form but aliases, which need none."""

    name: str
    lowerings: Mapping[type, Lowering[Any]]

    def of(self, form: Form) -> Lowering[Any]:
        return self.lowerings[type(form)]

    def legal(self, graph: Graph, form: Form) -> bool:
        """Whether there is a kernel for a form."""
        if isinstance(form, Alias):
            return True
        lowering = self.lowerings.get(type(form))
        return lowering is not None and lowering.legal(graph, form)

    @property
    def plan_types(self) -> tuple[type[Plan], ...]:
        return tuple(lowering.plans for lowering in self.lowerings.values())

    def emulates(self, product: str, target: Target) -> bool:
        """Whether a target has no instructions for products, by their name in `tile_name`."""
        return False

    def counts(self, elements: int) -> bool:
        """Whether kernels can have a value of so many elements."""
        return True

    def bytes_of(self, kind: Type, length: int, target: Target) -> int:
        """Bytes that a value takes in memory at a length of so many tokens."""
        return stored_bytes(kind, length)

    def context(self, program: Program, plans: Sequence[Plan], target: Target) -> Context:
        """What the kernels of a program share."""
        return Context(program.graph, target)


# Fields that hold words of the compiler, never names of values.
_WORDS = ("op", "kind", "finish", "axis")


def canonical(thing: Any, graph: Graph, names: dict[str, int] | None = None) -> Hashable:
    """A description without the names of values: these are numbered in the order of their use, so
    that computations that differ in nothing else are equal."""
    names = {} if names is None else names
    if isinstance(thing, DType):
        return repr(thing)
    if isinstance(thing, str):
        return names.setdefault(thing, len(names))
    if is_dataclass(thing) and not isinstance(thing, type):
        parts = ((f.name, getattr(thing, f.name)) for f in fields(thing))
        return (type(thing).__name__, *(
            value if name in _WORDS else canonical(value, graph, names) for name, value in parts
        ))  # fmt: skip
    if isinstance(thing, (tuple, list)):
        return tuple(canonical(x, graph, names) for x in thing)
    return repr(thing) if isinstance(thing, float) else thing
