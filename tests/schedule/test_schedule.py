"""Schedules as values, and what they promise about weights, scratch memory and the arena."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace

import numpy as np
import pytest

from canao.compiler.pipeline import compile_graph
from canao.graph.dtypes import I32
from canao.graph.ir import Graph, Type, dim_at
from canao.lower.scheduling import default_plans, schedule_program
from canao.schedule.operands import Operand, Packed
from canao.schedule.schedule import Schedule
from canao.schedule.weights import HEADER, file_parts, lay_out
from tests.schedule.memory_check import Run, faults
from tests.scheduled import NAMES, TARGETS, graph, staged, staged_all

FLOAT = 4


@pytest.mark.parametrize("part", [f.name for f in fields(Schedule)])
def test_no_part_of_a_schedule_can_be_replaced(part):
    schedule = staged("bert-odd", "avx2").schedule
    with pytest.raises(FrozenInstanceError):
        setattr(schedule, part, None)
    with pytest.raises(FrozenInstanceError):
        schedule.steps[0].waits = True


@pytest.mark.parametrize("name", NAMES)
def test_a_program_has_one_schedule(name):
    for stages in staged_all(name):
        again = schedule_program(stages.program, stages.plans, stages.target)
        assert again == stages.schedule and again is not stages.schedule


def test_a_graph_has_one_schedule():
    first = staged("bert-odd", "avx2").schedule
    second = compile_graph(graph("bert-odd"), TARGETS["avx2"], planner=default_plans).schedule
    for part in ("memory", "weights", "cache", "scratch"):
        assert getattr(first, part) == getattr(second, part)
    assert [(s.name, s.plan, s.reads, s.work, s.waits) for s in first.steps] == [
        (s.name, s.plan, s.reads, s.work, s.waits) for s in second.steps
    ]


@pytest.mark.parametrize("name", NAMES)
def test_scratch_memory_holds_the_buffers_of_every_step(name):
    for stages in staged_all(name):
        for step in stages.schedule.steps:
            for length in (1, 7, stages.program.graph.max_length):
                size = sum(
                    -(-dim_at(b.count, length) // b.multiple) * b.multiple
                    * dim_at(b.times, length) * b.dtype.bytes for b in step.scratch
                )  # fmt: skip
                assert size <= stages.schedule.scratch
            # Each begins where the one before it ends, which is a boundary of narrower elements.
            widths = [b.dtype.bytes for b in step.scratch]
            assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize("name", NAMES)
def test_weights_lie_in_the_order_of_steps_and_operands_and_never_overlap(name):
    for stages in staged_all(name):
        schedule, constants = stages.schedule, stages.program.graph.constants
        read = [x for step in schedule.steps for x in step.reads if x.value in constants]
        sections = schedule.weights.sections
        assert [(s.value, s.storage) for s in sections] == list(
            dict.fromkeys((x.value, x.storage) for x in read)
        )
        end = 0
        for section in sections:
            assert section.offset % 64 == 0 and section.offset >= end
            storage, array = section.storage, constants[section.value]
            elements = array.size
            if isinstance(storage, Packed):
                (n, k), nr, kr = array.shape, storage.nr, storage.kr
                elements = -(-n // nr) * nr * -(-k // kr) * kr
            assert section.size == elements * section.dtype.bytes
            end = section.offset + section.size
        assert end <= schedule.weights.size


def test_a_constant_is_stored_as_what_it_is_however_it_is_read():
    """Kernels that only move elements read whole numbers as floats, bit for bit."""
    array = np.array([[5, 0, 3]], np.int32)
    g = Graph((), {"places": array}, (), (), {"places": Type(I32, (1, 3))}, 8)
    moved, named = Operand("places"), Operand("places", dtype=I32)
    layout = lay_out(g, [moved, named])
    assert len(layout.sections) == 1 and layout.offset(moved) == layout.offset(named) == 0
    content = b"".join(file_parts(g, layout))[HEADER:][: array.nbytes]
    assert np.array_equal(np.frombuffer(content, "<i4"), array.ravel())


def runs(max_length):
    """Lengths and threads whose shares divide rows differently; some ask for last tokens only."""
    yield Run(max_length, max_length, 3)
    yield Run(37, 37, 2)
    yield Run(37, 5, 3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("isa", ["avx512", "neon"])
def test_no_thread_writes_over_what_another_needs(name, isa):
    for plans in ("default", "other"):
        schedule = staged(name, isa, plans).schedule
        for run in runs(schedule.program.graph.max_length):
            assert faults(schedule, run) == []


@pytest.mark.parametrize("precision", ["int8", "bf16"])
@pytest.mark.parametrize("name", ["bert-odd", "gpt2-three_heads", "family-ModernBert"])
@pytest.mark.parametrize("isa", ["avx512vnni", "avx512amx", "neon_i8mm"])
def test_nor_where_kernels_make_narrow_rows_as_well(name, isa, precision):
    """Two values of a kernel at a time, of which one may be in use for longer than the other."""
    target = TARGETS["neon" if "neon" in isa else "avx512"].with_isa(isa)
    stages = compile_graph(graph(name), target, planner=default_plans, precision=precision,
                           allow_emulation=True)  # fmt: skip
    assert any(region.beside for region in stages.program.regions)
    for run in runs(stages.program.graph.max_length):
        assert faults(stages.schedule, replace(run, isa=stages.target.isa)) == []


@pytest.mark.parametrize("name", ["bert-odd", "gpt2-three_heads"])
def test_the_check_sees_a_missing_barrier(name):
    schedule = staged(name, "avx512").schedule
    unseen, waiting = [], [i for i, step in enumerate(schedule.steps) if step.waits]
    for i in waiting:
        steps = list(schedule.steps)
        steps[i] = replace(steps[i], waits=False)
        if not faults(replace(schedule, steps=tuple(steps)), Run(37, 37, 3)):
            unseen.append(steps[i])
    # One row after another falls to one thread; attention waits for the cache, not for the arena.
    assert all(s.work.count == 1 or s.cache is not None for s in unseen)
    assert 3 * len(unseen) < 2 * len(waiting)


def test_the_check_sees_values_in_the_same_place():
    schedule = staged("bert-odd", "avx512").schedule
    offsets = dict.fromkeys(schedule.memory.offsets, 0)
    memory = replace(schedule.memory, offsets=offsets)
    assert faults(replace(schedule, memory=memory), Run(37, 37, 3))


@pytest.mark.parametrize("name", NAMES)
def test_values_begin_on_cache_lines_inside_the_arena(name):
    for stages in staged_all(name):
        memory, g = stages.schedule.memory, stages.program.graph
        for value, offset in memory.offsets.items():
            size = dim_at(g.types[value].elements, g.max_length) * FLOAT
            assert offset % 64 == 0 and 0 <= offset <= memory.size - size


@pytest.mark.parametrize("name", NAMES)
def test_parts_of_the_cache_are_disjoint(name):
    for stages in staged_all(name):
        cache = stages.schedule.cache
        parts = sorted((c.offset, c.offset + c.layout.size) for c in cache.parts.values())
        ends = np.array([0, *(end for _, end in parts)])
        assert all(start % 64 == 0 and start >= end
                   for (start, _), end in zip(parts, ends, strict=False))  # fmt: skip
        assert cache.size == ends[-1]
