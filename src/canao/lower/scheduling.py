"""Scheduling: a program and its plans become a Schedule, by asking the target's backend."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from canao.errors import UnsupportedError
from canao.fuse.forms.form import Alias, Form
from canao.fuse.group import Apart, Program, Region
from canao.graph.dtypes import BOOL, F16, F32, I32, NARROW, DType
from canao.graph.ir import Graph, Node, Type
from canao.isa.registry import ISAS
from canao.lower.cpu.backend import CPU
from canao.lower.cpu.quantized import tile_name
from canao.lower.lowering import Backend, Context, Kernel, Tunable
from canao.lower.opencl.backend import OPENCL_DEVICES
from canao.lower.opencl.device import vector_name
from canao.precision.quantize import precision_of
from canao.schedule.kv_cache import CachePlan, plan_cache
from canao.schedule.memory import MemoryPlan, plan_memory
from canao.schedule.operands import Operand, activation
from canao.schedule.plan import Plan
from canao.schedule.plan_choice import can_be_timed
from canao.schedule.schedule import Schedule, Step, scratch_bytes
from canao.schedule.weights import lay_out
from canao.target import OPENCL, Target


@dataclass(frozen=True, slots=True)
class NoPlan:
    """Of an alias, which does nothing."""

    kind: ClassVar[str] = "alias"

    @property
    def name(self) -> str:
        return "none"


NO_PLAN = NoPlan()
_BACKENDS = {backend.name: backend for backend in (CPU, OPENCL_DEVICES)}


def backend_of(target: Target) -> Backend:
    """The backend that code for a target is made by."""
    return _BACKENDS[target.backend]


def target_in(target: Target, *precisions: str) -> Target:
    """A target as libraries with products in these precisions are compiled for it: with the
    instruction set that is best for them."""
    return target.for_products(*(product_in(p) for p in precisions))


def multiplies_blocks(target: Target, dtype: DType) -> bool:
    """Whether all instruction sets of a target multiply whole blocks of a type."""
    return all(ISAS[t.isa].tiles[dtype.name].blocks is not None for t in target.levels)


def half_block(target: Target) -> int | None:
    """How many products of halves an instruction set of a target adds up in half precision, before
    it goes on in float32; None where none adds so. Of a library of several, one is enough."""
    blocks = (ISAS[t.isa].tiles[F16.name].block for t in target.levels)
    return max((b.depth for b in blocks if b is not None), default=None)


def apart_for(target: Target) -> Apart | None:
    """What the CPU may run beside a target's backend; None where that is the CPU's own."""
    return None if backend_of(target) is CPU else partial(_apart, target)


def _apart(target: Target, graph: Graph, n: Node, form: Form) -> bool:
    """Whether the CPU runs a node: it has a kernel, and reads and writes only values that lie in
    memory as the GPU has them. UnsupportedError if that is not allowed."""
    values = {*n.inputs, n.output} - set(graph.constants)
    plain = all(graph.types[name].dtype in (F32, I32, BOOL) for name in values)
    if not plain or getattr(form, "cached", False) or not CPU.legal(graph, form):
        return False
    if not target.allow_cpu:
        raise UnsupportedError(
            f"operator {n.op} {graph.types[n.output]} at {n.where or 'the top of the model'}: no "
            "kernel for GPUs computes it; --allow-cpu runs it on the CPU beside the GPU"
        )
    return True


def product_in(precision: str) -> str:
    """Which row of an instruction set's tiles multiplies in a precision; InputError if there is no
    such precision."""
    wanted = precision_of(precision)
    return tile_name(wanted.rows, wanted.weights)


def default_plan(region: Region, target: Target) -> Plan:
    """A good plan without measuring."""
    if isinstance(region.form, Alias):
        return NO_PLAN
    if region.apart:
        return CPU.of(region.form).default(region.form, target.host)
    return backend_of(target).of(region.form).default(region.form, target)


def default_plans(program: Program, target: Target) -> tuple[Plan, ...]:
    """The default plan of each region, in their order."""
    return tuple(default_plan(r, target) for r in program.regions)


def product_of(region: Region, target: Target) -> str:
    """Which row of an instruction set's tiles a region's products are by; 'f32' if it has none."""
    lowering = backend_of(target).lowerings.get(type(region.form))
    product = getattr(lowering, "product", None)  # of those that multiply
    return F32.name if product is None else str(product(region.form))


def tunable_lowering(region: Region, target: Target) -> Tunable[Any] | None:
    """The lowering of a region by register tiles, whose plans are worth measuring; None for others.
    """
    found = backend_of(target).lowerings.get(type(region.form))
    return found if isinstance(found, Tunable) and not region.apart else None


def tunable(graph: Graph, region: Region, target: Target) -> bool:
    """Whether plans of a region are worth measuring, and it can be timed alone."""
    return tunable_lowering(region, target) is not None and can_be_timed(graph, region)


def base_name(kernel: str, plan: Plan, target: Target) -> str:
    """A kernel's name without the end that says how it runs: instruction set or vector, plan,
    version."""
    runs = vector_name(target) if target.backend == OPENCL else target.isa
    return re.sub(rf"_{runs}_{re.escape(plan.name)}(_v\d+)?$", "", kernel)


def space(region: Region, target: Target) -> tuple[Plan, ...]:
    """Every legal plan of a region, the default first."""
    default = default_plan(region, target)
    if isinstance(region.form, Alias) or region.apart:
        return (default,)
    legal = backend_of(target).of(region.form).space(region.form, target)
    return tuple(dict.fromkeys([default, *legal]))


def schedule_program(program: Program, plans: Sequence[Plan], target: Target) -> Schedule:
    """The schedule of a program whose regions run by `plans`."""
    backend = backend_of(target)
    pairs = list(zip(program.regions, plans, strict=True))
    kernels = {
        r.output: own.of(r.form).kernel(context, r, plan)
        for own, context, r, plan in _in_context(program, pairs, target)
        if not isinstance(r.form, Alias)
    }  # fmt: skip
    names = _names(kernels)
    cache = plan_cache({o: k.cache for o, k in kernels.items() if k.cache is not None})
    works = [kernels[r.output].work if r.output in kernels else None for r in program.regions]
    memory = plan_memory(program, works, partial(backend.bytes_of, target=target))
    steps: list[Step] = []
    for (region, plan), waits in zip(pairs, memory.barriers, strict=True):
        kernel = kernels.get(region.output)
        if kernel is not None:
            name = names[region.output]
            writes = tuple(_written(v, program.graph.types[v]) for v in region.outputs)
            steps += _steps(region, plan, name, kernel, writes, waits, memory, cache)
    weights = lay_out(program.graph, (o for step in steps for o in step.reads))
    scratch = scratch_bytes([s.scratch for s in steps], program.graph.max_length)
    return Schedule(program, tuple(steps), memory, weights, cache, scratch)


def _in_context(
    program: Program, pairs: Sequence[tuple[Region, Plan]], target: Target
) -> Iterator[tuple[Backend, Context, Region, Plan]]:
    """Regions with their plans, by the backend that runs them."""
    for own, runs, apart in ((backend_of(target), target, False), (CPU, target.host, True)):
        of = [(r, plan) for r, plan in pairs if r.apart == apart]
        if of:
            regions, plans = zip(*of, strict=True)
            context = own.context(Program(program.graph, regions), plans, runs)
            yield from ((own, context, r, plan) for r, plan in of)


def _steps(
    region: Region, plan: Plan, name: str, kernel: Kernel, writes: tuple[Operand, ...],
    waits: bool, memory: MemoryPlan, cache: CachePlan,
) -> list[Step]:  # fmt: skip
    """The steps of a region: causal attention first puts its keys and values into the cache."""
    last = region.output in memory.last
    part = cache.parts.get(region.output)
    main = Step(
        region, plan, name, kernel.reads, writes, kernel.work, waits, last,
        kernel.scratch, part, grid=kernel.grid,
    )  # fmt: skip
    if kernel.appending is None:
        return [main]
    first = Step(
        region, plan, f"{name}_append", kernel.reads, writes, kernel.appending,
        waits, cache=part, appends=True, grid=kernel.append_grid,
    )  # fmt: skip
    return [first, replace(main, waits=True)]


def _written(value: str, kind: Type) -> Operand:
    """A value as the kernel that writes it has it: narrow rows, or words."""
    return activation(value, kind.dtype if kind.dtype in NARROW else F32)


def _names(kernels: dict[str, Kernel]) -> dict[str, str]:
    """One name for each distinct kernel; equal names mean the same code."""
    known: dict[tuple[str, Hashable], str] = {}
    versions: dict[str, int] = {}
    taken: set[str] = set()
    names = {}
    for output, kernel in kernels.items():
        key = (kernel.name, kernel.facts)
        while key not in known:
            version = versions[kernel.name] = versions.get(kernel.name, 0) + 1
            name = kernel.name if version == 1 else f"{kernel.name}_v{version}"
            if name not in taken:
                known[key] = name
                taken.add(name)
        names[output] = known[key]
    return names
